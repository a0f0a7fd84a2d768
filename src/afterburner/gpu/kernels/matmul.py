"""Matrix products."""

from __future__ import annotations

from ...ir import Op
from ...ir.ops.matmul import Matmul
from ...runtime.executable import Unsupported
from ..backend import mx
from . import Lowering

_PRODUCTS = 1 << 24  # of integers, all of which MLX would hold at once


def _matmul(op: Matmul, a: mx.array, b: mx.array) -> tuple[mx.array, ...]:
    a = mx.swapaxes(a, -1, -2) if op.transpose_a else a
    b = mx.swapaxes(b, -1, -2) if op.transpose_b else b
    if a.shape[-1] == 0:
        return (mx.zeros((*a.shape[:-1], b.shape[-1]), a.dtype),)
    if mx.issubdtype(a.dtype, mx.floating):
        return (mx.matmul(a, b),)
    return (_integers(a, b),)


def _integers(a: mx.array, b: mx.array) -> mx.array:
    """MLX multiplies matrices of floats only: sums of products, modulo the width."""
    if a.size * b.shape[-1] > _PRODUCTS:
        raise Unsupported(f"matmul of integers {list(a.shape)} by {list(b.shape)} is too large")
    return mx.sum(a[..., :, :, None] * b[..., None, :, :], axis=-2).astype(a.dtype)


LOWERINGS: dict[type[Op], Lowering] = {Matmul: _matmul}
