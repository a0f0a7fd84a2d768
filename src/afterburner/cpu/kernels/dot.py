"""Products of few rows and contiguous inner axes: vectors run along k, lanes are added at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llvmlite import ir as ll

from ..emitter import I32, Emitter, i64
from ..kernel import Phase
from .epilogue import Finish
from .gemm import MOST_CHUNKS, Numeric, cut, load_lanes, range_of_part, shuffle

if TYPE_CHECKING:
    from .matmul import Product

_COLUMNS = 4  # with two rows: eight sums in flight cover the latency of a multiply-add
_CHUNK_BYTES = 256 << 10


def dot_phase(p: Product, num: Numeric, operands: Callable[[Emitter], tuple[ll.Value, ll.Value]],
              finish: Finish) -> Phase:
    """C[m,n] = sum over k of A[m,k] B[n,k], both contiguous in k."""
    columns = cut(p.n, max(1, _COLUMNS * 2 // p.m))
    chunks = max(1, min(MOST_CHUNKS, columns.parts * p.batch, p.batch * p.n * p.k * num.bytes // _CHUNK_BYTES))

    def emit(e: Emitter) -> None:
        a, b = operands(e)
        first, end = range_of_part(e, e.chunk, p.batch * columns.parts, chunks)
        batch_0, batch_1 = e.b.udiv(first, i64(columns.parts)), e.b.udiv(end, i64(columns.parts))
        with e.loop(batch_0, e.b.add(batch_1, i64(1)), name="batch") as batch:
            start = e.b.mul(batch, i64(columns.parts))
            low = _clamp(e, e.b.sub(first, start), columns.parts)
            high = _clamp(e, e.b.sub(end, start), columns.parts)
            rows = e.at(a, e.b.mul(batch, i64(p.m * p.k)), num.element)
            for width, _, column in columns.walk(e, low, high):
                line = e.at(b, e.b.add(e.b.mul(batch, i64(p.n * p.k)), e.b.mul(column, i64(p.k))), num.element)
                target = e.b.add(e.b.mul(batch, i64(p.m * p.n)), column)
                sums = _block(e, p, num, rows, line, width)
                for row in range(p.m):
                    tile, last = _gathered(e, num, sums[row * width: (row + 1) * width])
                    finish(e, [tile], e.b.add(target, i64(row * p.n)), 0, column, last)

    return Phase(chunks, emit)


def _clamp(e: Emitter, value: ll.Value, limit: int) -> ll.Value:
    above = e.b.select(e.b.icmp_signed("<", value, i64(0)), i64(0), value)
    return e.b.select(e.b.icmp_signed(">", above, i64(limit)), i64(limit), above)


def _block(e: Emitter, p: Product, num: Numeric, a: ll.Value, b: ll.Value, width: int) -> list[ll.Value]:
    whole = p.k - p.k % num.lanes
    sums = [num.zero] * (p.m * width)
    if whole:
        with e.loop_carried(0, whole, num.lanes, sums, "k") as (k, now, after):
            after[:] = _products(e, p, num, e.at(a, k, num.element), e.at(b, k, num.element), now, num.lanes, width)
        sums = after
    if p.k > whole:
        sums = _products(e, p, num, e.at(a, whole, num.element), e.at(b, whole, num.element), sums, p.k - whole,
                         width)
    return [sum_lanes(e, num, value) for value in sums]


def _gathered(e: Emitter, num: Numeric, scalars: list[ll.Value]) -> tuple[list[ll.Value], int]:
    """Scalars side by side in registers, and how many lanes of the last are used."""
    registers: list[ll.Value] = []
    for i, value in enumerate(scalars):
        if i % num.lanes == 0:
            registers.append(num.zero)
        registers[-1] = e.b.insert_element(registers[-1], value, ll.Constant(I32, i % num.lanes))
    return registers, (len(scalars) - 1) % num.lanes + 1


def _products(e: Emitter, p: Product, num: Numeric, a: ll.Value, b: ll.Value, sums: list[ll.Value], lanes: int,
              width: int) -> list[ll.Value]:
    rows = [load_lanes(e, e.at(a, r * p.k, num.element), num, lanes) for r in range(p.m)]
    columns = [load_lanes(e, e.at(b, c * p.k, num.element), num, lanes) for c in range(width)]
    return [num.multiply_add(e, rows[i // width], columns[i % width], value) for i, value in enumerate(sums)]


def sum_lanes(e: Emitter, num: Numeric, value: ll.Value) -> ll.Value:
    """The lanes of a register added pairwise, halves first.

    The halves are vectors of their own: where sums are taken in whole registers, LLVM 22.1 joins two of 512 bits to
    horizontal additions of integers that mix up their lanes.
    """
    width = num.lanes
    if width == 1:
        return value
    while width > 1:
        width //= 2
        low, high = (shuffle(e, value, value, range(first, first + width)) for first in (0, width))
        value = num.add(e, low, high)
    return e.b.extract_element(value, ll.Constant(I32, 0))
