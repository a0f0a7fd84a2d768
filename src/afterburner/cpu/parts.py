"""Where a program stops for its caller to bind new values, so that old and new need not all exist at once.

A variable's new value needs a buffer of its own as long as anybody may read the old one. Where a step updates a
gigabyte of weights and optimizer slots, that would be a second gigabyte. So it is run in parts: after each the
caller binds what is final, and the old buffers serve for the new values of the next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..ir import Graph
from ..runtime.executable import Part
from .loops import COPY, Segment
from .place import Placement
from .program import FIRST_EXTERNAL

STOP_BYTES = 16 << 20  # of final values that are worth a stop: to write them takes milliseconds, to stop 0.2


class _Uses:
    """The first and the last segment that touch each of the caller's buffers."""

    def __init__(self) -> None:
        self.first: dict[int, int] = {}
        self.last: dict[int, int] = {}

    def add(self, segment: int, base: int) -> None:
        external = base - FIRST_EXTERNAL
        if external >= 0:
            self.first.setdefault(external, segment)
            self.last[external] = segment


def parts(graph: Graph, segments: Sequence[Segment], placement: Placement) -> tuple[Part, ...]:
    """The parts of a program: ``segments`` and, where outputs are copied, one more."""
    uses = _uses(segments, placement)
    inputs, end = len(graph.inputs), len(segments) + bool(placement.copies)
    final = _final(graph, uses)
    ends = _stops(graph, final, end)
    starts = [0, *ends[:-1]]
    begun = _by_part(ends, {i: uses.first.get(inputs + i, 0) for i in range(len(graph.outputs))})
    finished = _by_part(ends, final)
    return tuple(Part((a, b), tuple(begun[n]), tuple(finished[n]))
                 for n, (a, b) in enumerate(zip(starts, ends, strict=True)))


def _uses(segments: Sequence[Segment], placement: Placement) -> _Uses:
    uses = _Uses()
    for number, segment in enumerate(segments):
        for part in (part for work in segment for part in work.parts):
            row = placement.inner[part.row][:2] if part.kernel == COPY else placement.rows[part.kernel][part.row]
            for slot in row:
                uses.add(number, slot.base)
    for source, target, _ in placement.copies:
        uses.add(len(segments), source.base)
        uses.add(len(segments), target.base)
    return uses


def _final(graph: Graph, uses: _Uses) -> dict[int, int]:
    """The segment after which each new value of a variable may be bound, by the output's position.

    None is bound before all checks are known: where one fails nothing may have been written.
    """
    inputs = len(graph.inputs)
    checked = max((uses.last.get(inputs + i, 0) for i, o in enumerate(graph.outputs) if o.check is not None), default=0)
    return {i: max(checked, uses.last.get(inputs + i, 0), uses.last.get(o.updates, 0))
            for i, o in enumerate(graph.outputs) if o.updates is not None}


def _stops(graph: Graph, final: Mapping[int, int], end: int) -> list[int]:
    """The ends of the parts, the end of the program last."""
    bytes_at: dict[int, int] = {}
    for position, segment in final.items():
        bytes_at[segment] = bytes_at.get(segment, 0) + graph.outputs[position].value.type.bytes
    stops, waiting = [], 0
    for segment in sorted(bytes_at):
        waiting += bytes_at[segment]
        if waiting >= STOP_BYTES and segment + 1 < end:
            stops.append(segment + 1)
            waiting = 0
    return [*stops, end]


def _by_part(ends: Sequence[int], segment_of: Mapping[int, int]) -> list[list[int]]:
    """Positions by the part in which their segment lies."""
    found: list[list[int]] = [[] for _ in ends]
    for position, segment in segment_of.items():
        found[next((n for n, end in enumerate(ends) if segment < end), len(ends) - 1)].append(position)
    return found
