"""Windows: parts of a tensor that begin where data says."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Value
from ...ir.ops import elementwise as ew
from ...ir.ops.gather import Gather
from ...ir.ops.shape import Iota
from ...ir.types import I64
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula
from .shape import cut, fixed_slice


def _slice(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Where it begins may be computed; its size may not."""
    x, begin = inputs[:2]
    sizes = ctx.ints(inputs[2], "the slice's size")
    if ctx.known(begin) is not None or -1 in sizes:
        return (fixed_slice(ctx, x, ctx.ints(begin, "where the slice begins"), sizes),)
    if any(not 0 <= size <= n for n, size in zip(x.shape, sizes, strict=True)):
        raise ctx.refuse(f"a slice of size {list(sizes)} of {x.type}")
    f, taken = Formula(ctx), x
    for axis, size in enumerate(sizes):
        first = _element(ctx, begin, axis)
        ctx.check(f.both(f.ge(first, 0), f.lt(first, x.shape[axis] - size + 1)), "a slice ends beyond its tensor")
        if size < x.shape[axis]:
            taken = ctx.emit(Gather(axis), taken, f.add(_positions(ctx, size), ctx.broadcast_to(first, (size,))))
    return (taken,)


def _update_slice(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """x with a window replaced, which is moved to where it is inside."""
    x, part, begin = inputs
    f, inside = Formula(ctx), None
    for axis, (n, size) in enumerate(zip(x.shape, part.shape, strict=True)):
        if not size:
            return (x,)
        if size < n:
            first = f.maximum(f.minimum(_element(ctx, begin, axis), n - size), 0)
            position = f.sub(_positions(ctx, n), ctx.broadcast_to(first, (n,)))
            part = ctx.emit(Gather(axis), part, position) if size > 1 else \
                ctx.broadcast_to(part, (*part.shape[:axis], n, *part.shape[axis + 1:]))
            here = ctx.broadcast_along(f.both(f.ge(position, 0), f.lt(position, size)), x.shape, (axis,))
            inside = here if inside is None else f.both(inside, here)
    return (part if inside is None else ctx.emit(ew.Select(), inside, part, x),)


def _positions(ctx: Importer, count: int) -> Value:
    return ctx.emit(Iota(I64, (count,), 0))


def _element(ctx: Importer, vector: Value, index: int) -> Value:
    return ctx.cast(ctx.reshape(cut(ctx, vector, 0, index, index + 1), ()), I64)


WINDOW_RULES: dict[str, Rule] = {
    "Slice": _slice,
    "XlaDynamicUpdateSlice": _update_slice,
}
