"""Correlation of an image that is often zero, with AVX-512: zeros are told by masks and not by lists.

Where a comparison gives a mask in one instruction and a register of sums is wide, lists are the larger part of the
work: making them, and reading an offset and an element for the few multiply-adds of an entry. Here a word has a bit
for each of up to 64 channels of an element of the image, and the sums take its bits in turn, lowest first. The results
are the bits of ``correlation`` as in ``correlation_sparse``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import ceil, prod

from llvmlite import ir as ll

from ..emitter import F32, I8, I16, I64, Emitter, const, i64
from ..isa import Isa
from .bits import WORD, add_bits
from .correlation import Correlation, Plan
from .correlation_sparse import Layout, SparseCorrelator, SparsePlan, is_plain, turn_of
from .epilogue import COLD_BYTES, LINE, Finish
from .gemm import MOST_CHUNKS, Numeric, Tile, shaped, zeros
from .nonzeros import Lists
from .sum_blocks import ends_of

_MOST_SUMS = 8  # registers of sums of a pixel: with more, a turn has fewer channels
_FEWEST_SUMS = 4
_ABREAST = 2  # pixels: a multiply-add takes four cycles, two start in each
_TAPS_BYTES = 32 << 10  # of filter that is read again and again from a first-level cache of 48 KB
_BLOCK_BYTES = 512 << 10  # of masks and sums, which stay in a second-level cache of 1 MB
_IMAGE_BYTES = 400 << 10  # of a block
_FEWEST_BLOCKS = 16  # for some workers; of a few, those of one image, shared zeros are as fast
_FEWEST_PIXELS = 16  # that use what was read of the filter
_FEWEST_PRODUCTS = 128  # of an element of the image
_PIECE = 8  # channels that are compared at once, or twice as many
_MOST_NONZERO = 0.6  # of the elements; with more the dense way is as fast


def masked_plan(c: Correlation, dense: Plan, num: Numeric, isa: Isa) -> SparsePlan | None:
    """A plan, or None where masks are not for this processor or correlation."""
    if isa.name != "avx512" or not is_plain(c, dense, num) or c.depth % _PIECE:
        return None
    products = prod((c.rows.taps.count, c.columns.taps.count, c.width)) // (c.rows.taps.stride * c.columns.taps.stride)
    wide, panels = dense.panels.widest, dense.panels.parts
    ways = [n for n in range(1, panels + 1) if panels % n == 0 and _FEWEST_SUMS <= n * wide <= _MOST_SUMS]
    if not ways or products < _FEWEST_PRODUCTS:
        return None
    whole = [n for n in ways if _turn(c, num, n * wide) == (c.columns.taps.count, c.depth) and c.rows.taps.count == 1]
    together = max(whole or ways)
    taken, depth = _turn(c, num, together * wide)
    if depth % _PIECE:
        return None
    for block in range(max(dense.block, _most_rows(c, num)), 0, -1):
        found = SparsePlan(replace(dense, block=block), together, taken, depth)
        if _Masks(c, found, num).bytes <= _BLOCK_BYTES:
            break
    else:
        return None
    blocks = c.images * -(-c.rows.outputs // block)
    if block * c.columns.outputs < _FEWEST_PIXELS or blocks < _FEWEST_BLOCKS:
        return None
    return replace(found, dense=replace(found.dense, parts=(min(blocks, MOST_CHUNKS), 1)))


def _most_rows(c: Correlation, num: Numeric) -> int:
    """Output rows of a block: what they read stays in the cache, and there are some blocks for each worker."""
    row = c.columns.inputs * c.pixel * num.bytes * c.rows.taps.stride
    blocks = max(-(-c.rows.outputs * row // _IMAGE_BYTES), -(-_FEWEST_BLOCKS // c.images))
    return -(-c.rows.outputs // min(blocks, c.rows.outputs))


def _turn(c: Correlation, num: Numeric, sums: int) -> tuple[int, int]:
    """Taps of a row and channels that a turn takes where a pixel has so many registers of sums."""
    most, columns = _TAPS_BYTES // (sums * num.lanes * num.bytes), c.columns.taps.count
    if columns * c.depth <= most and len(ends_of(c)) <= 1 and (c.depth < WORD or c.depth % WORD == 0):
        return columns, c.depth
    depth = turn_of(c, most, _PIECE)
    return 1, depth if depth < WORD or depth % WORD == 0 else turn_of(c, WORD, _PIECE)


class _Masks(Layout):
    """Masks of the elements, pixel by pixel."""

    def zeros_bytes(self, c: Correlation, plan: SparsePlan, num: Numeric) -> int:
        self.words = -(-plan.depth // WORD)
        return self.rows * c.columns.inputs * self.parts * self.words * (WORD // 8)


class MaskedCorrelator(SparseCorrelator):
    """Emits a correlation that chooses, block by block, whether zeros are left out."""

    most_nonzero = most_of_one_tap = _MOST_NONZERO
    layout: _Masks

    def _layout(self, c: Correlation, plan: SparsePlan, num: Numeric) -> _Masks:
        return _Masks(c, plan, num)

    @property
    def _in_registers(self) -> bool:
        """Whether one turn makes whole sums, of rows that are all there."""
        rows, columns = self.c.rows, self.c.columns
        whole = rows.taps.count == self.layout.parts == 1 and self.sparse.columns == columns.taps.count
        return whole and not rows.clipped

    # The masks of a block

    def _word(self, e: Emitter, row: ll.Value, column: ll.Value, part: ll.Value | int) -> ll.Value:
        """Where the masks of a part of a pixel lie, in a row counted from the block's first."""
        layout = self.layout
        pixel = e.b.mul(e.b.add(e.b.mul(row, i64(self.c.columns.inputs)), column), i64(layout.parts * layout.words))
        within = e.b.mul(part, i64(layout.words)) if isinstance(part, ll.Value) else i64(part * layout.words)
        return e.at(e.scratch, e.b.add(pixel, within), I64)

    def _list_row(self, e: Emitter, lists: Lists, line: ll.Value, part: ll.Value, index: ll.Value) -> ll.Value:
        """Make the masks of a part of all pixels of a row; how many bits are set."""
        c, depth = self.c, self.sparse.depth
        row = e.b.udiv(index, i64(self.layout.parts))
        with e.loop_carried(0, c.columns.inputs, 1, [i64(0)], "column") as (column, now, after):
            element = e.b.add(e.b.mul(column, i64(c.pixel)), e.b.mul(part, i64(depth)))
            words = self._word(e, row, column, part)
            count = now[0]
            for word, first in enumerate(range(0, depth, WORD)):
                mask = self._mask(e, e.at(line, e.b.add(element, i64(first)), F32), min(WORD, depth - first))
                e.store(mask, e.at(words, word, I64), 8)
                count = e.b.add(count, e.intrinsic("llvm.ctpop", I64, mask))
            after[0] = count
        return after[0]

    def _mask(self, e: Emitter, source: ll.Value, count: int) -> ll.Value:
        """A bit for each of ``count`` elements that is not zero."""
        mask: ll.Value = i64(0)
        at = 0
        while at < count:
            lanes = 2 * _PIECE if count - at >= 2 * _PIECE else _PIECE
            value = e.load(e.at(source, at, F32), e.vector(F32, lanes), 4)
            bits = e.b.bitcast(e.b.fcmp_unordered("!=", value, const(value.type, 0.0)), I16 if lanes == 16 else I8)
            mask = e.b.or_(mask, e.b.shl(e.b.zext(bits, I64), i64(at)))
            at += lanes
        return mask

    # The sums of a block, for the panels of a group

    def _leave_out(self, e: Emitter, source: ll.Value, number: ll.Value, group: ll.Value, first: ll.Value,
                   end: ll.Value, finish: Finish) -> None:
        c = self.c
        self.group = group
        after = e.b.add(self._top(e, end), i64(max(0, c.rows.taps.count - c.rows.taps.stride)))
        self.here, self.next = (e.at(self.given, e.b.mul(row, i64(self._given_row)), F32)
                                for row in (self._top(e, first), after))
        if not self._in_registers:
            super()._leave_out(e, source, number, group, first, end, finish)
            return
        matrix, into = self._matrix(e, group), self._into(e, number, group)
        with e.loop(first, end, name="row") as y:
            row = e.b.sub(self._top(e, y), self._top(e, first))
            ahead = self._ahead(e, group, e.b.sub(y, first))
            for x, abreast in self._pixels_of_row(e):
                width = self.layout.sums // self.num.lanes
                at = e.b.add(into, e.b.add(e.b.mul(y, i64(self.c.out_strides[1])),
                                           e.b.mul(x, i64(self.c.out_strides[2]))))
                self._ask(e, at, abreast, width)
                self._ask_lines(e, ahead, x, abreast)
                fresh = zeros(self.num, abreast, width)
                line = e.at(source, e.b.mul(self._top(e, y), i64(self._line)), F32)
                sums = self._turn(e, fresh, matrix, line, row, x, i64(0), i64(0))
                finish(e, sums, at, self.c.out_strides[2], self._channel(e, group), self.num.lanes)

    # What the next block reads

    @property
    def _turns(self) -> int:
        """Turns of all groups of panels."""
        c, plan = self.c, self.sparse
        groups = plan.dense.panels.parts // plan.together
        return groups * c.rows.taps.count * c.columns.taps.count // plan.columns * self.layout.parts

    @property
    def _lines_asked(self) -> tuple[int, int]:
        """Cache lines of the next block's input that a pixel asks for in each of the first turns; these turns."""
        c, plan, size = self.c, self.plan, self.num.bytes
        apart = self.blocks is not None and self.blocks.prologue.pitch > c.depth
        if c.images * c.rows.inputs * self._line * size < COLD_BYTES or apart:
            return 0, 0
        lines = plan.block * c.rows.taps.stride * self._line * size / LINE / (plan.block * c.columns.outputs)
        each = ceil(lines / self._turns)
        return each, ceil(lines / each)

    def _number(self, e: Emitter, i: ll.Value, j: ll.Value, part: ll.Value) -> ll.Value:
        """The number of a turn."""
        c, plan = self.c, self.sparse
        columns = c.columns.taps.count // plan.columns
        tap = e.b.add(e.b.mul(i, i64(columns)), e.b.udiv(j, i64(plan.columns)))
        turn = e.b.add(e.b.mul(tap, i64(self.layout.parts)), part)
        return e.b.add(turn, e.b.mul(self.group, i64(c.rows.taps.count * columns * self.layout.parts)))

    def _ahead(self, e: Emitter, turn: ll.Value, row: ll.Value) -> ll.Value:
        """What the first pixel of a row of the block asks for; after the first turns what is there already."""
        each, turns = self._lines_asked
        if not each:
            return self.here
        at = e.b.add(e.b.mul(turn, i64(self.plan.block)), row)
        asked = e.at(self.next, e.b.mul(at, i64(self.c.columns.outputs * each * LINE // self.num.bytes)), F32)
        return e.b.select(e.b.icmp_unsigned("<", turn, i64(turns)), asked, self.here)

    def _ask_lines(self, e: Emitter, ahead: ll.Value, x: ll.Value, pixels: int) -> None:
        each = self._lines_asked[0]
        first = e.at(ahead, e.b.mul(x, i64(each * LINE // self.num.bytes)), F32)
        for line in range(each * pixels):
            e.prefetch(e.at(first, line * LINE // self.num.bytes, F32))

    # The products of a turn

    def _matrix(self, e: Emitter, group: ll.Value) -> ll.Value:
        return self.panel_address(e, i64(0), e.b.mul(group, i64(self.sparse.together)))

    def _pixels_of_row(self, e: Emitter) -> Iterator[tuple[ll.Value, int]]:
        """Loops over the pixels of an output row: (the first of some, how many)."""
        whole = self.c.columns.outputs // _ABREAST * _ABREAST
        with e.loop(0, whole, _ABREAST, "x") as x:
            yield x, _ABREAST
        if whole < self.c.columns.outputs:
            yield i64(whole), self.c.columns.outputs - whole

    def _some(self, e: Emitter, source: ll.Value, matrix: ll.Value, slot: ll.Value, ends: ll.Value, first: ll.Value,
              y: ll.Value, turn: tuple[ll.Value, ll.Value, ll.Value]) -> None:
        i, j, part = turn
        ahead = self._ahead(e, self._number(e, i, j, part), e.b.sub(y, first))
        line = e.at(source, e.b.mul(e.b.add(self._top(e, first), slot), i64(self._line)), F32)
        for x, abreast in self._pixels_of_row(e):
            self._ask_lines(e, ahead, x, abreast)
            where = [self._sums(e, first, y, e.b.add(x, i64(p)), self.layout.sums_at) for p in range(abreast)]
            sums = self._turn(e, [self._pixel_sums(e, w) for w in where], matrix, line, slot, x, j, part)
            for p, (at, now) in enumerate(zip(where, sums, strict=True)):
                self._keep(e, at, self._sums(e, first, y, e.b.add(x, i64(p)), self.layout.totals_at), now, ends)

    def _turn(self, e: Emitter, sums: Tile, matrix: ll.Value, line: ll.Value, row: ll.Value,
              x: ll.Value, j: ll.Value, part: ll.Value) -> Tile:
        """Sums of adjacent pixels with a turn's products; ``matrix``: of the panels, ``row``: that of the masks."""
        c, plan, width = self.c, self.sparse, len(sums[0])
        taps = c.columns.taps
        channel = e.b.mul(part, i64(plan.depth))
        flat = [v for pixel in sums for v in pixel]
        with e.loop_carried(0, plan.columns, 1, flat, "tap") as (t, now, after):
            tile = shaped(now, width)
            reads = []
            for p in range(len(tile)):
                at = e.b.add(x, i64(p))
                left = e.b.add(e.b.add(e.b.mul(at, i64(taps.stride)), i64(taps.offset)), e.b.add(j, t))
                inside = e.b.icmp_unsigned("<", left, i64(c.columns.inputs))
                column = e.b.select(inside, left, i64(0))
                pixel = e.at(line, e.b.add(e.b.mul(column, i64(c.pixel)), channel), F32)
                reads.append((inside, self._word(e, row, column, part), pixel))
            filter_ = e.b.mul(e.b.add(e.b.mul(t, i64(c.depth)), channel), i64(self.unit))
            for word, first in enumerate(range(0, plan.depth, WORD)):
                at = e.at(matrix, e.b.add(filter_, i64(first * self.unit)), I8)
                masks = [e.b.select(inside, e.load(e.at(words, word, I64), I64, 8), i64(0))
                         for inside, words, _ in reads]
                tile = self._bits(e, tile, masks, [e.at(pixel, first, F32) for *_, pixel in reads], at)
            after[:] = [v for pixel in tile for v in pixel]
        return shaped(after, width)

    def _bits(self, e: Emitter, tile: Tile, masks: list[ll.Value], pixels: list[ll.Value], matrix: ll.Value) -> Tile:
        """Sums with the products of the bits of a mask a pixel."""
        lanes, widest = self.num.lanes, self.plan.panels.widest
        registers = [divmod(v, widest) for v in range(len(tile[0]))]
        offsets = [panel * self.slot + register * lanes for panel, register in registers]
        return add_bits(e, self.num, tile, masks, lambda p, bit: e.at(pixels[p], bit, F32),
                        lambda bit: e.at(matrix, e.b.mul(bit, i64(self.unit)), I8), offsets)
