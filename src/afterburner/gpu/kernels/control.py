"""Operations that hold other graphs."""

from __future__ import annotations

from ...ir import Graph, Op, Value
from ...ir.ops.control import Fusion, Scan
from ...runtime.executable import Unsupported
from ..backend import mx
from . import Lowering, lower

MOST_NODES = 20_000  # that the turns of a loop become: MLX takes time and memory for each


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


def _scan(op: Scan, *operands: mx.array) -> tuple[mx.array, ...]:
    """All turns, one behind the other."""
    nodes = op.steps * _count(op.body)
    if nodes > MOST_NODES:
        raise Unsupported(f"a loop of {op.steps} turns makes {nodes} operations, more than {MOST_NODES}")
    carried, end = op.carried, op.carried + len(op.sliced)
    state = operands[:carried]
    stacks: list[list[mx.array]] = [[] for _ in op.stacked]
    for turn in range(op.steps):
        rows = [x[op.steps - 1 - turn if backwards else turn]
                for x, backwards in zip(operands[carried:end], op.sliced, strict=True)]
        results = evaluate(op.body, *state, *rows, *operands[end:])
        state = results[:carried]
        for stack, row in zip(stacks, results[carried:], strict=True):
            stack.append(row)
    return (*state, *(mx.stack(s[::-1] if backwards else s) for s, backwards in zip(stacks, op.stacked, strict=True)))


def _count(graph: Graph) -> int:
    return sum(n.op.steps * _count(n.op.body) if isinstance(n.op, Scan) else 1 for n in graph.nodes)


LOWERINGS: dict[type[Op], Lowering] = {Fusion: lambda op, *operands: evaluate(op.body, *operands), Scan: _scan}
