"""Correlation whose filter is larger than its image: the filter passes once, the sums of all pixels wait in scratch.

A filter of 4x4x512x1024 has 33 MB. Packed beforehand it is written to memory and read back, and again for every
output row. Here a chunk owns panels of output channels; it packs one row of taps of a panel into its second-level
cache and adds that row's products to the sums of all pixels before it takes the next. Every sum is added up in the
same order as in ``correlation``, so that results are the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from ..isa import Isa
from .correlation import Correlation, Correlator, Plan, kinds_of, tap_range
from .epilogue import Finish
from .gemm import MOST_CHUNKS, Numeric, Tile, choose_tile, larger, range_of_part, smaller

_SUMS_BYTES = 96 << 10  # sums of one panel, which share the second-level cache with a row of taps
_TAPS_BYTES = 256 << 10  # of one panel and one row of taps, at 32-byte registers
_FILTER_BYTES = 1 << 20  # below, a packed filter stays in the caches anyway
_PIXELS = 300  # each reuses the filter: beyond, packing costs little and the pixels' chunks balance better
_PANELS = 8  # at least: chunks are cut along panels only
_WIDEST = 3  # registers of a tile's row: the filter comes from the second-level cache, at some 16 bytes a cycle
_FEW_PIXELS, _WIDER = 32, 4  # so few that reading the filter takes most of the time: whole pairs of cache lines


def streamed_plans(parts: Sequence[Correlation], num: Numeric, isa: Isa) -> list[Plan] | None:
    """Plans for the correlations of one result, or None where a filter packed beforehand is faster."""
    first = parts[0]
    size = sum(c.steps for c in parts) * first.width * num.bytes
    if first.groups > 1 or size < _FILTER_BYTES:
        return None
    plans = []
    for c in parts:
        widest = _WIDEST if _pixels(c) > _FEW_PIXELS else _WIDER
        tiles, panels = choose_tile(c.columns.outputs, -(-c.width // num.lanes), c.steps, isa, widest)
        plans.append(Plan(tiles, panels, c.rows.outputs, (1, min(MOST_CHUNKS, panels.parts))))
    return plans if all(_fits(c, p, num) for c, p in zip(parts, plans, strict=True)) else None


def _fits(c: Correlation, plan: Plan, num: Numeric) -> bool:
    vector = num.lanes * num.bytes
    return (c.steps > 0 and plan.panels.parts >= _PANELS and _pixels(c) <= _PIXELS
            and _sums(c, plan, num) * num.bytes <= _SUMS_BYTES
            and _row(c, plan, num) * num.bytes <= max(_TAPS_BYTES, _TAPS_BYTES // 32 * vector))


def _pixels(c: Correlation) -> int:
    return c.images * c.rows.outputs * c.columns.outputs


def _sums(c: Correlation, plan: Plan, num: Numeric) -> int:
    """Elements of the sums of one panel."""
    return _pixels(c) * plan.panels.widest * num.lanes


def _row(c: Correlation, plan: Plan, num: Numeric) -> int:
    """Elements of one row of taps of one panel."""
    return c.columns.taps.count * c.depth * plan.panels.widest * num.lanes


class StreamedCorrelator(Correlator):
    """Emits a correlation as one phase; in scratch lie one row of taps and the sums."""

    @property
    def scratch(self) -> int:
        """Bytes of private memory."""
        return (self._sums_at + _sums(self.c, self.plan, self.num)) * self.num.bytes

    @property
    def _sums_at(self) -> int:
        return -(-_row(self.c, self.plan, self.num) // 16) * 16

    def stream(self, e: Emitter, image: ll.Value, filter_: ll.Value, finish: Finish, chunks: int) -> None:
        """This chunk's share of the panels; ``image`` is the input in the accumulation type."""
        first, end = range_of_part(e, e.chunk, self.plan.panels.parts, chunks)
        for width, _, channel, last in self._panels(e, first, end):
            self._clear(e, width)
            with e.loop(0, self.c.rows.taps.count, name="taps") as i:
                self.pack_row(e, filter_, i64(0), channel, i, e.scratch, width, last)
                self._add(e, image, i, width)
            self._write(e, width, channel, last, finish)

    def _held(self, e: Emitter, pixel: ll.Value, width: int) -> ll.Value:
        """Where a pixel's sums wait."""
        at = e.b.add(e.b.mul(pixel, i64(width * self.num.lanes)), i64(self._sums_at))
        return e.at(e.scratch, at, self.num.element)

    def _register(self, e: Emitter, base: ll.Value, index: int) -> ll.Value:
        return e.at(base, index * self.num.lanes, self.num.element)

    def _clear(self, e: Emitter, width: int) -> None:
        size = self.num.lanes * self.num.bytes
        with e.loop(0, _pixels(self.c), name="clear") as pixel:
            held = self._held(e, pixel, width)
            for v in range(width):
                e.store(self.num.zero, self._register(e, held, v), size)

    def _add(self, e: Emitter, image: ll.Value, i: ll.Value, width: int) -> None:
        """Products of one row of taps, added to the sums."""
        c = self.c
        size = c.rows.inputs * c.columns.inputs * c.pixel
        with e.loop(0, c.images, name="image") as n, e.loop(0, c.rows.outputs, name="row") as y:
            low, high = tap_range(e, c.rows, y)
            first, end = larger(e, i, _value(low)), smaller(e, e.b.add(i, i64(1)), _value(high))
            top = e.b.add(e.b.mul(y, i64(c.rows.taps.stride)), i64(c.rows.taps.offset))
            source = e.at(image, e.b.mul(n, i64(size)), self.num.element)
            line = e.at(source, e.b.mul(top, i64(c.columns.inputs * c.pixel)), self.num.element)
            pixel = e.b.mul(e.b.add(e.b.mul(n, i64(c.rows.outputs)), y), i64(c.columns.outputs))
            for pixels, masks, start, stop in kinds_of(self.plan.tiles, c.columns):
                with e.loop(start, stop, name="tile") as tile:
                    x = self.plan.tiles.start(e, tile)
                    held = self._held(e, e.b.add(pixel, x), width)
                    sums = self._load(e, held, pixels, width)
                    sums = self._tile(e, sums, line, e.scratch, x, masks, first, end, i)
                    self._store(e, held, sums)

    def _write(self, e: Emitter, width: int, channel: ll.Value, last: int, finish: Finish) -> None:
        """The sums, finished, to the result."""
        c, tiles = self.c, self.plan.tiles
        with e.loop(0, c.images, name="image") as n, e.loop(0, c.rows.outputs, name="row") as y:
            inside = e.b.add(e.b.mul(n, i64(c.out_strides[0])), e.b.mul(y, i64(c.out_strides[1])))
            target = e.b.add(e.b.add(inside, channel), i64(c.out_offset))
            pixel = e.b.mul(e.b.add(e.b.mul(n, i64(c.rows.outputs)), y), i64(c.columns.outputs))
            for pixels, _, x in tiles.walk(e, i64(0), i64(tiles.parts)):
                sums = self._load(e, self._held(e, e.b.add(pixel, x), width), pixels, width)
                into = e.b.add(target, e.b.mul(x, i64(c.out_strides[2])))
                finish(e, sums, into, c.out_strides[2], channel, last)

    def _load(self, e: Emitter, held: ll.Value, pixels: int, width: int) -> Tile:
        size = self.num.lanes * self.num.bytes
        return [[e.load(self._register(e, held, p * width + v), self.num.vector, size) for v in range(width)]
                for p in range(pixels)]

    def _store(self, e: Emitter, held: ll.Value, sums: Tile) -> None:
        for index, value in enumerate(v for row in sums for v in row):
            e.store(value, self._register(e, held, index), self.num.lanes * self.num.bytes)


def _value(number: ll.Value | int) -> ll.Value:
    return i64(number) if isinstance(number, int) else number
