"""Replaces nodes by what rules make of them, in one forward sweep.

A rule sees a node whose operands are already rewritten and may look at the nodes that made them,
never at its users: so one sweep in program order sees every rewrite of everything before it, and
the nodes a rule makes are rewritten themselves before they are placed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..ir import NOWHERE, Graph, Location, Node, Op, Output, TensorType, Value
from ..ir.ops.shape import Broadcast, Constant

Rule = Callable[["Rewriter", Node], "Value | None"]

_APPLICATIONS_PER_NODE = 20  # a sweep that needs more is not converging: stop rewriting, stay correct
_MAX_DEPTH = 40  # of rules inside rules; likewise


class Rewriter:
    """The graph under construction. ``emit`` adds an operation, or what the rules make of it."""

    def __init__(self, graph: Graph, rules: Mapping[str, Sequence[Rule]]) -> None:
        self._graph = graph
        self._rules = rules
        self._nodes: list[Node] = []
        self._placed: set[Node] = set()
        self._replacement: dict[Value, Value] = {}
        self._uses = _count_uses(graph)
        self._budget = _APPLICATIONS_PER_NODE * (len(graph.nodes) + 1)
        self._depth = 0
        self._loc: Location = NOWHERE

    def run(self) -> Graph:
        """The rewritten graph; ``graph`` itself where no rule applied."""
        for node in self._graph.nodes:
            self._loc = node.loc
            current = node
            if not self._replacement.keys().isdisjoint(node.operands):
                current = Node(node.op, [self._replacement.get(v, v) for v in node.operands], node.loc)
                self._uses.update((new, self._uses[old]) for old, new in
                                  zip(node.results, current.results, strict=True))
            values = self._place(current)
            if values is not node.results:
                self._replacement.update((old, new) for old, new in zip(node.results, values, strict=True)
                                         if old is not new)
        if not self._replacement:
            return self._graph
        outputs = tuple(Output(self._replacement.get(o.value, o.value), o.updates, o.check)
                        for o in self._graph.outputs)
        return Graph(self._graph.name, self._graph.inputs, tuple(self._nodes), outputs)

    def emit(self, op: Op, *operands: Value) -> Value:
        """The single result of an operation, rewritten if a rule applies."""
        return self._place(Node(op, operands, self._loc))[0]

    def read_once(self, value: Value) -> bool:
        """Whether a value is known to have one reader and not to be returned; for rules that replace
        the node that makes it, which must not be computed twice."""
        return self._uses.get(value) == 1

    def constant(self, array: np.ndarray) -> Value:
        """A constant operation's result."""
        return self.emit(Constant(array))

    def full(self, type_: TensorType, scalar: np.ndarray | np.generic | float | bool) -> Value:
        """A tensor with ``scalar`` everywhere."""
        value = self.constant(np.asarray(scalar).astype(type_.dtype.numpy).reshape(()))
        return value if type_.shape == () else self.emit(Broadcast(type_.shape, ()), value)

    def _place(self, node: Node) -> tuple[Value, ...]:
        for rule in self._rules.get(node.op.name, ()):
            if self._budget <= 0 or self._depth == _MAX_DEPTH:
                break
            self._depth += 1
            value = rule(self, node)
            self._depth -= 1
            if value is None:
                continue
            if value.type != node.results[0].type:
                raise TypeError(f"a rule made {value.type} of {node}")
            self._budget -= 1
            return (value,)
        if node not in self._placed:
            self._placed.add(node)
            self._nodes.append(node)
        return node.results


def _count_uses(graph: Graph) -> dict[Value, int]:
    """Readers of every node's result; being returned counts twice."""
    uses = {r: 0 for n in graph.nodes for r in n.results}
    for value in (v for n in graph.nodes for v in n.operands if v in uses):
        uses[value] += 1
    for value in (o.value for o in graph.outputs if o.value in uses):
        uses[value] += 2
    return uses


def made_by(value: Value, op: type[Op]) -> Node | None:
    """The node that makes ``value`` if it is an ``op``."""
    return value.node if value.node is not None and type(value.node.op) is op else None


def uniform(value: Value) -> np.ndarray | None:
    """The scalar that every element of ``value`` is known to be, as an array of shape ()."""
    while value.node is not None and value.node.op.name in ("broadcast", "reshape"):
        value = value.node.operands[0]
    array = value.constant
    return array.reshape(()) if array is not None and array.size == 1 else None


def is_number(value: Value, number: float) -> bool:
    """Whether every element of ``value`` is known to be ``number``, the sign of zero included."""
    scalar = uniform(value)
    if scalar is None:
        return False
    known = scalar.item() if scalar.dtype.kind in "iub" else float(scalar)
    return known == number and (known != 0 or not value.type.dtype.is_float
                                or bool(np.signbit(known)) == bool(np.signbit(number)))
