"""Two-dimensional convolutions, NHWC by HWIO, and their gradients, which MLX derives itself: it knows for each
backend how they are best computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...ir import Op
from ...ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad
from ..backend import mx, sums_in_order
from . import Lowering

_SHORT = 256  # products added one after another
_MOST_PARTS = 16
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
    parts = _parts(dy) if sums_in_order() else 1
    ends = [x.shape[0] * i // parts for i in range(parts + 1)]
    whole = zeros
    for start, end in zip(ends[:-1], ends[1:], strict=True):
        whole = whole + _vjp(op, x[start:end], zeros, dy[start:end])
    return (whole,)


def _vjp(op: Any, x: mx.array, filter_: mx.array, dy: mx.array) -> mx.array:
    _, (dw,) = mx.vjp(lambda value: _convolution(op)(x, value), [filter_], [dy])
    return dw


def _parts(dy: mx.array) -> int:
    """Parts of a batch whose sums over positions are short."""
    batch, height, width, _ = dy.shape
    return int(min(batch, _MOST_PARTS, -(-batch * height * width // _SHORT)))


LOWERINGS: dict[type[Op], Lowering] = {
    Conv2d: _conv2d, Conv2dInputGrad: input_grad, Conv2dFilterGrad: filter_grad,
}
