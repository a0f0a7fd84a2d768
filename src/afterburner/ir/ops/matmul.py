"""Matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..op import Op, require
from ..types import TensorType


@dataclass(frozen=True)
class Matmul(Op):
    """``a @ b`` over the last two axes, either transposed first; leading axes are a batch and equal.

    Attributes:
        transpose_a, transpose_b: whether an operand is transposed first.
        kept: many runs have the same ``b``.
    """

    transpose_a: bool = False
    transpose_b: bool = False
    kept: bool = False

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2, f"takes 2 operands, not {len(types)}")
        a, b = types
        require(a.dtype == b.dtype and a.dtype.kind != "bool", f"multiplies {a.dtype} and {b.dtype}")
        require(a.rank == b.rank >= 2, f"ranks {a.rank} and {b.rank}")
        require(a.shape[:-2] == b.shape[:-2], "batch axes differ")
        m, k = a.shape[-2:][::-1] if self.transpose_a else a.shape[-2:]
        inner, n = b.shape[-2:][::-1] if self.transpose_b else b.shape[-2:]
        require(k == inner, f"inner sizes {k} and {inner} differ")
        return (TensorType(a.dtype, (*a.shape[:-2], m, n)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        a, b = arrays
        dtype = a.dtype
        if dtype.kind not in "iu":
            a, b = a.astype(np.float64), b.astype(np.float64)
        a = np.swapaxes(a, -1, -2) if self.transpose_a else a
        b = np.swapaxes(b, -1, -2) if self.transpose_b else b
        return (np.matmul(a, b).astype(dtype),)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        """Two per multiply-add."""
        a = operands[0]
        return 2 * results[0].size * (a.shape[-2] if self.transpose_a else a.shape[-1])
