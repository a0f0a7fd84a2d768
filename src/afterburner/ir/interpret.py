"""The oracle: run a graph in NumPy, one operation after another."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .graph import Graph, Value


def interpret(graph: Graph, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of ``graph`` for ``arguments``, by each operation's reference meaning.

    Raises:
        TypeError: an argument's or a result's type is not what the graph says.
    """
    values: dict[Value, np.ndarray] = {}
    for item, argument in zip(graph.inputs, arguments, strict=True):
        values[item.value] = _checked(item.value, np.asarray(argument), item.name)
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            results = node.op.evaluate(*(values[v] for v in node.operands))
            for value, array in zip(node.results, results, strict=True):
                values[value] = _checked(value, np.asarray(array), node.op.name)
    return [values[o.value] for o in graph.outputs]


def _checked(value: Value, array: np.ndarray, name: str) -> np.ndarray:
    if array.shape != value.type.shape or array.dtype != value.type.dtype.numpy:
        raise TypeError(f"{name}: expected {value.type}, got {array.dtype}{list(array.shape)}")
    return array
