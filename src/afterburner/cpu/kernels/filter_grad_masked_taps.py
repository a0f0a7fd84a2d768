"""Gradient of a filter of several taps whose input is often zero, with AVX-512: zeros are not multiplied.

As in ``filter_grad_masked``, for units of whole rows of the input. Rows of dy are copied with zeros at their
sides, as long as the copied rows of the input, so that an element of the input finds the line of dy of a tap at one
distance from its own: what lies outside of dy is zero. Of few output channels all taps of a filter row are taken at
once, since their lines lie side by side.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llvmlite import ir as ll

from ...ir.ops.conv import Conv2dFilterGrad
from ..emitter import F32, I32, Emitter, i64
from ..isa import Isa
from .bits import WORD
from .epilogue import Contraction
from .filter_grad_masked import ABREAST, CHANNELS, FEWEST, MOST, SUMS_BYTES, MaskedFilterGradient
from .filter_grad_plan import FilterGrad, cheapest_parts
from .gemm import Cut, Numeric, cut, smaller, walk_panels
from .prologue import Prologue

_FEWEST_BITS = 50  # of a word that are pixels


@dataclass(frozen=True)
class Rows:
    """How rows are laid out.

    Attributes:
        width: pixels of a copied row, of the input and of dy.
        count: input rows of a unit.
        abreast: taps of a filter row that are taken at once.
    """

    width: int
    count: int
    abreast: int


def taps_plan(op: Conv2dFilterGrad, x: tuple[int, ...], dy: tuple[int, ...], num: Numeric,
              isa: Isa) -> tuple[FilterGrad, Rows] | None:
    """How the gradient of float32 is cut; None where masks are not for it."""
    if isa.name != "avx512" or not op.sparse or op.groups != 1:
        return None
    kh, kw, depth, outputs = op.filter_shape
    plain = kh * kw > 1 and op.strides == op.dilation == (1, 1) and max(op.padding[0]) < kh and max(op.padding[1]) < kw
    width = x[2] + kw - 1
    if not plain or depth % CHANNELS or outputs % num.lanes or width > WORD:
        return None
    panels = cut(outputs // num.lanes, MOST)
    abreast = kw if panels.base * kw <= MOST else 1
    count = min(WORD // width, x[1])
    if panels.larger or panels.base * abreast < FEWEST or count * x[2] < _FEWEST_BITS:
        return None
    found = FilterGrad(op, x, (*x[:2], width, outputs), False, Cut(depth, depth // CHANNELS), panels, False,
                       (1, count), 1, 1, (1, 1, 1))
    parts = cheapest_parts(found, num, SUMS_BYTES // num.bytes)
    tiles = -(-found.tiles.parts // parts[2])
    together = min(tiles, SUMS_BYTES // (WORD * CHANNELS * num.bytes))
    return replace(found, together=together, parts=parts), Rows(width, count, abreast)


class TapsFilterGradient(MaskedFilterGradient):
    """Emits the main phase."""

    def __init__(self, rows: Rows, f: FilterGrad, num: Numeric, stored: ll.Type, partial: bool,
                 contraction: Contraction, prologue: Prologue | None) -> None:
        super().__init__(f, num, stored, partial, contraction, prologue)
        self.rows = rows
        self.kh, self.kw = self.f.op.filter_shape[:2]
        lines = (rows.count + self.kh - 1) * rows.width + self.kw - 1
        self.slot = lines * self.f.panels.widest * self.num.lanes
        self.input_at = self.slot

    @property
    def tile_elements(self) -> int:
        """Elements of the copied input of a tile."""
        return self.rows.count * self.rows.width * CHANNELS

    def emit(self, e: Emitter) -> None:
        """The code of one chunk."""
        f, rows = self.f, self.rows
        first, end, panels = self._share(e)
        self.first_channel = i64(0)
        with e.loop(first, end, name="unit") as unit:
            again = e.b.icmp_signed(">", unit, first)
            self.image = e.b.udiv(unit, i64(f.row_blocks))
            self.first_row = e.b.mul(e.b.urem(unit, i64(f.row_blocks)), i64(rows.count))
            self.row_count = smaller(e, i64(rows.count), e.b.sub(i64(f.x[1]), self.first_row))
            self.pixels = e.b.mul(self.row_count, i64(rows.width))
            with e.loop(*self.tile_range, f.together, "tiles") as tile:
                tiles = (tile, smaller(e, self.tile_range[1], e.b.add(tile, i64(f.together))))
                self._copy_rows(e, tiles)
                self._make_masks(e, tiles)
                for width, _, channel, last in walk_panels(e, f.panels, self.num.lanes, self.width, *panels):
                    self._copy_output(e, channel, width)
                    self._rows_of_taps(e, tiles, channel, width, last, again)

    def _copy_rows(self, e: Emitter, tiles: tuple[ll.Value, ll.Value]) -> None:
        """The input rows of the unit, with zeros after each."""
        f, rows = self.f, self.rows
        with e.loop(0, self.row_count, name="line") as r:
            pixel = e.b.add(e.b.mul(self.image, i64(f.x[1])), e.b.add(self.first_row, r))
            source = self._at_input(e, e.b.mul(pixel, i64(f.x[2])), i64(0), i64(0))
            into = e.b.mul(r, i64(rows.width))
            self._copy_pixels(e, source, self.pitch, into, f.x[2], tiles)
            for size, target, _ in self._inputs(e, e.b.add(into, i64(f.x[2])), tiles):
                self._clear(e, target, (rows.width - f.x[2]) * size)

    def _copy_output(self, e: Emitter, channel: ll.Value, width: int) -> None:
        """The rows of dy that the unit meets, of one panel, and whether they are finite."""
        rows, num = self.rows, self.num
        _, height, columns, outputs = self.contraction.shapes[1]
        before, line = self.kw - 1 - self.f.op.padding[1][0], width * num.lanes
        top = e.b.add(self.first_row, i64(self.f.op.padding[0][0] - (self.kh - 1)))
        e.store(ll.Constant(I32, 0), self._odd(e), 4)
        count = e.b.add(self.row_count, i64(self.kh - 1))
        with e.loop(0, count, name="output") as t:
            y = e.b.add(top, t)
            target = e.at(e.scratch, e.b.mul(t, i64(rows.width * line)), F32)
            with e.b.if_else(e.b.icmp_unsigned("<", y, i64(height))) as (inside, outside):
                with inside:
                    pixel = e.b.mul(e.b.add(e.b.mul(self.image, i64(height)), y), i64(columns))
                    source = self._at_output(e, pixel, i64(0), channel)
                    self._clear(e, target, before * line)
                    self._note_and_copy(e, source, outputs, i64(columns), e.at(target, before * line, F32), width)
                    self._clear(e, e.at(target, (before + columns) * line, F32),
                                (rows.width - before - columns) * line)
                with outside:
                    self._clear(e, target, rows.width * line)
        end = e.at(e.scratch, e.b.mul(count, i64(rows.width * line)), F32)
        self._clear(e, end, (self.kw - 1) * line)

    def _rows_of_taps(self, e: Emitter, tiles: tuple[ll.Value, ll.Value], channel: ll.Value, width: int, last: int,
                      again: ll.Value) -> None:
        """Add the unit's products to the sums of all taps."""
        f, rows, num = self.f, self.rows, self.num
        depth, outputs = f.op.filter_shape[2:]
        finite = e.b.icmp_unsigned("==", e.load(self._odd(e), I32, 4), ll.Constant(I32, 0))
        turns = self.kw // rows.abreast
        with e.loop(0, self.kh, name="i") as i, e.loop(0, turns, name="j") as j:
            # of row i and columns j to j + abreast - 1, the last one's line first
            low = e.b.sub(i64(self.kw - rows.abreast), j) if rows.abreast == 1 else i64(0)
            down = e.b.mul(e.b.sub(i64(self.kh - 1), i), i64(rows.width))
            packed = e.at(e.scratch, e.b.mul(e.b.add(down, low), i64(width * num.lanes)), F32)
            tap = e.b.add(e.b.mul(i, i64(self.kw)), e.b.mul(j, i64(rows.abreast)))
            for height, tile, row in f.tiles.walk(e, *tiles):
                number = e.b.sub(tile, tiles[0])
                source = self._tile_input(e, number)
                with e.loop(0, height, ABREAST, "channel") as r:
                    at = e.b.add(e.b.mul(e.b.add(e.b.mul(tap, i64(depth)), e.b.add(row, r)), i64(outputs)), channel)
                    target = e.at(self.target, at, num.element)
                    self._ask_sums(e, e.at(target, ABREAST * outputs, num.element), ABREAST, width)
                    sums = self._channels(e, e.at(source, r, F32), self._words(e, number, r), packed,
                                          width * rows.abreast, finite, width)
                    for k in range(rows.abreast):
                        first = (rows.abreast - 1 - k) * width
                        into = e.at(target, k * depth * outputs, num.element)
                        self._finish(e, [v[first: first + width] for v in sums], into, last, again)
