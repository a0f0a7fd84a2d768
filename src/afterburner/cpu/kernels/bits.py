"""Products of the elements that the bits of words tell, for sums that leave zeros out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

from llvmlite import ir as ll

from ..emitter import F32, I1, I64, Emitter, const, i64
from .gemm import Numeric, Tile, shaped, smaller

WORD = 64  # bits

Element = Callable[[int, ll.Value], ll.Value]
Line = Callable[[ll.Value, int], ll.Value]


def add_bits(e: Emitter, num: Numeric, tile: Tile, masks: Sequence[ll.Value], element: Element, line: Line) -> Tile:
    """``tile[r][v] += sum over the bits of masks[r] of element[r] * line[v]``, the lowest bit first.

    All rows take a bit a turn while each has one left, so that more sums are in flight; then each takes its rest. (One
    loop to the end, in which rows without bits multiply zeros, was 5 % slower.)

    Args:
        e, num: where to emit, arithmetic of float32.
        tile: sums, rows by registers.
        masks: a word of 64 bits a row.
        element: address of a row's element, from its number.
        line: address of register v of the line of elements of some number.
    """
    counts = [e.intrinsic("llvm.ctpop", I64, mask) for mask in masks]
    shared = reduce(lambda a, b: smaller(e, a, b), counts)
    rows = list(range(len(tile)))
    tile, left = _add(e, num, tile, masks, rows, shared, element, line)
    if len(tile) == 1:
        return tile
    return [_add(e, num, [tile[r]], [left[r]], [r], e.b.sub(counts[r], shared), element, line)[0][0] for r in rows]


def _add(e: Emitter, num: Numeric, tile: Tile, masks: Sequence[ll.Value], rows: Sequence[int], turns: ll.Value,
         element: Element, line: Line) -> tuple[Tile, list[ll.Value]]:
    """Add the products of the lowest ``turns`` bits of each mask; the sums, and the bits that remain."""
    width, count = len(tile[0]), len(tile)
    flat = [v for sums in tile for v in sums]
    with e.loop_carried(0, turns, 1, [*masks, *flat], "bit") as (_, now, after):
        for r, row in enumerate(rows):
            number = e.b.cttz(now[r], const(I1, 1))
            spread = e.splat(e.load(element(row, number), F32, 4), num.lanes)
            after[r] = e.b.and_(now[r], e.b.sub(now[r], i64(1)))
            for v in range(width):
                at = count + r * width + v
                vector = e.load(line(number, v), num.vector, num.lanes * num.bytes)
                after[at] = num.multiply_add(e, spread, vector, now[at])
    return shaped(list(after[count:]), width), list(after[:count])
