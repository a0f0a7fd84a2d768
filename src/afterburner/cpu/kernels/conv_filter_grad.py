"""Gradient of a convolution with respect to its filter: a product of input and output pixels.

A register tile holds the gradients of some input channels (or, where channels are few, of adjacent elements
of a filter row) by some registers of output channels for one filter tap, summed over a unit of output pixels.
Both operands of a unit are copied to scratch in the order in which tiles read them. Where the gradient is
small, parts of the pixels have private sums that a second phase adds in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.conv import Conv2dFilterGrad
from ...ir.types import F32
from ..emitter import Emitter, const, i64, stored_type
from ..halves import is_half
from ..isa import Isa
from ..kernel import Kernel, Phase
from .depthwise import lower_depthwise_filter_grad
from .epilogue import contraction_of
from .gemm import (
    CHUNK_CYCLES,
    MOST_CHUNKS,
    Columns,
    Cut,
    Numeric,
    Rows,
    Tile,
    accumulate,
    choose_tile,
    larger,
    load_lanes,
    numeric,
    range_of_part,
    shaped,
    smaller,
    store_lanes,
    walk_groups,
    walk_panels,
    zeros,
)
from .matmul import combine_phase, zero_kernel
from .packing import copy_rows, copy_run, pack_columns
from .winograd_filter_grad import filter_grad_pays, lower_winograd_filter_grad

_FEW_CHANNELS = 3  # so few that a tile takes neighbouring taps of a filter row as well
_PANEL_BYTES = 20 << 10  # of a unit's packed panel: most of a first-level cache
_INPUT_BYTES = 256 << 10  # of input copied in one go: half of a second-level cache
_COPIES = 4 << 20  # bytes of private sums
_COPIED_PIXELS = 64  # for each copy of the sums, at least
_STEPS = 256  # pixels of a unit, about
_BLOCK = 8  # pixels whose channels are copied together
_LINE = 64  # bytes of a cache line
_COPY, _ADD = 2.5, 4.0  # cycles to copy a register's width of an operand, and of private sums


@dataclass(frozen=True)
class FilterGrad:
    """Sizes of the operation and of the pieces it is cut in.

    Attributes:
        op, x, dy: the operation and its operand shapes.
        merged: tile rows run over (filter column, channel), not over channels only.
        tiles: cut of the tile rows.
        panels: cut of a group's output channels, in registers.
        bordered: the copy of the input has zeros at its sides, so that every tap has all columns.
        unit: (images, rows) of one unit; several images only where rows are all.
        together: tiles whose input is copied in one go.
        abreast: panels of dy that are copied in one go.
        parts: chunks along (units, panels, tiles).
    """

    op: Conv2dFilterGrad
    x: tuple[int, ...]
    dy: tuple[int, ...]
    merged: bool
    tiles: Cut
    panels: Cut
    bordered: bool
    unit: tuple[int, int]
    together: int
    abreast: int
    parts: tuple[int, int, int]

    @property
    def row_blocks(self) -> int:
        return -(-self.dy[1] // self.unit[1])

    @property
    def units(self) -> int:
        return -(-self.x[0] // self.unit[0]) * self.row_blocks

    @property
    def sparse(self) -> bool:
        """Only the pixels that a strided 1x1 filter meets are copied."""
        plain = self.op.filter_shape[:2] == (1, 1) and self.op.padding == ((0, 0), (0, 0))
        return plain and not self.merged

    @property
    def flat(self) -> bool:
        """The pixels of a unit are one run of adjacent pixels in both operands."""
        return self.sparse and self.op.strides == (1, 1)

    @property
    def strides(self) -> tuple[int, int]:
        """Strides over the copied input."""
        return (1, 1) if self.sparse else self.op.strides

    @property
    def unit_pixels(self) -> int:
        return self.unit[0] * self.unit[1] * self.dy[2]

    @property
    def input_rows(self) -> int:
        """Input rows that a unit reads of one image, at most."""
        if self.sparse:
            return self.unit[1]
        span = (self.unit[1] - 1) * self.op.strides[0] + (self.op.filter_shape[0] - 1) * self.op.dilation[0] + 1
        return min(span, self.x[1])

    @property
    def input_columns(self) -> int:
        """Columns of the copied input."""
        if self.sparse:
            return self.dy[2]
        return self.x[2] + (sum(self.op.padding[1]) if self.bordered else 0)

    @property
    def tile_input(self) -> int:
        """Elements of the input copied for one tile, or for all where they share it."""
        channels = self.op.filter_shape[2] if self.merged else self.tiles.widest
        return self.unit[0] * self.input_rows * self.input_columns * channels

    @property
    def asked(self) -> int:
        """Pixels that each tile of each panel asks for, so that together they ask for a whole unit."""
        tiles = min(self.together, self.tiles.parts // self.parts[2])
        return -(-self.unit_pixels // (tiles * self.abreast))

    @property
    def sums(self) -> int:
        return prod(self.op.filter_shape)


def plan_of(op: Conv2dFilterGrad, x: tuple[int, ...], dy: tuple[int, ...], num: Numeric, isa: Isa) -> FilterGrad:
    """Tiles, units and chunks, from the sizes alone."""
    kh, kw, depth, outputs = op.filter_shape
    width = outputs // op.groups
    merged = depth <= _FEW_CHANNELS and op.groups == 1 and op.dilation[1] == 1
    tiles, panels = choose_tile(depth * kw if merged else depth, -(-width // num.lanes), _STEPS, isa)
    pixels = max(1, _PANEL_BYTES // (panels.widest * num.lanes * num.bytes))
    image = dy[1] * dy[2]
    if image <= pixels:
        unit = (min(x[0], pixels // image), dy[1])
    else:
        rows = max(1, pixels // dy[2])
        unit = (1, -(-dy[1] // -(-dy[1] // rows)))
    bordered = merged or 0 < sum(op.padding[1]) <= dy[2] / 12
    found = FilterGrad(op, x, dy, merged, tiles, panels, bordered, unit, 1, 1, (1, 1, 1))
    parts = _parts(found, num)
    together = min(-(-tiles.parts // parts[2]), max(1, _INPUT_BYTES // (found.tile_input * num.bytes)))
    abreast = min(panels.parts, -(-panels.parts * op.groups // parts[1]), max(1, pixels // found.unit_pixels))
    return replace(found, together=tiles.parts if merged else together, abreast=abreast, parts=parts)


def _parts(f: FilterGrad, num: Numeric) -> tuple[int, int, int]:
    """The cut into chunks that copies least: every part of the tiles copies dy, every part of the panels the input,
    and every part of the units makes private sums."""
    pixels = prod(f.dy[:3])
    cycles = f.sums * pixels / num.lanes / 2
    wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
    most = max(1, min(wanted, f.units, _COPIES // (f.sums * num.bytes), pixels // _COPIED_PIXELS))
    panels = f.panels.parts * f.op.groups
    found = []
    for copies in range(1, most + 1):
        for down in range(1, min(f.tiles.parts, -(-wanted // copies)) + 1):
            across = min(panels, -(-wanted // (copies * down)))
            operands = down * prod(f.dy) + across * prod(f.x) // prod(f.op.strides)
            private = (copies + 1) * f.sums * _ADD if copies > 1 else 0
            found.append((-min(wanted, copies * across * down), _COPY * operands + private, copies, across, down))
    return min(found)[2:]


class FilterGradient:
    """Emits the main phase."""

    def __init__(self, f: FilterGrad, num: Numeric, stored: ll.Type, partial: bool) -> None:
        self.f, self.num, self.stored, self.partial = f, num, stored, partial
        groups, lanes = f.op.groups, num.lanes
        self.depth, self.width = f.op.filter_shape[2], f.op.filter_shape[3] // groups
        self.slot = f.unit_pixels * f.panels.widest * lanes
        self.input_at = self.slot * f.abreast
        self.scratch = (self.input_at + f.tile_input * (1 if f.merged else f.together)) * num.bytes

    def emit(self, e: Emitter) -> None:
        """The code of one chunk."""
        f = self.f
        rest, down = e.b.udiv(e.chunk, i64(f.parts[2])), e.b.urem(e.chunk, i64(f.parts[2]))
        unit_part, across = e.b.udiv(rest, i64(f.parts[1])), e.b.urem(rest, i64(f.parts[1]))
        first, end = range_of_part(e, unit_part, f.units, f.parts[0])
        self.tile_range = range_of_part(e, down, f.tiles.parts, f.parts[2])
        panel_range = range_of_part(e, across, f.panels.parts * f.op.groups, f.parts[1])
        self.target = e.result(0)
        if self.partial:
            self.target = e.at(e.temp(0), e.b.mul(unit_part, i64(f.sums)), self.num.element)
        with e.loop(first, end, name="unit") as unit:
            again = e.b.icmp_signed(">", unit, first)
            for group, low, high in walk_groups(e, f.op.groups, f.panels.parts, *panel_range):
                self._unit(e, unit, group, (low, high), again)

    def _unit(self, e: Emitter, unit: ll.Value, group: ll.Value, panels: tuple[ll.Value, ll.Value],
              again: ll.Value) -> None:
        f, op = self.f, self.f.op
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
                pack_columns(e, self.num, source, f.dy[3], self.pixels, packed, width, last, self.stored)
            self._look_ahead(e, pixel, group, panels, (first, end), tiles)
            for height, tile, row in f.tiles.walk(e, *tiles):
                number = e.b.sub(tile, tiles[0])
                source = self._input(e) if f.merged else self._tile_input(e, number)
                turn = e.b.sub(e.b.mul(number, i64(f.abreast)), first)
                for width, panel, packed, channel, last in self._packed(e, first, end):
                    self.asked = e.b.mul(e.b.add(turn, panel), i64(f.asked))
                    self._taps(e, (height, width, last), row, channel, source, packed, group, again)

    def _packed(self, e: Emitter, first: ll.Value,
                end: ll.Value) -> Iterator[tuple[int, ll.Value, ll.Value, ll.Value, int]]:
        """Loops over panels copied together: (registers, panel, its copy, first channel, lanes of the last one)."""
        for width, panel, channel, last in walk_panels(e, self.f.panels, self.num.lanes, self.width, first, end):
            slot = e.b.mul(e.b.sub(panel, first), i64(self.slot))
            yield width, panel, e.at(e.scratch, slot, self.num.element), channel, last

    def _at_output(self, e: Emitter, pixel: ll.Value, group: ll.Value, channel: ll.Value) -> ll.Value:
        inside = e.b.add(e.b.mul(group, i64(self.width)), channel)
        return e.at(e.operand(1), e.b.add(e.b.mul(pixel, i64(self.f.dy[3])), inside), self.stored)

    def _at_input(self, e: Emitter, pixel: ll.Value, group: ll.Value, channel: ll.Value) -> ll.Value:
        inside = e.b.add(e.b.mul(group, i64(self.depth)), channel)
        return e.at(e.operand(0), e.b.add(e.b.mul(pixel, i64(self.f.x[3])), inside), self.stored)

    def _look_ahead(self, e: Emitter, pixel: ll.Value, group: ll.Value, panels: tuple[ll.Value, ll.Value],
                    now: tuple[ll.Value, ll.Value], tiles: tuple[ll.Value, ll.Value]) -> None:
        """Find what will be copied next: the panels after ``now``; of the input, where that is simple, what follows
        these tiles, a part of each pixel with each turn of panels."""
        f, lanes = self.f, self.num.lanes
        more_panels = e.b.icmp_signed("<", now[1], panels[1])
        more_tiles = e.b.icmp_signed("<", tiles[1], self.tile_range[1])
        later = e.b.add(pixel, self.pixels)
        turned = e.b.select(more_tiles, pixel, later)
        panel = e.b.select(more_panels, now[1], panels[0])
        channel = e.b.mul(f.panels.start(e, panel), i64(lanes))
        self.coming = [(self._at_output(e, e.b.select(more_panels, pixel, turned), group, channel), f.dy[3],
                        self._lines(f.abreast * f.panels.widest * lanes))]
        if not f.flat or f.merged:
            return
        tile = e.b.select(more_tiles, tiles[1], self.tile_range[0])
        lines = self._lines(f.together * f.tiles.widest)
        turns = -(-min(-(-f.panels.parts * f.op.groups // f.parts[1]), f.panels.parts) // f.abreast)
        share = -(-lines // turns)
        turn = e.b.udiv(e.b.sub(now[0], panels[0]), i64(f.abreast))
        skipped = smaller(e, e.b.mul(turn, i64(share)), i64(lines - share))
        source = self._at_input(e, turned, group, f.tiles.start(e, tile))
        self.coming.append((e.at(source, e.b.mul(skipped, i64(_LINE // self.size)), self.stored), f.x[3], share))

    @property
    def size(self) -> int:
        """Bytes of a stored element."""
        return self.num.bytes if self.stored == self.num.element else 2

    def _lines(self, count: int) -> int:
        """Cache lines of adjacent elements."""
        return -(-count * self.size // _LINE)

    def _ask_pixel(self, e: Emitter, pixel: ll.Value) -> None:
        """Ask for a pixel of what will be copied next."""
        for source, stride, lines in self.coming:
            line = e.at(source, e.b.mul(pixel, i64(stride)), self.stored)
            for at in range(lines):
                e.prefetch(e.at(line, at * _LINE // self.size, self.stored))

    def _pack_input(self, e: Emitter, image: ll.Value, group: ll.Value,
                    tiles: tuple[ll.Value, ll.Value] | None) -> None:
        """The rows of x that this unit reads: all channels together, or one tile's after another's."""
        f, (_, height, width, channels) = self.f, self.f.x
        left, right = f.op.padding[1] if f.bordered else (0, 0)
        if tiles is not None and f.flat:
            pixel = e.b.mul(e.b.add(e.b.mul(image, i64(height)), self.first_row), i64(width))
            source = self._at_input(e, pixel, group, i64(0))
            self._copy_pixels(e, source, channels, i64(0), self.pixels, tiles)
            return
        with e.loop(0, self.images, name="image") as i, e.loop(self.top, self.bottom, name="line") as y:
            at = e.b.add(e.b.mul(i, i64(f.input_rows)), e.b.sub(y, self.top))
            pixel = e.b.mul(at, i64(f.input_columns))
            step = f.op.strides if f.sparse else (1, 1)
            row = e.b.add(e.b.mul(e.b.add(image, i), i64(height)), e.b.mul(y, i64(step[0])))
            inside = e.b.add(e.b.mul(row, i64(width * channels)), e.b.mul(group, i64(self.depth)))
            source = e.at(e.operand(0), inside, self.stored)
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
            self._copy_pixels(e, source, step[1] * channels, e.b.add(pixel, i64(left)), count, tiles)

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
                    for p in range(at_once):
                        given = e.at(e.at(line, channel, self.stored), p * stride, self.stored)
                        copy_run(e, self.num, given, e.at(target, p * size, self.num.element),
                                 self._copied(size) if high is whole else size, self.stored)

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
        return e.at(self._input(e), e.b.mul(index, i64(self.f.tile_input)), self.num.element)

    def _clear(self, e: Emitter, target: ll.Value, count: int) -> None:
        with e.loop(0, count, name="border") as i:
            e.store(const(self.num.element, 0.0), e.at(target, i, self.num.element), self.num.bytes)

    def _input(self, e: Emitter) -> ll.Value:
        return e.at(e.scratch, self.input_at, self.num.element)

    def _taps(self, e: Emitter, shape: tuple[int, int, int], row: ll.Value, channel: ll.Value, source: ll.Value,
              packed: ll.Value, group: ll.Value, again: ll.Value) -> None:
        """Add a unit's products to the sums of all taps of a tile of (rows, registers, lanes of the last)."""
        f, op, (height, width, last) = self.f, self.f.op, shape
        kh, kw, depth, outputs = op.filter_shape
        columns = 1 if f.merged else kw
        if not f.flat:
            with e.loop(self.asked, e.b.add(self.asked, i64(f.asked)), name="ask") as pixel:
                self._ask_pixel(e, pixel)
        with e.loop(0, kh, name="kh") as i, e.loop(0, columns, name="kw") as j:
            tap = e.b.mul(e.b.add(e.b.mul(i, i64(kw)), j), i64(depth))
            column = e.b.add(e.b.mul(group, i64(self.width)), channel)
            target = e.at(self.target, e.b.add(e.b.mul(e.b.add(tap, row), i64(outputs)), column), self.num.element)
            self._ask_sums(e, target, height, width)
            if f.flat:
                tile = self._run(e, height, source, width, packed)
            else:
                tile = self._sum(e, height, row, source, width, packed, i, j)
            self._finish(e, tile, target, last, again)

    def _ask_sums(self, e: Emitter, target: ll.Value, height: int, width: int) -> None:
        """Ask for the sums that will be added to."""
        for r in range(height):
            for at in range(self._lines(width * self.num.lanes)):
                start = r * self.f.op.filter_shape[3] + at * _LINE // self.num.bytes
                e.prefetch(e.at(target, start, self.num.element), to_write=True)

    def _run(self, e: Emitter, height: int, source: ll.Value, width: int, packed: ll.Value) -> Tile:
        """Register sums over one run of pixels; every so many ask for one that will be copied next."""
        f, num = self.f, self.num
        steps = -(-f.unit_pixels // f.asked)
        whole = e.b.udiv(self.pixels, i64(steps))

        def add(tile: Tile, turn: ll.Value, count: ll.Value | int) -> Tile:
            first = e.b.mul(turn, i64(steps))
            a = e.at(source, e.b.mul(first, i64(height)), num.element)
            b = e.at(packed, e.b.mul(first, i64(width * num.lanes)), num.element)
            return accumulate(e, num, tile, Rows(a, range(height), height), self._columns(b, width), count, unroll=4)

        flat = [v for row in zeros(num, height, width) for v in row]
        with e.loop_carried(0, whole, 1, flat, "run") as (turn, now, after):
            self._ask_pixel(e, e.b.add(self.asked, turn))
            after[:] = [v for row in add(shaped(now, width), turn, steps) for v in row]
        return add(shaped(after, width), whole, e.b.sub(self.pixels, e.b.mul(whole, i64(steps))))

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
        count = f.dy[2] if fixed else e.b.sub(across[1], across[0])
        flat = [v for line_ in zeros(num, height, width) for v in line_]
        with e.loop_carried(0, self.images, 1, flat, "image") as (image, outer, outer_after):
            x_image = e.at(source, e.b.add(e.b.mul(image, i64(f.input_rows * line)), column), num.element)
            pixels = e.b.mul(image, i64(f.unit[1] * f.dy[2]))
            with e.loop_carried(rows[0], rows[1], 1, outer, "y") as (y, now, after):
                x_row = e.b.add(e.b.mul(y, i64(f.strides[0])), shift)
                a = e.at(x_image, e.b.mul(x_row, i64(line)), num.element)
                pixel = e.b.add(e.b.mul(e.b.sub(y, self.first_row), i64(f.dy[2])), e.b.add(pixels, across[0]))
                b = e.at(packed, e.b.mul(pixel, i64(width * num.lanes)), num.element)
                tile = accumulate(e, num, shaped(now, width), Rows(a, range(height), f.strides[1] * channels),
                                  self._columns(b, width), count, unroll=4)
                after[:] = [v for line_ in tile for v in line_]
            outer_after[:] = after
        return shaped(outer_after, width)

    def _columns(self, base: ll.Value, width: int) -> Columns:
        lanes = self.num.lanes
        return Columns(base, [v * lanes for v in range(width)], width * lanes, lanes, lanes * self.num.bytes)

    def _finish(self, e: Emitter, tile: Tile, target: ll.Value, last: int, again: ll.Value) -> None:
        with e.b.if_else(again) as (then, otherwise):
            with then:
                self._store(e, tile, target, last, add=True)
            with otherwise:
                self._store(e, tile, target, last, add=False)

    def _store(self, e: Emitter, tile: Tile, target: ll.Value, last: int, add: bool) -> None:
        num, stride = self.num, self.f.op.filter_shape[3]
        for r, row in enumerate(tile):
            for v, value in enumerate(row):
                lanes = last if v == len(row) - 1 else num.lanes
                address = e.at(target, r * stride + v * num.lanes, num.element)
                if add:
                    value = num.add(e, load_lanes(e, address, num, lanes), value)
                store_lanes(e, value, address, num, lanes)


def lower_conv2d_filter_grad(node: Node, isa: Isa) -> Kernel:
    """The kernel of a conv2d_filter_grad node."""
    c = contraction_of(node)
    op, (x, dy, _) = c.root.op, c.shapes
    assert isinstance(op, Conv2dFilterGrad)
    if c.empty:
        return zero_kernel(c, isa)
    label = f"conv2d filter grad {op.filter_shape[0]}x{op.filter_shape[1]} {x[3]}->{dy[3]}"
    if op.groups > 1 and op.filter_shape[2] == 1 and op.filter_shape[3] == op.groups:
        return lower_depthwise_filter_grad(c, isa, label)
    num = numeric(c.dtype, isa)
    if isa.precision == "fast" and c.dtype == F32 and filter_grad_pays(op, dy, num, isa):
        return lower_winograd_filter_grad(c, num, isa, f"{label} (Winograd)")
    f = plan_of(op, x, dy, num, isa)
    partial = f.parts[0] > 1 or is_half(c.dtype)
    gradient = FilterGradient(f, num, stored_type(c.dtype), partial)
    phases = [Phase(prod(f.parts), gradient.emit)]
    if partial:
        phases.append(combine_phase(num, 1, f.sums, f.parts[0], c.finish(isa)))
    temps = (f.parts[0] * f.sums * num.bytes,) if partial else ()
    return Kernel(node, tuple(phases), c.key(isa), temps, gradient.scratch, label)
