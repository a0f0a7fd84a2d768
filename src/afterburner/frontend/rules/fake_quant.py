"""Rounding of floats to the values that few bits can hold, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...ir import Value
from ...ir.ops.reduce import ReduceSum
from ...ir.types import F32
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula
from .reduce import reduce


@dataclass(frozen=True)
class _Range:
    """What values are clamped to and their distance, nudged so that 0 is one of them; scalars, or one by channel."""

    least: Value
    most: Value
    scale: Value
    zero: Value  # the number of values below 0, which is no index where the first is not 0

    def wide(self, ctx: Importer, x: Value) -> _Range:
        """Repeated to the shape of ``x``."""
        return _Range(*(ctx.broadcast_to(v, x.shape) for v in (self.least, self.most, self.scale, self.zero)))


def _bounds(ctx: Importer, op: FlatOp, given: list[Value]) -> list[Value]:
    """The least and the most, as attributes or as operands."""
    if given:
        return given
    return [ctx.constant(np.float32(ctx.attr(name))) for name in ("min", "max")]


def _range(ctx: Importer, bounds: list[Value]) -> _Range:
    f, (least, most) = Formula(ctx), bounds
    first = float(ctx.attr("narrow_range"))
    last = float((1 << int(ctx.attr("num_bits"))) - 1)
    scale = f.div(f.sub(most, least), last - first)
    from_least = f.sub(first, f.div(least, scale))
    zero = f.minimum(f.maximum(f.floor(f.add(from_least, 0.5)), first), last)
    nudged = f.mul(f.sub(first, zero), scale)
    return _Range(nudged, f.mul(f.sub(last, zero), scale), scale, f.floor(f.add(f.div(f.neg(nudged), scale), 0.5)))


def _forward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The nearest of the values; 0 where both bounds are."""
    f, x = Formula(ctx), inputs[0]
    bounds = _bounds(ctx, op, inputs[1:])
    _refuse_other_channels(ctx, x, bounds)
    r = _range(ctx, bounds).wide(ctx, x)
    clamped = f.maximum(f.minimum(x, r.most), r.least)
    steps = _steps(f, op, f.sub(clamped, r.least), r)
    value = f.mul(f.floor(f.add(f.sub(steps, r.zero), 0.5)), r.scale)
    return (f.select(_degenerate(f, bounds, x), 0, value),)


def _steps(f: Formula, op: FlatOp, shifted: Value, r: _Range) -> Value:
    """TensorFlow multiplies by the reciprocal where the bounds are attributes."""
    return f.mul(shifted, f.div(1, r.scale)) if op.type.startswith("FakeQuantWithMinMaxArgs") \
        else f.div(shifted, r.scale)


def _degenerate(f: Formula, bounds: list[Value], x: Value) -> Value:
    return f.ctx.broadcast_to(f.both(*(f.eq(b, 0) for b in bounds)), x.shape)


def _refuse_other_channels(ctx: Importer, x: Value, bounds: list[Value]) -> None:
    if any(b.shape not in ((), x.shape[-1:]) for b in bounds):
        raise ctx.refuse(f"rounds {x.type} within {', '.join(str(b.type) for b in bounds)}")


def _backward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Passed within the range; to the bounds goes what lies outside."""
    f, (dy, x) = Formula(ctx), inputs[:2]
    bounds = _bounds(ctx, op, inputs[2:])
    _refuse_other_channels(ctx, x, bounds)
    r = _range(ctx, bounds).wide(ctx, x)
    inside = f.both(f.ge(x, r.least), f.ge(r.most, x))
    masks = [inside, f.lt(x, r.least), f.gt(x, r.most)]
    if not inputs[2:]:
        return (_masked(f, dy, inside),)
    whole = _degenerate(f, bounds, x)
    dx = f.select(whole, dy, _masked(f, dy, masks[0]))
    axes = tuple(range(x.type.rank - bounds[0].type.rank))
    outside = [reduce(ctx, ReduceSum, f.select(whole, 0, _masked(f, dy, mask)), axes) for mask in masks[1:]]
    return dx, *outside


def _masked(f: Formula, dy: Value, mask: Value) -> Value:
    return f.mul(dy, f.cast(mask, F32))


FAKE_QUANT_RULES: dict[str, Rule] = {
    **{f"FakeQuantWithMinMax{bounds}": _forward for bounds in ("Args", "Vars", "VarsPerChannel")},
    **{f"FakeQuantWithMinMax{bounds}Gradient": _backward for bounds in ("Args", "Vars", "VarsPerChannel")},
}
