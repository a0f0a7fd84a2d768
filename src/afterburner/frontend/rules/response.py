"""Normalization by the energy of neighbouring channels, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from ...ir import Value
from ...ir.ops import elementwise as ew
from ...ir.ops.shape import Pad
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula
from .shape import cut


def _around(ctx: Importer, x: Value, radius: int) -> Value:
    """Sums over each channel and those up to ``radius`` away, made of sums of twice as many each time."""
    f, axis, channels = Formula(ctx), x.type.rank - 1, x.shape[-1]
    radius = min(radius, max(channels - 1, 0))
    sides = (*(0,) * axis, radius)
    sums = ctx.emit(Pad(sides, sides, (0,) * x.type.rank), x, ctx.constant(0, x.type.dtype)) if radius else x
    start, reach, width = 0, 1, 2 * radius + 1
    parts: list[Value] = []
    while reach <= width:
        if width & reach:
            parts.append(cut(ctx, sums, axis, start, start + channels))
            start += reach
        if 2 * reach <= width:
            length = sums.shape[axis]
            sums = f.add(cut(ctx, sums, axis, 0, length - reach), cut(ctx, sums, axis, reach, length))
        reach *= 2
    return reduce(f.add, parts)


def _energy(ctx: Importer, x: Value) -> Value:
    """bias + alpha times the squares around."""
    f = Formula(ctx)
    return f.add(f.mul(_around(ctx, f.square(x), int(ctx.attr("depth_radius"))), ctx.attr("alpha")), ctx.attr("bias"))


def _power(ctx: Importer, energy: Value) -> Value:
    f, beta = Formula(ctx), ctx.attr("beta")
    if beta == 0.5:
        return f.rsqrt(energy)
    return f.div(1, energy) if beta == 1 else ctx.emit(ew.Pow(), energy, ctx.like(energy, -beta))


def _forward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    f, x = Formula(ctx), Formula(ctx).widened(inputs[0])
    return (f.cast(f.mul(x, _power(ctx, _energy(ctx, x))), inputs[0].type.dtype),)


def _backward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """dy / energy^beta - 2 alpha beta x times the sums around of dy y / energy."""
    f = Formula(ctx)
    dy, x, y = (f.widened(v) for v in inputs)
    energy = _energy(ctx, x)
    shared = _around(ctx, f.div(f.mul(dy, y), energy), int(ctx.attr("depth_radius")))
    factor = 2 * ctx.attr("alpha") * ctx.attr("beta")
    dx = f.sub(f.mul(dy, _power(ctx, energy)), f.mul(f.mul(x, factor), shared))
    return (f.cast(dx, inputs[0].type.dtype),)


RESPONSE_RULES: dict[str, Rule] = {"LRN": _forward, "LRNGrad": _backward}
