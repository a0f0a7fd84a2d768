"""Places of values among sorted ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...ir import Value
from ...ir.ops import elementwise as ew
from ...ir.ops.gather import Gather
from ...ir.types import F32, I32, I64
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula

_COUNTED = 64  # among more sorted ones a search by halves is less work than comparing with all

Before = Callable[[Value, Value], Value]


def _bound(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """For every value how many of its row's sorted ones come before it (lower), or not behind it (upper)."""
    ordered, values = inputs
    if ordered.type.rank != 2 or values.type.rank != 2 or ordered.shape[0] != values.shape[0]:
        raise ctx.refuse(f"places of {values.type} in {ordered.type}")
    places = _places(ctx, ordered, values, _before(ctx, upper=op.type == "UpperBound"))
    return (ctx.cast(places, ctx.dtype("out_type")),)


def _before(ctx: Importer, upper: bool) -> Before:
    """Whether an ordered one comes before a value; with ``upper`` also where it is equal, or the value is NaN."""
    f = Formula(ctx)
    if upper:
        return lambda ordered, value: ctx.emit(ew.LogicalNot(), f.lt(value, ordered))
    return f.lt


def _places(ctx: Importer, ordered: Value, values: Value, before: Before) -> Value:
    """How many come before each value, i32[rows,values]."""
    if 0 in (ordered.shape[1], values.type.size):
        return ctx.broadcast_to(ctx.constant(0, I32), values.shape)
    if ordered.shape[1] > _COUNTED:
        return _by_halves(ctx, ordered, values, before)
    shape = (*values.shape, ordered.shape[1])
    hits = before(ctx.broadcast_along(ordered, shape, (0, 2)), ctx.broadcast_along(values, shape, (0, 1)))
    return Formula(ctx).sum(ctx.cast(hits, I32), (2,))


def _by_halves(ctx: Importer, ordered: Value, values: Value, before: Before) -> Value:
    """Each step adds a power of two, the largest first, where what lies before is still before the value."""
    f, (rows, size) = Formula(ctx), ordered.shape
    index = I32 if rows * size < 1 << 31 else I64
    flat = ctx.reshape(ordered, (rows * size,))
    first = ctx.broadcast_along(ctx.constant(np.arange(rows) * size, index), values.shape, (0,))
    place = ctx.like(first, 0)
    for step in (1 << i for i in reversed(range(size.bit_length()))):
        there = f.add(place, step)
        at = f.add(first, f.minimum(f.sub(there, 1), size - 1))
        moves = before(ctx.emit(Gather(0), flat, at), values)
        legal = f.ge(size, there)
        place = f.select(f.both(legal, moves), there, place)
    return ctx.cast(place, I32)


def _bucketize(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """How many boundaries are not above a value; integers are compared as float32."""
    x = inputs[0]
    x = x if x.type.dtype.is_float else ctx.cast(x, F32)
    boundaries = np.array(ctx.attr("boundaries"), np.float32)
    ordered = ctx.reshape(ctx.constant(boundaries, x.type.dtype), (1, len(boundaries)))
    places = _places(ctx, ordered, ctx.reshape(x, (1, x.type.size)), _before(ctx, upper=True))
    return (ctx.reshape(places, x.shape),)


SEARCH_RULES: dict[str, Rule] = {"Bucketize": _bucketize, "LowerBound": _bound, "UpperBound": _bound}
