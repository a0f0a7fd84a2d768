"""What a program keeps from one run to the next as long as no variable changes.

A function that only answers makes the same of its variables in every call: batch normalization's factors, and filters
in the order in which they are multiplied. This work stands before all other in the program, in memory of the
program's own, and is left out while the variables are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import Graph, Node, Value
from ..passes.lasting import lasting_values
from .compiled import CompiledKernel
from .schedule import Part, Segment, Work, segments, source, waves


@dataclass(frozen=True)
class Kept:
    """What is made of variables alone.

    Attributes:
        nodes: those whose kernels are left out.
        values: their results that other kernels read, or the caller.
        packs: positions of the other kernels whose first phase is left out.
    """

    nodes: frozenset[Node]
    values: tuple[Value, ...]
    packs: tuple[int, ...]


def kept_of(graph: Graph, kernels: Sequence[CompiledKernel]) -> Kept:
    """What a graph's program keeps; nothing where it writes a variable."""
    lasting = lasting_values(graph)
    nodes = frozenset(k.node for k in kernels if all(r in lasting for r in k.node.results))
    read = [v for node in graph.nodes if not all(r in lasting for r in node.results) for v in node.operands]
    sources = dict.fromkeys(source(v) for v in (*read, *(o.value for o in graph.outputs)))
    packs = tuple(i for i, k in enumerate(kernels) if k.kept is not None and k.chunks[0] and k.node not in nodes
                  and k.node.operands[k.kept[0]] in lasting)
    return Kept(nodes, tuple(v for v in sources if v.node in nodes), packs)


def schedule(kernels: Sequence[CompiledKernel], kept: Kept,
             apart: bool = False) -> tuple[dict[Node, int], list[Segment], int]:
    """The wave of every node that has a kernel, the segments, and how many of these make what is kept.

    Args:
        kernels: in an order that can be executed.
        kept: what is made first.
        apart: as in ``schedule.segments``.
    """
    early = waves([k for k in kernels if k.node in kept.nodes], apart)
    start = max(early.values(), default=-1) + 1
    late = {node: start + wave
            for node, wave in waves([k for k in kernels if k.node not in kept.nodes], apart).items()}
    packs = [Part(i, 0) for i in kept.packs]
    first = [*segments(kernels, early, apart), *((Work((p,), kernels[p.kernel].chunks[0]),) for p in packs)]
    return {**early, **late}, [*first, *segments(kernels, late, apart, frozenset(packs))], len(first)
