"""Gradients of a convolution behind a max pooling: the pooling's gradient, then the convolution's."""

from __future__ import annotations

from ...ir import Op
from ...ir.ops.conv import Conv2dFilterGrad, Conv2dInputGrad
from ...ir.ops.conv_pooled import Conv2dFilterGradPooled, Conv2dInputGradPooled
from ..backend import mx
from . import Lowering, conv, pool


def _input_grad(op: Conv2dInputGradPooled, filter_: mx.array, taps: mx.array, dy: mx.array) -> tuple[mx.array, ...]:
    (scattered,) = pool.scatter(op.scatter(op.between(op.input_shape, filter_.shape)), taps, dy)
    return conv.input_grad(Conv2dInputGrad(**op.plain, input_shape=op.input_shape), filter_, scattered)


def _filter_grad(op: Conv2dFilterGradPooled, x: mx.array, taps: mx.array, dy: mx.array) -> tuple[mx.array, ...]:
    (scattered,) = pool.scatter(op.scatter(op.between(x.shape, op.filter_shape)), taps, dy)
    return conv.filter_grad(Conv2dFilterGrad(**op.plain, filter_shape=op.filter_shape), x, scattered)


LOWERINGS: dict[type[Op], Lowering] = {
    Conv2dInputGradPooled: _input_grad, Conv2dFilterGradPooled: _filter_grad,
}
