"""Gradient of a 1x1 filter whose input is often zero, with AVX-512 or AVX2: zeros are not multiplied.

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
_FEWEST_ALONE, _MOST_ALONE = 8, 12  # registers of sums of a channel that is alone in 16 registers
_WHOLE_CHANNELS, _WHOLE_REGISTERS = 4, 3  # of a register tile there that leaves nothing out
_FEWEST_DEPTH = 96  # input channels: with fewer, to copy dy for them takes as long as is saved
SUMS_BYTES = 256 << 10  # of a chunk, so that they stay in the second-level cache
_MOST_NONZERO = 0.7  # of the elements of two channels
_PANEL_SHARE = 0.75  # of the first-level cache, for a panel of dy; the rest is for the input and the sums


def masked_plan(op: Conv2dFilterGrad, x: tuple[int, ...], dy: tuple[int, ...], num: Numeric,
                isa: Isa) -> FilterGrad | None:
    """How the gradient of float32 is cut, its pixels in one row; None where masks are not for it."""
    if isa.name not in ("avx512", "avx2") or not op.sparse or op.groups != 1:
        return None
    depth, outputs = op.filter_shape[2:]
    pixels, vectors, alone = prod(dy[:3]), outputs // num.lanes, _alone(num)
    panels = cut(vectors, _MOST_ALONE if alone else MOST) if vectors else Cut(1, 1)
    plain = plan_of(op, x, dy, num, isa, by_channel=True).flat
    if not plain or depth % CHANNELS or outputs % num.lanes or (panels.larger and not alone):
        return None
    if panels.base < (_FEWEST_ALONE if alone else FEWEST):
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


def _alone(num: Numeric) -> bool:
    """Whether one channel's sums take the registers, of which AVX2 has half as many."""
    return num.lanes < CHANNELS


class MaskedFilterGradient(FilterGradient):
    """Emits the main phase; after the copies of the input are its masks: for every tile the lower halves of the words
    of its channels, then the upper halves."""

    abreast = ABREAST

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
                self._make_half(e, source, first, end, e.at(into, half * CHANNELS, I32))

    def _make_half(self, e: Emitter, source: ll.Value, first: ll.Value, end: ll.Value, into: ll.Value) -> None:
        e.store(self._half(e, source, first, end), into, LINE)

    def _masks(self, e: Emitter, number: ll.Value) -> ll.Value:
        return e.at(e.scratch, e.b.add(i64(self.copies_end), e.b.mul(number, i64(2 * CHANNELS))), I32)

    def _half(self, e: Emitter, source: ll.Value, first: ll.Value, end: ll.Value) -> ll.Value:
        """For each of a register's channels a bit for each of some pixels that is not zero."""
        words = ll.VectorType(I32, self.num.lanes)
        with e.loop_carried(first, end, 1, [const(words, 0), const(words, 1)], "bit") as (pixel, now, after):
            value = e.load(e.at(source, e.b.mul(pixel, i64(CHANNELS)), F32), self.num.vector, words.count * 4)
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

        return [word(channel) for channel in range(self.abreast)]

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


class AloneMaskedFilterGradient(MaskedFilterGradient):
    """With the sums of one channel in registers. Behind the notes stands for every tile how many of its elements are
    not zero: tiles where most are, or that meet what is not finite, go by register tiles of several channels."""

    abreast = 1

    @property
    def scratch(self) -> int:
        return super().scratch + self.f.together * self.num.bytes

    def _counted(self, e: Emitter, tile: ll.Value) -> ll.Value:
        return e.at(self._odd(e), e.b.add(tile, i64(1)), I32)

    def _make_masks(self, e: Emitter, tiles: tuple[ll.Value, ll.Value]) -> None:
        super()._make_masks(e, tiles)
        lanes, words = self.num.lanes, ll.VectorType(I32, self.num.lanes)
        with e.loop(0, e.b.sub(tiles[1], tiles[0]), name="counted") as number:
            masks = [e.load(e.at(self._masks(e, number), at, I32), words, lanes * 4)
                     for at in range(0, 2 * CHANNELS, lanes)]
            bits = reduce(e.b.add, [e.intrinsic("llvm.ctpop", words, mask) for mask in masks])
            total = reduce(e.b.add, [e.b.extract_element(bits, ll.Constant(I32, i)) for i in range(lanes)])
            e.store(total, self._counted(e, number), 4)

    def _make_half(self, e: Emitter, source: ll.Value, first: ll.Value, end: ll.Value, into: ll.Value) -> None:
        for at in range(0, CHANNELS, self.num.lanes):
            words = self._half(e, e.at(source, at, F32), first, end)
            e.store(words, e.at(into, at, I32), self.num.lanes * 4)

    def _taps(self, e: Emitter, height: int, tile: ll.Value, row: ll.Value, source: ll.Value,
              panels: tuple[ll.Value, ll.Value], group: ll.Value, again: ll.Value) -> None:
        """Add a unit's products to the sums of a tile."""
        f = self.f
        asked = e.b.mul(tile, i64(f.asked))
        with e.loop(asked, smaller(e, self.pixels, e.b.add(asked, i64(f.asked))), name="ask") as pixel:
            self._ask_pixel(e, pixel)
        most = e.b.fptosi(e.b.fmul(e.b.sitofp(self.pixels, F32), const(F32, CHANNELS * _MOST_NONZERO)), I32)
        few = e.b.icmp_signed("<=", e.load(self._counted(e, tile), I32, 4), most)
        for width, _, packed, channel, last in self._packed(e, *panels):
            finite = e.b.icmp_unsigned("==", e.load(self._odd(e), I32, 4), ll.Constant(I32, 0))
            target = e.at(self.target, e.b.add(e.b.mul(row, i64(f.op.filter_shape[3])), channel), self.num.element)
            with e.b.if_else(e.b.and_(few, finite)) as (then, otherwise):
                with then:
                    self._add_nonzero(e, height, tile, source, packed, width, target, last, again)
                with otherwise:
                    self._add_whole(e, height, source, packed, width, target, last, again)

    def _add_nonzero(self, e: Emitter, height: int, tile: ll.Value, source: ll.Value, packed: ll.Value, width: int,
                     target: ll.Value, last: int, again: ll.Value) -> None:
        """The products that are not zero, a channel at a time."""
        num, outputs = self.num, self.f.op.filter_shape[3]
        with e.loop(0, height, name="channel") as r:
            sums_at = e.at(target, e.b.mul(r, i64(outputs)), num.element)
            self._ask_sums(e, e.at(sums_at, outputs, num.element), 1, width)
            sums = add_bits(e, num, zeros(num, 1, width), self._words(e, tile, r),
                            lambda _, bit: e.at(e.at(source, r, F32), e.b.mul(bit, i64(CHANNELS)), F32),
                            lambda bit: e.at(packed, e.b.mul(bit, i64(width * num.lanes)), F32),
                            range(0, width * num.lanes, num.lanes))
            self._finish(e, sums, sums_at, last, again)

    def _add_whole(self, e: Emitter, height: int, source: ll.Value, packed: ll.Value, width: int, target: ll.Value,
                   last: int, again: ll.Value) -> None:
        """All products, by register tiles."""
        num, outputs = self.num, self.f.op.filter_shape[3]
        with e.loop(0, height, _WHOLE_CHANNELS, "channels") as r:
            rows = Rows(e.at(source, r, F32), range(_WHOLE_CHANNELS), CHANNELS)
            for first in range(0, width, _WHOLE_REGISTERS):
                wide = min(_WHOLE_REGISTERS, width - first)
                columns = self._columns(e.at(packed, first * num.lanes, F32), wide)
                sums = accumulate(e, num, zeros(num, _WHOLE_CHANNELS, wide), rows,
                                  replace(columns, step=width * num.lanes), self.pixels)
                at = e.b.add(e.b.mul(r, i64(outputs)), i64(first * num.lanes))
                self._finish(e, sums, e.at(target, at, num.element), last, again)


def masked_gradient(num: Numeric) -> type[MaskedFilterGradient]:
    """What computes a gradient that ``masked_plan`` has cut."""
    return AloneMaskedFilterGradient if _alone(num) else MaskedFilterGradient
