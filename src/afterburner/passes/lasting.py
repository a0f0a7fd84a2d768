"""What stays the same as long as no variable changes."""

from __future__ import annotations

from ..ir import Graph, Value


def lasting_values(graph: Graph) -> set[Value]:
    """The values that are made of variables and constants alone; none where the graph writes a variable, since then
    the next run finds others."""
    if any(o.updates is not None for o in graph.outputs):
        return set()
    lasting = {i.value for i in graph.inputs if i.state}
    for node in graph.nodes:
        if all(v in lasting for v in node.operands):
            lasting.update(node.results)
    return lasting
