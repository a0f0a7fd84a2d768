"""Pooling over windows and its gradients: one strided slice for each of a window's elements, compared or added in
row-major order, so that ties and NaN go where TensorFlow's kernels let them go, on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...ir import DTYPES, Op, Shape
from ...ir.ops import pool as ops
from ...runtime.executable import Unsupported
from ..backend import mx, widened
from . import Lowering

_MOST_TAPS = 256  # a slice each


def _taps(op: Any, shape: Shape) -> list[tuple[slice, slice]]:
    if op.window[0] * op.window[1] > _MOST_TAPS:
        raise Unsupported(f"{op.name} over windows of {op.window}")
    return list(op.taps(shape))


def _padded(op: Any, x: mx.array, value: float) -> mx.array:
    if not any(map(any, op.padding)):
        return x
    return mx.pad(x, ((0, 0), *op.padding, (0, 0)), constant_values=mx.array(value, x.dtype))


def _lowest(x: mx.array) -> float:
    names = {mx.float16: "f16", mx.bfloat16: "bf16", mx.float32: "f32"}
    return ops.lowest(DTYPES[names[x.dtype]])


def _max_pool(op: ops.MaxPool, x: mx.array) -> tuple[mx.array, ...]:
    padded = _padded(op, x, -np.inf)
    best = mx.full(op.output_shape(x.shape), _lowest(x), x.dtype)
    for rows, columns in _taps(op, x.shape):
        element = padded[:, rows, columns]
        best = mx.where(element > best, element, best)
    return (best,)


def _inside(op: Any, shape: Shape, rows: slice, columns: slice) -> mx.array | None:
    """Where a tap lies in the unpadded input; None for everywhere."""
    mask = np.pad(np.ones((1, *shape[1:3], 1), np.bool_), ((0, 0), *op.padding, (0, 0)))[:, rows, columns]
    return None if mask.all() else mx.array(mask)


def _winners(op: Any, x: mx.array) -> tuple[mx.array, mx.array]:
    """The tap that each window's gradient goes to, 255 for none, and its element."""
    padded = _padded(op, x, 0)
    shape = op.output_shape(x.shape)
    best, chosen = mx.zeros(shape, x.dtype), mx.full(shape, 255, mx.uint8)
    for tap, (rows, columns) in enumerate(_taps(op, x.shape)):
        element = padded[:, rows, columns]
        wins = mx.logical_or(chosen == 255, element > best)
        inside = _inside(op, x.shape, rows, columns)
        wins = wins if inside is None else mx.logical_and(wins, inside)
        best = mx.where(wins, element, best)
        chosen = mx.where(wins, mx.array(tap, mx.uint8), chosen)
    return chosen, best


def _max_pool_taps(op: ops.MaxPoolTaps, x: mx.array) -> tuple[mx.array, ...]:
    (y,) = _max_pool(ops.MaxPool(op.window, op.strides, op.padding), x)
    chosen, best = _winners(op, x)
    nan = mx.logical_or(mx.isnan(best), chosen == 255)
    return y, mx.where(nan, chosen | mx.array(ops.NAN_TAP, mx.uint8), chosen)


def _spread(op: Any, pieces: Sequence[mx.array], shape: Shape) -> mx.array:
    """Pieces, one a tap, added up where the taps lie in an input of this shape."""
    height, width = (shape[1 + i] + sum(op.padding[i]) for i in (0, 1))
    n, oh, ow, c = pieces[0].shape
    if tuple(op.window) == tuple(op.strides):
        kh, kw = op.window
        joined = mx.stack(list(pieces)).reshape(kh, kw, n, oh, ow, c).transpose(2, 3, 0, 4, 1, 5)
        whole = joined.reshape(n, oh * kh, ow * kw, c)
        rest = [(0, 0), (0, max(height - oh * kh, 0)), (0, max(width - ow * kw, 0)), (0, 0)]
        whole = mx.pad(whole, rest) if any(map(any, rest)) else whole
    else:
        whole = mx.zeros((n, height, width, c), pieces[0].dtype)
        for (rows, columns), piece in zip(_taps(op, shape), pieces, strict=True):
            whole[:, rows, columns] = whole[:, rows, columns] + piece
    (top, _), (left, _) = op.padding
    return whole[:, top: top + shape[1], left: left + shape[2]]


def _max_pool_grad(op: ops.MaxPoolGrad, x: mx.array, y: mx.array, dy: mx.array) -> tuple[mx.array, ...]:
    chosen, _ = _winners(op, x)
    wide = widened(dy) + 0.0  # sums start at 0: no -0.0
    pieces = [mx.where(chosen == tap, wide, mx.zeros_like(wide)) for tap in range(len(_taps(op, x.shape)))]
    return (_spread(op, pieces, x.shape).astype(x.dtype),)


def scatter(op: ops.MaxPoolScatter, taps: mx.array, dy: mx.array) -> tuple[mx.array, ...]:
    """Every dy at its window's tap."""
    tap_of = taps & mx.array(ops.TAP_BITS, mx.uint8)
    wide = widened(dy)
    pieces = [mx.where(tap_of == tap, wide, mx.zeros_like(wide)) for tap in range(len(_taps(op, op.input_shape)))]
    return (_spread(op, pieces, op.input_shape).astype(dy.dtype),)


def _counts(op: Any, shape: Shape) -> mx.array:
    return mx.array(ops.AvgPool(op.window, op.strides, op.padding).counts(shape).astype(np.float32))


def _avg_pool(op: ops.AvgPool, x: mx.array) -> tuple[mx.array, ...]:
    padded = _padded(op, widened(x), 0)
    total = mx.zeros(op.output_shape(x.shape), padded.dtype)
    for rows, columns in _taps(op, x.shape):
        total = total + padded[:, rows, columns]
    return ((total / _counts(op, x.shape)).astype(x.dtype),)


def _avg_pool_grad(op: ops.AvgPoolGrad, dy: mx.array) -> tuple[mx.array, ...]:
    share = widened(dy) / _counts(op, op.input_shape)
    pieces = [share] * len(_taps(op, op.input_shape))
    return (_spread(op, pieces, op.input_shape).astype(dy.dtype),)


LOWERINGS: dict[type[Op], Lowering] = {
    ops.MaxPool: _max_pool, ops.MaxPoolGrad: _max_pool_grad, ops.MaxPoolTaps: _max_pool_taps,
    ops.MaxPoolScatter: scatter, ops.AvgPool: _avg_pool, ops.AvgPoolGrad: _avg_pool_grad,
}
