"""Whether float32 elements are all finite: where zeros are left out, a zero times an infinity would be missing."""

from __future__ import annotations

from llvmlite import ir as ll

from ..emitter import I32, I64, Emitter, const, i64
from .gemm import Numeric, range_of_part

_SIGN = 0x7FFF_FFFF
_LARGEST = 0x7F7F_FFFF  # bits of the largest finite float32

NOTE = 8  # bytes


def note_finite(e: Emitter, num: Numeric, base: ll.Value, count: int, chunks: int, notes: ll.Value) -> None:
    """Note whether this chunk's share of ``count`` elements is finite, one of ``chunks`` notes."""
    first, end = range_of_part(e, e.chunk, count, chunks)
    found = largest(e, num, e.at(base, first, num.element), e.b.sub(end, first), no_magnitudes(e, num))
    e.store(e.b.zext(is_finite(e, num, found), I64), e.at(notes, e.chunk, I64), NOTE)


def noted_finite(e: Emitter, notes: ll.Value, chunks: int) -> ll.Value:
    """Whether all notes say so."""
    with e.loop_carried(0, chunks, 1, [i64(1)], "finite") as (i, now, after):
        after[0] = e.b.and_(now[0], e.load(e.at(notes, i, I64), I64, NOTE))
    return e.b.icmp_signed("!=", after[0], i64(0))


def largest(e: Emitter, num: Numeric, base: ll.Value, count: ll.Value | int, start: ll.Value) -> ll.Value:
    """A register that holds the largest magnitudes, as integers, of ``count`` elements and of ``start``."""
    whole = i64(count // num.lanes * num.lanes) if isinstance(count, int) else e.b.and_(count, i64(-num.lanes))
    type_ = start.type
    with e.loop_carried(0, whole, num.lanes, [start], "finite") as (i, now, after):
        after[0] = _larger(e, now[0], e.load(e.at(base, i, num.element), type_, 4))
    found = after[0]
    if isinstance(count, int) and count % num.lanes == 0:
        return found
    with e.loop_carried(whole, count, 1, [found], "finite") as (i, now, after):
        one = e.load(e.at(base, i, num.element), I32, 4)
        after[0] = _larger(e, now[0], e.splat(one, num.lanes))
    return after[0]


def _larger(e: Emitter, now: ll.Value, raw: ll.Value) -> ll.Value:
    magnitude = e.b.and_(raw, const(raw.type, _SIGN))
    return e.b.select(e.b.icmp_signed(">", magnitude, now), magnitude, now)


def no_magnitudes(e: Emitter, num: Numeric) -> ll.Value:
    """What ``largest`` starts from."""
    return const(e.vector(I32, num.lanes), 0)


def is_finite(e: Emitter, num: Numeric, found: ll.Value) -> ll.Value:
    """Whether all magnitudes that ``largest`` found are finite."""
    beyond = e.b.icmp_signed(">", found, const(found.type, _LARGEST))
    if num.lanes == 1:
        return e.b.not_(beyond)
    mask = e.b.bitcast(beyond, ll.IntType(num.lanes))
    return e.b.icmp_unsigned("==", mask, ll.Constant(mask.type, 0))
