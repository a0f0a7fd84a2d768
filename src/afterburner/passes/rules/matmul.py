"""Matrix products: transposes of operands become flags, repeated matrices lose their batch."""

from __future__ import annotations

from typing import Any

from ...ir import Node, Value
from ...ir.ops.matmul import Matmul
from ...ir.ops.shape import Broadcast, Reshape, Transpose
from ..rewriter import Rewriter, made_by
from .shape import empty


def _attributes(node: Node) -> Any:
    return node.op


def _nothing(r: Rewriter, n: Node) -> Value | None:
    """Products of no terms are 0."""
    return r.full(n.results[0].type, 0) if n.operands[0].type.size == 0 else None


def _flags(r: Rewriter, n: Node) -> Value | None:
    """matmul(transpose(a), b) = matmul(a, b) {transpose_a=True} where only the last two axes swap; where
    more move, the innermost axis is kept innermost, so that whole rows are copied."""
    op = _attributes(n)
    operands, flags = list(n.operands), [op.transpose_a, op.transpose_b]
    for i, operand in enumerate(n.operands):
        swapped = _swapped(r, operand)
        if swapped is not None:
            operands[i], flags[i] = swapped, not flags[i]
    return r.emit(Matmul(*flags), *operands) if tuple(operands) != n.operands else None


def _swapped(r: Rewriter, x: Value) -> Value | None:
    """``x`` with its last two axes swapped, where x is a transpose that moved the innermost axis one
    place, perhaps reshaped in its leading axes."""
    reshape = made_by(x, Reshape)
    inner = x if reshape is None else reshape.operands[0]
    transpose = made_by(inner, Transpose)
    if transpose is None or inner.type.rank < 2 or inner.shape[-2:] != x.shape[-2:]:
        return None
    perm = _attributes(transpose).perm
    if perm[-2] != inner.type.rank - 1:
        return None
    rows = r.emit(Transpose((*perm[:-2], perm[-1], perm[-2])), transpose.operands[0])
    return rows if reshape is None else r.emit(Reshape((*x.shape[:-2], x.shape[-1], x.shape[-2])), rows)


def _shared_matrix(r: Rewriter, n: Node) -> Value | None:
    """A batch of matrices times one repeated matrix is one product of the stacked rows."""
    a, b = n.operands
    broadcast = made_by(b, Broadcast)
    rank = b.type.rank
    if broadcast is None or rank < 3 or _attributes(n).transpose_a:
        return None
    if _attributes(broadcast).axes != (rank - 2, rank - 1) or broadcast.operands[0].shape != b.shape[-2:]:
        return None
    rows = r.emit(Reshape((a.type.size // a.shape[-1], a.shape[-1])), a)
    product = r.emit(Matmul(False, _attributes(n).transpose_b), rows, broadcast.operands[0])
    return r.emit(Reshape(n.results[0].shape), product)


def _lone_batch(r: Rewriter, n: Node) -> Value | None:
    """A batch of one product is that product."""
    a, b = n.operands
    if a.type.rank == 2 or a.type.size == 0 or any(s != 1 for s in a.shape[:-2]):
        return None
    product = r.emit(n.op, r.emit(Reshape(a.shape[-2:]), a), r.emit(Reshape(b.shape[-2:]), b))
    return r.emit(Reshape(n.results[0].shape), product)


RULES = {"matmul": (empty, _nothing, _flags, _shared_matrix, _lone_batch)}
