"""Rows folded by the segment that they belong to, and how often numbers occur."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from math import prod

from ...ir import Value
from ...ir.ops import elementwise as ew
from ...ir.ops.gather import SegmentFold, SegmentMax, SegmentMin, SegmentProd, SegmentSum
from ...ir.ops.shape import Iota
from ...ir.types import I32, I64
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula


def _unsorted_segments(kind: type[SegmentSum | SegmentFold]) -> Rule:
    """Rows of data folded into the segment their id names; negative ids are dropped."""
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        data, ids = inputs[:2]
        count = ctx.ints(inputs[2], "the number of segments")[0]
        ctx.check(Formula(ctx).lt(ids, count), f"a segment id is not below {count}")
        return (ctx.emit(kind(count), ids, data),)
    return rule


def _bincount(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Of each number below the size how often it occurs, or the sum of its weights; in each row of a matrix."""
    f, (numbers, weights) = Formula(ctx), (inputs[0], inputs[2])
    size = _size(ctx, inputs[1])
    if size < 0 or weights.shape not in ((0,), numbers.shape):
        raise ctx.refuse(f"counts {numbers.type} below {size} with weights {weights.type}")
    ctx.check(f.ge(numbers, 0), "counts negative numbers")
    shape = (*numbers.shape[:1], size) if op.type == "DenseBincount" and numbers.type.rank == 2 else (size,)
    ids = f.select(f.lt(numbers, size), ctx.cast(numbers, I64), -1)
    if len(shape) == 2:
        first = f.mul(ctx.emit(Iota(I64, numbers.shape, 0)), size)
        ids = f.select(f.lt(ids, 0), -1, f.add(ids, first))
    counts = _counted(ctx, op, ctx.reshape(ids, (ids.type.size,)), prod(shape), weights)
    return (ctx.reshape(counts, shape),)


def _size(ctx: Importer, size: Value) -> int:
    """How many numbers are counted; where data tell, between two bounds that are one, it is known nevertheless."""
    node = size.node
    if node is not None and isinstance(node.op, ew.Minimum):
        for most, other in permutations(node.operands):
            known = ctx.known(most)
            if known is not None and _is_at_least(ctx, other, int(known)):
                return int(known)
    return ctx.ints(size, "the size")[0]


def _is_at_least(ctx: Importer, value: Value, bound: int) -> bool:
    node = value.node
    if node is None or not isinstance(node.op, ew.Maximum):
        return False
    return any(known is not None and int(known) >= bound for known in map(ctx.known, node.operands))


def _counted(ctx: Importer, op: FlatOp, ids: Value, count: int, weights: Value) -> Value:
    f, dtype = Formula(ctx), weights.type.dtype
    if op.type == "DenseBincount" and ctx.attr("binary_output"):
        found = ctx.emit(SegmentSum(count), ids, ctx.broadcast_to(ctx.constant(1, I32), ids.shape))
        return ctx.cast(f.gt(found, 0), dtype)
    ones = weights.shape == (0,) and ids.shape != (0,)
    each = ctx.broadcast_to(ctx.constant(1, dtype), ids.shape) if ones else ctx.reshape(weights, (prod(weights.shape),))
    return ctx.emit(SegmentSum(count), ids, each)


SEGMENT_RULES: dict[str, Rule] = {
    "Bincount": _bincount,
    "DenseBincount": _bincount,
    "UnsortedSegmentMax": _unsorted_segments(SegmentMax),
    "UnsortedSegmentMin": _unsorted_segments(SegmentMin),
    "UnsortedSegmentProd": _unsorted_segments(SegmentProd),
    "UnsortedSegmentSum": _unsorted_segments(SegmentSum),
}
