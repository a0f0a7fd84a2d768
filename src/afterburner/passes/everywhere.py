"""Runs a pass on a graph and on the bodies of its loops.

A fusion's body is one kernel and stays as it is; a scan's is a graph like any other, whose nodes become kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ..ir import Graph, Node, Output, Value
from ..ir.ops.control import Scan


def everywhere(run: Callable[[Graph], Graph], graph: Graph) -> Graph:
    """What a pass makes of a graph and, after it, of the bodies of scans in it; ``graph`` itself where it changed
    nothing."""
    return with_bodies(run(graph), lambda scan: everywhere(run, scan.body))


def with_bodies(graph: Graph, body_of: Callable[[Scan], Graph]) -> Graph:
    """The graph with other bodies in its scans; the graph itself where all stay."""
    new: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        op = node.op
        if isinstance(op, Scan):
            body = body_of(op)
            op = op if body is op.body else replace(op, body=body)
        current = node
        if op is not node.op or not new.keys().isdisjoint(node.operands):
            current = Node(op, [new.get(v, v) for v in node.operands], node.loc)
            new.update(zip(node.results, current.results, strict=True))
        nodes.append(current)
    if not new:
        return graph
    outputs = tuple(Output(new.get(o.value, o.value), o.updates, o.check) for o in graph.outputs)
    return Graph(graph.name, graph.inputs, tuple(nodes), outputs)
