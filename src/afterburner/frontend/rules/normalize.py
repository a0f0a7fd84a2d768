"""Fused batch normalization and its gradient, as TensorFlow's CPU kernels define them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir import Value
from ...ir.types import F32
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .conv import layout_of
from .formulas import Formula


@dataclass(frozen=True)
class _Channels:
    """Formulas over an input in f32, NHWC, and vectors along its last axis."""

    f: Formula
    x: Value

    @property
    def others(self) -> tuple[int, ...]:
        return tuple(range(self.x.type.rank - 1))

    @property
    def count(self) -> int:
        return prod(self.x.shape[:-1])

    def wide(self, vector: Value) -> Value:
        """A vector repeated to the shape of the input."""
        return self.f.along(vector, self.x, (self.x.type.rank - 1,))

    def mean(self, value: Value) -> Value:
        return self.f.div(self.f.sum(value, self.others), self.count)


def _forward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """y, mean, variance for the running average (unbiased), then what the gradient needs: mean and
    biased variance, and for V3 an empty tensor."""
    f, layout, dtype = Formula(ctx), layout_of(ctx), inputs[0].type.dtype
    x = ctx.cast(layout.enter(ctx, inputs[0]), F32)
    scale, offset, mean, variance = inputs[1:5]
    fresh = ctx.attr("is_training") and ctx.attr("exponential_avg_factor") == 1
    _refuse_other_channels(ctx, x, inputs[1:3] if fresh else inputs[1:5])
    over = _Channels(f, x)
    outputs = [mean, variance, mean, variance]
    if ctx.attr("is_training"):
        if not over.count:
            raise ctx.refuse("batch normalization of nothing")
        old_mean, old_variance = mean, variance
        mean = over.mean(x)
        variance = over.mean(f.square(f.sub(x, over.wide(mean))))
        unbiased = f.mul(variance, over.count / max(over.count - 1, 1))
        outputs = [_averaged(ctx, old_mean, mean), _averaged(ctx, old_variance, unbiased), mean, variance]
    factor = f.mul(f.rsqrt(f.add(variance, ctx.attr("epsilon"))), scale)
    y = f.add(f.mul(f.sub(x, over.wide(mean)), over.wide(factor)), over.wide(offset))
    results = [layout.leave(ctx, ctx.cast(y, dtype)), *outputs]
    return results if op.type != "FusedBatchNormV3" else [*results, ctx.constant(np.float32(0))]


def _refuse_other_channels(ctx: Importer, x: Value, given: Sequence[Value]) -> None:
    if any(v.shape != x.shape[-1:] for v in given):
        raise ctx.refuse(f"normalizes {x.type} by {', '.join(str(v.type) for v in given)}")


def _averaged(ctx: Importer, old: Value, new: Value) -> Value:
    """(1 - factor) old + factor new; the operation's first version has no factor."""
    f, factor = Formula(ctx), float(ctx.attr("exponential_avg_factor"))
    return new if factor == 1 else f.add(f.mul(1 - factor, old), f.mul(factor, new))


def _backward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Gradients of input, scale and offset, and two unused results."""
    f, layout, dtype = Formula(ctx), layout_of(ctx), inputs[0].type.dtype
    dy, x = (ctx.cast(layout.enter(ctx, v), F32) for v in inputs[:2])
    scale, mean, variance = inputs[2:5]
    _refuse_other_channels(ctx, x, inputs[2:5])
    over = _Channels(f, x)
    stretched = f.add(variance, ctx.attr("epsilon"))
    centered = f.sub(x, over.wide(mean))
    total = f.sum(dy, over.others)
    product = f.sum(f.mul(dy, centered), over.others)
    rsqrt = f.rsqrt(stretched)
    top = dy
    if ctx.attr("is_training"):
        slope = f.div(f.div(product, over.count), stretched)
        top = f.sub(f.sub(dy, over.wide(f.div(total, over.count))), f.mul(centered, over.wide(slope)))
    dx = f.mul(top, over.wide(f.mul(rsqrt, scale)))
    unused = [ctx.constant(np.zeros(t.shape.as_list() if t.shape.rank is not None else (), np.float32))
              for t in op.outputs[3:]]
    return [layout.leave(ctx, ctx.cast(dx, dtype)), f.mul(product, rsqrt), total, *unused]


_FORWARD = ("FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3")
_BACKWARD = ("FusedBatchNormGrad", "FusedBatchNormGradV2", "FusedBatchNormGradV3")


def _refuse(op: FlatOp) -> str | None:
    """Images in NHWC or NCHW, statistics in f32."""
    if op.attr("data_format") not in (b"NHWC", b"NCHW"):
        return f"the layout {op.attr('data_format').decode()}"
    statistics = op.inputs[1 if op.type in _FORWARD else 2]
    return None if statistics.dtype.name == "float32" else f"statistics in {statistics.dtype.name}"


NORMALIZE_RULES: dict[str, Rule] = {
    **{name: _forward for name in _FORWARD},
    **{name: _backward for name in _BACKWARD},
}

NORMALIZE_REFUSALS = {name: _refuse for name in NORMALIZE_RULES}
