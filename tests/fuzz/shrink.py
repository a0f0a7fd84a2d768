"""Makes a failing case small: drops outputs, cuts off what comes before, skips nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from afterburner.ir import Graph, Input, Node, Output, Value, interpret
from afterburner.passes.eliminate_dead_code import eliminate_dead_code

from .generate import Case

Fails = Callable[[Case], bool]


def shrink(case: Case, fails: Fails, rounds: int = 400) -> Case:
    """A smaller case that still fails; the first successful step is taken, again and again."""
    for _ in range(rounds):
        for smaller in _smaller(case):
            if _still(smaller, fails):
                case = smaller
                break
        else:
            break
    return case


def _still(case: Case, fails: Fails) -> bool:
    try:
        return fails(case)
    except Exception:  # noqa: BLE001  a crash on the way is another failure, not this one
        return False


def _smaller(case: Case) -> Iterator[Case]:
    graph = case.graph
    for keep in range(len(graph.outputs)):
        if len(graph.outputs) > 1:
            kept = Graph(graph.name, graph.inputs, graph.nodes, (graph.outputs[keep],))
            yield _cleaned(kept, case.arguments)
    for drop in range(len(graph.outputs)):
        if len(graph.outputs) > 1:
            outputs = (*graph.outputs[:drop], *graph.outputs[drop + 1:])
            yield _cleaned(Graph(graph.name, graph.inputs, graph.nodes, outputs), case.arguments)
    values = _values(case)
    for node in reversed(graph.nodes):
        yield _cut(case, node, values)
    for node in graph.nodes:
        for operand in node.operands:
            if len(node.results) == 1 and operand.type == node.results[0].type:
                yield _skipped(case, node, operand)
    for node in graph.nodes:
        for operand in node.operands:
            yield _ending(case, operand)


def _values(case: Case) -> dict[Value, np.ndarray]:
    results = tuple(Output(r) for n in case.graph.nodes for r in n.results)
    arrays = interpret(Graph("all", case.graph.inputs, case.graph.nodes, results), case.arguments)
    return {o.value: a for o, a in zip(results, arrays, strict=True)}


def _cut(case: Case, node: Node, values: dict[Value, np.ndarray]) -> Case:
    """The node's results become inputs."""
    graph = case.graph
    fresh = [Input(Value(r.type), f"cut_{len(graph.inputs) + i}") for i, r in enumerate(node.results)]
    replacement = {r: i.value for r, i in zip(node.results, fresh, strict=True)}
    inputs = (*graph.inputs, *fresh)
    cut = Graph(graph.name, inputs, tuple(n for n in graph.nodes if n is not node), graph.outputs)
    return _cleaned(_replaced(cut, replacement), [*case.arguments, *(values[r] for r in node.results)])


def _skipped(case: Case, node: Node, operand: Value) -> Case:
    """One of the node's operands takes the place of its result."""
    graph = case.graph
    rest = Graph(graph.name, graph.inputs, tuple(n for n in graph.nodes if n is not node), graph.outputs)
    return _cleaned(_replaced(rest, {node.results[0]: operand}), case.arguments)


def _replaced(graph: Graph, replacement: dict[Value, Value]) -> Graph:
    nodes = []
    for node in graph.nodes:
        operands = tuple(replacement.get(v, v) for v in node.operands)
        new = node if operands == node.operands else Node(node.op, operands, node.loc)
        replacement.update(zip(node.results, new.results, strict=True))
        nodes.append(new)
    outputs = tuple(Output(replacement.get(o.value, o.value), o.updates, o.check) for o in graph.outputs)
    return Graph(graph.name, graph.inputs, tuple(nodes), outputs)


def _ending(case: Case, value: Value) -> Case:
    """An inner value takes the place of a single output."""
    graph = case.graph
    return _cleaned(Graph(graph.name, graph.inputs, graph.nodes, (Output(value),)), case.arguments)


def _cleaned(graph: Graph, arguments: list[np.ndarray]) -> Case:
    """Without dead nodes and unread inputs."""
    graph = eliminate_dead_code(graph)
    read = {v for n in graph.nodes for v in n.operands} | {o.value for o in graph.outputs}
    updated = {o.updates for o in graph.outputs if o.updates is not None}
    kept = [i for i, item in enumerate(graph.inputs) if item.value in read or i in updated]
    outputs = tuple(Output(o.value, kept.index(o.updates) if o.updates is not None else None, o.check)
                    for o in graph.outputs)
    inputs = tuple(graph.inputs[i] for i in kept)
    return Case(Graph(graph.name, inputs, graph.nodes, outputs), [arguments[i] for i in kept])
