"""Operations that order elements."""

from __future__ import annotations

from ...ir import Op
from ...ir.ops.sort import TopK
from ..backend import mx, mx_dtype
from . import Lowering


def _ascending(x: mx.array) -> mx.array:
    """Up to 32 bits as u32 of the same order; -0 as 0, a NaN above all."""
    if mx.issubdtype(x.dtype, mx.floating):
        wide = x.astype(mx.float32)
        bits = mx.where(wide == 0, mx.zeros_like(wide), wide).view(mx.uint32)
        sign = mx.array(1 << 31, mx.uint32)
        ordered = mx.where((bits & sign) != 0, mx.bitwise_invert(bits), bits | sign)
        return mx.where(mx.isnan(wide), mx.array(0xFFFFFFFF, mx.uint32), ordered)
    if mx.issubdtype(x.dtype, mx.signedinteger):
        return x.astype(mx.int32).view(mx.uint32) ^ mx.array(1 << 31, mx.uint32)
    return x.astype(mx.uint32)


def _order(x: mx.array) -> mx.array:
    """Positions along the last axis, the largest element's first and of equals the one before: every key has the
    position as its low word, so that no two are equal and any sort will do."""
    size = x.shape[-1]
    steps = mx.broadcast_to(mx.arange(size, dtype=mx.uint64), x.shape)
    if x.dtype.size <= 4:
        descending = mx.bitwise_invert(_ascending(x)).astype(mx.uint64)
        keys = mx.sort((descending << mx.array(32, mx.uint64)) | steps, axis=-1)
        return (keys & mx.array(0xFFFFFFFF, mx.uint64)).astype(mx.int32)
    # Ascending and stable over the reversed axis is, reversed again, descending and stable.
    order = mx.argsort(x[..., ::-1], axis=-1).astype(mx.int32)[..., ::-1]
    return mx.array(size - 1, mx.int32) - order


def _top_k(op: TopK, x: mx.array) -> tuple[mx.array, ...]:
    order = _order(x)[..., : op.k]
    return mx.take_along_axis(x, order, axis=-1), order.astype(mx_dtype(op.dtype))


LOWERINGS: dict[type[Op], Lowering] = {TopK: _top_k}
