"""Where every value of a graph lies: caller's buffers, the constants' blob, or the arena."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..ir import Graph, Node, Value
from .kernel import Kernel
from .program import ARENA, CONSTANTS, FIRST_EXTERNAL, LINE, Slot, aligned_words
from .schedule import source


@dataclass(frozen=True)
class Placement:
    """The outcome of memory planning.

    Attributes:
        slots: of every value that has a buffer of its own (views share their source's).
        temps: the slots of each node's temporaries.
        constants: the constants, each at a cache line.
        copies: (from, to, bytes): outputs that are inputs, constants or other outputs.
        arena_bytes: planned peak of intermediate memory.
        externals: number of buffers the caller passes.
    """

    slots: Mapping[Value, Slot]
    temps: Mapping[Node, tuple[Slot, ...]]
    constants: np.ndarray
    copies: tuple[tuple[Slot, Slot, int], ...]
    arena_bytes: int
    externals: int

    def buffers(self, kernel: Kernel) -> tuple[Slot, ...]:
        """What a kernel's functions are given: operands, results, temporaries."""
        node = kernel.node
        values = (*node.operands, *node.results)
        return (*(self.slots[source(v)] for v in values), *self.temps.get(node, ()))


def place(graph: Graph, kernels: Sequence[Kernel], wave_of: Mapping[Node, int]) -> Placement:
    """Give every value and temporary of ``graph`` a place."""
    slots = {item.value: Slot(FIRST_EXTERNAL + i) for i, item in enumerate(graph.inputs)}
    constants = _constants(graph, slots)
    copies = []
    for i, out in enumerate(graph.outputs):
        slot = Slot(FIRST_EXTERNAL + len(graph.inputs) + i)
        root = source(out.value)
        if root not in slots:
            slots[root] = slot
        elif root.type.bytes:
            copies.append((slots[root], slot, root.type.bytes))
    top = 0
    temps: dict[Node, tuple[Slot, ...]] = {}
    for kernel in kernels:
        for result in kernel.node.results:
            if result not in slots:
                slots[result] = Slot(ARENA, top)
                top += _rounded(result.type.bytes)
        row = []
        for size in kernel.temps:
            row.append(Slot(ARENA, top))
            top += _rounded(size)
        temps[kernel.node] = tuple(row)
    return Placement(slots, temps, constants, tuple(copies), top, len(graph.inputs) + len(graph.outputs))


def _rounded(size: int) -> int:
    return -(-size // LINE) * LINE


def _constants(graph: Graph, slots: dict[Value, Slot]) -> np.ndarray:
    """All constants in one block; adds their slots."""
    top = 0
    arrays = []
    for node in graph.nodes:
        value = node.results[0].constant if node.results else None
        if value is None:
            continue
        slots[node.results[0]] = Slot(CONSTANTS, top)
        arrays.append((top, np.ascontiguousarray(value)))
        top += _rounded(value.nbytes)
    block = aligned_words(top // 8)
    raw = block.view(np.uint8)
    for start, array in arrays:
        raw[start: start + array.nbytes] = array.reshape(-1).view(np.uint8)
    block.flags.writeable = False
    return block
