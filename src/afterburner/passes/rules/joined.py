"""Reductions of joined tensors, part by part.

A dense block joins what its layers made before each layer, and normalises all of it: the statistics of every part are
those of the layers before. Reduced part by part they are made once (``eliminate_common_subexpressions``), and nobody
reads the joined tensor for them. Each sum has the same terms in the same order.
"""

from __future__ import annotations

from typing import Any

from ...ir import Node, Value
from ...ir.ops.shape import Broadcast, Concat, Slice
from ..rewriter import Rewriter, made_by

_LARGE = 1 << 16  # bytes of what is reduced; less is not worth a kernel for each part
_DEEP = 6  # nodes between a concatenation and its reduction


def _attributes(node: Node) -> Any:
    return node.op


def of_joined(r: Rewriter, n: Node) -> Value | None:
    """Of element by element work on tensors joined along an axis that stays: the parts' reductions, joined. Where no
    part is read by anybody else, nothing would be gained."""
    x, axes = n.operands[0], _attributes(n).axes
    if x.type.bytes < _LARGE:
        return None
    found = _concat_below(x, _DEEP)
    if found is None:
        return None
    axis = _attributes(found).axis
    if axis in axes or all(r.read_once(part) for part in found.operands):
        return None
    sizes = tuple(part.shape[axis] for part in found.operands)
    parts = _Splitter(r, sizes).parts(x, axis)
    if parts is None:
        return None
    left = axis - sum(a < axis for a in axes)
    return r.emit(Concat(left), *(r.emit(n.op, part) for part in parts))


def _concat_below(x: Value, depth: int) -> Node | None:
    """A concatenation of tensors as large as ``x`` that ``x`` is made of element by element."""
    node = x.node
    if node is None or depth == 0:
        return None
    if isinstance(node.op, Concat):
        return node
    if not node.op.elementwise:
        return None
    for operand in node.operands:
        found = _concat_below(operand, depth - 1)
        if found is not None:
            return found
    return None


class _Splitter:
    """Makes the parts of values that were made of parts of some sizes."""

    def __init__(self, r: Rewriter, sizes: tuple[int, ...]) -> None:
        self.r, self.sizes = r, sizes
        self._known: dict[tuple[Value, int], list[Value] | None] = {}

    def parts(self, x: Value, axis: int, depth: int = 2 * _DEEP) -> list[Value] | None:
        """``x`` in parts along an axis; None where it is not known how to make them alone."""
        key = (x, axis)
        if key not in self._known:
            self._known[key] = self._split(x, axis, depth)
        return self._known[key]

    def _split(self, x: Value, axis: int, depth: int) -> list[Value] | None:
        concat = made_by(x, Concat)
        if concat is not None and _attributes(concat).axis == axis:
            own = tuple(part.shape[axis] for part in concat.operands)
            if own == self.sizes:
                return list(concat.operands)
        node = x.node
        if x.type.rank == 1 and (concat is not None or _concat_below(x, depth) is None):
            return self._sliced(x)
        if node is None or depth == 0:
            return None
        if isinstance(node.op, Broadcast):
            return self._of_broadcast(node, axis, depth)
        if not node.op.elementwise:
            return None
        operands = [self.parts(v, axis, depth - 1) for v in node.operands]
        if any(part is None for part in operands):
            return None
        return [self.r.emit(node.op, *given) for given in zip(*operands, strict=True)]  # type: ignore[arg-type]

    def _sliced(self, row: Value) -> list[Value]:
        found, first = [], 0
        for size in self.sizes:
            found.append(self.r.emit(Slice((first,), (first + size,), (1,)), row))
            first += size
        return found

    def _of_broadcast(self, node: Node, axis: int, depth: int) -> list[Value] | None:
        source, axes, shape = node.operands[0], _attributes(node).axes, node.results[0].shape
        shapes = [(*shape[:axis], size, *shape[axis + 1:]) for size in self.sizes]
        if axis not in axes or source.shape[axes.index(axis)] == 1:
            return [self.r.emit(Broadcast(s, axes), source) for s in shapes]
        parts = self.parts(source, axes.index(axis), depth - 1)
        return parts and [self.r.emit(Broadcast(s, axes), part) for s, part in zip(shapes, parts, strict=True)]
