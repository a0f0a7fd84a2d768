"""A graph as a function of MLX arrays."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from ..ir import Graph, Value
from ..ir.ops.shape import Constant
from .backend import mx
from .kernels import check_results, lower

Step = Callable[[], "Sequence[mx.array]"]


class Program:
    """Calls MLX for one node after another; MLX computes when the results are asked for.

    Attributes:
        nodes: in order, without constants.
    """

    def __init__(self, graph: Graph) -> None:
        self._slots: dict[Value, int] = {}
        for item in graph.inputs:
            self._slot(item.value)
        self.nodes = tuple(n for n in graph.nodes if not isinstance(n.op, Constant))
        self._constants = {self._slot(n.results[0]): mx.array(n.op.value)
                           for n in graph.nodes if isinstance(n.op, Constant)}
        self._steps = [(lower(n), [self._slot(v) for v in n.operands], [self._slot(r) for r in n.results])
                       for n in self.nodes]
        self._outputs = [self._slots[o.value] for o in graph.outputs]

    def _slot(self, value: Value) -> int:
        return self._slots.setdefault(value, len(self._slots))

    def __call__(self, *arguments: mx.array) -> list[mx.array]:
        """Outputs for arguments, not computed yet."""
        values = self._begin(arguments)
        for step, operands, results in self._steps:
            for slot, value in zip(results, step(*[values[s] for s in operands]), strict=True):
                values[slot] = value
        return [values[s] for s in self._outputs]

    def each(self, arguments: Sequence[mx.array], see: Callable[[int, Step], Sequence[mx.array]]) -> list[mx.array]:
        """Outputs; ``see`` gets each node's number and a function that gives its results, and gives them back.

        Raises:
            Unsupported: MLX cannot; the message names the operation and the reason.
        """
        values = self._begin(arguments)
        for index, (step, operands, results) in enumerate(self._steps):
            seen = see(index, partial(step, *[values[s] for s in operands]))
            for slot, value in zip(results, seen, strict=True):
                values[slot] = value
        return [values[s] for s in self._outputs]

    def check(self, arguments: Sequence[mx.array]) -> None:
        """Go through all nodes without computing anything.

        Raises:
            Unsupported: MLX cannot; the message names the operation and the reason.
            TypeError: a lowering gives another type than the node's.
        """
        def checked(index: int, step: Step) -> Sequence[mx.array]:
            results = step()
            check_results(self.nodes[index], results)
            return results

        self.each(arguments, checked)

    def timed(self, arguments: Sequence[mx.array], add: Callable[[int, float], None]) -> list[mx.array]:
        """Outputs, each node computed by itself; ``add`` gets its number and seconds."""
        def measured(index: int, step: Step) -> Sequence[mx.array]:
            start = time.perf_counter()
            results = step()
            mx.eval(results)
            add(index, time.perf_counter() - start)
            return results

        return self.each(arguments, measured)

    def _begin(self, arguments: Sequence[mx.array]) -> list[mx.array]:
        values: list[mx.array] = [*arguments] + [None] * (len(self._slots) - len(arguments))  # type: ignore[list-item]
        for slot, value in self._constants.items():
            values[slot] = value
        return values
