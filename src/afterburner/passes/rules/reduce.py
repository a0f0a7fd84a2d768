"""Algebra of reductions that keeps the order of every sum."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ...ir import Node, Value
from ...ir.ops.reduce import ReduceAnd, ReduceMax, ReduceMin, ReduceOr, ReduceSum
from ...ir.ops.shape import Broadcast, Reshape
from ..rewriter import Rewriter, Rule, made_by
from .joined import of_joined
from .reshaping import common_groups
from .shape import empty

_IDEMPOTENT = (ReduceMax, ReduceMin, ReduceAnd, ReduceOr)


def _axes(r: Rewriter, n: Node) -> Value | None:
    """Over no axes: nothing; over axes of size 1: a reshape; over nothing: what it is of nothing;
    beside axes of size 1: without them.

    TensorFlow, too, copies where every reduced axis has size 1: a sum there keeps -0.0.
    """
    x, op = n.operands[0], _attributes(n)
    if not op.axes:
        return x
    if x.type.size == 0:
        return r.full(n.results[0].type, op.evaluate(np.zeros(x.shape, x.type.dtype.numpy))[0].reshape(-1)[0])
    if x.type.size == n.results[0].type.size:
        return r.emit(Reshape(n.results[0].shape), x)
    if 1 not in x.shape:
        return None
    kept = [i for i, s in enumerate(x.shape) if s != 1]
    squeezed = r.emit(Reshape(tuple(x.shape[i] for i in kept)), x)
    result = r.emit(replace(op, axes=tuple(kept.index(a) for a in op.axes if a in kept)), squeezed)
    return r.emit(Reshape(n.results[0].shape), result)


def _attributes(node: Node) -> Any:
    return node.op


def _repeated(r: Rewriter, n: Node) -> Value | None:
    """The largest of equal elements is one of them: max, min, and, or skip repeated axes."""
    broadcast = made_by(n.operands[0], Broadcast)
    if broadcast is None or not isinstance(n.op, _IDEMPOTENT):
        return None
    source, placed = broadcast.operands[0], _attributes(broadcast).axes
    if any(s != broadcast.results[0].shape[a] for s, a in zip(source.shape, placed, strict=True)):
        return None
    axes = _attributes(n).axes
    reduced = tuple(i for i, a in enumerate(placed) if a in axes)
    if len(reduced) == len(axes):
        return None
    left = [a for a in range(n.operands[0].type.rank) if a not in axes]
    positions = tuple(left.index(a) for a in placed if a in left)
    best = r.emit(replace(_attributes(n), axes=reduced), source)
    return r.emit(Broadcast(n.results[0].shape, positions), best)


def _of_reduction(r: Rewriter, n: Node) -> Value | None:
    """Max of max (min, and, or; integer sums) over other axes: one over all of them."""
    inner = n.operands[0].node
    if inner is None or type(inner.op) is not type(n.op):
        return None
    exact = isinstance(n.op, _IDEMPOTENT) or (
        isinstance(n.op, ReduceSum) and not n.results[0].type.dtype.is_float)
    if not exact:
        return None
    first = _attributes(inner).axes
    left = [a for a in range(inner.operands[0].type.rank) if a not in first]
    axes = tuple(sorted((*first, *(left[a] for a in _attributes(n).axes))))
    return r.emit(replace(_attributes(n), axes=axes), inner.operands[0])


def _before_reshape(r: Rewriter, n: Node) -> Value | None:
    """Of a reshape that does not cut across reduced axes: reshape the result instead. The elements of
    each sum and their order stay."""
    reshape = made_by(n.operands[0], Reshape)
    if reshape is None or 1 in reshape.operands[0].shape:  # _axes would squeeze those again
        return None
    x, shape, reduced = reshape.operands[0], n.operands[0].shape, _attributes(n).axes
    axes: list[int] = []
    for outer, inner in common_groups(shape, x.shape):
        among = [a in reduced for a in outer]
        if any(among) and not all(among):
            return None
        axes += inner if any(among) else []
    result = r.emit(replace(_attributes(n), axes=tuple(axes)), x)
    return r.emit(Reshape(n.results[0].shape), result)


def _single_choice(r: Rewriter, n: Node) -> Value | None:
    """Among one element the first is the best."""
    return r.full(n.results[0].type, 0) if n.operands[0].shape[_attributes(n).axis] == 1 else None


_REDUCTION: tuple[Rule, ...] = (empty, _axes, _repeated, _of_reduction, _before_reshape, of_joined)

RULES: dict[str, tuple[Rule, ...]] = {
    **{name: _REDUCTION for name in ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min",
                                     "reduce_and", "reduce_or")},
    "argmax": (empty, _single_choice),
    "argmin": (empty, _single_choice),
    "cumprod": (empty,),
    "cumsum": (empty,),
}
