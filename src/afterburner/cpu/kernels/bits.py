"""Products of the elements that the bits of words tell, for sums that leave zeros out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from llvmlite import ir as ll

from ..emitter import F32, I1, I64, Emitter, const, i64
from .gemm import Numeric, Tile, shaped, smaller

WORD = 64  # bits
_ENOUGH = 8  # sums: a multiply-add takes four cycles, two start in each

Element = Callable[[int, ll.Value], ll.Value]
Line = Callable[[ll.Value], ll.Value]


def add_bits(e: Emitter, num: Numeric, tile: Tile, masks: Sequence[ll.Value], element: Element, line: Line,
             offsets: Sequence[int]) -> Tile:
    """``tile[r][v] += sum over the bits of masks[r] of element[r] * line[v]``, the lowest bit first.

    Where rows have sums enough to be in flight, one row after the other: a loop to the last bit ends with one branch
    that is not predicted. (Taking bits in turn was 5 % slower there.) Shorter rows take bits in turn while each has
    one left.

    Args:
        e, num: where to emit, arithmetic of float32.
        tile: sums, rows by registers.
        masks: a word of 64 bits a row.
        element: address of a row's element, from its number.
        line: address of the first register of the line of elements of some number.
        offsets: elements from there to each register.
    """
    if len(tile[0]) < _ENOUGH:
        tile, masks = _in_turn(e, num, tile, masks, element, line, offsets)
    return [_add_row(e, num, sums, mask, lambda bit, r=row: element(r, bit), line, offsets)  # type: ignore[misc]
            for row, (sums, mask) in enumerate(zip(tile, masks, strict=True))]


def _in_turn(e: Emitter, num: Numeric, tile: Tile, masks: Sequence[ll.Value], element: Element, line: Line,
             offsets: Sequence[int]) -> tuple[Tile, Sequence[ll.Value]]:
    """All rows a bit a turn while each has one left; the sums, and the bits that remain."""
    counts = [e.intrinsic("llvm.ctpop", I64, mask) for mask in masks]
    turns, count, width = reduce(lambda a, b: smaller(e, a, b), counts), len(masks), len(offsets)
    with e.loop_carried(0, turns, 1, [*masks, *(v for sums in tile for v in sums)], "turn") as (_, now, after):
        for r in range(count):
            at = count + r * width
            after[r], after[at: at + width] = _added(e, num, now[r], now[at: at + width],
                                                     lambda bit, r=r: element(r, bit), line, offsets)  # type: ignore[misc]
    return shaped(list(after[count:]), width), list(after[:count])


def _add_row(e: Emitter, num: Numeric, sums: Sequence[ll.Value], mask: ll.Value, element: Line, line: Line,
             offsets: Sequence[int]) -> list[ll.Value]:
    with e.loop_while([mask, *sums], lambda now: e.b.icmp_unsigned("!=", now[0], i64(0)), "bit") as (now, after):
        after[0], after[1:] = _added(e, num, now[0], now[1:], element, line, offsets)
    return after[1:]


def _added(e: Emitter, num: Numeric, mask: ll.Value, sums: Sequence[ll.Value], element: Line, line: Line,
           offsets: Sequence[int]) -> tuple[ll.Value, list[ll.Value]]:
    """The mask without its lowest bit, and the sums with its products."""
    number = e.b.cttz(mask, const(I1, 1))
    spread = e.splat(e.load(element(number), F32, 4), num.lanes)
    first = e.opaque(line(number))
    vectors = [e.load(e.at(first, offset, F32), num.vector, num.lanes * num.bytes) for offset in offsets]
    following = [num.multiply_add(e, spread, vector, total) for vector, total in zip(vectors, sums, strict=True)]
    return e.b.and_(mask, e.b.sub(mask, i64(1))), following
