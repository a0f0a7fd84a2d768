"""Gradient of a 1x1 filter whose input is often zero, with AVX-512: zeros are not multiplied.

A word has a bit for each of up to 64 pixels of an input channel. The sums of one channel by some registers of output
channels take its bits in turn, lowest first, and read dy from a panel that stays in the first-level cache. Where few
elements are zero, or dy is not finite, they take all pixels, at the speed of a register tile.
"""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from math import prod

from llvmlite import ir as ll

from ...ir.ops.conv import Conv2dFilterGrad
from ..emitter import F32, I32, I64, Emitter, const, i64
from ..isa import Isa
from .bits import WORD, add_bits
from .filter_grad_plan import FilterGrad, cheapest_parts, plan_of
from .filter_grad_tiles import FilterGradient
from .gemm import LINE, Cut, Numeric, Rows, Tile, accumulate, cut, shaped, smaller, zeros

CHANNELS = 16  # of a tile: lanes of a register
FEWEST, MOST = 4, 8  # registers of sums of a channel
ABREAST = 2  # channels: a multiply-add takes four cycles, two start in each
_FEWEST_DEPTH = 96  # input channels: with fewer, to copy dy for them takes as long as is saved
SUMS_BYTES = 256 << 10  # of a chunk, so that they stay in the second-level cache
_MOST_NONZERO = 0.7  # of the elements of two channels
_PANEL_SHARE = 0.75  # of the first-level cache, for a panel of dy; the rest is for the input and the sums


def masked_plan(op: Conv2dFilterGrad, x: tuple[int, ...], dy: tuple[int, ...], num: Numeric,
                isa: Isa) -> FilterGrad | None:
    """How the gradient of float32 is cut, its pixels in one row; None where masks are not for it."""
    if isa.name != "avx512" or not op.sparse or op.groups != 1:
        return None
    depth, outputs = op.filter_shape[2:]
    pixels, vectors = prod(dy[:3]), outputs // num.lanes
    panels = cut(vectors, MOST) if vectors else Cut(1, 1)
    plain = plan_of(op, x, dy, num, isa, by_channel=True).flat
    if not plain or depth % CHANNELS or outputs % num.lanes or panels.larger or panels.base < FEWEST:
        return None
    if pixels < 2 * WORD or depth < _FEWEST_DEPTH:
        return None
    row = ((1, pixels, 1, depth), (1, pixels, 1, outputs))
    unit = min(WORD, int(_PANEL_SHARE * isa.first_level_bytes) // (panels.widest * num.lanes * num.bytes))
    found = FilterGrad(op, *row, False, Cut(depth, depth // CHANNELS), panels, False, (1, unit), 1, 1, (1, 1, 1))
    copies, across, down = cheapest_parts(found, num, SUMS_BYTES // num.bytes)
    tiles = -(-found.tiles.parts // down)
    return replace(found, together=min(tiles, SUMS_BYTES // (found.tile_input * num.bytes)),
                   parts=(copies, across, down))


class MaskedFilterGradient(FilterGradient):
    """Emits the main phase; after the copies of the input are its masks: for every tile the lower halves of the words
    of its channels, then the upper halves."""

    @property
    def scratch(self) -> int:
        """Bytes of private memory; the last element notes what is not finite."""
        return (self.copies_end + 2 * CHANNELS * self.f.together + 1) * self.num.bytes

    def _pack_input(self, e: Emitter, image: ll.Value, group: ll.Value,
                    tiles: tuple[ll.Value, ll.Value] | None) -> None:
        super()._pack_input(e, image, group, tiles)
        assert tiles is not None
        self._make_masks(e, tiles)

    def _make_masks(self, e: Emitter, tiles: tuple[ll.Value, ll.Value]) -> None:
        with e.loop(0, e.b.sub(tiles[1], tiles[0]), name="masked") as number:
            source, into = self._tile_input(e, number), self._masks(e, number)
            middle = smaller(e, self.pixels, i64(WORD // 2))
            for half, (first, end) in enumerate(((i64(0), middle), (middle, self.pixels))):
                e.store(self._half(e, source, first, end), e.at(into, half * CHANNELS, I32), LINE)

    def _masks(self, e: Emitter, number: ll.Value) -> ll.Value:
        return e.at(e.scratch, e.b.add(i64(self.copies_end), e.b.mul(number, i64(2 * CHANNELS))), I32)

    def _half(self, e: Emitter, source: ll.Value, first: ll.Value, end: ll.Value) -> ll.Value:
        """For each channel of a tile a bit for each of some pixels that is not zero."""
        words = ll.VectorType(I32, CHANNELS)
        with e.loop_carried(first, end, 1, [const(words, 0), const(words, 1)], "bit") as (pixel, now, after):
            value = e.load(e.at(source, e.b.mul(pixel, i64(CHANNELS)), F32), self.num.vector, LINE)
            some = e.b.fcmp_unordered("!=", value, self.num.zero)
            after[:] = [e.b.select(some, e.b.or_(now[0], now[1]), now[0]), e.b.shl(now[1], const(words, 1))]
        return after[0]

    def _pack_output(self, e: Emitter, source: ll.Value, packed: ll.Value, width: int, last: int) -> None:
        """Copy a panel of dy, and see whether it is finite: what is not makes NaN of zero."""
        e.store(ll.Constant(I32, 0), self._odd(e), 4)
        self._note_and_copy(e, source, self.f.dy[3], self.pixels, packed, width)

    def _note_and_copy(self, e: Emitter, source: ll.Value, stride: int, pixels: ll.Value, packed: ll.Value,
                       width: int) -> None:
        num = self.num
        with e.loop_carried(0, pixels, 1, [source, packed, *[num.zero] * width], "pack") as (_, now, after):
            totals = []
            for v, total in enumerate(now[2:]):
                value = e.load(e.at(now[0], v * num.lanes, F32), num.vector, 4)
                e.store(value, e.at(now[1], v * num.lanes, F32), LINE)
                totals.append(num.multiply_add(e, value, num.zero, total))
            after[:] = [e.at(now[0], stride, F32), e.at(now[1], width * num.lanes, F32), *totals]
        total = reduce(lambda a, b: num.add(e, a, b), after[2:])
        odd = e.b.bitcast(e.b.fcmp_unordered("uno", total, total), ll.IntType(num.lanes))
        e.store(e.b.or_(e.b.zext(odd, I32), e.load(self._odd(e), I32, 4)), self._odd(e), 4)

    def _odd(self, e: Emitter) -> ll.Value:
        """Where it stands whether something in the panel of dy is not finite."""
        return e.at(e.scratch, self.copies_end + 2 * CHANNELS * self.f.together, I32)

    def _taps(self, e: Emitter, height: int, tile: ll.Value, row: ll.Value, source: ll.Value,
              panels: tuple[ll.Value, ll.Value], group: ll.Value, again: ll.Value) -> None:
        """Add a unit's products to the sums of a tile, two channels at a time."""
        f, outputs = self.f, self.f.op.filter_shape[3]
        asked = e.b.mul(tile, i64(f.asked))
        with e.loop(asked, smaller(e, self.pixels, e.b.add(asked, i64(f.asked))), name="ask") as pixel:
            self._ask_pixel(e, pixel)
        for width, _, packed, channel, last in self._packed(e, *panels):
            finite = e.b.icmp_unsigned("==", e.load(self._odd(e), I32, 4), ll.Constant(I32, 0))
            with e.loop(0, height, ABREAST, "channel") as r:
                at = e.b.add(e.b.mul(e.b.add(row, r), i64(outputs)), channel)
                target = e.at(self.target, at, self.num.element)
                self._ask_sums(e, e.at(target, ABREAST * outputs, self.num.element), ABREAST, width)
                sums = self._channels(e, e.at(source, r, F32), self._words(e, tile, r), packed, width, finite)
                self._finish(e, sums, target, last, again)

    def _words(self, e: Emitter, tile: ll.Value, r: ll.Value) -> list[ll.Value]:
        """The masks of two channels."""
        halves = self._masks(e, tile)

        def word(channel: int) -> ll.Value:
            low, high = (e.b.zext(e.load(e.at(e.at(halves, r, I32), channel + at, I32), I32, 4), I64)
                         for at in (0, CHANNELS))
            return e.b.or_(low, e.b.shl(high, i64(32)))

        return [word(channel) for channel in range(ABREAST)]

    def _channels(self, e: Emitter, source: ll.Value, masks: list[ll.Value], packed: ll.Value,
                  width: int, finite: ll.Value, line: int = 0) -> Tile:
        """The sums of two channels over the unit, without zeros where these are many. ``line``: registers from a line
        of dy to the next, where these overlap."""
        lanes, step = self.num.lanes, (line or width) * self.num.lanes
        counts = [e.intrinsic("llvm.ctpop", I64, mask) for mask in masks]
        most = e.b.fptosi(e.b.fmul(e.b.sitofp(self.pixels, F32), const(F32, ABREAST * _MOST_NONZERO)), I64)
        few = e.b.and_(finite, e.b.icmp_signed("<=", e.b.add(*counts), most))
        made: list[tuple[list[ll.Value], ll.Block]] = []
        with e.b.if_else(few) as (then, otherwise):
            with then:
                tile = add_bits(e, self.num, zeros(self.num, ABREAST, width), masks,
                                lambda r, bit: e.at(e.at(source, r, F32), e.b.mul(bit, i64(CHANNELS)), F32),
                                lambda bit: e.at(packed, e.b.mul(bit, i64(step)), F32),
                                range(0, width * lanes, lanes))
                made.append(([v for sums in tile for v in sums], e.b.block))
            with otherwise:
                rows = Rows(source, range(ABREAST), CHANNELS)
                tile = accumulate(e, self.num, zeros(self.num, ABREAST, width), rows,
                                  replace(self._columns(packed, width), step=step),
                                  self.pixels)
                made.append(([v for sums in tile for v in sums], e.b.block))
        joined = []
        for values in zip(*(m[0] for m in made), strict=True):
            phi = e.b.phi(self.num.vector)
            for value, (_, block) in zip(values, made, strict=True):
                phi.add_incoming(value, block)
            joined.append(phi)
        return shaped(joined, width)
