"""Expressing a value in another shape of the same elements, where that costs nothing."""

from __future__ import annotations

from math import prod

from ...ir import Shape, TensorType, Value
from ...ir.ops.shape import Broadcast, Reshape
from ..rewriter import Rewriter, made_by, uniform


def same_axis(axis: int, shape: Shape, other: Shape) -> int | None:
    """The axis of ``other`` that runs over the same elements as ``axis`` of ``shape``, where both
    shapes have the same elements in row-major order: equal sizes with equal products before them."""
    before, size = prod(shape[:axis]), shape[axis]
    product = 1
    for i, s in enumerate(other):
        if product == before and s == size and size != 1:
            return i
        product *= s
    return None


def onto_shape(r: Rewriter, value: Value, shape: Shape) -> Value | None:
    """``value`` as a tensor of ``shape`` without a new reshape, or None: what is reshaped from that
    shape, what is the same everywhere, and what is repeated along axes that both shapes have."""
    if value.shape == shape:
        return value
    scalar = uniform(value)
    if scalar is not None:
        return r.full(TensorType(value.type.dtype, shape), scalar)
    reshape = made_by(value, Reshape)
    if reshape is not None:
        return reshape.operands[0] if reshape.operands[0].shape == shape else None
    broadcast = made_by(value, Broadcast)
    if broadcast is None:
        return None
    source = broadcast.operands[0]
    axes = [same_axis(a, value.shape, shape) for a in broadcast.op.axes]  # type: ignore[attr-defined]
    found = tuple(a for a in axes if a is not None)
    if len(found) != len(axes) or any(source.shape[i] != shape[a] for i, a in enumerate(found)):
        return None
    return r.emit(Broadcast(shape, found), source)
