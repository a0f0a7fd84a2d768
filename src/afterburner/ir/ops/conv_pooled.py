"""Gradients of a convolution whose result only a max pooling reads: one element of each window is not zero."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..op import Op, require
from ..types import U8, Shape, TensorType
from .conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad, Pads
from .pool import MaxPoolScatter

_NO_PADDING: Pads = ((0, 0), (0, 0))


@dataclass(frozen=True)
class _ConvPooled(Op):
    """A convolution with strides 1, then a pooling without padding whose windows do not overlap."""

    padding: Pads  # of the convolution
    window: tuple[int, int]
    strides: tuple[int, int]  # of the pooling

    def between(self, x: Shape, filter_: Shape) -> Shape:
        """Shape of what the convolution gives to the pooling."""
        return Conv2d(**self.plain).output_shape(x, filter_)

    def scatter(self, between: Shape) -> MaxPoolScatter:
        """The pooling's gradient."""
        return MaxPoolScatter(self.window, self.strides, _NO_PADDING, between)

    @property
    def plain(self) -> dict[str, Any]:
        """Attributes of the convolution."""
        return dict(strides=(1, 1), padding=self.padding, dilation=(1, 1), groups=1)

    def check(self, x: Shape, filter_: Shape, taps: TensorType, dy: TensorType) -> None:
        """Raise IRError unless taps and dy belong to the pooling of the convolution."""
        scatter = self.scatter(self.between(x, filter_))
        require(scatter.disjoint, f"windows of {self.window} overlap at strides {self.strides}")
        require(taps.dtype == U8, f"taps are {taps}")
        scatter.infer(taps, dy)


@dataclass(frozen=True)
class Conv2dInputGradPooled(_ConvPooled):
    """conv2d_input_grad(filter, max_pool_scatter(taps, dy)) from (filter, taps, dy)."""

    input_shape: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 3, f"takes 3 operands, not {len(types)}")
        w, taps, dy = types
        require(w.dtype == dy.dtype and w.dtype.is_float, "takes a filter and dy of one float type")
        self.check(self.input_shape, w.shape, taps, dy)
        return (TensorType(w.dtype, self.input_shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        w, taps, dy = arrays
        (scattered,) = self.scatter(self.between(self.input_shape, w.shape)).evaluate(taps, dy)
        return Conv2dInputGrad(**self.plain, input_shape=self.input_shape).evaluate(w, scattered)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return 2 * operands[2].size * prod(operands[0].shape[:3])


@dataclass(frozen=True)
class Conv2dFilterGradPooled(_ConvPooled):
    """conv2d_filter_grad(x, max_pool_scatter(taps, dy)) from (x, taps, dy)."""

    filter_shape: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 3, f"takes 3 operands, not {len(types)}")
        x, taps, dy = types
        require(x.dtype == dy.dtype and x.dtype.is_float, "takes x and dy of one float type")
        self.check(x.shape, self.filter_shape, taps, dy)
        return (TensorType(x.dtype, self.filter_shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, taps, dy = arrays
        (scattered,) = self.scatter(self.between(x.shape, self.filter_shape)).evaluate(taps, dy)
        return Conv2dFilterGrad(**self.plain, filter_shape=self.filter_shape).evaluate(x, scattered)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return 2 * operands[2].size * prod(self.filter_shape[:3])
