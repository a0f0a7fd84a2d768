"""Sets attributes by which an operation tells a target what it cannot see from its node alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from ..ir import Builder, Graph, Node, Value, rewrite


def marked(graph: Graph, nodes: Collection[Node], **attributes: Any) -> Graph:
    """The graph with these attributes of the nodes' operations set; the graph itself where there are no nodes."""
    if not nodes:
        return graph

    def mark(builder: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        return builder.add(replace(node.op, **attributes), *operands) if node in nodes else None

    return rewrite(graph, mark)
