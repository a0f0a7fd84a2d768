"""Sums over all rows of a contraction's result that ride on it: each chunk adds up its own as it finishes tiles, in
registers, and a last phase adds the chunks' in order. What a loop would read again is so never read.
"""

from __future__ import annotations

from dataclasses import replace

from llvmlite import ir as ll

from ..emitter import F32, Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
from .epilogue import Contraction, padded
from .gemm import MOST_CHUNKS, Numeric, numeric, range_of_part, store_part
from .winograd_patches import registers

_REGISTERS = 16  # of the combining phase's chunks, at least


def with_sums(kernel: Kernel, contraction: Contraction, isa: Isa) -> Kernel:
    """The kernel of a contraction, which finishes every element once, with what its fusion sums; the kernel itself
    where that is nothing."""
    sums = contraction.sums
    if not sums:
        return kernel
    num, width = numeric(contraction.dtype, isa), contraction.shapes[-1][-1]
    row = len(sums) * padded(width, num)
    first = 0 if kernel.kept is None else 1  # phases that do not always run finish nothing
    temp, rows = len(kernel.temps), sum(phase.chunks for phase in kernel.phases[first:])
    phases, done = list(kernel.phases[:first]), 0
    for phase in kernel.phases[first:]:
        phases.append(_summing(phase, temp, done, row, num))
        done += phase.chunks
    parts = max(1, min(MOST_CHUNKS, width // num.lanes // _REGISTERS))

    def combine(e: Emitter) -> None:
        for index, value in enumerate(sums):
            begin = index * padded(width, num)
            _combine(e, num, e.at(e.temp(temp), begin, F32), row, rows, contraction.result(e, value), width, parts)

    return replace(kernel, phases=(*phases, Phase(parts, combine)), temps=(*kernel.temps, rows * row * num.bytes))


def _summing(phase: Phase, temp: int, done: int, row: int, num: Numeric) -> Phase:
    """A phase whose chunks begin with sums of nothing."""

    def emit(e: Emitter) -> None:
        e.sums = e.at(e.temp(temp), e.b.mul(e.b.add(e.chunk, i64(done)), i64(row)), F32)
        with e.loop(0, row, num.lanes, "clear") as at:
            e.store(num.zero, e.at(e.sums, at, F32), num.bytes)
        phase.emit(e)

    return Phase(phase.chunks, emit)


def _combine(e: Emitter, num: Numeric, source: ll.Value, row: int, rows: int, target: ll.Value, width: int,
             parts: int) -> None:
    """This chunk's share of the columns: the sum of all rows."""
    start, end = range_of_part(e, e.chunk, -(-width // num.lanes), parts)
    for low, high, lanes in registers(width, num.lanes):
        first = e.larger(e.b.mul(start, i64(num.lanes)), i64(low))
        with e.loop(first, e.smaller(e.b.mul(end, i64(num.lanes)), i64(high)), num.lanes, "column") as column:
            given = e.at(source, column, F32)
            with e.loop_carried(0, rows, 1, [num.zero], "row") as (r, now, after):
                other = e.load(e.at(given, e.b.mul(r, i64(row)), F32), num.vector, num.bytes)
                after[0] = num.add(e, now[0], other)
            store_part(e, after[0], e.at(target, column, F32), lanes, num.bytes)
