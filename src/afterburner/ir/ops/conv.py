"""Two-dimensional convolutions, NHWC by HWIO, and their gradients."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from ..op import Op, require
from ..types import Shape, TensorType

Pads = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))


def output_size(size: int, window: int, stride: int, pads: tuple[int, int], dilation: int = 1) -> int:
    """Number of window positions along one axis."""
    return (size + sum(pads) - (window - 1) * dilation - 1) // stride + 1


@dataclass(frozen=True)
class _Conv(Op):
    strides: tuple[int, int]
    padding: Pads
    dilation: tuple[int, int]
    groups: int

    def output_shape(self, x: Shape, filter_: Shape) -> Shape:
        """Shape of the forward result.

        Raises:
            IRError: channels and groups do not fit, or the window exceeds the padded input.
        """
        require(len(x) == len(filter_) == 4, "input and filter have rank 4")
        require(x[3] == filter_[2] * self.groups, f"{x[3]} channels, filter {filter_}, {self.groups} groups")
        require(filter_[3] % self.groups == 0, f"{filter_[3]} outputs in {self.groups} groups")
        spatial = tuple(output_size(x[1 + i], filter_[i], self.strides[i], self.padding[i], self.dilation[i])
                        for i in (0, 1))
        require(min(spatial) >= 0, f"the window {filter_[:2]} exceeds the padded input {x[1:3]}")
        return (x[0], *spatial, filter_[3])

    def taps(self, x: Shape, filter_: Shape) -> list[tuple[int, int, slice, slice]]:
        """Per filter tap: its row and column and the padded-input slices it multiplies."""
        _, oh, ow, _ = self.output_shape(x, filter_)
        (sh, sw), (dh, dw) = self.strides, self.dilation
        return [(i, j, slice(i * dh, i * dh + (oh - 1) * sh + 1, sh), slice(j * dw, j * dw + (ow - 1) * sw + 1, sw))
                for i in range(filter_[0]) for j in range(filter_[1])]

    def padded(self, x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, 0), *self.padding, (0, 0)))


def _split(x: np.ndarray, groups: int) -> np.ndarray:
    return x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float64)


@dataclass(frozen=True)
class Conv2d(_Conv):
    """Cross-correlation of x [N,H,W,C] with filter [KH,KW,C/groups,O].

    ``sparse`` says that many elements of x may be zero, ``kept`` that many runs have the same filter; they change no
    result.
    """

    sparse: bool = False
    kept: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2, f"takes 2 operands, not {len(types)}")
        require(types[0].dtype == types[1].dtype and types[0].dtype.is_float, "takes floats of one type")
        return (TensorType(types[0].dtype, self.output_shape(types[0].shape, types[1].shape)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, w = arrays
        shape = self.output_shape(x.shape, w.shape)
        out = np.zeros((*shape[:3], self.groups, shape[3] // self.groups))
        grouped, filters = _split(self.padded(_wide(x)), self.groups), _split(_wide(w), self.groups)
        for i, j, rows, columns in self.taps(x.shape, w.shape):
            out += np.einsum("nhwgc,cgo->nhwgo", grouped[:, rows, columns], filters[i, j])
        return (out.reshape(shape).astype(x.dtype),)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return 2 * results[0].size * prod(operands[1].shape[:3])


@dataclass(frozen=True)
class Conv2dInputGrad(_Conv):
    """Gradient of conv2d with respect to its input, from (filter, dy).

    ``sparse`` says that many elements of dy may be zero, ``kept`` that many runs have the same filter; they change no
    result.
    """

    input_shape: Shape
    sparse: bool = False
    kept: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2, f"takes 2 operands, not {len(types)}")
        w, dy = types
        require(w.dtype == dy.dtype and w.dtype.is_float, "takes floats of one type")
        require(dy.shape == self.output_shape(self.input_shape, w.shape), f"dy is {dy}")
        return (TensorType(w.dtype, self.input_shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        w, dy = arrays
        (top, bottom), (left, right) = self.padding
        n, h, width, c = self.input_shape
        dx = np.zeros((n, h + top + bottom, width + left + right, self.groups, c // self.groups))
        grouped, filters = _split(_wide(dy), self.groups), _split(_wide(w), self.groups)
        for i, j, rows, columns in self.taps(self.input_shape, w.shape):
            dx[:, rows, columns] += np.einsum("nhwgo,cgo->nhwgc", grouped, filters[i, j])
        return (dx[:, top: top + h, left: left + width].reshape(self.input_shape).astype(w.dtype),)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return 2 * operands[1].size * prod(operands[0].shape[:3])


@dataclass(frozen=True)
class Conv2dFilterGrad(_Conv):
    """Gradient of conv2d with respect to its filter, from (x, dy).

    ``sparse`` says that many elements of x may be zero, ``sparse_dy`` that many of dy may be; they change no result
    beyond rounding.
    """

    filter_shape: Shape
    sparse: bool = False
    sparse_dy: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2, f"takes 2 operands, not {len(types)}")
        x, dy = types
        require(x.dtype == dy.dtype and x.dtype.is_float, "takes floats of one type")
        require(dy.shape == self.output_shape(x.shape, self.filter_shape), f"dy is {dy}")
        return (TensorType(x.dtype, self.filter_shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, dy = arrays
        kh, kw, c, o = self.filter_shape
        dw = np.zeros((kh, kw, c, self.groups, o // self.groups))
        grouped, out = _split(self.padded(_wide(x)), self.groups), _split(_wide(dy), self.groups)
        for i, j, rows, columns in self.taps(x.shape, self.filter_shape):
            dw[i, j] = np.einsum("nhwgc,nhwgo->cgo", grouped[:, rows, columns], out)
        return (dw.reshape(self.filter_shape).astype(x.dtype),)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return 2 * operands[1].size * prod(self.filter_shape[:3])
