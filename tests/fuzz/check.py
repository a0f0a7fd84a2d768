"""What must hold for every graph."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from afterburner.ir import Graph, Node, interpret, parse_graph, print_graph, verify
from afterburner.passes.pipeline import optimize
from afterburner.passes.plan_memory import MemoryPlan, plan
from afterburner.passes.rematerialize import Limits, rematerialize

from .generate import Case

AT_ANY_PRICE = Limits(peak=0, bytes=0, gain=0.0, time=math.inf)


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal in type, shape and every bit; one NaN is as good as another."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.size == 0:
        return True
    x, y = (np.ascontiguousarray(v).reshape(-1) for v in (a, b))
    equal = (x.view(np.uint8).reshape(x.size, -1) == y.view(np.uint8).reshape(x.size, -1)).all(axis=1)
    if x.dtype.kind in "iub":
        return bool(equal.all())
    return bool((equal | (np.isnan(x) & np.isnan(y))).all())


def problem(case: Case) -> str | None:
    """What is wrong with the passes on this case, or None."""
    graph = verify(case.graph)
    if print_graph(parse_graph(print_graph(graph)), locations=False) != print_graph(graph, locations=False):
        return "the text form does not round-trip"
    optimized = verify(optimize(graph))
    again = optimize(optimized)
    if print_graph(again) != print_graph(optimized):
        return "optimizing twice differs from optimizing once"
    text = print_graph(optimized)
    if print_graph(parse_graph(text), locations=False) != print_graph(optimized, locations=False):
        return "the optimized text form does not round-trip"
    expected = interpret(graph, case.arguments)
    for i, (a, b) in enumerate(zip(expected, interpret(optimized, case.arguments), strict=True)):
        if not same_bits(a, b):
            return f"output {i} should be {a.tolist()}, is {b.tolist()}"
    for graph in dict.fromkeys((optimized, verify(rematerialize(optimized, AT_ANY_PRICE)))):
        for waves in (None, _waves(graph)):
            wrong = plan_problem(graph, case.arguments, expected, waves)
            if wrong:
                return wrong
    return None


def _waves(graph: Graph) -> list[int]:
    """Consecutive nodes that do not depend on each other run together."""
    waves: list[int] = []
    current: set[Node] = set()
    for node in graph.nodes:
        if any(v.node in current for v in node.operands):
            current = set()
        current.add(node)
        waves.append(waves[-1] + (len(current) == 1) if waves else 0)
    return waves


def in_place(node: Node) -> Sequence[tuple[int, int]]:
    """Every pair of equal types. The interpreter computes a node's results before any is stored."""
    return [(i, j) for i, v in enumerate(node.operands)
            for j, r in enumerate(node.results) if v.type == r.type]


def plan_problem(graph: Graph, arguments: list[np.ndarray], expected: list[np.ndarray],
                 waves: list[int] | None) -> str | None:
    """Run the graph with all values in one arena, as planned; every wave stores its results only
    after all of its nodes have filled their temporaries with rubbish and read their operands."""
    extra = {n: (100, 7) for i, n in enumerate(graph.nodes) if i % 3 == 0 and not n.op.view}
    # Nodes of one wave run in any order: none may write what another one reads.
    steps = waves or list(range(len(graph.nodes)))
    planned = plan(graph, extra, in_place, waves)
    memory = _Memory(graph, planned, arguments)
    for step in sorted(set(steps)):
        nodes = [n for n, s in zip(graph.nodes, steps, strict=True) if s == step and not n.op.view]
        for node in nodes:
            memory.run(node, extra.get(node, ()))
        for node in nodes:
            wrong = memory.check(node)
            if wrong:
                return wrong
    for i, value in planned.copies:
        memory.outputs[i][...] = memory.view(value)
    for i, (array, right) in enumerate(zip(memory.outputs, expected, strict=True)):
        if not same_bits(array, right):
            return f"planned output {i} should be {right.tolist()}, is {array.tolist()}"
    return "the arena is smaller than its peak" if planned.arena_bytes < planned.peak_bytes else None


class _Memory:
    def __init__(self, graph: Graph, planned: MemoryPlan, arguments: list[np.ndarray]) -> None:
        self.plan = planned
        self.arena = np.full(planned.arena_bytes, 0xA5, np.uint8)
        self.inputs = [a.copy() for a in arguments]
        self.outputs = [np.full(o.value.shape, 0).astype(o.value.type.dtype.numpy) for o in graph.outputs]
        self.constants = [v.constant for v in planned.constants]
        self.expected: dict[Node, list[np.ndarray]] = {}

    def view(self, value) -> np.ndarray:  # type: ignore[no-untyped-def]
        home, type_ = self.plan.homes[value], value.type
        if home.kind == "arena":
            assert home.index % 64 == 0
            raw = self.arena[home.index: home.index + type_.bytes]
            assert raw.size == type_.bytes
            return raw.view(type_.dtype.numpy).reshape(type_.shape)
        store = {"input": self.inputs, "output": self.outputs, "constant": self.constants}[home.kind]
        return store[home.index].reshape(type_.shape)

    def run(self, node: Node, temps: Sequence[int]) -> None:
        if node.op.name == "constant":
            self.expected[node] = [node.op.evaluate()[0]]
            return
        operands = [self.view(v).copy() for v in node.operands]
        for offset, size in zip(self.plan.temps.get(node, ()), temps, strict=True):
            self.arena[offset: offset + size] = 0x5A
        with np.errstate(all="ignore"):
            results = node.op.evaluate(*operands)
        self.expected[node] = [np.asarray(r).copy() for r in results]
        for value, array in zip(node.results, results, strict=True):
            self.view(value)[...] = array

    def check(self, node: Node) -> str | None:
        """Whether what a node wrote is still there at the end of its wave."""
        for value, array in zip(node.results, self.expected[node], strict=True):
            if not same_bits(np.asarray(self.view(value)), array):
                return f"a result of {node} was overwritten in its own wave"
        return None
