"""Operations that hold other graphs."""

from __future__ import annotations

from ...ir import Graph, Op, Value
from ...ir.ops.control import Fusion
from ..backend import mx
from . import Lowering, lower


def evaluate(graph: Graph, *arguments: mx.array) -> tuple[mx.array, ...]:
    """Outputs of a graph, as MLX will compute them.

    Raises:
        Unsupported: MLX cannot; the message names the operation and the reason.
    """
    values: dict[Value, mx.array] = {i.value: a for i, a in zip(graph.inputs, arguments, strict=True)}
    for node in graph.nodes:
        results = lower(node)(*(values[v] for v in node.operands))
        values.update(zip(node.results, results, strict=True))
    return tuple(values[o.value] for o in graph.outputs)


LOWERINGS: dict[type[Op], Lowering] = {Fusion: lambda op, *operands: evaluate(op.body, *operands)}
