"""Operations that order elements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..op import Op, require
from ..types import DType, TensorType


@dataclass(frozen=True)
class TopK(Op):
    """The ``k`` largest elements along the last axis, largest first, and their positions as ``dtype``.
    Of equal elements (-0 and +0 too) the one before comes first. NaN counts as larger than all numbers;
    TensorFlow gives NaN no place, so importers check that there is none."""

    k: int
    dtype: DType

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        x = types[0]
        require(x.dtype.kind != "bool", "does not take bool")
        require(self.dtype.is_integer, f"a position is no {self.dtype}")
        require(x.rank >= 1 and 0 <= self.k <= x.shape[-1], f"no {self.k} largest of {x}")
        shape = (*x.shape[:-1], self.k)
        return TensorType(x.dtype, shape), TensorType(self.dtype, shape)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        wide = x.astype(np.float64) if x.dtype.kind not in "iu" else x
        # Ascending and stable over the reversed axis is, reversed again, descending and stable.
        order = np.argsort(np.flip(wide, -1), axis=-1, kind="stable")
        order = (x.shape[-1] - 1 - np.flip(order, -1))[..., : self.k]
        return np.take_along_axis(x, order, -1), order.astype(self.dtype.numpy)
