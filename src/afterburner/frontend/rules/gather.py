"""Reads and additions at computed positions; positions out of bounds become checks."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...ir import Shape, Value
from ...ir.ops import elementwise as ew
from ...ir.ops.gather import Gather, ScatterAdd, SegmentSum
from ...ir.ops.reduce import ReduceAnd
from ...ir.ops.shape import Iota
from ...ir.types import I32, I64
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula
from .segments import SEGMENT_RULES
from .shape import axis_in, cut
from .window import WINDOW_RULES


def check_bounds(ctx: Importer, indices: Value, size: int) -> None:
    """Demand 0 <= index < size."""
    f = Formula(ctx)
    ctx.check(f.both(f.ge(indices, 0), f.lt(indices, size)), f"an index is outside [0, {size})")


def _gather(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (gather(ctx, inputs[0], inputs[1], 0, 0),)


def _gather_v2(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, indices = inputs[:2]
    axis = axis_in(ctx, ctx.ints(inputs[2], "the axis")[0], x.type.rank)
    batch = int(ctx.attr("batch_dims"))
    return (gather(ctx, x, indices, axis, batch % (indices.type.rank + 1) if batch < 0 else batch),)


def _resource_gather(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    if ctx.attr("batch_dims"):
        raise ctx.refuse("batch axes")
    return (gather(ctx, ctx.read(op.inputs[0]), inputs[0], 0, 0),)


def gather(ctx: Importer, x: Value, indices: Value, axis: int, batch: int) -> Value:
    """Slices of x along ``axis``; the first ``batch`` axes of both are walked together."""
    check_bounds(ctx, indices, x.shape[axis])
    if not batch:
        return ctx.emit(Gather(axis), x, indices)
    if x.shape[:batch] != indices.shape[:batch]:
        raise ctx.refuse(f"{batch} batch axes of {x.type} and {indices.type}")
    rank = x.type.rank
    moved = ctx.transpose(x, (*range(batch), axis, *range(batch, axis), *range(axis + 1, rank)))
    lead, size, rest = moved.shape[:batch], moved.shape[batch], moved.shape[batch + 1:]
    rows = ctx.reshape(moved, (prod(lead) * size, *rest))
    taken = ctx.emit(Gather(0), rows, _batched(ctx, indices, lead, size))
    inner = indices.type.rank  # the axes between batch and axis come before those of the indices
    between = axis - batch
    perm = (*range(batch), *range(inner, inner + between), *range(batch, inner),
            *range(inner + between, taken.type.rank))
    return ctx.transpose(taken, perm)


def _batched(ctx: Importer, indices: Value, lead: Shape, size: int) -> Value:
    """Indices into the rows of all batch members laid one after another."""
    wide = ctx.cast(indices, I64)
    count = prod(lead)
    offsets = ctx.reshape(ctx.emit(Iota(I64, (count,), 0)), lead)
    offsets = ctx.emit(ew.Mul(), offsets, ctx.like(offsets, size))
    return ctx.emit(ew.Add(), wide, ctx.broadcast_along(offsets, wide.shape, tuple(range(len(lead)))))


def _linear(ctx: Importer, indices: Value, shape: Shape) -> Value:
    """Row numbers of coordinates, which are the last axis of ``indices``, in a tensor of ``shape``."""
    f, last = Formula(ctx), indices.type.rank - 1
    row = ctx.broadcast_to(ctx.constant(0, I64), indices.shape[:-1])
    for i, size in enumerate(shape):
        coordinate = ctx.reshape(cut(ctx, indices, last, i, i + 1), indices.shape[:-1])
        check_bounds(ctx, coordinate, size)
        row = f.add(f.mul(row, size), ctx.cast(coordinate, I64))
    return row


def _gather_nd(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, indices = inputs if op.type == "GatherNd" else (ctx.read(op.inputs[0]), inputs[0])
    depth = indices.shape[-1]
    if depth > x.type.rank:
        raise ctx.refuse(f"coordinates of {depth} axes into {x.type}")
    rows = ctx.reshape(x, (prod(x.shape[:depth]), *x.shape[depth:]))
    return (ctx.emit(Gather(0), rows, _linear(ctx, indices, x.shape[:depth])),)


def _refuse_other_updates(ctx: Importer, updates: Value, shape: Shape) -> None:
    if updates.shape != shape:
        raise ctx.refuse(f"scatters {updates.type} where {list(shape)} is due")


def _refuse_single_index(ctx: Importer, indices: Value) -> None:
    """An index that is no row of a matrix: TensorFlow then counts the axes of the updates in another way."""
    if indices.type.rank < 2:
        raise ctx.refuse(f"scatters by indices of shape {list(indices.shape)}")


def _scatter_nd(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    indices, updates = inputs[:2]
    _refuse_single_index(ctx, indices)
    shape, depth = ctx.ints(inputs[2], "the shape"), indices.shape[-1]
    _refuse_other_updates(ctx, updates, (*indices.shape[:-1], *shape[depth:]))
    rows = ctx.emit(SegmentSum(prod(shape[:depth])), _linear(ctx, indices, shape[:depth]), updates)
    return (ctx.reshape(rows, shape),)


def _tensor_scatter_add(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, indices, updates = inputs
    updates = updates if op.type == "TensorScatterAdd" else ctx.emit(ew.Neg(), updates)
    return (_scattered(ctx, x, indices, updates),)


def _scattered(ctx: Importer, x: Value, indices: Value, updates: Value) -> Value:
    _refuse_single_index(ctx, indices)
    depth = indices.shape[-1]
    rows = ctx.reshape(x, (prod(x.shape[:depth]), *x.shape[depth:]))
    _refuse_other_updates(ctx, updates, (*indices.shape[:-1], *x.shape[depth:]))
    added = ctx.emit(ScatterAdd(), rows, _linear(ctx, indices, x.shape[:depth]), updates)
    return ctx.reshape(added, x.shape)


def _resource_scatter(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    indices, updates = inputs
    current = ctx.read(op.inputs[0])
    check_bounds(ctx, indices, current.shape[0])
    shape = indices.shape + current.shape[1:]
    updates = updates if updates.type.rank else ctx.broadcast_to(updates, shape)
    _refuse_other_updates(ctx, updates, shape)
    if op.type == "ResourceScatterSub":
        updates = ctx.emit(ew.Neg(), updates)
    ctx.assign(op.inputs[0], ctx.emit(ScatterAdd(), current, indices, updates))
    return ()


def _one_hot(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    indices, depth = inputs[0], ctx.ints(inputs[1], "the depth")[0]
    axis = axis_in(ctx, int(ctx.attr("axis")), indices.type.rank + 1)
    shape = (*indices.shape[:axis], depth, *indices.shape[axis:])
    indices = indices if indices.type.dtype.bits >= 32 else ctx.cast(indices, I32)  # which may count further
    classes = ctx.emit(Iota(indices.type.dtype, shape, axis))
    wide = ctx.broadcast_along(indices, shape, tuple(i for i in range(len(shape)) if i != axis))
    on, off = (ctx.broadcast_to(v, shape) for v in inputs[2:4])
    return (ctx.emit(ew.Select(), ctx.emit(ew.Equal(), classes, wide), on, off),)


def _in_top_k(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Whether fewer than k predictions exceed the target's; false for a target out of range and
    where a prediction is not finite."""
    f, (predictions, targets) = Formula(ctx), inputs[:2]
    k = ctx.broadcast_to(ctx.cast(inputs[2], I32) if len(inputs) == 3 else ctx.constant(ctx.attr("k"), I32),
                         targets.shape)
    rows, classes = predictions.shape
    legal = f.both(f.ge(targets, 0), f.lt(targets, classes))
    row = _batched(ctx, ctx.reshape(f.maximum(f.minimum(targets, classes - 1), 0), (rows,)), (rows,), classes)
    target = ctx.emit(Gather(0), ctx.reshape(predictions, (rows * classes,)), row)
    above = ctx.emit(ew.Cast(I32), f.gt(predictions, f.along(target, predictions, (0,))))
    finite = ctx.emit(ReduceAnd((1,)), ctx.emit(ew.IsFinite(), predictions))
    return (f.both(f.both(legal, finite), f.lt(f.sum(above, (1,)), k)),)


def _reverse_sequence(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The first elements of each sequence in reverse, as many as it is long, and the others as they are."""
    f, (x, lengths) = Formula(ctx), inputs
    batch, along = (axis_in(ctx, int(ctx.attr(name)), x.type.rank) for name in ("batch_dim", "seq_dim"))
    if batch == along or lengths.shape != (x.shape[batch],):
        raise ctx.refuse(f"sequences along axis {along} of {x.type} with lengths {lengths.type} of axis {batch}")
    count, steps = x.shape[batch], x.shape[along]
    ctx.check(f.both(f.ge(lengths, 0), f.ge(steps, lengths)), f"a length is outside [0, {steps}]")
    if not x.type.size:
        return (x,)
    perm = (batch, along, *(i for i in range(x.type.rank) if i not in (batch, along)))
    moved = ctx.transpose(x, perm)
    step = ctx.emit(Iota(I64, (count, steps), 1))
    length = ctx.broadcast_along(ctx.cast(lengths, I64), step.shape, (0,))
    source = f.select(f.lt(step, length), f.sub(f.sub(length, 1), step), step)
    rows = ctx.reshape(moved, (count * steps, *moved.shape[2:]))
    reversed_ = ctx.emit(Gather(0), rows, _batched(ctx, source, (count,), steps))
    return (ctx.transpose(reversed_, [perm.index(i) for i in range(x.type.rank)]),)


RULES: dict[str, Rule] = {
    **SEGMENT_RULES,
    **WINDOW_RULES,
    "Gather": _gather,
    "GatherNd": _gather_nd,
    "GatherV2": _gather_v2,
    "InTopK": _in_top_k,
    "InTopKV2": _in_top_k,
    "OneHot": _one_hot,
    "ResourceGather": _resource_gather,
    "ResourceGatherNd": _gather_nd,
    "ResourceScatterAdd": _resource_scatter,
    "ResourceScatterSub": _resource_scatter,
    "ReverseSequence": _reverse_sequence,
    "ScatterNd": _scatter_nd,
    "TensorScatterAdd": _tensor_scatter_add,
    "TensorScatterSub": _tensor_scatter_add,
}
