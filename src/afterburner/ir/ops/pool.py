"""Pooling over windows of the two spatial axes, NHWC, and the gradients."""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np

from ..op import Op, require
from ..types import U8, DType, Shape, TensorType, dtype_of
from .conv import Pads, output_size


@dataclass(frozen=True)
class _Pool(Op):
    window: tuple[int, int]
    strides: tuple[int, int]
    padding: Pads

    def output_shape(self, x: Shape) -> Shape:
        """Shape of the forward result."""
        require(len(x) == 4, "takes rank 4")
        spatial = tuple(output_size(x[1 + i], self.window[i], self.strides[i], self.padding[i])
                        for i in (0, 1))
        require(min(spatial) >= 0, f"the window {self.window} exceeds the padded input {x[1:3]}")
        return (x[0], *spatial, x[3])

    def taps(self, x: Shape) -> list[tuple[slice, slice]]:
        """Per window position, in row-major order, the padded-input slices it covers."""
        _, oh, ow, _ = self.output_shape(x)
        sh, sw = self.strides
        return [(slice(i, i + (oh - 1) * sh + 1, sh), slice(j, j + (ow - 1) * sw + 1, sw))
                for i in range(self.window[0]) for j in range(self.window[1])]

    @property
    def disjoint(self) -> bool:
        """No two windows share an element."""
        return all(s >= w for s, w in zip(self.strides, self.window, strict=True))

    def padded(self, x: np.ndarray, value: float) -> np.ndarray:
        return np.pad(x, ((0, 0), *self.padding, (0, 0)), constant_values=value)

    def cropped(self, x: np.ndarray, shape: Shape) -> np.ndarray:
        (top, _), (left, _) = self.padding
        return x[:, top: top + shape[1], left: left + shape[2]]


def lowest(dtype: DType) -> float:
    """The type's lowest finite value: what TensorFlow's maximum over a window starts from."""
    return float(ml_dtypes.finfo(dtype.numpy).min)


class MaxPool(_Pool):
    """Largest element of each window, the first of equals (of -0 and +0 too); a NaN never wins.
    Where nothing exceeds the type's lowest finite value, that value (as TensorFlow's kernel)."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1 and types[0].dtype.is_float, "takes 1 float operand")
        return (TensorType(types[0].dtype, self.output_shape(types[0].shape)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = self.padded(arrays[0].astype(np.float64), -np.inf)
        out = np.full(self.output_shape(arrays[0].shape), lowest(dtype_of(arrays[0].dtype)))
        for rows, columns in self.taps(arrays[0].shape):
            out = np.where(x[:, rows, columns] > out, x[:, rows, columns], out)
        return (out.astype(arrays[0].dtype),)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return results[0].size * self.window[0] * self.window[1]


class MaxPoolGrad(_Pool):
    """Gradient of max_pool from (x, y, dy): each dy goes to one element of its window, found by
    going through it in row-major order: the first, until one exceeds it, and so on. So the first
    of equals; a NaN only where it is the window's first element. y is not read, as in TensorFlow."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 3 and len({t.dtype for t in types}) == 1, "takes 3 operands of one type")
        require(types[0].dtype.is_float, f"does not take {types[0].dtype}")
        x, y, dy = types
        require(y.shape == dy.shape == self.output_shape(x.shape), f"y is {y}, dy is {dy}")
        return (x,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, _, dy = arrays
        chosen, _ = _winners(self, x)
        dx = np.zeros(self.padded(x, 0).shape)
        for tap, (rows, columns) in enumerate(self.taps(x.shape)):
            dx[:, rows, columns] += np.where(chosen == tap, dy.astype(np.float64), 0)
        return (self.cropped(dx, x.shape).astype(x.dtype),)


def _winners(op: _Pool, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tap that each window's gradient goes to, -1 for none, and its element."""
    padded = op.padded(x.astype(np.float64), 0)
    inside = op.padded(np.ones(x.shape, np.bool_), 0)
    shape = op.output_shape(x.shape)
    best, chosen = np.zeros(shape), np.full(shape, -1)
    for tap, (rows, columns) in enumerate(op.taps(x.shape)):
        wins = inside[:, rows, columns] & ((chosen < 0) | (padded[:, rows, columns] > best))
        best = np.where(wins, padded[:, rows, columns], best)
        chosen = np.where(wins, tap, chosen)
    return chosen, best


TAP_BITS = 127  # of what max_pool_taps stores: the tap; 127 where a window lies in the padding
NAN_TAP = 128  # added where the element at the tap is NaN, which then is not the window's maximum


class MaxPoolTaps(_Pool):
    """max_pool, and for a gradient the tap of every window as u8: where max_pool_grad's dy goes to,
    counted in row-major order; plus 128 where a NaN stands there; 255 for a window of padding only."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1 and types[0].dtype.is_float, "takes 1 float operand")
        require(self.window[0] * self.window[1] <= TAP_BITS, f"the window {self.window} has too many taps")
        shape = self.output_shape(types[0].shape)
        return TensorType(types[0].dtype, shape), TensorType(U8, shape)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (y,) = MaxPool(self.window, self.strides, self.padding).evaluate(*arrays)
        chosen, best = _winners(self, arrays[0])
        taps = np.where(chosen < 0, TAP_BITS + NAN_TAP, chosen + NAN_TAP * np.isnan(best))
        return y, taps.astype(np.uint8)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return results[0].size * self.window[0] * self.window[1]


@dataclass(frozen=True)
class MaxPoolScatter(_Pool):
    """Gradient of max_pool from (taps, dy), with the taps of max_pool_taps: every dy at its window's
    tap, as it is; 0 elsewhere. Where windows share elements, sums that start at 0."""

    input_shape: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2 and types[0].dtype == U8, "takes u8 taps and dy")
        require(types[1].dtype.is_float, f"does not take {types[1].dtype}")
        require(self.window[0] * self.window[1] <= TAP_BITS, f"the window {self.window} has too many taps")
        shape = self.output_shape(self.input_shape)
        require(types[0].shape == types[1].shape == shape, f"taps are {types[0]}, dy is {types[1]}")
        return (TensorType(types[1].dtype, self.input_shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        taps, dy = arrays[0], arrays[1].astype(np.float64)
        dx = np.zeros(self.padded(np.empty(self.input_shape, np.bool_), 0).shape)
        for tap, (rows, columns) in enumerate(self.taps(self.input_shape)):
            hit = (taps & TAP_BITS) == tap
            before = dx[:, rows, columns]
            dx[:, rows, columns] = np.where(hit, dy if self.disjoint else before + dy, before)
        return (self.cropped(dx, self.input_shape).astype(arrays[1].dtype),)


class AvgPool(_Pool):
    """Mean over each window; padding is left out of the count."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1 and types[0].dtype.is_float, "takes 1 float operand")
        return (TensorType(types[0].dtype, self.output_shape(types[0].shape)),)

    def counts(self, shape: Shape) -> np.ndarray:
        """Elements of the unpadded input in each window, [1, OH, OW, 1]."""
        ones = self.padded(np.ones((1, *shape[1:3], 1)), 0)
        return np.sum([ones[:, r, c] for r, c in self.taps((1, *shape[1:3], 1))], axis=0)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x = self.padded(arrays[0].astype(np.float64), 0)
        total = np.zeros(self.output_shape(arrays[0].shape))
        for rows, columns in self.taps(arrays[0].shape):
            total += x[:, rows, columns]
        return ((total / self.counts(arrays[0].shape)).astype(arrays[0].dtype),)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return results[0].size * self.window[0] * self.window[1]


@dataclass(frozen=True)
class AvgPoolGrad(_Pool):
    """Gradient of avg_pool from dy."""

    input_shape: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1 and types[0].dtype.is_float, "takes 1 float operand")
        require(types[0].shape == self.output_shape(self.input_shape), f"dy is {types[0]}")
        return (TensorType(types[0].dtype, self.input_shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        counts = AvgPool(self.window, self.strides, self.padding).counts(self.input_shape)
        share = arrays[0].astype(np.float64) / counts
        dx = np.zeros(self.padded(np.empty(self.input_shape, np.bool_), 0).shape)
        for rows, columns in self.taps(self.input_shape):
            dx[:, rows, columns] += share
        return (self.cropped(dx, self.input_shape).astype(arrays[0].dtype),)
