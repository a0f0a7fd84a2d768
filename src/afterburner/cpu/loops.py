"""What stands for the nodes of a graph in its program: kernels, and loops, whose turns are written out.

A loop is the same kernels on other buffers in every turn. Where a buffer of a loop lies is said by a ``Slot`` whose
base is a position among the operands, the results and the temporaries of the scan and the constants of its bodies, one
behind the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ..ir import Node, Value
from .compiled import CompiledKernel
from .program import Slot

COPY = -1  # in place of a kernel's number
ANY = -1  # in place of a chunk's: the one that a worker has come for


class Part(NamedTuple):
    """Phase ``phase`` of kernel number ``kernel`` on its buffers number ``row``; copy number ``row`` for ``COPY``.

    Of its chunks it runs the one that a worker has come for, or always ``chunk``.
    """

    kernel: int
    phase: int
    row: int = 0
    chunk: int = ANY


@dataclass(frozen=True)
class Work:
    """Parts run one after another by one worker a chunk; more than one part only with one chunk."""

    parts: tuple[Part, ...]
    chunks: int


Segment = tuple[Work, ...]
Copy = tuple[Slot, Slot, int]  # from, to, bytes


@dataclass(frozen=True)
class Loop:
    """A scan.

    Attributes:
        node: the scan.
        kernels: of the body, and of the bodies in it.
        temps: sizes in bytes of the buffers in use while the loop runs.
        phases: the segments of all turns. Kernels are counted from the loop's first, and so are copies.
        rows: where the buffers of each kernel lie, as often as they lie elsewhere.
        copies: what is copied by parts of ``phases``.
        constants: of the bodies.
    """

    node: Node
    kernels: tuple[CompiledKernel, ...]
    temps: tuple[int, ...]
    phases: tuple[Segment, ...]
    rows: tuple[tuple[tuple[Slot, ...], ...], ...]
    copies: tuple[Copy, ...]
    constants: tuple[Value, ...]


Step = CompiledKernel | Loop


def kernels_in(step: Step) -> tuple[CompiledKernel, ...]:
    """The kernels of a step, in the order in which they are counted."""
    return step.kernels if isinstance(step, Loop) else (step,)


def numbers(steps: Sequence[Step]) -> Iterator[tuple[Step, int, int]]:
    """Each step with the numbers of its first kernel and its first copy."""
    kernel = copy = 0
    for step in steps:
        yield step, kernel, copy
        kernel += len(kernels_in(step))
        copy += len(step.copies) if isinstance(step, Loop) else 0


def shifted(segment: Segment, kernel: int, copy: int) -> Segment:
    """A segment of a loop whose first kernel and copy have these numbers."""
    if not kernel and not copy:
        return segment
    return tuple(Work(tuple(Part(k, phase, row + copy, chunk) if k == COPY else Part(k + kernel, phase, row, chunk)
                            for k, phase, row, chunk in work.parts), work.chunks) for work in segment)


def serial(segments: Iterable[Segment]) -> Work:
    """Segments as work of one worker: all chunks one after another."""
    return Work(tuple(part if work.chunks == 1 else part._replace(chunk=chunk) for segment in segments
                      for work in segment for chunk in range(work.chunks) for part in work.parts), 1)


def laid_out(steps: Sequence[Step], slots: Mapping[Value, Slot], temps: Mapping[Node, tuple[Slot, ...]],
             constants: Sequence[Slot]) -> tuple[list[tuple[tuple[Slot, ...], ...]], list[Copy]]:
    """Where the buffers of all kernels lie, and what is copied.

    Args:
        steps: of a graph.
        slots: where its values lie.
        temps: where the temporaries of its steps do.
        constants: where those of the steps that are loops do, one behind the other.
    """
    rows: list[tuple[tuple[Slot, ...], ...]] = []
    copies: list[Copy] = []
    at = 0
    for step in steps:
        node = step.node
        near = (*(slots[v] for v in (*node.operands, *node.results)), *temps.get(node, ()))
        if not isinstance(step, Loop):
            rows.append((near,))
            continue
        around = (*near, *constants[at: at + len(step.constants)])
        at += len(step.constants)
        rows += [tuple(tuple(_seen_from(around, s) for s in row) for row in kernel) for kernel in step.rows]
        copies += [(_seen_from(around, a), _seen_from(around, b), size) for a, b, size in step.copies]
    return rows, copies


def _seen_from(around: Sequence[Slot], slot: Slot) -> Slot:
    base = around[slot.base]
    return Slot(base.base, base.offset + slot.offset) if slot.offset else base
