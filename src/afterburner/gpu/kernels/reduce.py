"""Operations that combine elements along axes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...ir import Op
from ...ir.ops import reduce as ops
from ..backend import mx, mx_dtype, sums_in_order, widened
from . import Lowering

_SHORT = 32  # numbers added one after another


def _is_float(x: mx.array) -> bool:
    return mx.issubdtype(x.dtype, mx.floating)


def _limit(x: mx.array, largest: bool) -> Any:
    if _is_float(x):
        return np.inf if largest else -np.inf
    info = mx.iinfo(x.dtype)
    return info.max if largest else info.min


def _kept(x: mx.array, axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(s for i, s in enumerate(x.shape) if i not in axes)


Combine = Callable[[mx.array, "tuple[int, ...]"], mx.array]


def _reduction(combine: Combine) -> Lowering:
    """A lowering; where nothing is combined it is a copy, which keeps -0.0."""

    def lower(op: Any, x: mx.array) -> tuple[mx.array, ...]:
        kept = _kept(x, op.axes)
        if all(x.shape[a] == 1 for a in op.axes):
            return (x.reshape(kept),)
        return (combine(x, op.axes).astype(x.dtype),)

    return lower


def _sum(x: mx.array, axes: tuple[int, ...]) -> mx.array:
    wide = widened(x)
    if not (_is_float(x) and x.size and sums_in_order()):
        return mx.sum(wide, axis=axes)
    for axis in reversed(axes):
        wide = _short_sums(wide, axis)
    return wide


def _short_sums(x: mx.array, axis: int) -> mx.array:
    """The sum along an axis as a sum of sums, none of them long."""
    size, around = x.shape[axis], (slice(None),) * axis
    if size <= _SHORT:
        return mx.sum(x, axis=axis)
    whole = size - size % _SHORT
    blocks = x[(*around, slice(0, whole))].reshape(*x.shape[:axis], whole // _SHORT, _SHORT, *x.shape[axis + 1:])
    total = _short_sums(mx.sum(blocks, axis=axis + 1), axis)
    return total + mx.sum(x[(*around, slice(whole, size))], axis=axis) if whole < size else total


def _prod(x: mx.array, axes: tuple[int, ...]) -> mx.array:
    return mx.prod(widened(x), axis=axes)


def _extreme(x: mx.array, axes: tuple[int, ...], largest: bool) -> mx.array:
    """NaN if any is NaN, whatever the backend's maximum does with it."""
    if x.size == 0:
        return mx.full(_kept(x, axes), _limit(x, not largest), x.dtype)
    found = mx.max(x, axis=axes) if largest else mx.min(x, axis=axes)
    if not _is_float(x):
        return found
    return mx.where(mx.any(mx.isnan(x), axis=axes), mx.array(np.nan, x.dtype), found)


def _arg(op: Any, x: mx.array, largest: bool) -> tuple[mx.array, ...]:
    """The first of the best. A NaN is never better, and first of all it is never replaced."""
    if x.dtype == mx.bool_:
        x = x.astype(mx.uint8)
    axis, target = op.axis, mx_dtype(op.dtype)
    ordered = mx.where(mx.isnan(x), mx.array(_limit(x, not largest), x.dtype), x) if _is_float(x) else x
    best = mx.max(ordered, axis=axis, keepdims=True) if largest else mx.min(ordered, axis=axis, keepdims=True)
    size = x.shape[axis]
    along = [1] * x.ndim
    along[axis] = size
    steps = mx.arange(size, dtype=mx.int32).reshape(along)
    first = mx.min(mx.where(ordered == best, steps, mx.array(size, mx.int32)), axis=axis)
    if _is_float(x):
        head = mx.take(x, mx.array(0), axis=axis)
        first = mx.where(mx.isnan(head), mx.zeros_like(first), first)
    return (first.astype(target),)


def _cumsum(op: ops.Cumsum, x: mx.array) -> tuple[mx.array, ...]:
    total = mx.cumsum(widened(x), axis=op.axis, reverse=op.reverse, inclusive=not op.exclusive)
    if _is_float(total):
        total = total + 0.0  # a sum starts at 0: no -0.0
    return (total.astype(x.dtype),)


def _cumprod(op: ops.Cumprod, x: mx.array) -> tuple[mx.array, ...]:
    return (mx.cumprod(x, axis=op.axis, reverse=op.reverse, inclusive=not op.exclusive),)


LOWERINGS: dict[type[Op], Lowering] = {
    ops.ReduceSum: _reduction(_sum),
    ops.ReduceProd: _reduction(_prod),
    ops.ReduceMax: _reduction(lambda x, axes: _extreme(x, axes, largest=True)),
    ops.ReduceMin: _reduction(lambda x, axes: _extreme(x, axes, largest=False)),
    ops.ReduceAnd: _reduction(lambda x, axes: mx.all(x, axis=axes)),
    ops.ReduceOr: _reduction(lambda x, axes: mx.any(x, axis=axes)),
    ops.Argmax: lambda op, x: _arg(op, x, largest=True),
    ops.Argmin: lambda op, x: _arg(op, x, largest=False),
    ops.Cumprod: _cumprod,
    ops.Cumsum: _cumsum,
}
