"""Algebra of operations that move elements: reshape, broadcast, transpose, slice, pad, concat, reverse."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ...ir import Node, Shape, TensorType, Value
from ...ir.ops.shape import Broadcast, Concat, Pad, Reshape, Reverse, Slice, Transpose
from ..rewriter import Rewriter, Rule, made_by, uniform
from .reshaping import common_groups, onto_shape


def _attributes(node: Node) -> Any:
    """The operation with its own attributes, for rules that know what it is."""
    return node.op


def empty(r: Rewriter, n: Node) -> Value | None:
    """A tensor without elements is a constant."""
    type_ = n.results[0].type
    return r.constant(np.zeros(type_.shape, type_.dtype.numpy)) if type_.size == 0 else None


def _reshape(r: Rewriter, n: Node) -> Value | None:
    """To the same shape; of a reshape; of what can be made in that shape at once."""
    x, shape = n.operands[0], n.results[0].shape
    if x.shape == shape:
        return x
    inner = made_by(x, Reshape)
    if inner is not None:
        origin = inner.operands[0]
        return origin if origin.shape == shape else r.emit(Reshape(shape), origin)
    if x.constant is not None:
        return r.constant(x.constant.reshape(shape))
    return onto_shape(r, x, shape)


def _iota(r: Rewriter, n: Node) -> Value | None:
    """Along an axis of size 1: zeros."""
    return r.full(n.results[0].type, 0) if n.results[0].shape[_attributes(n).axis] == 1 else None


def _without_ones(shape: Shape) -> Shape:
    return tuple(s for s in shape if s != 1)


def _broadcast(r: Rewriter, n: Node) -> Value | None:
    """That only adds axes of size 1: a reshape; of a broadcast: one; of axes of size 1: without."""
    x, shape, axes = n.operands[0], n.results[0].shape, _attributes(n).axes
    if x.type.size == n.results[0].type.size:
        return x if x.shape == shape else r.emit(Reshape(shape), x)
    if 1 in x.shape:
        kept = tuple(a for s, a in zip(x.shape, axes, strict=True) if s != 1)
        return r.emit(Broadcast(shape, kept), r.emit(Reshape(_without_ones(x.shape)), x))
    inner = made_by(x, Broadcast)
    if inner is not None:
        return r.emit(Broadcast(shape, tuple(axes[a] for a in _attributes(inner).axes)), inner.operands[0])
    return _broadcast_of_split(r, x, shape, axes)


def _broadcast_of_split(r: Rewriter, x: Value, shape: Shape, axes: Shape) -> Value | None:
    """broadcast(reshape(x)) where the reshape cuts axes of x and these stay together: cut the result."""
    reshape = made_by(x, Reshape)
    sizes = () if reshape is None else _without_ones(reshape.operands[0].shape)
    if reshape is None or len(sizes) >= x.type.rank or any(
            s != shape[a] for s, a in zip(x.shape, axes, strict=True)):
        return None
    target: list[int] = []
    placed: list[int] = []
    following = 0  # the axis of ``shape`` that comes next
    for cut, whole in common_groups(x.shape, sizes):
        run = [axes[a] for a in cut]
        if len(whole) != 1 or run != list(range(run[0], run[0] + len(run))):
            return None
        target += shape[following: run[0]]
        placed.append(len(target))
        target.append(sizes[whole[0]])
        following = run[-1] + 1
    target += shape[following:]
    source = r.emit(Reshape(sizes), reshape.operands[0])
    return r.emit(Reshape(shape), r.emit(Broadcast(tuple(target), tuple(placed)), source))


def _transpose(r: Rewriter, n: Node) -> Value | None:
    """That moves nothing but axes of size 1: a reshape; of a transpose: one; of a broadcast whose
    source keeps its order: a broadcast."""
    x, perm = n.operands[0], _attributes(n).perm
    moved = [p for p in perm if x.shape[p] != 1]
    if moved == sorted(moved):
        return x if x.shape == n.results[0].shape else r.emit(Reshape(n.results[0].shape), x)
    inner = made_by(x, Transpose)
    if inner is not None:
        return r.emit(Transpose(tuple(_attributes(inner).perm[p] for p in perm)), inner.operands[0])
    repeated = made_by(x, Broadcast)
    if repeated is None:
        return None
    source = repeated.operands[0]
    axes = [perm.index(a) for a in _attributes(repeated).axes]
    order = sorted(range(len(axes)), key=axes.__getitem__)
    if order != sorted(order):
        source = r.emit(Transpose(tuple(order)), source)
    return r.emit(Broadcast(n.results[0].shape, tuple(sorted(axes))), source)


def _slice(r: Rewriter, n: Node) -> Value | None:
    """Of everything; of a slice; of one part of a concat; of a broadcast; of the inside of a pad."""
    x, op = n.operands[0], _attributes(n)
    if x.shape == n.results[0].shape:
        return x
    inner = made_by(x, Slice)
    if inner is not None:
        return r.emit(_compose(_attributes(inner), op, n.results[0].shape), inner.operands[0])
    concat = made_by(x, Concat)
    if concat is not None:
        return _slice_of_concat(r, op, concat)
    broadcast = made_by(x, Broadcast)
    if broadcast is not None:
        return _slice_of_broadcast(r, op, broadcast, n.results[0].shape)
    pad = made_by(x, Pad)
    return _slice_of_pad(r, op, pad) if pad is not None else None


def _compose(first: Slice, second: Slice, shape: Shape) -> Slice:
    """One slice for a slice of a slice that has ``shape``."""
    starts = tuple(a + s * b for a, s, b in zip(first.starts, first.strides, second.starts, strict=True))
    strides = tuple(a * b for a, b in zip(first.strides, second.strides, strict=True))
    limits = tuple(b + (size - 1) * s + 1 for b, s, size in zip(starts, strides, shape, strict=True))
    return Slice(starts, limits, strides)


def _slice_of_concat(r: Rewriter, op: Slice, concat: Node) -> Value | None:
    axis, first = _attributes(concat).axis, 0
    start, limit = op.starts[axis], op.limits[axis]
    for part in concat.operands:
        last = first + part.shape[axis]
        if first <= start and limit <= last:
            starts, limits = list(op.starts), list(op.limits)
            starts[axis], limits[axis] = start - first, limit - first
            return r.emit(Slice(tuple(starts), tuple(limits), op.strides), part)
        first = last
    return None


def _slice_of_broadcast(r: Rewriter, op: Slice, broadcast: Node, shape: Shape) -> Value:
    source, axes = broadcast.operands[0], _attributes(broadcast).axes
    one = [s == 1 for s in source.shape]  # repeated already: nothing to cut
    cut = Slice(tuple(0 if o else op.starts[a] for o, a in zip(one, axes, strict=True)),
                tuple(1 if o else op.limits[a] for o, a in zip(one, axes, strict=True)),
                tuple(1 if o else op.strides[a] for o, a in zip(one, axes, strict=True)))
    return r.emit(Broadcast(shape, axes), r.emit(cut, source))


def _slice_of_pad(r: Rewriter, op: Slice, pad: Node) -> Value | None:
    x, padding = pad.operands[0], _attributes(pad)
    if any(padding.interior) or min(padding.low, default=0) < 0:
        return None
    starts = tuple(s - low for s, low in zip(op.starts, padding.low, strict=True))
    limits = tuple(s - low for s, low in zip(op.limits, padding.low, strict=True))
    inside = all(0 <= s and e <= size for s, e, size in zip(starts, limits, x.shape, strict=True))
    return r.emit(Slice(starts, limits, op.strides), x) if inside else None


def _pad(r: Rewriter, n: Node) -> Value | None:
    """By nothing; by less than nothing: a slice."""
    x, op = n.operands[0], _attributes(n)
    spread = any(i and s > 1 for i, s in zip(op.interior, x.shape, strict=True))
    if spread or max((*op.low, *op.high), default=0) > 0:
        return None
    starts = tuple(-low for low in op.low)
    limits = tuple(size + high for size, high in zip(x.shape, op.high, strict=True))
    return r.emit(Slice(starts, limits, (1,) * x.type.rank), x)


def _concat(r: Rewriter, n: Node) -> Value | None:
    """Of one; of nothing and others; of concats along the same axis; of neighbouring slices; of the
    same scalar."""
    axis = _attributes(n).axis
    parts: list[Value] = []
    for part in n.operands:
        inner = made_by(part, Concat)
        if inner is not None and _attributes(inner).axis == axis:
            parts.extend(inner.operands)
        elif part.shape[axis] > 0:
            parts.append(part)
    joined = _joined(r, parts, axis)
    if len(joined) == 1:
        return joined[0]
    scalars = [uniform(p) for p in joined]
    if all(s is not None and s.tobytes() == scalars[0].tobytes() for s in scalars):  # type: ignore[union-attr]
        return r.full(n.results[0].type, scalars[0])  # type: ignore[arg-type]
    return r.emit(Concat(axis), *joined) if tuple(joined) != n.operands else None


def _joined(r: Rewriter, parts: list[Value], axis: int) -> list[Value]:
    """``parts`` with neighbouring slices of one tensor made one slice."""
    joined: list[Value] = []
    for part in parts:
        previous = joined[-1] if joined else None
        union = _union(previous, part, axis) if previous is not None else None
        if union is None or previous is None:
            joined.append(part)
        else:
            joined[-1] = r.emit(union, previous.node.operands[0])  # type: ignore[union-attr]
    return joined


def _union(a: Value, b: Value, axis: int) -> Slice | None:
    first, second = made_by(a, Slice), made_by(b, Slice)
    if first is None or second is None or first.operands[0] is not second.operands[0]:
        return None
    p, q = _attributes(first), _attributes(second)
    if p.strides != q.strides or p.strides[axis] != 1 or p.limits[axis] != q.starts[axis]:
        return None
    same = all((p.starts[i], p.limits[i]) == (q.starts[i], q.limits[i])
               for i in range(a.type.rank) if i != axis)
    if not same:
        return None
    limits = tuple(q.limits[i] if i == axis else e for i, e in enumerate(p.limits))
    return Slice(p.starts, limits, p.strides)


def _reverse(r: Rewriter, n: Node) -> Value | None:
    """Along axes of size 1, or axes that are repeated; of a reverse."""
    x, axes = n.operands[0], _attributes(n).axes
    broadcast = made_by(x, Broadcast)
    moving = set(_attributes(broadcast).axes) if broadcast is not None else set(range(x.type.rank))
    kept = tuple(sorted(a for a in set(axes) if x.shape[a] != 1 and a in moving))
    if not kept:
        return x
    inner = made_by(x, Reverse)
    if inner is not None:
        return r.emit(Reverse(tuple(sorted(set(kept) ^ set(_attributes(inner).axes)))), inner.operands[0])
    return r.emit(Reverse(kept), x) if kept != axes else None


def _move_of_constant(r: Rewriter, n: Node) -> Value | None:
    """Moving the elements of a constant gives a constant, however large."""
    x = n.operands[0].constant
    if x is None or len(n.operands) != 1 or prod(n.results[0].shape) > x.size:
        return None
    return r.constant(np.asarray(n.op.evaluate(x)[0]))


def _of_uniform(r: Rewriter, n: Node) -> Value | None:
    """Moving equal elements gives equal elements."""
    scalars = [uniform(v) for v in n.operands]
    first = scalars[0]
    if first is None or any(s is None or s.tobytes() != first.tobytes() for s in scalars):
        return None
    return r.full(TensorType(n.results[0].type.dtype, n.results[0].shape), first)


_EMPTY: tuple[Rule, ...] = (empty,)

RULES: dict[str, tuple[Rule, ...]] = {
    "iota": (*_EMPTY, _iota),
    "reshape": (*_EMPTY, _reshape),
    "broadcast": (*_EMPTY, _broadcast),
    "transpose": (*_EMPTY, _of_uniform, _transpose, _move_of_constant),
    "slice": (*_EMPTY, _of_uniform, _slice, _move_of_constant),
    "pad": (*_EMPTY, _of_uniform, _pad),
    "concat": (*_EMPTY, _concat),
    "reverse": (*_EMPTY, _reverse, _move_of_constant),
}

