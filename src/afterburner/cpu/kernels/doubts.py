"""Kernels that look at what they compute, and compute it another way where it is not to be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from llvmlite import ir as ll

from ..emitter import I1, I8, Emitter, i64
from ..kernel import Kernel, Phase
from .gemm import Numeric


@dataclass(frozen=True)
class Doubts:
    """A byte for each chunk of a phase: whether it found what rules the result out.

    Attributes:
        temp: temporary of the kernel that holds them.
        at: where they begin in it, in bytes.
        chunks: of the phase.
    """

    temp: int
    at: int
    chunks: int

    def tell(self, e: Emitter, doubt: ll.Value) -> None:
        """Note what this chunk found, an i1; every chunk does."""
        e.store(e.b.zext(doubt, I8), e.at(e.temp(self.temp), e.b.add(i64(self.at), e.chunk), I8), 1)

    def any(self, e: Emitter) -> ll.Value:
        """Whether a chunk found something, an i1; for phases that follow."""
        noted = e.at(e.temp(self.temp), self.at, I8)
        with e.loop_carried(0, self.chunks, 1, [ll.Constant(I8, 0)], "doubt") as (chunk, now, after):
            after[0] = e.b.or_(now[0], e.load(e.at(noted, chunk, I8), I8, 1))
        return e.b.trunc(after[0], I1)


def otherwise(kernel: Kernel, doubts: Sequence[Doubts], other: Kernel) -> Kernel:
    """The kernel, followed by another one for the same node that runs where there are doubts and writes all results
    anew."""
    first = len(kernel.temps)

    def only_in_doubt(phase: Phase) -> Phase:
        def emit(e: Emitter) -> None:
            found = doubts[0].any(e)
            for more in doubts[1:]:
                found = e.b.or_(found, more.any(e))
            with e.b.if_then(found, likely=False), e.temps_from(first):
                phase.emit(e)
        return Phase(phase.chunks, emit)

    return replace(kernel, phases=(*kernel.phases, *map(only_in_doubt, other.phases)),
                   temps=(*kernel.temps, *other.temps), scratch=max(kernel.scratch, other.scratch))


@dataclass(frozen=True)
class Finite:
    """Notes in a register of scratch whether values are finite.

    Attributes:
        at: element of scratch where the register lies, aligned.
    """

    at: int

    def begin(self, e: Emitter, num: Numeric) -> None:
        """Before the first values of a chunk."""
        self._store(e, num, num.zero)

    def note(self, e: Emitter, num: Numeric, values: Iterable[ll.Value]) -> None:
        """Look at registers: products with zero are NaN for what is not finite, and so is a sum with them."""
        noted = self._load(e, num)
        for value in values:
            noted = num.multiply_add(e, value, num.zero, noted)
        self._store(e, num, noted)

    def end(self, e: Emitter, num: Numeric) -> ll.Value:
        """After the last values: whether one was not finite, an i1."""
        noted = self._load(e, num)
        return any_lane(e, e.b.fcmp_unordered("uno", noted, noted))

    def _load(self, e: Emitter, num: Numeric) -> ll.Value:
        return e.load(e.at(e.scratch, self.at, num.element), num.vector, num.lanes * num.bytes)

    def _store(self, e: Emitter, num: Numeric, value: ll.Value) -> None:
        e.store(value, e.at(e.scratch, self.at, num.element), num.lanes * num.bytes)


def any_lane(e: Emitter, lanes: ll.Value) -> ll.Value:
    """Whether a lane of a vector of i1 is set."""
    if not isinstance(lanes.type, ll.VectorType):
        return lanes
    bits = ll.IntType(lanes.type.count)
    return e.b.icmp_unsigned("!=", e.b.bitcast(lanes, bits), ll.Constant(bits, 0))
