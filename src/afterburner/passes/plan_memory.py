"""Gives every value an address before anything runs.

With static shapes and a fixed order, when each buffer is needed is known; so there is one arena,
allocated once, and no allocator at run time. Views, in-place results and results that are outputs
of the graph take no room in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from ..ir import Graph, Node, Value
from ..ir.ops.shape import FirstColumns, MoreColumns

ALIGNMENT = 64  # bytes: a cache line, and the widest vector

InPlace = Callable[[Node], Sequence[tuple[int, int]]]


@dataclass(frozen=True)
class Home:
    """Where a value lives.

    Attributes:
        kind: "arena"; or a buffer of the caller, "input" or "output"; or "constant"; or "kept".
        index: byte offset in the arena; position of the input, output or of the constant in
            ``MemoryPlan.constants``; position in what the caller keeps, "kept".
    """

    kind: Literal["arena", "input", "output", "constant", "kept"]
    index: int


@dataclass(frozen=True)
class MemoryPlan:
    """Addresses for one graph.

    Attributes:
        homes: of every value of the graph.
        temps: arena offsets of each node's temporary buffers, live while the node runs.
        copies: (output position, value) where the caller's output buffer is not the value's home:
            to be copied after everything else.
        constants: values made by ``constant`` operations, kept outside the arena.
        arena_bytes: size of the arena.
        peak_bytes: most arena bytes in use at once; the arena cannot be smaller.
        in_place: results that overwrite an operand, and that operand.
    """

    homes: Mapping[Value, Home]
    temps: Mapping[Node, tuple[int, ...]]
    copies: tuple[tuple[int, Value], ...]
    constants: tuple[Value, ...]
    arena_bytes: int
    peak_bytes: int
    in_place: Mapping[Value, Value]


@dataclass(eq=False)
class _Buffer:
    """Values that share memory; ``first`` and ``last`` are the waves it is in use, inclusive."""

    bytes: int
    first: int
    last: int
    values: list[Value] = field(default_factory=list)
    home: Home | None = None
    offset: int = -1


def plan(
    graph: Graph,
    extra: Mapping[Node, Sequence[int]],
    in_place: InPlace,
    waves: Sequence[int] | None = None,
    kept: Sequence[Value] = (),
) -> MemoryPlan:
    """Plan the memory of ``graph`` in the order of its nodes.

    Args:
        graph: nodes in the order they run.
        extra: sizes in bytes of the temporary buffers of nodes that need some.
        in_place: (operand, result) positions of a node where the result may overwrite the operand.
        waves: for each node the wave it runs in, not decreasing; nodes of one wave run
            concurrently and share no memory. One node a wave if None.
        kept: results that the caller has memory for, since they outlast the run.

    Raises:
        ValueError: waves decrease, or are not one a node.
    """
    steps = list(range(len(graph.nodes))) if waves is None else list(waves)
    if len(steps) != len(graph.nodes) or any(a > b for a, b in zip(steps, steps[1:], strict=False)):
        raise ValueError("waves are one number a node and do not decrease")
    planner = _Planner(graph, steps, {value: i for i, value in enumerate(kept)})
    planner.assign(in_place)
    temps = {node: [_Buffer(size, step, step) for size in extra.get(node, ())]
             for node, step in zip(graph.nodes, steps, strict=True)}
    buffers = [b for b in planner.buffers if b.home is None]
    buffers += [t for node in graph.nodes for t in temps[node]]
    arena = _pack(buffers)
    _check_disjoint(buffers)
    homes = {v: b.home or Home("arena", b.offset) for b in planner.buffers for v in b.values}
    copies = tuple((i, o.value) for i, o in enumerate(graph.outputs) if homes[o.value] != Home("output", i))
    return MemoryPlan(homes, {n: tuple(t.offset for t in ts) for n, ts in temps.items() if ts}, copies,
                      tuple(planner.constants), arena, _peak(buffers), planner.overwritten)


class _Planner:
    """Which values share a buffer, and when it is in use."""

    def __init__(self, graph: Graph, steps: Sequence[int], kept: Mapping[Value, int]) -> None:
        self.graph = graph
        self.steps = steps
        self.kept = kept
        self.buffer: dict[Value, _Buffer] = {}
        self.buffers: dict[_Buffer, None] = {}  # an ordered set
        self.constants: list[Value] = []
        self.overwritten: dict[Value, Value] = {}
        self.grown: set[Value] = set()
        self.readers: dict[_Buffer, list[int]] = {}
        for i, item in enumerate(graph.inputs):
            self._new(item.value, -1).home = Home("input", i)
        for node, step in zip(graph.nodes, steps, strict=True):
            self._define(node, step)
        for i, out in enumerate(graph.outputs):
            buffer = self.buffer[out.value]
            if buffer.home is None:
                buffer.home = Home("output", i)

    def _new(self, value: Value, step: int) -> _Buffer:
        buffer = _Buffer(_rounded(value.type.bytes), step, step, [value])
        self.buffers[buffer] = None
        self.buffer[value] = buffer
        self.readers[buffer] = []
        return buffer

    def _define(self, node: Node, step: int) -> None:
        if node.op.view:
            buffer = self.buffer[node.operands[0]]
            buffer.values.append(node.results[0])
            self.buffer[node.results[0]] = buffer
            return
        for value in node.operands:
            buffer = self.buffer[value]
            buffer.last = max(buffer.last, step)
            self.readers[buffer].append(step)
        if node.op.in_place:
            self._add_in_place(node)
            return
        for result in node.results:
            buffer = self._new(result, step)
            if node.op.name == "constant":
                buffer.home = Home("constant", len(self.constants))
                self.constants.append(result)
            elif result in self.kept:
                buffer.home = Home("kept", self.kept[result])

    def _add_in_place(self, node: Node) -> None:
        """A result that takes its operand's place, though others may read the operand there."""
        value = node.operands[0]
        columns = value.node is not None and isinstance(value.node.op, FirstColumns | MoreColumns)
        assert columns and value not in self.grown, f"{value} is not what {node.op.name} may write to"
        buffer = self.buffer[value]
        self.grown.add(value)
        buffer.values.append(node.results[0])
        self.buffer[node.results[0]] = buffer

    def assign(self, in_place: InPlace) -> None:
        """Let results overwrite operands that nothing reads in the same wave or later."""
        for node, step in zip(self.graph.nodes, self.steps, strict=True):
            if node.op.view or node.op.in_place or node.op.name == "constant":
                continue
            taken: set[_Buffer] = set()
            for operand, result in in_place(node):
                buffer = self.buffer[node.operands[operand]]
                if buffer not in taken and self._overwrite(
                        node, node.operands[operand], node.results[result], step):
                    taken.add(buffer)

    def _overwrite(self, node: Node, operand: Value, result: Value, step: int) -> bool:
        old, new = self.buffer[operand], self.buffer[result]
        if old is new or old.home is not None or new.home is not None or new.bytes != old.bytes:
            return False
        reads = sum(1 for v in node.operands if self.buffer[v] is old)
        if new.first != step or old.last != step or self.readers[old].count(step) != reads:
            return False
        if reads != 1:
            return False
        self.overwritten[result] = operand
        for value in new.values:
            self.buffer[value] = old
        old.values += new.values
        old.last = new.last
        self.readers[old] += self.readers.pop(new)
        del self.buffers[new]
        return True


def _rounded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _pack(buffers: Sequence[_Buffer]) -> int:
    """Set every buffer's offset; returns the size of the arena.

    Largest first, each into the tightest gap between those already placed that are in use at the
    same time (Pisarchyk and Lee, "Efficient memory management for deep neural net inference",
    2020); by bytes alone and by bytes times waves, whichever comes out smaller.
    """
    by_bytes = sorted(buffers, key=lambda b: (-b.bytes, b.first, b.last))
    by_area = sorted(buffers, key=lambda b: (-b.bytes * (b.last - b.first + 1), b.first, b.last))
    plans = [_place(by_bytes), _place(by_area)]
    size, offsets = min(plans, key=lambda p: p[0])
    for buffer, offset in offsets.items():
        buffer.offset = offset
    return size


def _place(buffers: Sequence[_Buffer]) -> tuple[int, dict[_Buffer, int]]:
    count = len(buffers)
    first, last = np.empty(count, np.int64), np.empty(count, np.int64)
    start, end = np.empty(count, np.int64), np.empty(count, np.int64)
    offsets: dict[_Buffer, int] = {}
    for i, buffer in enumerate(buffers):
        size = _rounded(buffer.bytes)
        meets = np.flatnonzero((first[:i] <= buffer.last) & (last[:i] >= buffer.first))
        meets = meets[np.argsort(start[meets], kind="stable")]
        offset = _tightest_gap(start[meets].tolist(), end[meets].tolist(), size)
        first[i], last[i], start[i], end[i] = buffer.first, buffer.last, offset, offset + size
        offsets[buffer] = offset
    return int(end.max(initial=0)), offsets


def _tightest_gap(starts: list[int], ends: list[int], size: int) -> int:
    """The lowest offset in the smallest gap that holds ``size`` bytes, else behind everything."""
    best, tightest, top = -1, -1, 0
    for start, end in zip(starts, ends, strict=True):
        gap = start - top
        if gap >= size and (best < 0 or gap < tightest):
            best, tightest = top, gap
        top = max(top, end)
    return best if best >= 0 else top


def _peak(buffers: Sequence[_Buffer]) -> int:
    """Most bytes in use in one wave."""
    changes: dict[int, int] = {}
    for buffer in buffers:
        changes[buffer.first] = changes.get(buffer.first, 0) + _rounded(buffer.bytes)
        changes[buffer.last + 1] = changes.get(buffer.last + 1, 0) - _rounded(buffer.bytes)
    used = peak = 0
    for step in sorted(changes):
        used += changes[step]
        peak = max(peak, used)
    return peak


def _check_disjoint(buffers: Sequence[_Buffer]) -> None:
    """Assert that no two buffers in use at the same time overlap."""
    ordered = sorted((b for b in buffers if b.bytes), key=lambda b: b.offset)
    for i, low in enumerate(ordered):
        for high in ordered[i + 1:]:
            if high.offset >= low.offset + _rounded(low.bytes):
                break
            assert high.first > low.last or low.first > high.last, \
                f"waves {low.first}-{low.last} and {high.first}-{high.last} share bytes at {high.offset}"
