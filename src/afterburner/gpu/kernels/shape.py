"""Constants and operations that move elements without computing."""

from __future__ import annotations

from ...ir import Op
from ...ir.ops import shape as ops
from ..backend import mx, mx_dtype
from . import Lowering


def _constant(op: ops.Constant) -> tuple[mx.array, ...]:
    return (mx.array(op.value),)


def _iota(op: ops.Iota) -> tuple[mx.array, ...]:
    along = [1] * len(op.shape)
    along[op.axis] = -1
    steps = mx.arange(op.shape[op.axis]).astype(mx_dtype(op.dtype))
    return (mx.broadcast_to(steps.reshape(along), op.shape),)


def _broadcast(op: ops.Broadcast, x: mx.array) -> tuple[mx.array, ...]:
    aligned = [1] * len(op.shape)
    for size, axis in zip(x.shape, op.axes, strict=True):
        aligned[axis] = size
    return (mx.broadcast_to(x.reshape(aligned), op.shape),)


def _reshape(op: ops.Reshape, x: mx.array) -> tuple[mx.array, ...]:
    return (x.reshape(op.shape),)


def _transpose(op: ops.Transpose, x: mx.array) -> tuple[mx.array, ...]:
    return (mx.transpose(x, op.perm),)


def _slice(op: ops.Slice, x: mx.array) -> tuple[mx.array, ...]:
    return (x[tuple(slice(*s) for s in zip(op.starts, op.limits, op.strides, strict=True))],)


def pad(x: mx.array, value: mx.array, low: ops.Shape, high: ops.Shape, interior: ops.Shape) -> mx.array:
    """Surrounded by ``value`` (a scalar array), with ``interior`` of it between neighbours; negative: cut off."""
    if any(interior) and x.size:
        spread = tuple(s + (s - 1) * i for s, i in zip(x.shape, interior, strict=True))
        x = _spread(mx.broadcast_to(value, spread), x, interior)
    widths = [(max(a, 0), max(b, 0)) for a, b in zip(low, high, strict=True)]
    if any(a or b for a, b in widths):
        x = mx.pad(x, widths, constant_values=value)
    if any(n < 0 for n in (*low, *high)):
        x = x[tuple(slice(max(-a, 0), n - max(-b, 0)) for a, b, n in zip(low, high, x.shape, strict=True))]
    return x


def _spread(into: mx.array, x: mx.array, interior: ops.Shape) -> mx.array:
    result = mx.array(into)
    result[tuple(slice(None, None, i + 1) for i in interior)] = x
    return result


def _pad(op: ops.Pad, x: mx.array, value: mx.array) -> tuple[mx.array, ...]:
    return (pad(x, value, op.low, op.high, op.interior),)


def _concat(op: ops.Concat, *operands: mx.array) -> tuple[mx.array, ...]:
    return (mx.concatenate(list(operands), axis=op.axis),)


def _first_columns(op: ops.FirstColumns, x: mx.array) -> tuple[mx.array, ...]:
    return (mx.concatenate([x, mx.zeros((*x.shape[:-1], op.width - x.shape[-1]), x.dtype)], axis=-1),)


def _more_columns(op: ops.MoreColumns, wide: mx.array, part: mx.array) -> tuple[mx.array, ...]:
    end = op.start + part.shape[-1]
    return (mx.concatenate([wide[..., :op.start], part, wide[..., end:]], axis=-1),)


def _reverse(op: ops.Reverse, x: mx.array) -> tuple[mx.array, ...]:
    return (x[tuple(slice(None, None, -1 if axis in op.axes else 1) for axis in range(x.ndim))],)


LOWERINGS: dict[type[Op], Lowering] = {
    ops.Constant: _constant, ops.Iota: _iota, ops.Broadcast: _broadcast, ops.Reshape: _reshape,
    ops.Transpose: _transpose, ops.Slice: _slice, ops.Pad: _pad, ops.Concat: _concat, ops.Reverse: _reverse,
    ops.FirstColumns: _first_columns, ops.MoreColumns: _more_columns,
}
