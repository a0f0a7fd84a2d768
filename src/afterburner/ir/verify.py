"""The rules every graph keeps; run after every pass."""

from __future__ import annotations

from .graph import Graph, Node, Value
from .op import IRError
from .types import BOOL


def verify(graph: Graph) -> Graph:
    """Return ``graph`` if it is well formed.

    Rules: (1) every operand is a graph input or the result of an earlier node; (2) result types are
    what the shape rule says; (3) an output is defined; an update names a state input of the same
    type; a check is a scalar bool; (4) regions keep the same rules.

    Raises:
        IRError: the rule and the node that breaks it.
    """
    defined: set[Value] = {i.value for i in graph.inputs}
    if len(defined) != len(graph.inputs):
        raise IRError(f"{graph.name}: an input is listed twice")
    for node in graph.nodes:
        for value in node.operands:
            if value not in defined:
                raise IRError(f"{graph.name}: {node} at {node.loc} reads {value} before it is defined")
        if not node.verified:
            _verify_node(graph, node)
        defined.update(node.results)
    _verify_outputs(graph, defined)
    return graph


def _verify_node(graph: Graph, node: Node) -> None:
    inferred = node.op.infer(*(v.type for v in node.operands))
    if inferred != tuple(r.type for r in node.results):
        raise IRError(f"{graph.name}: {node} at {node.loc} should have types {inferred}")
    for region in node.op.regions():
        verify(region)
    node.verified = True


def _verify_outputs(graph: Graph, defined: set[Value]) -> None:
    for position, out in enumerate(graph.outputs):
        if out.value not in defined:
            raise IRError(f"{graph.name}: output {position} ({out.value}) is not defined")
        if out.check is not None and (out.value.type.dtype != BOOL or out.value.shape != ()):
            raise IRError(f"{graph.name}: check {out.check!r} is {out.value.type}, not bool[]")
        if out.updates is None:
            continue
        if not 0 <= out.updates < len(graph.inputs) or not graph.inputs[out.updates].state:
            raise IRError(f"{graph.name}: output {position} updates input {out.updates}, no state")
        expected = graph.inputs[out.updates].value.type
        if out.value.type != expected:
            raise IRError(f"{graph.name}: output {position} is {out.value.type}, its state {expected}")
