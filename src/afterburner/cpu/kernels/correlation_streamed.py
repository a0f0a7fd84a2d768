"""Correlation whose filter is larger than its image: the filter passes once, the sums of all pixels wait in scratch.

The filter of an input gradient of 4x4x512x1024 has 33 MB; a convolution's own of that size is read as it lies
(``correlation_split``) unless it is kept. Packed beforehand it is written to memory and read back, and again for every
output row. Here a chunk owns panels of output channels; it packs one row of taps of a panel into its second-level
cache and adds that row's products to the sums of all pixels before it takes the next. Every sum is added up in the
same order as in ``correlation``, so that results are the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from ..isa import Isa
from .correlation import Correlation, Plan, in_rows_of, tap_range
from .correlator import Correlator, PlacedTile
from .epilogue import Finish, Streams
from .gemm import LINE, MOST_CHUNKS, Ahead, Asked, Numeric, Tile, choose_tile, larger, range_of_part, smaller
from .shared_zeros import SharedZeros

_SUMS_BYTES = 96 << 10  # sums of one panel, which share the second-level cache with a row of taps
_TAPS_BYTES = 256 << 10  # of one panel and one row of taps, at 32-byte registers
_FILTER_BYTES = 1 << 17  # smaller ones are packed in no time and stay in the caches
_PIXELS = 300  # each reuses the filter: beyond, packing costs little and the pixels' chunks balance better
_PANELS = 8  # at least: chunks are cut along panels only
_WIDEST = 3  # registers of a tile's row: the filter comes from the second-level cache, at some 16 bytes a cycle
_MOST_STEPS = 8  # of the sums between two lines asked for: what memory takes to bring them
_FEW_PIXELS, _WIDER = 32, 4  # so few that reading the filter takes most of the time: whole pairs of cache lines


def in_one_row(parts: Sequence[Correlation]) -> list[Correlation]:
    """The correlations of one result; one without rows as over a single row of pixels, which is cut evenly."""
    c = parts[0]
    return [in_rows_of(c, c.pixels)] if len(parts) == 1 and c.rowless else list(parts)


def streamed_plans(parts: Sequence[Correlation], num: Numeric, isa: Isa) -> list[Plan] | None:
    """Plans for the correlations of one result, or None where a filter packed beforehand is faster."""
    first = parts[0]
    size = sum(c.steps for c in parts) * first.width * num.bytes
    if first.groups > 1 or size < _FILTER_BYTES:
        return None
    plans = []
    for c in parts:
        widest = _WIDEST if c.pixels > _FEW_PIXELS else _WIDER
        tiles, panels = choose_tile(c.columns.outputs, -(-c.width // num.lanes), c.steps, isa, widest)
        plans.append(Plan(tiles, panels, c.rows.outputs, (1, min(MOST_CHUNKS, panels.parts))))
    return plans if all(_fits(c, p, num) for c, p in zip(parts, plans, strict=True)) else None


def _fits(c: Correlation, plan: Plan, num: Numeric) -> bool:
    vector = num.lanes * num.bytes
    return (c.steps > 0 and plan.panels.parts >= _PANELS and c.pixels <= _PIXELS
            and _sums(c, plan, num) * num.bytes <= _SUMS_BYTES
            and _row(c, plan, num) * num.bytes <= max(_TAPS_BYTES, _TAPS_BYTES // 32 * vector))


def _sums(c: Correlation, plan: Plan, num: Numeric) -> int:
    """Elements of the sums of one panel."""
    return c.pixels * plan.panels.widest * num.lanes


def _row(c: Correlation, plan: Plan, num: Numeric) -> int:
    """Elements of one row of taps of one panel."""
    return c.columns.taps.count * c.depth * plan.panels.widest * num.lanes


class StreamedCorrelator(Correlator):
    """Emits a correlation as one phase; in scratch lie one row of taps and the sums. A filter that is ``kept`` lies
    packed in temporary 0."""

    def __init__(self, c: Correlation, plan: Plan, num: Numeric, stored: ll.Type, packed_at: int, filter_columns: int,
                 streams: Streams, kept: bool = False, zeros: SharedZeros | None = None) -> None:
        super().__init__(c, plan, num, stored, packed_at, filter_columns, streams, zeros)
        self.kept = kept
        self.totals_at = self._sums_at

    @property
    def scratch(self) -> int:
        """Bytes of private memory."""
        return (self._sums_at + _sums(self.c, self.plan, self.num)) * self.num.bytes

    @property
    def _sums_at(self) -> int:
        return 0 if self.kept else -(-_row(self.c, self.plan, self.num) // 16) * 16

    def stream(self, e: Emitter, image: ll.Value, filter_: ll.Value, finish: Finish, chunks: int) -> None:
        """This chunk's share of the panels; ``image`` is the input in the accumulation type."""
        first, end = range_of_part(e, e.chunk, self.plan.panels.parts, chunks)
        for width, panel, channel, last in self._panels(e, first, end):
            if self._at_once:
                packed = self._packed(e, filter_, i64(0), panel, channel, width, last)
                self._only_row(e, image, packed, finish, width, channel, last)
                continue
            self._clear(e, width)
            with e.loop(0, self.c.rows.taps.count, name="taps") as i:
                self._add(e, image, i, width, self._packed(e, filter_, i, panel, channel, width, last))
            self._write(e, width, channel, last, finish)

    def _packed(self, e: Emitter, filter_: ll.Value, i: ll.Value, panel: ll.Value, channel: ll.Value, width: int,
                last: int) -> ll.Value:
        """A panel's row of taps in the order of the products, packed now unless it is kept."""
        if self.kept:
            row = self.c.columns.taps.count * self.c.depth * width * self.num.lanes
            return e.at(self.panel_address(e, i64(0), panel), e.b.mul(i, i64(row)), self.num.element)
        self.pack_row(e, filter_, i64(0), channel, i, e.scratch, width, last)
        return e.scratch

    @property
    def _at_once(self) -> bool:
        """There is one row of taps: its sums are whole."""
        return self.c.rows.taps.count == 1 and not self.c.rows.clipped

    def _only_row(self, e: Emitter, image: ll.Value, packed: ll.Value, finish: Finish, width: int,
                  channel: ll.Value, last: int) -> None:
        c = self.c
        for at in self.all_tiles(e, image):
            listed = self._listed(e, at.image, at.row, at.index)
            inside = e.b.add(e.b.mul(at.image, i64(c.out_strides[0])), e.b.mul(at.row, i64(c.out_strides[1])))
            inside = e.b.add(inside, e.b.mul(at.column, i64(c.out_strides[2])))
            target = e.b.add(e.b.add(inside, channel), i64(c.out_offset))
            ahead = self._ahead(e, packed, at, width)
            spread = self._spread(e, target, target, at.pixels, width) if ahead is None and listed is None else None
            if spread is None:
                self._ask(e, target, at.pixels, width)
            sums = self._whole(e, at.pixels, width, at.line, packed, at.column, at.masks, 0, 1, listed,
                               ahead or spread)
            finish(e, sums, target, c.out_strides[2], channel, last)

    def _ahead(self, e: Emitter, packed: ll.Value, at: PlacedTile, width: int) -> Ahead | None:
        """This tile's share of what is asked for of a kept filter: the row of taps that is read after this one."""
        c = self.c
        lines = c.columns.taps.count * c.depth
        every = min(_MOST_STEPS, c.images * c.rows.outputs * self.plan.tiles.parts)
        if not self.kept or not c.merged or lines < every:
            return None
        line, share = width * self.num.lanes, lines // every
        asked = e.b.mul(at.number, i64(share))
        idle = e.b.icmp_signed(">=", asked, i64(lines))
        first = e.b.mul(e.b.add(i64(lines), e.b.select(idle, i64(0), asked)), i64(line))
        size = line * self.num.bytes
        step = e.b.select(idle, i64(0), i64(size))
        return Ahead((Asked(e.at(packed, first, self.num.element), step, None, range(0, size, LINE)),), every)

    def _held(self, e: Emitter, pixel: ll.Value, width: int) -> ll.Value:
        """Where a pixel's sums wait."""
        at = e.b.add(e.b.mul(pixel, i64(width * self.num.lanes)), i64(self._sums_at))
        return e.at(e.scratch, at, self.num.element)

    def _clear(self, e: Emitter, width: int) -> None:
        size = self.num.lanes * self.num.bytes
        with e.loop(0, self.c.pixels, name="clear") as pixel:
            held = self._held(e, pixel, width)
            for v in range(width):
                e.store(self.num.zero, self._register(e, held, v), size)

    def _add(self, e: Emitter, image: ll.Value, i: ll.Value, width: int, packed: ll.Value) -> None:
        """Products of one row of taps, added to the sums."""
        c = self.c
        for at in self.all_tiles(e, image):
            listed = self._listed(e, at.image, at.row, at.index)
            low, high = tap_range(e, c.rows, at.row)
            first, end = larger(e, i, _value(low)), smaller(e, e.b.add(i, i64(1)), _value(high))
            held = self._held(e, at.pixel, width)
            ahead = self._ahead(e, packed, at, width)
            if self.ends:
                self._add_blocks(e, held, at.pixels, width, at.line, packed, at.column, at.masks, first, end, i,
                                 listed, ahead)
                continue
            sums = self._load(e, held, at.pixels, width)
            sums = self._tile(e, sums, at.line, packed, at.column, at.masks, first, end, i, listed, ahead)
            self._store(e, held, sums)

    def _write(self, e: Emitter, width: int, channel: ll.Value, last: int, finish: Finish) -> None:
        """The sums, finished, to the result."""
        def sums(pixel: ll.Value, pixels: int) -> Tile:
            return self._load(e, self._held(e, pixel, width), pixels, width)

        self.finish_all(e, finish, width, channel, last, sums)


def _value(number: ll.Value | int) -> ll.Value:
    return i64(number) if isinstance(number, int) else number
