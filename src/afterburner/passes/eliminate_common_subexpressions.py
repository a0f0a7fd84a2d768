"""Computes equal expressions once.

A tape's backward graph repeats much of the forward graph, and each variable's update repeats the
learning-rate arithmetic. LLVM cannot merge them: they end up in different kernels.
"""

from __future__ import annotations

from collections.abc import Hashable

from ..ir import Graph, Node, Output, Value

# NumPy's and the hardware's maximum of +0 and -0 is the second operand: not commutative bit by bit.
_ORDERED = ("maximum", "minimum")


def _key(node: Node, number: dict[Value, int]) -> Hashable:
    """Equal for nodes that compute the same."""
    op = node.op
    if op.name == "fusion":
        return id(op)
    if op.name == "constant":
        array = op.value  # type: ignore[attr-defined]
        return "constant", node.results[0].type, array.tobytes()
    operands = [number[v] for v in node.operands]
    if op.commutative and op.name not in _ORDERED:
        operands.sort()
    return type(op), op, tuple(operands)


def eliminate_common_subexpressions(graph: Graph) -> Graph:
    """Keep the first of several nodes that compute the same from the same operands.

        %0: f32[4] = exp(%x)
        %1: f32[4] = exp(%x)                  %0: f32[4] = exp(%x)
        %2: f32[4] = mul(%0, %1)        ->    %1: f32[4] = mul(%0, %0)
    """
    number: dict[Value, int] = {item.value: i for i, item in enumerate(graph.inputs)}
    known: dict[Hashable, Node] = {}
    replacement: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        current = node
        if not replacement.keys().isdisjoint(node.operands):
            current = Node(node.op, [replacement.get(v, v) for v in node.operands], node.loc)
        kept = known.setdefault(_key(current, number), current)
        if kept is current:
            nodes.append(current)
            for result in current.results:
                number[result] = len(number)
        if kept is not node:
            replacement.update(zip(node.results, kept.results, strict=True))
    if not replacement:
        return graph
    outputs = tuple(Output(replacement.get(o.value, o.value), o.updates, o.check) for o in graph.outputs)
    return Graph(graph.name, graph.inputs, tuple(nodes), outputs)
