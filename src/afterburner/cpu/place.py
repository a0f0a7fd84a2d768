"""Where every value of a graph lies: caller's buffers, the constants' blob, or the arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Node, Value, with_nodes
from ..passes.plan_memory import Home, MemoryPlan, plan
from .kept import Kept
from .loops import Copy, Loop, Step, laid_out
from .program import ARENA, CONSTANTS, FIRST_EXTERNAL, KEPT, LINE, Slot, aligned_words
from .schedule import source


@dataclass(frozen=True)
class Placement:
    """The outcome of memory planning.

    Attributes:
        slots: of every value.
        rows: where the buffers of each kernel lie, operands, results and temporaries: once, or for each turn of a loop.
        constants: the constants, each at a cache line.
        inner: what loops copy.
        copies: (from, to, bytes): outputs that are inputs, constants or other outputs.
        arena_bytes: planned peak of intermediate memory.
        kept_bytes: memory of what outlasts the run.
        externals: number of buffers the caller passes.
    """

    slots: Mapping[Value, Slot]
    rows: Sequence[tuple[tuple[Slot, ...], ...]]
    constants: np.ndarray
    inner: Sequence[Copy]
    copies: tuple[Copy, ...]
    arena_bytes: int
    kept_bytes: int
    externals: int


def place(graph: Graph, steps: Sequence[Step], wave_of: Mapping[Node, int], kept: Kept) -> Placement:
    """Give every value and temporary of ``graph`` a place, knowing what runs at once and what is kept."""
    own = _Kept(kept, steps)
    temps = {step.node: step.temps[len(own.temps.get(step.node, ())):] for step in steps}
    memory = planned(graph, temps, wave_of, kept.values)
    inside = [v for step in steps if isinstance(step, Loop) for v in step.constants]
    constants, starts = _constants([*memory.constants, *inside])
    inputs = len(graph.inputs)
    slots = {value: own.values[home.index] if home.kind == "kept" else _slot(home, inputs, starts)
             for value, home in memory.homes.items()}
    shared = {node: tuple(Slot(ARENA, t) for t in offsets) for node, offsets in memory.temps.items()}
    rows, inner = laid_out(steps, slots, {n: (*own.temps.get(n, ()), *shared.get(n, ())) for n in temps},
                           [Slot(CONSTANTS, start) for start in starts[len(memory.constants):]])
    return Placement(
        slots=slots,
        rows=rows,
        constants=constants,
        inner=inner,
        copies=_copies(memory, slots, inputs),
        arena_bytes=memory.arena_bytes,
        kept_bytes=own.bytes,
        externals=inputs + len(graph.outputs),
    )


def planned(graph: Graph, temps: Mapping[Node, Sequence[int]], wave_of: Mapping[Node, int],
            kept: Sequence[Value] = ()) -> MemoryPlan:
    """The memory plan of a graph whose nodes run in waves."""
    waves = {node: _wave(node, wave_of) for node in graph.nodes}
    ordered = with_nodes(graph, sorted(graph.nodes, key=waves.__getitem__))
    return plan(ordered, temps, overwritable, [waves[n] for n in ordered.nodes], kept)


class _Kept:
    """Slots of the values and of the temporaries that are kept, one behind the other."""

    def __init__(self, kept: Kept, steps: Sequence[Step]) -> None:
        self.bytes = 0
        self.values = [self._slot(v.type.bytes) for v in kept.values]
        self.temps: dict[Node, tuple[Slot, ...]] = {}
        for step, count in ((steps[i], count) for i, count in kept.packs.items()):
            self.temps[step.node] = tuple(self._slot(size) for size in step.temps[:count])

    def _slot(self, size: int) -> Slot:
        start = self.bytes
        self.bytes += -(-size // LINE) * LINE
        return Slot(KEPT, start)


def _wave(node: Node, wave_of: Mapping[Node, int]) -> int:
    """The wave of a node; of a view, that in which its bytes are made; 0 for constants."""
    if node in wave_of:
        return wave_of[node]
    maker = source(node.results[0]).node
    return 0 if maker is None else wave_of.get(maker, 0)


def _slot(home: Home, inputs: int, starts: Sequence[int]) -> Slot:
    if home.kind == "arena":
        return Slot(ARENA, home.index)
    if home.kind == "constant":
        return Slot(CONSTANTS, starts[home.index])
    return Slot(FIRST_EXTERNAL + home.index + (inputs if home.kind == "output" else 0))


def _copies(memory: MemoryPlan, slots: Mapping[Value, Slot], inputs: int) -> tuple[Copy, ...]:
    return tuple((slots[value], Slot(FIRST_EXTERNAL + inputs + position), value.type.bytes)
                 for position, value in memory.copies if value.type.bytes)


def _constants(values: Sequence[Value]) -> tuple[np.ndarray, list[int]]:
    """All constants in one block, and where each starts."""
    starts = [0]
    for value in values:
        starts.append(starts[-1] + -(-value.type.bytes // LINE) * LINE)
    block = aligned_words(starts[-1] // 8)
    raw = block.view(np.uint8)
    for start, value in zip(starts, values, strict=False):
        array = value.constant
        assert array is not None
        raw[start: start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    block.flags.writeable = False
    return block, starts


def overwritable(node: Node) -> list[tuple[int, int]]:
    """(operand, result) positions where the kernel reads an operand only at the element it writes.

    True of elementwise operations alone and of loop fusions without reductions, for operands on whose
    way to the results there are only elementwise operations and reshapes.
    """
    if node.op.elementwise:
        return _pairs(node, range(len(node.operands)))
    if getattr(node.op, "kind", "") != "loop":
        return []
    (body,) = node.op.regions()
    if any(n.op.reduction or n.op.name.startswith("arg") for n in body.nodes):
        return []
    spread = {item.value for item in body.inputs}
    for inner in reversed(body.nodes):
        if inner.op.elementwise or inner.op.view:
            continue
        spread -= _ancestors(inner)
    return _pairs(node, [i for i, item in enumerate(body.inputs) if item.value in spread])


def _ancestors(node: Node) -> set[Value]:
    found: set[Value] = set()
    stack = list(node.operands)
    while stack:
        value = stack.pop()
        if value in found:
            continue
        found.add(value)
        if value.node is not None:
            stack.extend(value.node.operands)
    return found


def _pairs(node: Node, operands: Sequence[int]) -> list[tuple[int, int]]:
    """Each operand with a result of its own of the same size and element width."""
    free = list(range(len(node.results)))
    pairs = []
    for operand in operands:
        type_ = node.operands[operand].type
        fitting = (r for r in free if node.results[r].type.size == type_.size
                   and node.results[r].type.dtype.bytes == type_.dtype.bytes)
        match = next(fitting, None)
        if match is not None:
            free.remove(match)
            pairs.append((operand, match))
    return pairs
