"""Reads and additions at computed positions."""

from __future__ import annotations

from ...ir import Op
from ...ir.ops.gather import Gather, ScatterAdd, SegmentSum
from ..backend import mx, widened
from . import Lowering


def _signed(indices: mx.array) -> mx.array:
    return indices.astype(mx.int64) if indices.dtype == mx.uint64 else indices


def _clamped(indices: mx.array, last: int) -> mx.array:
    """As int32, which all backends take, within [0, last]; u64 of 2**63 and more counts as below 0."""
    indices = _signed(indices)
    if mx.issubdtype(indices.dtype, mx.signedinteger):
        indices = mx.maximum(indices, mx.zeros_like(indices))
    if mx.iinfo(indices.dtype).max > last:
        indices = mx.minimum(indices, mx.full(indices.shape, last, indices.dtype))
    return indices.astype(mx.int32)


def _gather(op: Gather, x: mx.array, indices: mx.array) -> tuple[mx.array, ...]:
    return (mx.take(x, _clamped(indices, x.shape[op.axis] - 1), axis=op.axis),)


def _added(x: mx.array, indices: mx.array, updates: mx.array) -> mx.array:
    """Rows added one after another; those of illegal indices to a row that is then cut off."""
    rows = x.shape[0]
    flat = _signed(indices.reshape(-1))
    end = mx.full(flat.shape, rows, mx.int32)
    target = _clamped(flat, rows)
    if mx.issubdtype(flat.dtype, mx.signedinteger):
        target = mx.where(flat < 0, end, target)
    wide = widened(x)
    room = mx.concatenate([wide, mx.zeros((1, *x.shape[1:]), wide.dtype)])
    total = room.at[target].add(widened(updates).reshape(flat.size, *x.shape[1:]))
    return total[:rows].astype(x.dtype)


def _scatter_add(op: ScatterAdd, x: mx.array, indices: mx.array, updates: mx.array) -> tuple[mx.array, ...]:
    return (x if indices.size == 0 else _added(x, indices, updates),)


def _segment_sum(op: SegmentSum, indices: mx.array, updates: mx.array) -> tuple[mx.array, ...]:
    zeros = mx.zeros((op.rows, *updates.shape[indices.ndim:]), updates.dtype)
    return (zeros if indices.size == 0 else _added(zeros, indices, updates),)


LOWERINGS: dict[type[Op], Lowering] = {Gather: _gather, ScatterAdd: _scatter_add, SegmentSum: _segment_sum}
