"""Reads and additions at computed positions."""

from __future__ import annotations

import numpy as np

from ...ir import Op
from ...ir.ops.gather import Gather, ScatterAdd, SegmentFold, SegmentMax, SegmentMin, SegmentProd, SegmentSum
from ..backend import ir_dtype, mx, widened
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


def _targets(indices: mx.array, rows: int) -> mx.array:
    """The row of each index; that behind the last one where it is illegal."""
    flat = _signed(indices.reshape(-1))
    target = _clamped(flat, rows)
    if mx.issubdtype(flat.dtype, mx.signedinteger):
        target = mx.where(flat < 0, mx.full(flat.shape, rows, mx.int32), target)
    return target


def _folded(x: mx.array, indices: mx.array, updates: mx.array, fold: str = "add") -> mx.array:
    """Rows folded into others one after another; those of illegal indices into a row that is then cut off."""
    rows, target = x.shape[0], _targets(indices, x.shape[0])
    wide = widened(x)
    room = mx.concatenate([wide, mx.zeros((1, *x.shape[1:]), wide.dtype)])
    total = getattr(room.at[target], fold)(widened(updates).reshape(target.size, *x.shape[1:]))
    return total[:rows].astype(x.dtype)


def _scatter_add(op: ScatterAdd, x: mx.array, indices: mx.array, updates: mx.array) -> tuple[mx.array, ...]:
    return (x if indices.size == 0 else _folded(x, indices, updates),)


def _segment_sum(op: SegmentSum, indices: mx.array, updates: mx.array) -> tuple[mx.array, ...]:
    zeros = mx.zeros((op.rows, *updates.shape[indices.ndim:]), updates.dtype)
    return (zeros if indices.size == 0 else _folded(zeros, indices, updates),)


def _started(op: SegmentFold, indices: mx.array, updates: mx.array) -> mx.array:
    """What the segments start from."""
    dtype = ir_dtype(updates.dtype)
    number = op.start(dtype)
    start = mx.array(number, updates.dtype) if dtype.is_float else mx.array(np.array(number, dtype.numpy))
    return mx.full((op.rows, *updates.shape[indices.ndim:]), start, updates.dtype)


def _segment_prod(op: SegmentProd, indices: mx.array, updates: mx.array) -> tuple[mx.array, ...]:
    start = _started(op, indices, updates)
    return (start if indices.size == 0 else _folded(start, indices, updates, "multiply"),)


def _segment_extreme(fold: str, worst: float) -> Lowering:
    def lower(op: SegmentFold, indices: mx.array, updates: mx.array) -> tuple[mx.array, ...]:
        start = _started(op, indices, updates)
        if indices.size == 0:
            return (start,)
        if not mx.issubdtype(updates.dtype, mx.floating):
            return (_folded(start, indices, updates, fold),)
        return (_after_nans(start, indices, updates, fold, worst),)
    return lower


def _after_nans(start: mx.array, indices: mx.array, updates: mx.array, fold: str, worst: float) -> mx.array:
    """Extremes of what comes after each segment's last NaN; NaN where nothing does."""
    count, shape = indices.size, start.shape[1:]
    updates = updates.reshape(count, *shape)
    step = mx.broadcast_to(mx.arange(count, dtype=mx.int32).reshape(count, *(1 for _ in shape)), updates.shape)
    never = mx.full(start.shape, -1, mx.int32)
    last = _folded(never, indices, step, "maximum")
    last_nan = _folded(never, indices, mx.where(mx.isnan(updates), step, -1), "maximum")
    room = mx.concatenate([last_nan, mx.zeros((1, *shape), mx.int32)])
    stale = step <= mx.take(room, _targets(indices, start.shape[0]), axis=0)
    had_nan, least = last_nan >= 0, mx.array(worst, updates.dtype)
    found = _folded(mx.where(had_nan, least, start), indices, mx.where(stale, least, updates), fold)
    return mx.where(mx.logical_and(had_nan, last == last_nan), mx.array(np.nan, updates.dtype), found)


LOWERINGS: dict[type[Op], Lowering] = {
    Gather: _gather, ScatterAdd: _scatter_add, SegmentSum: _segment_sum, SegmentProd: _segment_prod,
    SegmentMax: _segment_extreme("maximum", -np.inf), SegmentMin: _segment_extreme("minimum", np.inf),
}
