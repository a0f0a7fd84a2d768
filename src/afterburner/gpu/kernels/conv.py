"""Two-dimensional convolutions, NHWC by HWIO, and their gradients, which MLX derives itself: it knows for each
backend how they are best computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir import Op
from ...ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad
from ..backend import mx
from . import Lowering

Apply = Callable[[mx.array, mx.array], mx.array]


def _convolution(op: Any) -> Apply:
    """The convolution of an operation's attributes, by x and the filter."""
    (top, bottom), (left, right) = op.padding

    def apply(x: mx.array, filter_: mx.array) -> mx.array:
        return mx.conv_general(x, mx.transpose(filter_, (3, 0, 1, 2)), stride=list(op.strides),
                               padding=([top, left], [bottom, right]), kernel_dilation=list(op.dilation),
                               groups=op.groups)

    return apply


def _conv2d(op: Conv2d, x: mx.array, filter_: mx.array) -> tuple[mx.array, ...]:
    if x.size == 0 or filter_.size == 0:
        return (mx.zeros(op.output_shape(x.shape, filter_.shape), x.dtype),)
    return (_convolution(op)(x, filter_),)


def input_grad(op: Conv2dInputGrad, filter_: mx.array, dy: mx.array) -> tuple[mx.array, ...]:
    """The gradient with respect to the input."""
    zeros = mx.zeros(op.input_shape, dy.dtype)
    if dy.size == 0 or filter_.size == 0:
        return (zeros,)
    _, (dx,) = mx.vjp(lambda x: _convolution(op)(x, filter_), [zeros], [dy])
    return (dx,)


def filter_grad(op: Conv2dFilterGrad, x: mx.array, dy: mx.array) -> tuple[mx.array, ...]:
    """The gradient with respect to the filter."""
    zeros = mx.zeros(op.filter_shape, dy.dtype)
    if dy.size == 0 or x.size == 0:
        return (zeros,)
    _, (dw,) = mx.vjp(lambda filter_: _convolution(op)(x, filter_), [zeros], [dy])
    return (dw,)


LOWERINGS: dict[type[Op], Lowering] = {
    Conv2d: _conv2d, Conv2dInputGrad: input_grad, Conv2dFilterGrad: filter_grad,
}
