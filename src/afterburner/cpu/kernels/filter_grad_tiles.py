"""Gradient of a convolution with respect to its filter: a product of input and output pixels.

A register tile holds the gradients of some input channels (or, where channels are few, of adjacent elements
of a filter row) by some registers of output channels for one filter tap, summed over a unit of output pixels.
Both operands of a unit are copied to scratch in the order in which tiles read them; while the sums are made, tiles
ask for what is copied next. Where the gradient is small, parts of the pixels have private sums that a second phase
adds in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator

from llvmlite import ir as ll

from ..emitter import I64, Emitter, const, i64
from .epilogue import Contraction
from .filter_grad_plan import FilterGrad
from .gemm import (
    LINE,
    Columns,
    Numeric,
    Rows,
    Tile,
    accumulate,
    larger,
    range_of_part,
    shaped,
    smaller,
    store_or_add,
    walk_groups,
    walk_panels,
    zeros,
)
from .packing import copy_rows, copy_run, pack_columns
from .prologue import Prologue

_BLOCK = 8  # pixels whose channels are copied together
_UNROLLED = 4  # steps of the sums over a run of pixels


class FilterGradient:
    """Emits the main phase."""

    def __init__(self, f: FilterGrad, num: Numeric, stored: ll.Type, partial: bool, contraction: Contraction,
                 prologue: Prologue | None) -> None:
        self.f, self.num, self.stored, self.partial = f, num, stored, partial
        self.contraction, self.prologue = contraction, prologue
        self.pitch = f.x[3] if prologue is None else prologue.pitch  # elements from a pixel of x to the next
        groups, lanes = f.op.groups, num.lanes
        self.depth, self.width = f.op.filter_shape[2], f.op.filter_shape[3] // groups
        self.slot = f.unit_steps * f.panels.widest * lanes
        self.input_at = self.slot * f.abreast

    @property
    def tile_elements(self) -> int:
        """Elements of the copied input of a tile, or of all where they share it."""
        return self.f.tile_input

    @property
    def copies_end(self) -> int:
        """Elements of both operands that are copied."""
        return self.input_at + self.tile_elements * (1 if self.f.merged else self.f.together)

    @property
    def scratch(self) -> int:
        """Bytes of private memory."""
        return self.copies_end * self.num.bytes

    def emit(self, e: Emitter) -> None:
        """The code of one chunk."""
        f = self.f
        first, end, panel_range = self._share(e)
        with e.loop(first, end, name="unit") as unit:
            again = e.b.icmp_signed(">", unit, first)
            self.more_units = e.b.icmp_signed("<", e.b.add(unit, i64(1)), end)
            for group, low, high in walk_groups(e, f.op.groups, f.panels.parts, *panel_range):
                self._unit(e, unit, group, (low, high), again)

    def _share(self, e: Emitter) -> tuple[ll.Value, ll.Value, tuple[ll.Value, ll.Value]]:
        """This chunk's units, first and end, and panels; its tiles and where its sums go are noted."""
        f = self.f
        rest, down = e.b.udiv(e.chunk, i64(f.parts[2])), e.b.urem(e.chunk, i64(f.parts[2]))
        unit_part, across = e.b.udiv(rest, i64(f.parts[1])), e.b.urem(rest, i64(f.parts[1]))
        first, end = range_of_part(e, unit_part, f.units, f.parts[0])
        self.tile_range = range_of_part(e, down, f.tiles.parts, f.parts[2])
        self.target = e.result(0)
        if self.partial:
            self.target = e.at(e.temp(0), e.b.mul(unit_part, i64(f.sums)), self.num.element)
        return first, end, range_of_part(e, across, f.panels.parts * f.op.groups, f.parts[1])

    def _unit(self, e: Emitter, unit: ll.Value, group: ll.Value, panels: tuple[ll.Value, ll.Value],
              again: ll.Value) -> None:
        f, op = self.f, self.f.op
        self.unit, self.first_channel = unit, e.b.mul(group, i64(self.depth))
        image = e.b.mul(e.b.udiv(unit, i64(f.row_blocks)), i64(f.unit[0]))
        self.images = smaller(e, i64(f.unit[0]), e.b.sub(i64(f.x[0]), image))
        self.first_row = e.b.mul(e.b.urem(unit, i64(f.row_blocks)), i64(f.unit[1]))
        self.end_row = smaller(e, i64(f.dy[1]), e.b.add(self.first_row, i64(f.unit[1])))
        self.pixels = e.b.mul(e.b.mul(self.images, e.b.sub(self.end_row, self.first_row)), i64(f.dy[2]))
        top = e.b.sub(e.b.mul(self.first_row, i64(op.strides[0])), i64(op.padding[0][0]))
        self.top = larger(e, i64(0), top)
        reach = (op.filter_shape[0] - 1) * op.dilation[0] + 1 - op.padding[0][0]
        bottom = e.b.add(e.b.mul(e.b.sub(self.end_row, i64(1)), i64(op.strides[0])), i64(reach))
        self.bottom = smaller(e, i64(f.x[1]), bottom)
        if f.sparse:
            self.top, self.bottom = self.first_row, self.end_row
        if f.merged:
            self._pack_input(e, image, group, None)
            self._panels(e, panels, self.tile_range, image, group, again)
            return
        with e.loop(*self.tile_range, f.together, "tiles") as tile:
            end = smaller(e, self.tile_range[1], e.b.add(tile, i64(f.together)))
            self._pack_input(e, image, group, (tile, end))
            self._panels(e, panels, (tile, end), image, group, again)

    def _panels(self, e: Emitter, panels: tuple[ll.Value, ll.Value], tiles: tuple[ll.Value, ll.Value],
                image: ll.Value, group: ll.Value, again: ll.Value) -> None:
        """Some panels at a time: copy dy, then add up all tiles."""
        f, (_, rows, columns, _) = self.f, self.f.dy
        pixel = e.b.mul(e.b.add(e.b.mul(image, i64(rows)), self.first_row), i64(columns))
        with e.loop(*panels, f.abreast, "panels") as first:
            end = smaller(e, panels[1], e.b.add(first, i64(f.abreast)))
            for width, _, packed, channel, last in self._packed(e, first, end):
                source = self._at_output(e, pixel, group, channel)
                self._pack_output(e, source, packed, width, last)
            self._look_ahead(e, pixel, group, panels, (first, end), tiles)
            for height, tile, row in f.tiles.walk(e, *tiles):
                number = e.b.sub(tile, tiles[0])
                source = self._input(e) if f.merged else self._tile_input(e, number)
                self._taps(e, height, number, row, source, (first, end), group, again)

    def _pack_output(self, e: Emitter, source: ll.Value, packed: ll.Value, width: int, last: int) -> None:
        """Copy a panel of dy."""
        pack_columns(e, self.num, source, self.f.dy[3], self.pixels, packed, width, last, self.stored)

    def _packed(self, e: Emitter, first: ll.Value,
                end: ll.Value) -> Iterator[tuple[int, ll.Value, ll.Value, ll.Value, int]]:
        """Loops over panels copied together: (registers, panel, its copy, first channel, lanes of the last one)."""
        for width, panel, channel, last in walk_panels(e, self.f.panels, self.num.lanes, self.width, first, end):
            slot = e.b.mul(e.b.sub(panel, first), i64(self.slot))
            yield width, panel, e.at(e.scratch, slot, self.num.element), channel, last

    def _at_output(self, e: Emitter, pixel: ll.Value, group: ll.Value, channel: ll.Value) -> ll.Value:
        inside = e.b.add(e.b.mul(group, i64(self.width)), channel)
        return e.at(self.contraction.operand(e, 1), e.b.add(e.b.mul(pixel, i64(self.f.dy[3])), inside), self.stored)

    def _at_input(self, e: Emitter, pixel: ll.Value, group: ll.Value, channel: ll.Value) -> ll.Value:
        inside = e.b.add(e.b.mul(group, i64(self.depth)), channel)
        return e.at(self._given(e), e.b.add(e.b.mul(pixel, i64(self.pitch)), inside), self.stored)

    def _given(self, e: Emitter) -> ll.Value:
        """Pointer to x, or to what it is made of."""
        return self.contraction.operand(e, 0) if self.prologue is None else self.prologue.operand(e)

    def _look_ahead(self, e: Emitter, pixel: ll.Value, group: ll.Value, panels: tuple[ll.Value, ll.Value],
                    now: tuple[ll.Value, ll.Value], tiles: tuple[ll.Value, ll.Value]) -> None:
        """Find what will be copied next: the panels after ``now``, and the input after these tiles, a part of each
        pixel with each turn of panels: (first pixel, elements between pixels, lines, pixels to each of dy)."""
        f, lanes = self.f, self.num.lanes
        more_panels = e.b.icmp_signed("<", now[1], panels[1])
        more_tiles = e.b.icmp_signed("<", tiles[1], self.tile_range[1])
        later = e.b.add(pixel, e.b.select(self.more_units, self.pixels, i64(0)))  # at the end what is there already
        turned = e.b.select(more_tiles, pixel, later)
        panel = e.b.select(more_panels, now[1], panels[0])
        channel = e.b.mul(f.panels.start(e, panel), i64(lanes))
        self.coming = [(self._at_output(e, e.b.select(more_panels, pixel, turned), group, channel), f.dy[3],
                        self._lines(f.abreast * f.panels.widest * lanes), 1)]
        if f.merged or (f.sparse and not f.flat):
            return
        tile = e.b.select(more_tiles, tiles[1], self.tile_range[0])
        lines = self._lines(f.together * f.tiles.widest)
        turns = -(-min(-(-f.panels.parts * f.op.groups // f.parts[1]), f.panels.parts) // f.abreast)
        share = -(-lines // turns)
        turn = e.b.udiv(e.b.sub(now[0], panels[0]), i64(f.abreast))
        skipped = e.b.mul(smaller(e, e.b.mul(turn, i64(share)), i64(lines - share)), i64(LINE // self.size))
        unit = e.b.add(self.unit, e.b.select(more_tiles, i64(0), e.b.zext(self.more_units, I64)))
        each = -(-f.unit[0] * f.input_rows * f.x[2] // f.unit_pixels)
        source = self._at_input(e, self._first_input(e, unit), group, f.tiles.start(e, tile))
        self.coming.append((e.at(source, skipped, self.stored), self.pitch, share, each))

    def _first_input(self, e: Emitter, unit: ll.Value) -> ll.Value:
        """The first pixel of x that a unit reads."""
        f = self.f
        image = e.b.mul(e.b.udiv(unit, i64(f.row_blocks)), i64(f.unit[0]))
        row = e.b.mul(e.b.urem(unit, i64(f.row_blocks)), i64(f.unit[1] * f.op.strides[0]))
        top = larger(e, i64(0), e.b.sub(row, i64(f.op.padding[0][0])))
        return e.b.mul(e.b.add(e.b.mul(image, i64(f.x[1])), top), i64(f.x[2]))

    @property
    def size(self) -> int:
        """Bytes of a stored element."""
        return self.num.bytes if self.stored == self.num.element else 2

    def _lines(self, count: int) -> int:
        """Cache lines of adjacent elements."""
        return -(-count * self.size // LINE)

    def _ask_pixel(self, e: Emitter, pixel: ll.Value) -> None:
        """Ask for a pixel of what will be copied next."""
        for source, stride, lines, each in self.coming:
            first = e.at(source, e.b.mul(pixel, i64(stride * each)), self.stored)
            for at in (n * stride + line * LINE // self.size for n in range(each) for line in range(lines)):
                e.prefetch(e.at(first, at, self.stored))

    def _pack_input(self, e: Emitter, image: ll.Value, group: ll.Value,
                    tiles: tuple[ll.Value, ll.Value] | None) -> None:
        """The rows of x that this unit reads: all channels together, or one tile's after another's."""
        f, (_, height, width, channels) = self.f, self.f.x
        left, right = f.op.padding[1] if f.bordered else (0, 0)
        if tiles is not None and f.flat:
            pixel = e.b.mul(e.b.add(e.b.mul(image, i64(height)), self.first_row), i64(width))
            source = self._at_input(e, pixel, group, i64(0))
            self._copy_pixels(e, source, self.pitch, i64(0), self.pixels, tiles)
            return
        with e.loop(0, self.images, name="image") as i, e.loop(self.top, self.bottom, name="line") as y:
            at = e.b.add(e.b.mul(i, i64(f.input_rows)), e.b.sub(y, self.top))
            pixel = e.b.mul(at, i64(f.input_columns))
            step = f.op.strides if f.sparse else (1, 1)
            row = e.b.add(e.b.mul(e.b.add(image, i), i64(height)), e.b.mul(y, i64(step[0])))
            source = self._at_input(e, e.b.mul(row, i64(width)), group, i64(0))
            if tiles is None:
                target = e.at(self._input(e), e.b.mul(pixel, i64(channels)), self.num.element)
                self._clear(e, target, left * channels)
                start = e.at(target, left * channels, self.num.element)
                copy_rows(e, self.num, source, 0, start, 0, 1, width * channels, self.stored)
                self._clear(e, e.at(start, width * channels, self.num.element), right * channels)
                return
            for first, last in ((0, left), (left + width, left + width + right)):
                for size, target, _ in self._inputs(e, pixel, tiles) if first < last else ():
                    self._clear(e, e.at(target, first * size, self.num.element), (last - first) * size)
            count = f.dy[2] if f.sparse else width
            self._copy_pixels(e, source, step[1] * self.pitch, e.b.add(pixel, i64(left)), count, tiles)

    def _copy_pixels(self, e: Emitter, source: ll.Value, stride: int, pixel: ll.Value, count: ll.Value | int,
                     tiles: tuple[ll.Value, ll.Value]) -> None:
        """Copy pixels ``stride`` elements apart to each tile's, some at a time; the last ones not beyond their end."""
        if isinstance(count, int):
            block = max(1, (count - 1) // -(-max(1, count - 1) // _BLOCK))
            whole: ll.Value = i64((count - 1) // block * block)
        else:
            block = _BLOCK
            whole = e.b.mul(e.b.udiv(e.b.sub(count, i64(1)), i64(block)), i64(block))
        for low, high, at_once in ((i64(0), whole, block), (whole, count, 1)):
            with e.loop(low, high, at_once, name="pixel") as x:
                line = e.at(source, e.b.mul(x, i64(stride)), self.stored)
                for size, target, channel in self._inputs(e, e.b.add(pixel, x), tiles):
                    copied = self._copied(size) if high is whole else size
                    first = e.b.add(self.first_channel, channel)
                    rows = None if self.prologue is None else self.prologue.rows(e, self.num, first, size)
                    for p in range(at_once):
                        given = e.at(e.at(line, channel, self.stored), p * stride, self.stored)
                        copy = copy_run if rows is None else rows.copy_run
                        copy(e, self.num, given, e.at(target, p * size, self.num.element), copied, self.stored)

    def _copied(self, size: int) -> int:
        """Elements that a copy of a tile's channels may write: what is too much belongs to the next pixel."""
        whole = -(-size // self.num.lanes) * self.num.lanes
        return whole if whole <= 2 * size else size

    def _inputs(self, e: Emitter, pixel: ll.Value,
                tiles: tuple[ll.Value, ll.Value]) -> Iterator[tuple[int, ll.Value, ll.Value]]:
        """Loops over tiles: (channels, address of a pixel's copy, first channel)."""
        for size, tile, channel in self.f.tiles.walk(e, *tiles):
            target = self._tile_input(e, e.b.sub(tile, tiles[0]))
            yield size, e.at(target, e.b.mul(pixel, i64(size)), self.num.element), channel

    def _tile_input(self, e: Emitter, index: ll.Value) -> ll.Value:
        return e.at(self._input(e), e.b.mul(index, i64(self.tile_elements)), self.num.element)

    def _clear(self, e: Emitter, target: ll.Value, count: int) -> None:
        with e.loop(0, count, name="border") as i:
            e.store(const(self.num.element, 0.0), e.at(target, i, self.num.element), self.num.bytes)

    def _input(self, e: Emitter) -> ll.Value:
        return e.at(e.scratch, self.input_at, self.num.element)

    def _taps(self, e: Emitter, height: int, tile: ll.Value, row: ll.Value, source: ll.Value,
              panels: tuple[ll.Value, ll.Value], group: ll.Value, again: ll.Value) -> None:
        """Add a unit's products to the sums of all taps of a tile, panel after panel."""
        f, op = self.f, self.f.op
        kh, kw, depth, outputs = op.filter_shape
        columns = 1 if f.merged else kw
        with e.loop(0, kh, name="kh") as i, e.loop(0, columns, name="kw") as j:
            tap = e.b.mul(e.b.add(e.b.mul(i, i64(kw)), j), i64(depth))
            number = e.b.add(e.b.mul(i, i64(columns)), j)
            turn = e.b.mul(e.b.add(e.b.mul(tile, i64(f.taps)), number), i64(f.abreast))
            for width, panel, packed, channel, last in self._packed(e, *panels):
                column = e.b.add(e.b.mul(group, i64(self.width)), channel)
                target = e.at(self.target, e.b.add(e.b.mul(e.b.add(tap, row), i64(outputs)), column), self.num.element)
                self._ask_sums(e, target, height, width)
                asked = e.b.mul(e.b.add(turn, e.b.sub(panel, panels[0])), i64(f.asked))
                if f.flat:
                    sums = self._run(e, height, source, width, packed, asked)
                else:
                    with e.loop(asked, smaller(e, self.pixels, e.b.add(asked, i64(f.asked))), name="ask") as pixel:
                        self._ask_pixel(e, pixel)
                    sums = self._sum(e, height, row, source, width, packed, i, j)
                self._finish(e, sums, target, last, again)

    def _ask_sums(self, e: Emitter, target: ll.Value, height: int, width: int) -> None:
        """Ask for the sums that will be added to."""
        for r in range(height):
            for at in range(self._lines(width * self.num.lanes)):
                start = r * self.f.op.filter_shape[3] + at * LINE // self.num.bytes
                e.prefetch(e.at(target, start, self.num.element), to_write=True)

    def _run(self, e: Emitter, height: int, source: ll.Value, width: int, packed: ll.Value,
             asked: ll.Value) -> Tile:
        """Register sums over one run of pixels; every so many ask for some that will be copied next."""
        f, num = self.f, self.num
        steps = max(1, f.unit_steps // f.asked // _UNROLLED) * _UNROLLED
        each = -(-f.asked // max(1, f.unit_steps // steps))
        count = e.b.udiv(e.b.add(self.pixels, i64(f.per_step - 1)), i64(f.per_step))
        whole = e.b.udiv(count, i64(steps))

        def add(tile: Tile, turn: ll.Value, count: ll.Value | int) -> Tile:
            first = e.b.mul(turn, i64(steps))
            a = e.at(source, e.b.mul(first, i64(height)), num.element)
            b = e.at(packed, e.b.mul(first, i64(width * num.lanes)), num.element)
            rows, columns = Rows(a, range(height), height), self._columns(b, width)
            return accumulate(e, num, tile, rows, columns, count, unroll=_UNROLLED)

        flat = [v for row in zeros(num, height, width) for v in row]
        with e.loop_carried(0, whole, 1, flat, "run") as (turn, now, after):
            for pixel in range(each):
                self._ask_pixel(e, e.b.add(e.b.add(asked, e.b.mul(turn, i64(each))), i64(pixel)))
            after[:] = [v for row in add(shaped(now, width), turn, steps) for v in row]
        return add(shaped(after, width), whole, e.b.sub(count, e.b.mul(whole, i64(steps))))

    def _inside(self, axis: int) -> bool:
        """Whether all taps of all output positions lie inside of the input."""
        f, op = self.f, self.f.op
        last = (f.dy[1 + axis] - 1) * op.strides[axis] + (op.filter_shape[axis] - 1) * op.dilation[axis]
        return op.padding[axis][0] == 0 and last < f.x[1 + axis]

    def _range(self, e: Emitter, axis: int, tap: ll.Value, first: ll.Value,
               end: ll.Value) -> tuple[ll.Value, ll.Value]:
        """Output positions in [first, end) whose tap lies inside of the input."""
        f, op = self.f, self.f.op
        stride, dilation, before = op.strides[axis], op.dilation[axis], op.padding[axis][0]
        size = f.x[1 + axis]
        if self._inside(axis):
            return first, end
        # position * stride + tap * dilation - before lies in [0, size)
        short = e.b.sub(i64(before), e.b.mul(tap, i64(dilation)))
        low = e.b.udiv(larger(e, i64(0), e.b.add(short, i64(stride - 1))), i64(stride))
        high = e.b.udiv(larger(e, i64(0), e.b.add(short, i64(size + stride - 1))), i64(stride))
        return larger(e, first, low), smaller(e, end, high)

    def _sum(self, e: Emitter, height: int, row: ll.Value, source: ll.Value, width: int, packed: ll.Value,
             i: ll.Value, j: ll.Value) -> Tile:
        """Register sums of one tap over the pixels of the unit."""
        f, op, num = self.f, self.f.op, self.num
        rows = self._range(e, 0, i, self.first_row, self.end_row)
        across = (i64(0), i64(f.dy[2])) if f.bordered else self._range(e, 1, j, i64(0), i64(f.dy[2]))
        channels = self.depth if f.merged else height
        line = f.input_columns * channels
        left = e.b.mul(j, i64(op.dilation[1]))
        if not f.bordered:
            left = e.b.sub(left, i64(op.padding[1][0]))
        left = e.b.add(left, e.b.mul(across[0], i64(f.strides[1])))
        column = e.b.mul(left, i64(channels))
        if f.merged:
            column = e.b.add(column, row)
        shift = e.b.sub(e.b.sub(e.b.mul(i, i64(op.dilation[0])), i64(op.padding[0][0])), self.top)
        fixed = f.bordered or self._inside(1)
        count = f.row_steps if fixed else e.b.sub(across[1], across[0])
        flat = [v for line_ in zeros(num, height, width) for v in line_]
        with e.loop_carried(0, self.images, 1, flat, "image") as (image, outer, outer_after):
            x_image = e.at(source, e.b.add(e.b.mul(image, i64(f.input_rows * line)), column), num.element)
            steps = e.b.mul(image, i64(f.unit[1] * f.row_steps))
            with e.loop_carried(rows[0], rows[1], 1, outer, "y") as (y, now, after):
                x_row = e.b.add(e.b.mul(y, i64(f.strides[0])), shift)
                a = e.at(x_image, e.b.mul(x_row, i64(line)), num.element)
                step = e.b.add(e.b.mul(e.b.sub(y, self.first_row), i64(f.row_steps)), e.b.add(steps, across[0]))
                b = e.at(packed, e.b.mul(step, i64(width * num.lanes)), num.element)
                tile = accumulate(e, num, shaped(now, width), Rows(a, range(height), f.column_step * channels),
                                  self._columns(b, width), count, unroll=4)
                after[:] = [v for line_ in tile for v in line_]
            outer_after[:] = after
        return shaped(outer_after, width)

    def _columns(self, base: ll.Value, width: int) -> Columns:
        lanes = self.num.lanes
        return Columns(base, [v * lanes for v in range(width)], width * lanes, lanes, lanes * self.num.bytes)

    def _finish(self, e: Emitter, tile: Tile, target: ll.Value, last: int, again: ll.Value) -> None:
        store_or_add(e, self.num, tile, target, self.f.op.filter_shape[3], last, again)
