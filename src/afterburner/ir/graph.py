"""Graphs in single static assignment: values, nodes, and the builder that checks as it adds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .op import IRError, Op
from .types import TensorType


@dataclass(frozen=True)
class Location:
    """Where an operation comes from: the TensorFlow node and the user's source line."""

    node: str = ""
    source: str = ""  # "model.py:14"

    def __str__(self) -> str:
        return ", ".join(part for part in (self.node, self.source) if part)


NOWHERE = Location()


class Value:
    """A tensor in a graph: result ``index`` of ``node``, or a graph input where node is None.

    Values compare by identity.
    """

    __slots__ = ("type", "node", "index")

    def __init__(self, type_: TensorType, node: Node | None = None, index: int = 0) -> None:
        self.type = type_
        self.node = node
        self.index = index

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def constant(self) -> np.ndarray | None:
        """The value of a ``constant`` operation's result; None for all others."""
        if self.node is None or self.node.op.name != "constant":
            return None
        return self.node.op.value  # type: ignore[attr-defined,no-any-return]

    def __repr__(self) -> str:
        return f"<{self.type} of {self.node.op.name if self.node else 'input'}>"


class Node:
    """One operation applied to operands. Nodes compare by identity and never change.

    Attributes:
        verified: whether ``verify`` has found its types and regions right; what it reads is looked at every time.
    """

    __slots__ = ("op", "operands", "results", "loc", "verified")

    def __init__(self, op: Op, operands: Sequence[Value], loc: Location = NOWHERE) -> None:
        self.op = op
        self.operands = tuple(operands)
        self.loc = loc
        types = op.infer(*(v.type for v in self.operands))
        self.results = tuple([Value(t, self, i) for i, t in enumerate(types)])
        self.verified = False

    def __repr__(self) -> str:
        return f"<{self.op.name} {', '.join(str(r.type) for r in self.results)}>"


@dataclass(frozen=True)
class Input:
    """A graph input; ``state`` marks the current value of a variable."""

    value: Value
    name: str
    state: bool = False


@dataclass(frozen=True)
class Output:
    """A graph output and its role.

    Attributes:
        value: what is returned.
        updates: index of the state input whose new value this is, or None.
        check: a message where this is a scalar bool that must be true, or None.
    """

    value: Value
    updates: int | None = None
    check: str | None = None


@dataclass(frozen=True)
class Graph:
    """Inputs, nodes in an order that can be executed, and outputs."""

    name: str
    inputs: tuple[Input, ...]
    nodes: tuple[Node, ...]
    outputs: tuple[Output, ...]
    _users: dict[Value, list[Node]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def users(self) -> Mapping[Value, list[Node]]:
        """The nodes that read each value, in order; a node that reads it twice is listed once."""
        if not self._users and self.nodes:
            for node in self.nodes:
                for value in dict.fromkeys(node.operands):
                    self._users.setdefault(value, []).append(node)
        return self._users

    @property
    def input_types(self) -> tuple[TensorType, ...]:
        return tuple(i.value.type for i in self.inputs)

    @property
    def output_types(self) -> tuple[TensorType, ...]:
        return tuple(o.value.type for o in self.outputs)

    def __str__(self) -> str:
        from .text import print_graph

        return print_graph(self)


class Builder:
    """Builds a graph node by node; every operation's shape rule is checked as it is added."""

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: list[Input] = []
        self.nodes: list[Node] = []
        self.outputs: list[Output] = []
        self.loc = NOWHERE

    def input(self, type_: TensorType, name: str, state: bool = False) -> Value:
        """Add a graph input and return its value."""
        value = Value(type_)
        self.inputs.append(Input(value, name, state))
        return value

    def add(self, op: Op, *operands: Value, loc: Location | None = None) -> tuple[Value, ...]:
        """Append an operation and return all of its results.

        Raises:
            IRError: the operands do not fit; the message names the operation and its location.
        """
        where = loc or self.loc
        try:
            node = Node(op, operands, where)
        except IRError as error:
            types = ", ".join(str(o.type) for o in operands)
            raise IRError(f"{op.name}({types}) at {where}: {error}") from error
        self.nodes.append(node)
        return node.results

    def emit(self, op: Op, *operands: Value, loc: Location | None = None) -> Value:
        """Append an operation with one result and return it."""
        return self.add(op, *operands, loc=loc)[0]

    def output(self, value: Value, updates: int | None = None, check: str | None = None) -> None:
        """Add a graph output."""
        self.outputs.append(Output(value, updates, check))

    def build(self) -> Graph:
        """The finished graph."""
        return Graph(self.name, tuple(self.inputs), tuple(self.nodes), tuple(self.outputs))


Replace = Callable[[Builder, Node, tuple[Value, ...]], "Sequence[Value] | None"]


def rewrite(graph: Graph, replace: Replace) -> Graph:
    """Copy ``graph``, letting ``replace`` stand in for nodes.

    Args:
        graph: the graph to copy.
        replace: called as ``replace(builder, node, new_operands)`` in order; returns the values that
            take the place of the node's results (it may add nodes to the builder), or None to
            keep the node.
    """
    builder = Builder(graph.name)
    new: dict[Value, Value] = {}
    for item in graph.inputs:
        new[item.value] = builder.input(item.value.type, item.name, item.state)
    for node in graph.nodes:
        builder.loc = node.loc
        operands = tuple(new[v] for v in node.operands)
        results = replace(builder, node, operands)
        if results is None:
            results = builder.add(node.op, *operands)
        for old, value in zip(node.results, results, strict=True):
            if value.type != old.type:
                raise IRError(f"rewrite of {node.op.name} changed {old.type} to {value.type}")
            new[old] = value
    for out in graph.outputs:
        builder.output(new[out.value], out.updates, out.check)
    return builder.build()


def with_nodes(graph: Graph, nodes: Iterable[Node]) -> Graph:
    """The same inputs and outputs over other nodes (a subset or another legal order)."""
    return Graph(graph.name, graph.inputs, tuple(nodes), graph.outputs)
