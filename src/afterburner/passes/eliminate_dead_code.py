"""Drops nodes that no output needs.

TensorFlow keeps gradients of inputs nobody asked for and both sides of folded conditions; every
other pass also leaves the nodes it replaced for this one to remove.
"""

from __future__ import annotations

from ..ir import Graph, Node, Value, with_nodes


def eliminate_dead_code(graph: Graph) -> Graph:
    """Keep the nodes that outputs depend on. Inputs stay: they are the calling convention.

        graph f(%x: f32[4]) {                 graph f(%x: f32[4]) {
          %0: f32[4] = exp(%x)          ->      %0: f32[4] = neg(%x)
          %1: f32[4] = neg(%x)                  return %0
          return %1                           }
        }
    """
    needed: set[Value] = {o.value for o in graph.outputs}
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if any(r in needed for r in node.results):
            needed.update(node.operands)
            kept.append(node)
    return graph if len(kept) == len(graph.nodes) else with_nodes(graph, reversed(kept))
