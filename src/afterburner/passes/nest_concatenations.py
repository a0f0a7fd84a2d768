"""Lets a concatenation read what another one has joined already.

``simplify`` writes every concatenation as one of its smallest parts, which tells best what is the same. A dense block
joins up to 25 of them before each of its layers; but all except the last lie side by side in what was joined before
the layer before. Copied from there they are one run a pixel, not one of 32 channels for each part.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Builder, Graph, Node, Value, rewrite
from ..ir.ops.shape import Concat

_LARGE = 1 << 16  # bytes; less is not worth waiting for another kernel


def nest_concatenations(graph: Graph) -> Graph:
    """Replace first parts of a concatenation by the longest one of these alone that is made before, if that is in
    memory anyway since several read it.

        %3: f32[9,6] = concat(%0, %1) {axis=1}          %3: f32[9,6] = concat(%0, %1) {axis=1}
        …                                         ->    …
        %5: f32[9,8] = concat(%0, %1, %2) {axis=1}      %5: f32[9,8] = concat(%3, %2) {axis=1}
    """
    shorter = _shorter_ones(graph)
    if not shorter:
        return graph
    made: dict[Node, Value] = {}

    def nest(builder: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        if not isinstance(node.op, Concat):
            return None
        inner = shorter.get(node)
        if inner is not None:
            operands = (made[inner], *operands[len(inner.operands):])
        made[node] = builder.emit(node.op, *operands)
        return [made[node]]

    return rewrite(graph, nest)


def _shorter_ones(graph: Graph) -> dict[Node, Node]:
    """Concatenations, and those that they can begin with."""
    users = graph.users()
    shared: list[Node] = []
    found: dict[Node, Node] = {}
    for node in graph.nodes:
        if not isinstance(node.op, Concat) or node.results[0].type.bytes < _LARGE:
            continue
        able = [other for other in shared if _begins_with(node, other)]
        if able:
            found[node] = max(able, key=lambda other: len(other.operands))
        if len(users.get(node.results[0], ())) > 1:
            shared.append(node)
    return found


def _begins_with(node: Node, other: Node) -> bool:
    count = len(other.operands)
    return node.op == other.op and 1 < count < len(node.operands) and node.operands[:count] == other.operands
