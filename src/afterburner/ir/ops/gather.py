"""Reads and additions at computed positions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ml_dtypes import finfo

from ..op import Op, require
from ..types import DType, TensorType, dtype_of


@dataclass(frozen=True)
class Gather(Op):
    """Slices of x at ``indices`` along ``axis``; the index axes take the place of that axis.
    Indices are clamped into the axis (importers add the bounds check)."""

    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2, f"takes 2 operands, not {len(types)}")
        x, indices = types
        require(0 <= self.axis < x.rank, f"no axis {self.axis} in {x}")
        require(indices.dtype.is_integer, f"an index is no {indices.dtype}")
        require(x.shape[self.axis] > 0 or indices.size == 0, "gathers from an empty axis")
        shape = x.shape[: self.axis] + indices.shape + x.shape[self.axis + 1:]
        return (TensorType(x.dtype, shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, indices = arrays
        last = max(x.shape[self.axis] - 1, 0)
        return (np.take(x, np.clip(indices.astype(np.int64), 0, last), axis=self.axis),)


@dataclass(frozen=True)
class ScatterAdd(Op):
    """x with ``updates[i]`` added to row ``indices[i]``, in the order of the indices.
    Negative indices are dropped, as TensorFlow's segment sums do; so are those past the end."""

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 3, f"takes 3 operands, not {len(types)}")
        x, indices, updates = types
        require(x.dtype == updates.dtype, f"adds {updates.dtype} to {x.dtype}")
        require(x.dtype.kind != "bool", "does not take bool")
        require(indices.dtype.is_integer, f"an index is no {indices.dtype}")
        require(x.rank >= 1 and updates.shape == indices.shape + x.shape[1:], f"updates are {updates}")
        return (x,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (_added(*arrays),)


@dataclass(frozen=True)
class SegmentSum(Op):
    """``scatter_add`` of (indices, updates) to ``rows`` rows of zeros, which need not exist."""

    rows: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2, f"takes 2 operands, not {len(types)}")
        indices, updates = types
        require(indices.dtype.is_integer, f"an index is no {indices.dtype}")
        require(updates.dtype.kind != "bool", "does not take bool")
        require(updates.shape[: indices.rank] == indices.shape, f"updates are {updates}")
        return (TensorType(updates.dtype, (self.rows, *updates.shape[indices.rank:])),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        indices, updates = arrays
        zeros = np.zeros((self.rows, *updates.shape[indices.ndim:]), updates.dtype)
        return (_added(zeros, indices, updates),)


@dataclass(frozen=True)
class _SegmentFold(Op):
    """Rows of updates folded into the one of ``rows`` rows that their index names, in the order of the indices, from
    ``start`` on. Indices outside are dropped. Operands are (indices, updates)."""

    rows: int

    def start(self, dtype: DType) -> float | int:
        """What a row without updates holds."""
        raise NotImplementedError

    def fold(self, total: np.ndarray, update: np.ndarray) -> np.ndarray:
        """The next total of a row."""
        raise NotImplementedError

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        return SegmentSum(self.rows).infer(*types)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        indices, updates = arrays
        flat = indices.reshape(-1).astype(np.int64)
        wide = updates if updates.dtype.kind in "iu" else updates.astype(np.float64)
        shape = updates.shape[indices.ndim:]
        total = np.full((self.rows, *shape), self.start(dtype_of(updates.dtype)), wide.dtype)
        for row, update in zip(flat, wide.reshape(flat.size, *shape), strict=True):
            if 0 <= row < self.rows:
                total[row] = self.fold(total[row], update)
        return (total.astype(updates.dtype),)


class SegmentMax(_SegmentFold):
    """The largest of each segment's elements and the lowest finite number. A total or an element that is NaN gives the
    element, as in TensorFlow: what comes before a NaN does not count, and it is the result where it comes last."""

    def start(self, dtype: DType) -> float | int:
        return _limits(dtype)[0]

    def fold(self, total: np.ndarray, update: np.ndarray) -> np.ndarray:
        return np.where(total > update, total, update)


class SegmentMin(_SegmentFold):
    """The smallest of each segment's elements and the highest finite number; NaN as in ``segment_max``."""

    def start(self, dtype: DType) -> float | int:
        return _limits(dtype)[1]

    def fold(self, total: np.ndarray, update: np.ndarray) -> np.ndarray:
        return np.where(total < update, total, update)


class SegmentProd(_SegmentFold):
    """The product of each segment's elements, 1 of nothing."""

    def start(self, dtype: DType) -> float | int:
        return 1

    def fold(self, total: np.ndarray, update: np.ndarray) -> np.ndarray:
        return total * update


SegmentFold = SegmentMax | SegmentMin | SegmentProd


def _limits(dtype: DType) -> tuple[float | int, float | int]:
    """The lowest and the highest finite number."""
    if dtype.is_float:
        return float(finfo(dtype.numpy).min), float(finfo(dtype.numpy).max)
    return int(np.iinfo(dtype.numpy).min), int(np.iinfo(dtype.numpy).max)


def _added(x: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> np.ndarray:
    flat = indices.reshape(-1).astype(np.int64)
    rows = updates.reshape(flat.size, *x.shape[1:])
    total = x.astype(np.float64) if x.dtype.kind not in "iu" else x.copy()
    legal = (flat >= 0) & (flat < x.shape[0])
    np.add.at(total, flat[legal], rows[legal].astype(total.dtype))
    return total.astype(x.dtype)
