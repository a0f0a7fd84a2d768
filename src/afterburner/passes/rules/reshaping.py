"""Expressing a value in another shape of the same elements, where that costs nothing."""

from __future__ import annotations

from math import prod

from ...ir import Node, Shape, TensorType, Value
from ...ir.ops.shape import Broadcast, Reshape
from ..rewriter import Rewriter, made_by, uniform


def common_groups(shape: Shape, other: Shape) -> list[tuple[list[int], list[int]]]:
    """Smallest runs of axes of two shapes of the same elements that have equal products: axes of the
    one, axes of the other."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(shape) or j < len(other):
        left, right = [i] if i < len(shape) else [], [j] if j < len(other) else []
        i, j = i + 1, j + 1
        while prod(shape[a] for a in left) != prod(other[a] for a in right):
            if prod(shape[a] for a in left) < prod(other[a] for a in right):
                left.append(i)
                i += 1
            else:
                right.append(j)
                j += 1
        groups.append((left, right))
    return groups


def _onto(r: Rewriter, broadcast: Node, shape: Shape) -> Value | None:
    """A broadcast made in another shape: its axes in whole groups, those of the source merged if need be."""
    source, axes = broadcast.operands[0], broadcast.op.axes  # type: ignore[attr-defined]
    target = broadcast.results[0].shape
    if any(size != target[a] for size, a in zip(source.shape, axes, strict=True)) or 0 in shape:
        return None
    placed: list[int] = []
    for left, right in common_groups(target, shape):
        given = [a for a in left if target[a] != 1 and a in axes]
        if given and given != [a for a in left if target[a] != 1]:
            return None
        placed += [a for a in right if given and shape[a] != 1]
    sizes = tuple(shape[a] for a in placed)
    if len(sizes) > source.type.rank:
        return None  # shapes tend to fewer axes: the broadcast rule would merge these again
    small = source if sizes == source.shape else r.emit(Reshape(sizes), source)
    return r.emit(Broadcast(shape, tuple(placed)), small)


def onto_shape(r: Rewriter, value: Value, shape: Shape) -> Value | None:
    """``value`` as a tensor of ``shape`` at no cost, or None: what is reshaped from that shape, what is
    the same everywhere, and what is repeated along axes that do not cut across those of ``shape``."""
    if value.shape == shape:
        return value
    scalar = uniform(value)
    if scalar is not None:
        return r.full(TensorType(value.type.dtype, shape), scalar)
    reshape = made_by(value, Reshape)
    if reshape is not None:
        return reshape.operands[0] if reshape.operands[0].shape == shape else None
    broadcast = made_by(value, Broadcast)
    return None if broadcast is None else _onto(r, broadcast, shape)
