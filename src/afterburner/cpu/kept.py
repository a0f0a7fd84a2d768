"""What a program keeps from one run to the next as long as no variable changes.

A function that only answers makes the same of its variables in every call: batch normalization's factors, and filters
in the order in which they are multiplied. This work stands before all other in the program, in memory of the
program's own, and is left out while the variables are the same.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

from ..ir import Graph, Node, Value
from ..passes.lasting import lasting_values
from .compiled import CompiledKernel
from .loops import Part, Segment, Step, Work, numbers
from .schedule import segments, source, waves


@dataclass(frozen=True)
class Kept:
    """What is made of variables alone.

    Attributes:
        nodes: those whose kernels are left out.
        values: their results that other kernels read, or the caller.
        packs: positions of the other kernels whose first phase is left out, and how many temporaries that makes.
    """

    nodes: frozenset[Node]
    values: tuple[Value, ...]
    packs: Mapping[int, int]


def kept_of(graph: Graph, steps: Sequence[Step]) -> Kept:
    """What a graph's program keeps; nothing where it writes a variable."""
    lasting = lasting_values(graph)
    nodes = frozenset(s.node for s in steps if all(r in lasting for r in s.node.results))
    read = [v for node in graph.nodes if not all(r in lasting for r in node.results) for v in node.operands]
    sources = dict.fromkeys(source(v) for v in (*read, *(o.value for o in graph.outputs)))
    packs = {i: count for i, count in packs_of(steps, lasting).items() if steps[i].node not in nodes}
    return Kept(nodes, tuple(v for v in sources if v.node in nodes), packs)


def packs_of(steps: Sequence[Step], lasting: Container[Value]) -> dict[int, int]:
    """Positions of kernels whose first phase reads one of some values alone, and how many temporaries it makes."""
    return {i: s.kept[1] for i, s in enumerate(steps) if isinstance(s, CompiledKernel) and s.kept is not None
            and s.chunks[0] and s.node.operands[s.kept[0]] in lasting}


def schedule(steps: Sequence[Step], kept: Kept, apart: bool = False) -> tuple[dict[Node, int], list[Segment], int]:
    """The wave of every node that is computed, the segments, and how many of these make what is kept.

    Args:
        steps: in an order that can be executed.
        kept: what is made first.
        apart: as in ``schedule.segments``.
    """
    early = waves([s for s in steps if s.node in kept.nodes], apart)
    start = max(early.values(), default=-1) + 1
    late = {node: start + wave
            for node, wave in waves([s for s in steps if s.node not in kept.nodes], apart).items()}
    packs = packing(steps, kept.packs)
    done = frozenset(part for (work,) in packs for part in work.parts)
    first = [*segments(steps, early, apart), *packs]
    return {**early, **late}, [*first, *segments(steps, late, apart, done)], len(first)


def packing(steps: Sequence[Step], packs: Container[int]) -> list[Segment]:
    """The first phases of some kernels."""
    return [(Work((Part(number, 0),), step.chunks[0]),) for i, (step, number, _) in enumerate(numbers(steps))
            if i in packs and isinstance(step, CompiledKernel)]
