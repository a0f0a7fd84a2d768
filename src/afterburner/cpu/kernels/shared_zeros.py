"""Zeros that all pixels of a register tile have in common, as behind a ReLU: steps of its sums that are left out.

A channel that is zero at one pixel often is at its neighbours. For every tile of a row of the image those steps are
listed at which some pixel is not zero, once for all rows of taps and all output channels; the sums then take the
listed steps in turn, their operands in registers as ever. What is left out are products with zero, so the results are
the bits of ``correlation``; where an element of the filter is not finite, all steps are listed.
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir as ll

from ..emitter import F32, I8, I16, I32, I64, Emitter, const, i64
from ..kernel import Phase
from .correlation import Correlation, Plan, kinds_of
from .finite import NOTE, note_finite, noted_finite
from .gemm import LINE, Numeric, chunks_of, larger, range_of_part, smaller, walk_groups
from .loops.values import table
from .nonzeros import orders
from .sum_blocks import ends_of, pieces_of

_FEWEST_VECTORS = 8  # registers of products an element: to list it takes as long as about one
_MOST_BYTES = 1 << 20  # of lists, which then stay in the caches
_MOST_STEPS = 1 << 16  # numbers of 16 bits
_VECTOR = 8  # steps looked at in one go
_STEP_CYCLES = 1.3  # for each step and pixel of eight
_WORTH_SHARING = 8_000  # cycles: there is a barrier after the lists in any case


class SharedZeros:
    """Lists for one correlation, in temporary 2 of the kernel: for every row of the image and tile of a row of pixels,
    how many steps are listed of each run of taps that is valid for the same pixels, then the steps: the number of each
    times the lanes of a register. Temporary 1 has notes on whether the filter is finite, made by the ``packs`` chunks
    that pack it."""

    def __init__(self, c: Correlation, plan: Plan, num: Numeric) -> None:
        self.c, self.tiles, self.num = c, plan.tiles, num
        self.run = c.columns.taps.count * c.depth
        self.ends = ends_of(c)
        kinds = kinds_of(plan.tiles, c.columns)
        runs = max(sum(piece.count for piece in pieces_of(c, masks, self.ends)) for _, masks, _, _ in kinds)
        self.listed_at = -(-runs // 4) * 16
        self.slot = -(-(self.listed_at + 2 * (self.run + runs * _VECTOR)) // LINE) * LINE

    @property
    def lines(self) -> int:
        """Rows of all images."""
        return self.c.images * self.c.rows.inputs

    @property
    def bytes(self) -> int:
        return self.lines * self.tiles.parts * self.slot

    def slot_of(self, e: Emitter, image: ll.Value, row: ll.Value, tile: ll.Value) -> ll.Value:
        """The lists of a tile of an image's row, which may lie above or below of the image."""
        line = e.b.add(e.b.mul(image, i64(self.c.rows.inputs)), row)
        number = e.b.add(e.b.mul(line, i64(self.tiles.parts)), tile)
        return e.at(e.temp(2), e.b.mul(number, i64(self.slot)), I8)

    def below(self, e: Emitter, slot: ll.Value, rows: ll.Value) -> ll.Value:
        """The lists of the same tile some rows below."""
        return e.at(slot, e.b.mul(rows, i64(self.tiles.parts * self.slot)), I8)

    def listed(self, e: Emitter, slot: ll.Value, number: ll.Value, first: ll.Value) -> tuple[ll.Value, ll.Value]:
        """The list of piece ``number``, which begins at step ``first``, and how many steps are in it."""
        at = e.b.add(first, e.b.mul(number, i64(_VECTOR)))
        steps = e.at(e.at(slot, self.listed_at, I8), at, I16)
        count = e.load(e.at(slot, number, I32), I32, 4)
        return steps, e.b.sext(count, I64)

    def note(self, e: Emitter, filter_: ll.Value, size: int, packs: int) -> None:
        """Note whether this chunk's share of the filter of ``size`` elements is finite."""
        note_finite(e, self.num, filter_, size, packs, e.temp(1))

    def temps(self, packs: int) -> tuple[int, int]:
        """Bytes of the notes and of the lists."""
        return packs * NOTE, self.bytes

    def phase(self, image: Callable[[Emitter], ll.Value], packs: int) -> Phase:
        """Makes the lists; of all steps where the filter is not finite."""
        cells = self.lines * self.tiles.parts
        cycles = cells * self.run * self.tiles.widest * _STEP_CYCLES / _VECTOR
        chunks = min(cells, max(chunks_of(cycles), 1 + (cycles >= _WORTH_SHARING)))

        def emit(e: Emitter) -> None:
            every = e.b.select(noted_finite(e, e.temp(1), packs), ll.Constant(I8, 0), ll.Constant(I8, -1))
            order = table(e, orders())
            first, end = range_of_part(e, e.chunk, cells, chunks)
            for line, low, high in walk_groups(e, self.lines, self.tiles.parts, first, end):
                self._list_line(e, image(e), every, order, line, low, high)

        return Phase(chunks, emit)

    def _list_line(self, e: Emitter, image: ll.Value, every: ll.Value, order: ll.Value, line: ll.Value,
                   low: ll.Value, high: ll.Value) -> None:
        c, taps = self.c, self.c.columns.taps
        row = e.at(image, e.b.mul(line, i64(c.columns.inputs * c.pixel)), F32)
        slots = e.at(e.temp(2), e.b.mul(line, i64(self.tiles.parts * self.slot)), I8)
        for _, masks, start, stop in kinds_of(self.tiles, c.columns):
            with e.loop(larger(e, low, i64(start)), smaller(e, high, i64(stop)), name="tile") as tile:
                x = e.b.add(e.b.mul(self.tiles.start(e, tile), i64(taps.stride)), i64(taps.offset))
                source = e.at(row, e.b.mul(x, i64(c.pixel)), F32)
                slot = e.at(slots, e.b.mul(tile, i64(self.slot)), I8)
                for piece in pieces_of(c, masks, self.ends):
                    at = [p * taps.stride * c.pixel for p in piece.active]
                    with e.loop(0, piece.count, name="piece") as turn:
                        first = e.b.add(i64(piece.start), e.b.mul(turn, i64(piece.size)))
                        number = e.b.add(i64(piece.number), turn)
                        steps, _ = self.listed(e, slot, number, first)
                        count = self._list(e, e.at(source, first, F32), at, piece.size, every, order, steps)
                        e.store(e.b.trunc(count, I32), e.at(slot, number, I32), 4)

    def _list(self, e: Emitter, source: ll.Value, pixels: list[int], count: int, every: ll.Value, order: ll.Value,
              steps: ll.Value) -> ll.Value:
        """List the steps at which not all pixels are zero; how many there are."""
        whole = count - count % _VECTOR
        with e.loop_carried(0, whole, _VECTOR, [i64(0)], "some") as (k, now, after):
            mask = e.b.or_(self._some(e, e.at(source, k, F32), pixels, _VECTOR), every)
            index = e.b.mul(e.b.zext(mask, I64), i64(_VECTOR))
            found = e.b.zext(e.load(e.at(order, index, I8), ll.VectorType(I8, _VECTOR), 8), ll.VectorType(I16, _VECTOR))
            numbers = e.b.add(found, e.splat(e.b.trunc(k, I16), _VECTOR))
            numbers = e.b.mul(numbers, const(numbers.type, self.num.lanes))
            e.store(numbers, e.at(steps, now[0], I16), 2)
            after[0] = e.b.add(now[0], e.b.zext(e.intrinsic("llvm.ctpop", I8, mask), I64))
        size = after[0]
        for k in range(whole, count):
            e.store(ll.Constant(I16, k * self.num.lanes), e.at(steps, size, I16), 2)
            some = e.b.or_(self._some(e, e.at(source, k, F32), pixels, 1), e.b.trunc(every, ll.IntType(1)))
            size = e.b.add(size, e.b.zext(some, I64))
        return size

    def _some(self, e: Emitter, source: ll.Value, pixels: list[int], steps: int) -> ll.Value:
        """Bits of the steps at which some pixel is not zero."""
        type_ = e.vector(I32, steps)
        bits: ll.Value = const(type_, 0)
        for offset in pixels:
            bits = e.b.or_(bits, e.load(e.at(source, offset, F32), type_, 4))
        some = e.b.icmp_unsigned("!=", e.b.shl(bits, const(type_, 1)), const(type_, 0))  # without the sign
        return some if steps == 1 else e.b.bitcast(some, ll.IntType(steps))


def shared_zeros(c: Correlation, plan: Plan, num: Numeric) -> SharedZeros | None:
    """Lists for a correlation, or None where making them takes longer than they save."""
    rows, columns = c.rows.taps, c.columns.taps
    vectors = rows.count * columns.count * -(-c.width // num.lanes)
    plain = (c.groups == 1 and num.bytes == 4 and num.is_float and rows.count >= rows.stride >= 1
             and columns.count >= columns.stride and (columns.count == 1 or c.merged))
    if not plain or vectors < _FEWEST_VECTORS or columns.count * c.depth * num.lanes > _MOST_STEPS or c.depth < _VECTOR:
        return None
    found = SharedZeros(c, plan, num)
    return found if found.bytes <= _MOST_BYTES else None
