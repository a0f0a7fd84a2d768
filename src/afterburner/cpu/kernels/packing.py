"""Copies of GEMM operands in the order in which a register tile reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir as ll

from .. import halves
from ..emitter import Emitter, i64
from ..kernel import Phase
from .gemm import LINE, MOST_CHUNKS, Numeric, load_lanes, range_of_part, shuffle, store_lanes

ROWS_AHEAD = 12  # are asked for while rows are packed: what memory takes to bring them
FAR = 1 << 10  # bytes between rows from which on a processor does not see which comes next


def copy_columns(e: Emitter, num: Numeric, source: ll.Value, target: ll.Value, vectors: int, last_lanes: int,
                 stored: ll.Type) -> None:
    """Copy adjacent elements to ``vectors`` registers' worth of memory, zeros after ``last_lanes`` of the last."""
    for v in range(vectors):
        lanes = last_lanes if v == vectors - 1 else num.lanes
        value = load_lanes(e, e.at(source, v * num.lanes, stored), num, lanes, stored)
        e.store(value, e.at(target, v * num.lanes, num.element), num.lanes * num.bytes)


def pack_columns(e: Emitter, num: Numeric, source: ll.Value, stride: int, steps: ll.Value, target: ll.Value,
                 vectors: int, last_lanes: int, stored: ll.Type) -> None:
    """Copy ``steps`` rows of ``vectors`` registers, ``stride`` elements apart, to consecutive registers.

    Later rows are asked for a few ahead, and not all of them early: thousands of lines that lie some kilobytes apart
    fall into few sets even of a second-level cache, and are gone before they are read.
    """
    row, size = vectors * num.lanes, num.bytes if stored == num.element else 2
    asked = range(0, row * size, LINE) if stride * size >= FAR else ()
    with e.loop_carried(0, steps, 1, [source, target], "pack") as (_, now, after):
        for at in asked:
            e.prefetch(e.at(now[0], ROWS_AHEAD * stride + at // size, stored))
        copy_columns(e, num, now[0], now[1], vectors, last_lanes, stored)
        after[:] = [e.at(now[0], stride, stored), e.at(now[1], row, num.element)]


def pack_columns_transposed(e: Emitter, num: Numeric, source: ll.Value, stride: int, steps: ll.Value,
                            target: ll.Value, vectors: int, last_lanes: int, stored: ll.Type) -> None:
    """As ``pack_columns`` where column j is the contiguous row j of ``source``: squares are transposed."""
    whole = vectors if last_lanes == num.lanes else vectors - 1
    stride_into = vectors * num.lanes
    with e.loop(0, whole, name="register") as v:
        lines = e.at(source, e.b.mul(v, i64(num.lanes * stride)), stored)
        into = e.at(target, e.b.mul(v, i64(num.lanes)), num.element)
        _transpose_lines(e, num, lines, stride, steps, into, stride_into, num.lanes, stored)
    if whole < vectors:
        lines = e.at(source, whole * num.lanes * stride, stored)
        into = e.at(target, whole * num.lanes, num.element)
        _transpose_lines(e, num, lines, stride, steps, into, stride_into, last_lanes, stored)


def _transpose_lines(e: Emitter, num: Numeric, lines: ll.Value, stride: int, steps: ll.Value, into: ll.Value,
                     row: int, count: int, stored: ll.Type) -> None:
    """Make ``count`` lines the first columns of a register's width; ``row`` elements lie between its rows."""
    align = num.lanes * num.bytes
    squares = e.b.and_(steps, i64(-num.lanes))
    with e.loop(0, squares, num.lanes, "square") as k:
        block = [load_lanes(e, e.at(e.at(lines, k, stored), j * stride, stored), num, num.lanes, stored)
                 if j < count else num.zero for j in range(num.lanes)]
        at = e.at(into, e.b.mul(k, i64(row)), num.element)
        for j, column in enumerate(transpose(e, block)):
            e.store(column, e.at(at, j * row, num.element), align)
    if isinstance(steps, ll.Constant) and steps.constant % num.lanes == 0:
        return
    with e.loop(squares, steps, 1, "line") as k:
        line = e.at(lines, k, stored)
        at = e.at(into, e.b.mul(k, i64(row)), num.element)
        for j in range(num.lanes):
            value = load_scalar(e, num, e.at(line, j * stride, stored), stored) if j < count \
                else ll.Constant(num.element, 0)
            e.store(value, e.at(at, j, num.element), num.bytes)


def copy_run(e: Emitter, num: Numeric, source: ll.Value, target: ll.Value, count: int, stored: ll.Type) -> None:
    """Copy a few adjacent elements, widening ``stored``."""
    for at in range(0, count, num.lanes):
        lanes = min(num.lanes, count - at)
        value = load_lanes(e, e.at(source, at, stored), num, lanes, stored)
        store_lanes(e, value, e.at(target, at, num.element), num, lanes)


def load_scalar(e: Emitter, num: Numeric, address: ll.Value, stored: ll.Type) -> ll.Value:
    """One element, widened to the type in which products are accumulated."""
    if stored == num.element:
        return e.load(address, num.element, num.bytes)
    return halves.widen(e, e.load(address, stored, 2))


def transpose(e: Emitter, rows: Sequence[ll.Value]) -> list[ll.Value]:
    """A square of registers transposed by log2(lanes) rounds of two-input shuffles."""
    lanes = len(rows)
    result, span = list(rows), lanes // 2
    while span:
        low = [j if not j & span else lanes + j - span for j in range(lanes)]
        high = [j + span if not j & span else lanes + j for j in range(lanes)]
        for i in (i for i in range(lanes) if not i & span):
            a, b = result[i], result[i + span]
            result[i], result[i + span] = shuffle(e, a, b, low), shuffle(e, a, b, high)
        span //= 2
    return result


def copy_rows(e: Emitter, num: Numeric, source: ll.Value, source_stride: int, target: ll.Value,
              target_stride: int, rows: ll.Value | int, columns: ll.Value | int, stored: ll.Type) -> None:
    """Copy a rectangle, widening ``stored``; strides in elements."""
    columns = i64(columns) if isinstance(columns, int) else columns
    with e.loop_carried(0, rows, 1, [source, target], "row") as (_, now, after):
        whole = e.b.and_(columns, i64(-num.lanes))
        with e.loop(0, whole, num.lanes, "copy") as j:
            value = load_lanes(e, e.at(now[0], j, stored), num, num.lanes, stored)
            store_lanes(e, value, e.at(now[1], j, num.element), num, num.lanes)
        with e.loop(whole, columns, 1, "rest") as j:
            e.store(load_scalar(e, num, e.at(now[0], j, stored), stored), e.at(now[1], j, num.element), num.bytes)
        after[:] = [e.at(now[0], source_stride, stored), e.at(now[1], target_stride, num.element)]


def widen_phase(num: Numeric, stored: ll.Type, source: Callable[[Emitter], ll.Value], size: int, temp: int) -> Phase:
    """Converts ``size`` 16-bit floats to f32 in a temporary."""
    chunks = max(1, min(MOST_CHUNKS, size // 65536))

    def emit(e: Emitter) -> None:
        first, end = range_of_part(e, e.chunk, size, chunks)
        given, target = e.at(source(e), first, stored), e.at(e.temp(temp), first, num.element)
        copy_rows(e, num, given, 0, target, 0, 1, e.b.sub(end, first), stored)

    return Phase(chunks, emit)
