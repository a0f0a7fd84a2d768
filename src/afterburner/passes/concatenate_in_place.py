"""Joins what is concatenated step by step in one place.

A dense block concatenates what it has so far with what its next layer makes, up to 24 times: each time all channels
are copied again, and each of these tensors is kept for the backward pass. Here the last and longest one has its memory
from the start; every layer writes its own columns there and reads those before them. What reads them must be able to
read rows with a distance between them; for what cannot, the columns are copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from ..ir import Builder, Graph, Node, Value
from ..ir.ops.control import Fusion
from ..ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad
from ..ir.ops.shape import FirstColumns, MoreColumns, Slice
from ..ir.types import F32
from .fuse_epilogues import is_pointwise
from .lasting import lasting_values
from .loop_parts import concatenation, reading_result

MIN_BYTES = 1 << 18  # of the longest concatenation; less stays in a second-level cache


@dataclass(frozen=True)
class _Link:
    """A concatenation of a chain: ``rest`` behind what the one before made.

    Attributes:
        value: the concatenation, a result of a loop.
        first, rest: what the loop makes it of.
        width: columns of the last concatenation of the chain.
        begins: whether it is the chain's first.
    """

    value: Value
    first: Value
    rest: tuple[Value, ...]
    width: int
    begins: bool


def concatenate_in_place(graph: Graph) -> Graph:
    """Let concatenations along the last axis that begin with each other share memory.

        %1: f32[9,6] = concat(%x, %0)        %1: f32[9,8] = first_columns(%x) {width=8}
        …                                    %2: f32[9,8] = more_columns(%1, %0) {start=4}
        %3: f32[9,8] = concat(%1, %2)   ->   …
        …                                    %4: f32[9,8] = more_columns(%2, %3) {start=6}
        %4: … = fusion(%1) …                 %5: … = fusion(%2) {kind='loop'} with graph loop(%p0: f32[9,8]) {
                                               %0: f32[9,6] = slice(%p0) …
    Args:
        graph: fused, with all prologues.
    """
    links = {link.value.node: link for chain in _chains(graph) for link in chain if link.value.node is not None}
    return _Emitter(links).run(graph) if links else graph


def _chains(graph: Graph) -> list[list[_Link]]:
    """Chains of concatenations that gain."""
    users, outside, lasting = graph.users(), {o.value for o in graph.outputs}, lasting_values(graph)
    found: dict[Value, tuple[Value, ...]] = {}
    for node in graph.nodes:
        for value, parts in _concatenated(node):
            if value not in outside and parts[0] not in lasting:
                found[value] = parts
    nexts: dict[Value, Value] = {}
    for value, parts in found.items():
        if parts[0] in found:
            nexts.setdefault(parts[0], value)
    taken = set(nexts.values())
    chains = []
    for first in (v for v in found if v not in taken):
        chain = [first]
        while chain[-1] in nexts:
            chain.append(nexts[chain[-1]])
        if _gains(chain, users):
            width = chain[-1].shape[-1]
            chains.append([_Link(v, found[v][0], found[v][1:], width, v is first) for v in chain])
    return chains


def _concatenated(node: Node) -> Iterator[tuple[Value, tuple[Value, ...]]]:
    """The first result of a loop that concatenates some of its operands along the last axis, and these."""
    if not isinstance(node.op, Fusion) or node.op.kind != "loop":
        return
    body = node.op.body
    given = dict(zip((i.value for i in body.inputs), node.operands, strict=True))
    for output, result in zip(body.outputs, node.results, strict=True):
        op = concatenation(output.value)
        if op is None or op.axis != result.type.rank - 1 or result.type.dtype != F32 or output.value.node is None:
            continue
        parts = output.value.node.operands
        if all(v in given for v in parts) and len(set(parts)) == len(parts):
            yield result, tuple(given[v] for v in parts)
            return


def _gains(chain: Sequence[Value], users: Mapping[Value, Sequence[Node]]) -> bool:
    """Whether what is not copied any more, neither into the next one nor for a reader, is at least the longest one."""
    longest = chain[-1].type.bytes
    saved = sum(v.type.bytes for v in chain[:-1] if all(can_read_columns(n, v) for n in users.get(v, ())))
    return longest >= MIN_BYTES and saved >= longest


class _Emitter:
    """The graph with links in place of concatenations."""

    def __init__(self, links: Mapping[Node, _Link]) -> None:
        self.links = links
        self.nodes: list[Node] = []
        self.new: dict[Value, Value] = {}
        self.wide: dict[Value, Value] = {}  # what holds the columns of a concatenation

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node in self.links:
                self._link(node, self.links[node])
            else:
                self._read(node)
        outputs = tuple(replace(o, value=self.new.get(o.value, o.value)) for o in graph.outputs)
        return Graph(graph.name, graph.inputs, tuple(self.nodes), outputs)

    def _add(self, node: Node) -> Value:
        self.nodes.append(node)
        return node.results[0]

    def _link(self, node: Node, link: _Link) -> None:
        if link.begins:
            wide = self._add(Node(FirstColumns(link.width), (self._whole(link.first),), node.loc))
        else:
            wide = self.wide[link.first]
        start = link.first.shape[-1]
        for part in link.rest:
            wide = self._add(Node(MoreColumns(start), (wide, self._whole(part)), node.loc))
            start += part.shape[-1]
        self.wide[link.value] = wide
        others = reading_result(node, link.value)
        if others is not None:
            self._read(others)
            made = (r for r in node.results if r is not link.value)
            self.new.update((r, self.new[o]) for r, o in zip(made, others.results, strict=True))

    def _read(self, node: Node) -> None:
        held = {v for v in node.operands if self._is_part(v)}
        if held and isinstance(node.op, Fusion) and all(can_read_columns(node, v) for v in held):
            op = reading_columns(node.op, node.operands, {v: self.wide[v] for v in held})
            current = Node(op, tuple(self.wide[v] if v in held else self._whole(v) for v in node.operands), node.loc)
        else:
            operands = tuple(self._whole(v) for v in node.operands)
            current = node if operands == node.operands else Node(node.op, operands, node.loc)
        self.nodes.append(current)
        self.new.update(zip(node.results, current.results, strict=True))

    def _is_part(self, value: Value) -> bool:
        """Whether a value is some of the columns of another."""
        return value in self.wide and self.wide[value].type != value.type

    def _whole(self, value: Value) -> Value:
        """A value in memory of its own; columns are copied."""
        if value in self.wide and value not in self.new:
            wide = self.wide[value]
            self.new[value] = wide
            if wide.type != value.type:
                body = Builder("loop")
                body.output(columns(body, body.input(wide.type, "p0"), value))
                self.new[value] = self._add(Node(Fusion("loop", body.build()), (wide,)))
        return self.new.get(value, value)


def columns(builder: Builder, wide: Value, value: Value) -> Value:
    """The first columns of ``wide``, as many as ``value`` has."""
    return builder.emit(Slice((0,) * wide.type.rank, value.shape, (1,) * wide.type.rank), wide)


def can_read_columns(node: Node, value: Value) -> bool:
    """Whether a node can read its operand ``value`` from wider rows: a loop can; a 1x1 convolution or a gradient of one
    where it makes its image of it, or finishes its result with it."""
    if not isinstance(node.op, Fusion):
        return False
    if node.op.kind == "loop":
        return True
    if node.operands.count(value) != 1:
        return False
    body = node.op.body
    inside = body.inputs[node.operands.index(value)].value
    roots = [n for n in body.nodes if isinstance(n.op, Conv2d | Conv2dFilterGrad | Conv2dInputGrad)]
    if len(roots) != 1 or inside in roots[0].operands or any(o.value is inside for o in body.outputs):
        return False
    return is_pointwise(roots[0])


def reading_columns(op: Fusion, read: Sequence[Value], wide: Mapping[Value, Value]) -> Fusion:
    """``op`` on ``read`` with some of it the first columns of wider values."""
    builder = Builder(op.body.name)
    given = [builder.input(wide.get(v, v).type, f"p{i}") for i, v in enumerate(read)]
    inside = [i.value for i in op.body.inputs]
    whole = {v for n in op.body.nodes if not isinstance(n.op, Slice) for v in n.operands} | {
        o.value for o in op.body.outputs}
    new = {i: columns(builder, g, v) if v in wide and i in whole else g
           for i, g, v in zip(inside, given, read, strict=True)}
    direct = dict(zip(inside, given, strict=True))  # a slice of the first columns is the same one of all of them
    for node in op.body.nodes:
        source = {**new, **direct} if isinstance(node.op, Slice) else new
        results = builder.add(node.op, *(source[v] for v in node.operands), loc=node.loc)
        new.update(zip(node.results, results, strict=True))
    for output in op.body.outputs:
        builder.output(new[output.value])
    return Fusion(op.kind, builder.build())
