"""Text before and after: what every test of a pass is made of."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from afterburner.ir import Graph, interpret, parse_graph, print_graph, verify

Pass = Callable[[Graph], Graph]


def graph_of(text: str) -> Graph:
    """The checked graph of a text."""
    return verify(parse_graph(text))


def text_of(graph: Graph) -> str:
    return print_graph(graph, locations=False)


def check(run: Pass, before: str, after: str) -> Graph:
    """The pass turns ``before`` into ``after``, leaves that as it is, and changes no result."""
    graph, expected = graph_of(before), graph_of(after)
    changed = verify(run(graph))
    assert text_of(changed) == text_of(expected)
    again = run(changed)
    assert text_of(again) == text_of(changed), "the pass is not idempotent"
    arguments = arguments_for(graph)
    for a, b in zip(interpret(graph, arguments), interpret(changed, arguments), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.array_equal(np.signbit(a), np.signbit(b)) or a.dtype.kind in "iub"
    return changed


def check_unchanged(run: Pass, text: str) -> None:
    """The pass leaves the graph alone: the rewrite would not be legal, or not worth it."""
    graph = graph_of(text)
    assert text_of(run(graph)) == text_of(graph)


def arguments_for(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    """Seeded arguments with zeros of both signs, infinities and NaN among the floats."""
    random = np.random.default_rng(seed)
    arguments = []
    for item in graph.inputs:
        dtype, shape = item.value.type.dtype, item.value.shape
        if dtype.kind == "bool":
            arguments.append(random.integers(0, 2, shape).astype(np.bool_))
        elif dtype.is_integer:
            arguments.append(random.integers(0, 9, shape).astype(dtype.numpy))
        else:
            data = random.normal(size=shape)
            special = random.choice([0.0, -0.0, np.inf, -np.inf, np.nan], shape)
            arguments.append(np.asarray(np.where(random.random(shape) < 0.2, special, data)).astype(dtype.numpy))
    return arguments


def kernels(graph: Graph) -> list[str]:
    """What each kernel computes: the operations of fusions, the names of other nodes."""
    names = []
    for node in graph.nodes:
        if node.op.name == "fusion":
            inner = [n.op.name for n in node.op.body.nodes if n.op.name not in ("constant", "broadcast")]
            names.append(f"{node.op.kind}: {' '.join(inner)}")
        elif node.op.name not in ("reshape", "constant"):
            names.append(node.op.name)
    return names
