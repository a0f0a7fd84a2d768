"""Direct correlation of an NHWC image: what forward convolution and its input gradient have in common.

Every output pixel sums, over filter taps, an input pixel's channels times a matrix of the filter. A register
tile holds adjacent pixels of one output row by some registers of output channels; the taps of a row are one
run of adjacent input elements. Taps outside of the image are never computed: rows of taps by loop bounds,
columns by leaving pixels out of a run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from llvmlite import ir as ll

from ..emitter import I8, Emitter, i64
from .correlation import Correlation, Plan, kinds_of, tap_range
from .epilogue import COLD_BYTES, EARLY_STEPS, LINE, Finish, Streams, ask_early, cold
from .gemm import (
    Ahead,
    Asked,
    Columns,
    Numeric,
    Rows,
    Tile,
    accumulate,
    accumulate_listed,
    is_written_out,
    larger,
    range_of_part,
    shaped,
    smaller,
    walk_groups,
    walk_panels,
    zeros,
)
from .packing import pack_columns, pack_columns_transposed
from .prologue import Blocks, Given, Prologue
from .sum_blocks import Piece, ends_of, pieces_of, segments_of

if TYPE_CHECKING:
    from .shared_zeros import SharedZeros

_PASSES = 3  # chunks that read the same input, each for its channels: with more it mostly comes from a cache
_ASKED_STEPS = 8  # products an element below which asking takes longer than waiting
_EVERY = 4  # steps of the sums at least, and so many times, between two pieces of what is asked for


@dataclass(frozen=True)
class _Block:
    """Rows [first, end) of the output of image ``number``; where that lies, and where its rows are read from."""

    number: ll.Value
    first: ll.Value
    end: ll.Value
    image: ll.Value
    read: ll.Value


@dataclass(frozen=True)
class PlacedTile:
    """A register tile among all pixels.

    Attributes:
        pixels: how many.
        masks: for each tap those it is valid for.
        image, row: where it is.
        index: its number in the row.
        column: its first pixel in the row.
        line: address of the input row of tap row 0.
        pixel, number: pixels and tiles before it.
    """

    pixels: int
    masks: tuple[tuple[int, ...], ...]
    image: ll.Value
    row: ll.Value
    index: ll.Value
    column: ll.Value
    line: ll.Value
    pixel: ll.Value
    number: ll.Value


def _pieces(e: Emitter, base: ll.Value, step: int, count: int, lines: Sequence[int], written: bool = False) -> Asked:
    """So many pieces of ``lines``, each ``step`` bytes after the one before."""
    return Asked(base, i64(step), e.at(base, (count - 1) * step, I8), lines, written)


class Correlator:
    """Emits the phases of one correlation whose packed filter lies at ``temp 0 + packed_at`` elements. The pixels that
    it reads may be made from others, ``made``, block by block: then ``c`` describes what is made."""

    def __init__(self, c: Correlation, plan: Plan, num: Numeric, stored: ll.Type, packed_at: int,
                 filter_columns: int, streams: Streams = lambda e: [], zeros: SharedZeros | None = None,
                 made: Prologue | Given | None = None) -> None:
        self.c, self.plan, self.num, self.stored, self.packed_at = c, plan, num, stored, packed_at
        self.filter_columns, self.streams, self.shared_zeros = filter_columns, streams, zeros
        self.slot = c.steps * plan.panels.widest * num.lanes
        self.blocks_per_image = -(-c.rows.outputs // plan.block) if plan.block else 0
        self.ends = ends_of(c) if num.is_float and num.bytes == 4 else ()
        self.totals_at = 0  # elements from the start of scratch, of a tile's totals
        self.blocks = None if made is None else self._blocks(made)
        self.asked = self._asked_lines()

    def _blocks(self, made: Prologue | Given) -> Blocks:
        """What makes pixels."""
        return Blocks(made, self._made_at, self.c.columns.inputs, self.c.depth, self.c.pixel)

    @property
    def filter_of(self) -> Correlation:
        """The correlation whose filter lies in memory."""
        return self.c

    @property
    def tile_totals(self) -> int:
        """Bytes of a tile's totals where long sums are made in blocks."""
        plan, num = self.plan, self.num
        return plan.tiles.widest * plan.panels.widest * num.lanes * num.bytes if self.ends else 0

    @property
    def own_scratch(self) -> int:
        """Bytes of private memory for sums."""
        return self.tile_totals

    @property
    def _made_at(self) -> int:
        """Bytes of scratch before the pixels that are made."""
        return -(-self.own_scratch // LINE) * LINE

    @property
    def scratch(self) -> int:
        """Bytes of private memory."""
        c = self.c
        if self.blocks is None:
            return self.own_scratch
        rows = min(c.rows.inputs, (self.plan.block - 1) * c.rows.taps.stride + c.rows.span)
        return self._made_at + rows * c.columns.inputs * c.pixel * self.num.bytes

    @property
    def _given_row(self) -> int:
        """Elements from a row of the image to the next."""
        pitch = self.c.depth * self.c.groups if self.blocks is None else self.blocks.prologue.pitch
        return self.c.columns.inputs * pitch

    def _asked_lines(self) -> int:
        """Cache lines of the next block's input that each tile asks for, so that together they ask for all."""
        c, plan, size = self.c, self.plan, self.num.bytes
        whole = c.images * c.rows.inputs * self._given_row * size
        apart = self.blocks is not None and self.blocks.prologue.pitch > self.blocks.depth
        if c.groups > 1 or plan.block == 0 or whole < COLD_BYTES or plan.parts[1] > _PASSES or apart:
            return 0
        lines = plan.block * c.rows.taps.stride * self._given_row * size / LINE
        tiles = plan.block * plan.tiles.parts * (plan.panels.parts // plan.parts[1])
        return -(-int(lines) // tiles)

    @property
    def packed_elements(self) -> int:
        return self.slot * self.plan.panels.parts * self.c.groups

    def _panels(self, e: Emitter, first: ll.Value, end: ll.Value) -> Iterator[tuple[int, ll.Value, ll.Value, int]]:
        """Loops over panels of one group: (registers, panel, first channel, lanes of the last register)."""
        return walk_panels(e, self.plan.panels, self.num.lanes, self.c.width, first, end)

    def _groups(self, e: Emitter, first: ll.Value, end: ll.Value) -> Iterator[tuple[ll.Value, ll.Value, ll.Value]]:
        """Loops over the groups that own panels [first, end): (group, its first panel, its end)."""
        return walk_groups(e, self.c.groups, self.plan.panels.parts, first, end)

    def pack(self, e: Emitter, filter_: ll.Value, chunks: int) -> None:
        """Copy this chunk's share of the filter to [group][panel][tap row][tap column][depth][registers]."""
        first, end = range_of_part(e, e.chunk, self.plan.panels.parts * self.c.groups, chunks)
        for group, low, high in self._groups(e, first, end):
            for width, panel, channel, last in self._panels(e, low, high):
                self.pack_panel(e, filter_, group, channel, self.panel_address(e, group, panel), width, last)

    def pack_panel(self, e: Emitter, filter_: ll.Value, group: ll.Value, channel: ll.Value, target: ll.Value,
                   width: int, last: int) -> None:
        """Copy ``width`` registers of channels of the filter to [tap row][tap column][depth][registers]."""
        row = self.c.columns.taps.count * self.c.depth * width * self.num.lanes
        with e.loop(0, self.c.rows.taps.count, name="i") as i:
            into = e.at(target, e.b.mul(i, i64(row)), self.num.element)
            self.pack_row(e, filter_, group, channel, i, into, width, last)

    def pack_row(self, e: Emitter, filter_: ll.Value, group: ll.Value, channel: ll.Value, i: ll.Value,
                 target: ll.Value, width: int, last: int) -> None:
        """Copy one row of taps of ``width`` registers of channels to [tap column][depth][registers]."""
        c = self.c
        with e.loop(0, c.columns.taps.count, name="j") as j:
            source = e.at(filter_, self._filter_offset(e, group, channel, i, j), self.stored)
            into = e.at(target, e.b.mul(j, i64(c.depth * width * self.num.lanes)), self.num.element)
            self.pack_tap(e, source, into, width, last)

    def pack_tap(self, e: Emitter, source: ll.Value, into: ll.Value, width: int, last: int) -> None:
        """Copy ``width`` registers of channels of one tap to [depth][registers]."""
        c = self.c
        pack = pack_columns_transposed if c.transposed else pack_columns
        stride = c.depth * c.groups if c.transposed else c.width * c.groups
        pack(e, self.num, source, stride, i64(c.depth), into, width, last, self.stored)

    def _filter_offset(self, e: Emitter, group: ll.Value, channel: ll.Value, i: ll.Value, j: ll.Value) -> ll.Value:
        c = self.filter_of
        row = e.b.add(i64(c.rows.taps.index), e.b.mul(i, i64(c.rows.taps.index_step)))
        column = e.b.add(i64(c.columns.taps.index), e.b.mul(j, i64(c.columns.taps.index_step)))
        tap = e.b.add(e.b.mul(row, i64(self.filter_columns)), column)
        matrix = e.b.mul(tap, i64(c.depth * c.width * c.groups))
        if c.transposed:
            inside = e.b.add(e.b.mul(channel, i64(c.depth * c.groups)), e.b.mul(group, i64(c.depth)))
        else:
            inside = e.b.add(e.b.mul(group, i64(c.width)), channel)
        return e.b.add(matrix, inside)

    def panel_address(self, e: Emitter, group: ll.Value, panel: ll.Value) -> ll.Value:
        """The packed filter of a panel."""
        index = e.b.add(e.b.mul(group, i64(self.plan.panels.parts)), panel)
        offset = e.b.add(e.b.mul(index, i64(self.slot)), i64(self.packed_at))
        return e.at(e.temp(0), offset, self.num.element)

    def compute(self, e: Emitter, image: ll.Value, finish: Finish) -> None:
        """This chunk's share of the output pixels; ``image`` is the input in the accumulation type, or what its pixels
        are made from."""
        c, plan = self.c, self.plan
        blocks = c.images * self.blocks_per_image
        index = e.b.udiv(e.chunk, i64(plan.parts[1]))
        part = e.b.urem(e.chunk, i64(plan.parts[1]))
        first_block, end_block = range_of_part(e, index, blocks, plan.parts[0])
        first_panel, end_panel = range_of_part(e, part, plan.panels.parts * c.groups, plan.parts[1])
        self.first_panel = first_panel
        with e.loop(first_block, end_block, name="block") as number:
            block = self._block(e, image, number)
            for group, low, high in self._groups(e, first_panel, end_panel):
                for width, panel, channel, last in self._panels(e, low, high):
                    self._dense_block(e, block, finish, group, width, panel, channel, last)

    def _block(self, e: Emitter, image: ll.Value, block: ll.Value) -> _Block:
        """Block number ``block`` of all images, its pixels made if they are not given."""
        per = self.blocks_per_image
        number, inside = e.b.udiv(block, i64(per)), e.b.urem(block, i64(per))
        first = e.b.mul(inside, i64(self.plan.block))
        end = smaller(e, e.b.add(first, i64(self.plan.block)), i64(self.c.rows.outputs))
        given = e.at(image, e.b.mul(number, i64(self.c.rows.inputs * self._given_row)), self.num.element)
        read = given if self.blocks is None else self.blocks.make(e, self.num, given, *self._rows_read(e, first, end))
        return _Block(number, first, end, given, read)

    def _rows_read(self, e: Emitter, first: ll.Value, end: ll.Value) -> tuple[ll.Value, ll.Value]:
        """The rows of the image that output rows [first, end) read."""
        rows, taps = self.c.rows, self.c.rows.taps
        low = e.b.add(e.b.mul(first, i64(taps.stride)), i64(taps.offset))
        high = e.b.add(e.b.mul(e.b.sub(end, i64(1)), i64(taps.stride)), i64(taps.offset + rows.span))
        return larger(e, i64(0), low), smaller(e, i64(rows.inputs), high)

    def _dense_block(self, e: Emitter, block: _Block, finish: Finish, group: ll.Value, width: int, panel: ll.Value,
                     channel: ll.Value, last: int) -> None:
        c, number, first = self.c, block.number, block.first
        source = e.at(block.read, e.b.mul(group, i64(c.depth)), self.num.element)
        packed = self.panel_address(e, group, panel)
        column = e.b.add(e.b.mul(group, i64(c.width)), channel)
        target = e.b.add(e.b.add(e.b.mul(number, i64(c.out_strides[0])), column), i64(c.out_offset))
        ahead = e.at(block.image, e.b.mul(block.end, i64(c.rows.taps.stride * self._given_row)), self.num.element)
        turn = e.b.sub(e.b.mul(e.b.sub(panel, self.first_panel), i64(self.plan.block)), first)
        with e.loop(first, block.end, name="row") as y:
            tiles = e.b.mul(e.b.add(turn, y), i64(self.plan.tiles.parts * self.asked * LINE // self.num.bytes))
            self.ahead = e.at(ahead, tiles, self.num.element)
            into = e.b.add(target, e.b.mul(y, i64(c.out_strides[1])))
            self.row(e, number, source, packed, y, into, width, column, last, finish)

    def row(self, e: Emitter, number: ll.Value, source: ll.Value, packed: ll.Value, y: ll.Value, target: ll.Value,
            width: int, column: ll.Value, last: int, finish: Finish) -> None:
        """Output row ``y`` of a panel of image ``number``, which lies at ``source``. It begins at element ``target`` of
        the result; ``ahead`` is what its first tile asks for."""
        c = self.c
        first, end = tap_range(e, c.rows, y)
        top = e.b.add(e.b.mul(y, i64(c.rows.taps.stride)), i64(c.rows.taps.offset))
        line = e.at(source, e.b.mul(top, i64(c.columns.inputs * c.pixel)), self.num.element)
        for pixels, masks, low, high in kinds_of(self.plan.tiles, c.columns):
            with e.loop(low, high, name="tile") as tile:
                x = self.plan.tiles.start(e, tile)
                into = e.b.add(target, e.b.mul(x, i64(c.out_strides[2])))
                below = e.at(self.ahead, e.b.mul(tile, i64(self.asked * LINE // self.num.bytes)), self.num.element)
                listed = self._listed(e, number, y, tile)
                ahead = self._spread(e, into, below, pixels, width) if listed is None else None
                if ahead is None:
                    self._ask(e, into, pixels, width)
                    for ask in range(self.asked):
                        e.prefetch(e.at(below, ask * LINE // self.num.bytes, self.num.element))
                sums = self._whole(e, pixels, width, line, packed, x, masks, first, end, listed, ahead)
                finish(e, sums, into, c.out_strides[2], column, last)

    def all_tiles(self, e: Emitter, image: ll.Value) -> Iterator[PlacedTile]:
        """Loops over the register tiles of all pixels."""
        c, tiles = self.c, self.plan.tiles
        size = c.rows.inputs * c.columns.inputs * c.pixel
        with e.loop(0, c.images, name="image") as n, e.loop(0, c.rows.outputs, name="row") as y:
            top = e.b.add(e.b.mul(y, i64(c.rows.taps.stride)), i64(c.rows.taps.offset))
            source = e.at(image, e.b.mul(n, i64(size)), self.num.element)
            line = e.at(source, e.b.mul(top, i64(c.columns.inputs * c.pixel)), self.num.element)
            rows = e.b.add(e.b.mul(n, i64(c.rows.outputs)), y)
            for pixels, masks, start, stop in kinds_of(tiles, c.columns):
                with e.loop(start, stop, name="tile") as tile:
                    column = tiles.start(e, tile)
                    pixel = e.b.add(e.b.mul(rows, i64(c.columns.outputs)), column)
                    number = e.b.add(e.b.mul(rows, i64(tiles.parts)), tile)
                    yield PlacedTile(pixels, masks, n, y, tile, column, line, pixel, number)

    def finish_all(self, e: Emitter, finish: Finish, width: int, channel: ll.Value, last: int,
                   sums: Callable[[ll.Value, int], Tile]) -> None:
        """Finish the tiles of a panel; ``sums`` are those of so many pixels from one on, counted through all images."""
        c, tiles = self.c, self.plan.tiles
        with e.loop(0, c.images, name="image") as n, e.loop(0, c.rows.outputs, name="row") as y:
            inside = e.b.add(e.b.mul(n, i64(c.out_strides[0])), e.b.mul(y, i64(c.out_strides[1])))
            target = e.b.add(e.b.add(inside, channel), i64(c.out_offset))
            before = e.b.mul(e.b.add(e.b.mul(n, i64(c.rows.outputs)), y), i64(c.columns.outputs))
            for pixels, _, x in tiles.walk(e, i64(0), i64(tiles.parts)):
                into = e.b.add(target, e.b.mul(x, i64(c.out_strides[2])))
                finish(e, sums(e.b.add(before, x), pixels), into, c.out_strides[2], channel, last)

    def _whole(self, e: Emitter, pixels: int, width: int, line: ll.Value, packed: ll.Value, x: ll.Value,
               masks: tuple[tuple[int, ...], ...], first: ll.Value | int, end: ll.Value | int,
               listed: ll.Value | None, ahead: Ahead | None = None) -> Tile:
        """The sums of a tile over rows of taps [first, end), all that there are."""
        sums = zeros(self.num, pixels, width)
        if not self.ends:
            return self._tile(e, sums, line, packed, x, masks, first, end, i64(0), listed, ahead)
        totals = e.at(e.scratch, self.totals_at, self.num.element)
        self._store(e, totals, sums)
        self._add_blocks(e, totals, pixels, width, line, packed, x, masks, first, end, i64(0), listed, ahead)
        return self._load(e, totals, pixels, width)

    def _load(self, e: Emitter, base: ll.Value, pixels: int, width: int) -> Tile:
        """A tile from memory of whole registers."""
        size = self.num.lanes * self.num.bytes
        return [[e.load(self._register(e, base, p * width + v), self.num.vector, size) for v in range(width)]
                for p in range(pixels)]

    def _store(self, e: Emitter, base: ll.Value, sums: Tile) -> None:
        for index, value in enumerate(v for row in sums for v in row):
            e.store(value, self._register(e, base, index), self.num.lanes * self.num.bytes)

    def _register(self, e: Emitter, base: ll.Value, index: int) -> ll.Value:
        return e.at(base, index * self.num.lanes, self.num.element)

    def _add_blocks(self, e: Emitter, totals: ll.Value, pixels: int, width: int, line: ll.Value, packed: ll.Value,
                    x: ll.Value, masks: tuple[tuple[int, ...], ...], first: ll.Value | int, end: ll.Value | int,
                    held: ll.Value, listed: ll.Value | None, ahead: Ahead | None = None) -> None:
        """As ``_tile``, in blocks, to sums in memory."""
        c, taps = self.c, self.c.columns.taps
        left = e.b.mul(e.b.add(e.b.mul(x, i64(taps.stride)), i64(taps.offset)), i64(c.pixel))
        origin = e.at(line, left, self.num.element)
        row_step = c.rows.taps.offset_step * c.columns.inputs * c.pixel
        lanes = width * self.num.lanes
        fresh = zeros(self.num, pixels, width)
        pieces = pieces_of(c, masks, self.ends)
        with e.loop(first, end, name="i") as i:
            a = e.at(origin, e.b.mul(i, i64(row_step)), self.num.element)
            b = e.at(packed, e.b.mul(e.b.sub(i, held), i64(taps.count * c.depth * lanes)), self.num.element)
            below = None
            if self.shared_zeros is not None and listed is not None:
                below = self.shared_zeros.below(e, listed, e.b.mul(i, i64(c.rows.taps.offset_step)))
            tile = fresh
            for piece in pieces:
                if piece.count > 1:
                    with e.loop(0, piece.count, name="block") as turn:
                        self._flush(e, totals, self._piece(e, fresh, a, b, piece, turn, below, ahead), piece.done)
                    continue
                tile = self._piece(e, tile, a, b, piece, i64(0), below, ahead)
                if piece.done:
                    self._flush(e, totals, tile, piece.done)
                    tile = fresh

    def _piece(self, e: Emitter, tile: Tile, a: ll.Value, b: ll.Value, piece: Piece, turn: ll.Value,
               lists: ll.Value | None, ahead: Ahead | None) -> Tile:
        """Add the products of a piece of a row of taps, for the ``turn``th time."""
        c, width = self.c, len(tile[0])
        tap = piece.start // c.depth
        at = e.b.add(i64(tap * c.columns.taps.offset_step * c.pixel + piece.start % c.depth),
                     e.b.mul(turn, i64(piece.size)))
        step = e.b.add(i64(piece.start), e.b.mul(turn, i64(piece.size)))
        rows = Rows(e.at(a, at, self.num.element), self._pixels(tile), 1)
        columns = self._columns(e.at(b, e.b.mul(step, i64(width * self.num.lanes)), self.num.element), width)
        later = None if ahead is None else ahead.later(e, step)
        if lists is None:
            return accumulate(e, self.num, tile, rows, columns, piece.size, piece.active, ahead=later)
        assert self.shared_zeros is not None
        number = e.b.add(i64(piece.number), turn)
        steps, count = self.shared_zeros.listed(e, lists, number, step)
        return accumulate_listed(e, self.num, tile, rows, columns, steps, count, piece.active, later)

    def _flush(self, e: Emitter, totals: ll.Value, tile: Tile, done: tuple[int, ...]) -> None:
        """Add a block's sums to the totals."""
        size, width = self.num.lanes * self.num.bytes, len(tile[0])
        for p in done:
            for v, value in enumerate(tile[p]):
                address = self._register(e, totals, p * width + v)
                e.store(self.num.add(e, e.load(address, self.num.vector, size), value), address, size)

    def _ask(self, e: Emitter, into: ll.Value, pixels: int, width: int) -> None:
        """Ask for what this tile is finished with; where its sums are soon made, for what a later one is."""
        c = self.c
        if c.steps < _ASKED_STEPS:
            return
        tiles = -(-EARLY_STEPS // c.steps) - 1
        ahead = e.b.add(into, i64(tiles * pixels * c.out_strides[2]))
        streams = cold(self.streams(e), c.images * c.out_strides[0])
        ask_early(e, streams, ahead, pixels, c.out_strides[2], width * self.num.lanes)

    def _spread(self, e: Emitter, into: ll.Value, below: ll.Value, pixels: int, width: int) -> Ahead | None:
        """What is asked for while the sums of a tile are made: what later tiles are finished with, and the tile's share
        of the next block's input, which lies at ``below``. None where the sums take so few steps that it is better
        asked for at once."""
        c = self.c
        steps = c.columns.taps.count * c.depth
        if c.steps < _ASKED_STEPS or not c.merged or steps < 2 * _EVERY or is_written_out(steps, pixels * width):
            return None
        blocks = max(1, len(self.ends))
        each = min(steps // blocks // _EVERY, -(-max(pixels, self.asked) // blocks))  # pieces of a block
        pieces = each * blocks
        asked = list(self._asked_later(e, into, pixels, width, pieces))
        if self.asked:
            lines = -(-self.asked // pieces)
            asked.append(_pieces(e, below, lines * LINE, -(-self.asked // lines), range(0, lines * LINE, LINE)))
        return Ahead(tuple(asked), steps // blocks // each // _EVERY * _EVERY) if asked else None

    def _asked_later(self, e: Emitter, into: ll.Value, pixels: int, width: int, pieces: int) -> Iterator[Asked]:
        """What a later tile is finished with, in some pieces; the next one's, unless its sums are soon made. Its pixels
        follow those of this one, which begins at element ``into``; where they do not, something else is asked for."""
        c, columns = self.c, width * self.num.lanes
        later = e.b.add(into, i64(-(-EARLY_STEPS // c.steps) * pixels * c.out_strides[2]))
        rows = -(-pixels // pieces)
        for stream in cold(self.streams(e), c.images * c.out_strides[0]):
            base = e.at(stream.base, e.b.mul(stream.element(e, later), i64(stream.bytes)), I8)
            row = stream.step(c.out_strides[2]) * stream.bytes
            lines = [r * row + at for r in range(rows) for at in range(0, columns * stream.bytes, LINE)]
            yield _pieces(e, base, rows * row, -(-pixels // rows), lines, stream.written)

    def _tile(self, e: Emitter, sums: Tile, line: ll.Value, packed: ll.Value, x: ll.Value,
              masks: tuple[tuple[int, ...], ...], first: ll.Value | int, end: ll.Value | int,
              held: ll.Value, listed: ll.Value | None = None, ahead: Ahead | None = None) -> Tile:
        """Add to ``sums`` the taps of rows [first, end); ``packed`` starts with those of row ``held``. ``listed``: the
        lists of the input row of tap row 0."""
        c, taps, width = self.c, self.c.columns.taps, len(sums[0])
        if not masks:
            return sums
        left = e.b.mul(e.b.add(e.b.mul(x, i64(taps.stride)), i64(taps.offset)), i64(c.pixel))
        origin = e.at(line, left, self.num.element)
        row_step = c.rows.taps.offset_step * c.columns.inputs * c.pixel
        run = c.depth * width * self.num.lanes
        flat = [v for row in sums for v in row]
        with e.loop_carried(first, end, 1, flat, "i") as (i, now, after):
            a = e.at(origin, e.b.mul(i, i64(row_step)), self.num.element)
            b = e.at(packed, e.b.mul(e.b.sub(i, held), i64(run * taps.count)), self.num.element)
            tile = shaped(now, width)
            below = None
            if self.shared_zeros is not None and listed is not None:
                below = self.shared_zeros.below(e, listed, e.b.mul(i, i64(c.rows.taps.offset_step)))
            for number, (low, high, active) in enumerate(segments_of(masks)):
                if below is None:
                    tile = self._segment(e, tile, a, b, low, high, active, run, ahead)
                else:
                    tile = self._listed_segment(e, tile, a, b, number, low, active, run, below, ahead)
            after[:] = [v for row in tile for v in row]
        return shaped(after, width)

    def _listed(self, e: Emitter, image: ll.Value, y: ll.Value, tile: ll.Value) -> ll.Value | None:
        """The lists of the input row of tap row 0, for a tile of output row ``y``."""
        if self.shared_zeros is None:
            return None
        taps = self.c.rows.taps
        return self.shared_zeros.slot_of(e, image, e.b.add(e.b.mul(y, i64(taps.stride)), i64(taps.offset)), tile)

    def _pixels(self, tile: Tile) -> list[int]:
        """Elements of the image from a tile's first pixel to each."""
        return [p * self.c.columns.taps.stride * self.c.pixel for p in range(len(tile))]

    def _segment(self, e: Emitter, tile: Tile, a: ll.Value, b: ll.Value, low: int, high: int,
                 active: tuple[int, ...], run: int, ahead: Ahead | None) -> Tile:
        c, taps = self.c, self.c.columns.taps
        pixels, width = self._pixels(tile), len(tile[0])
        if c.merged or high - low == 1:
            rows = Rows(e.at(a, low * taps.offset_step * c.pixel, self.num.element), pixels, 1)
            columns = self._columns(e.at(b, low * run, self.num.element), width)
            if ahead is not None:
                ahead = ahead.later(e, i64(low * c.depth))
            return accumulate(e, self.num, tile, rows, columns, (high - low) * c.depth, active, ahead=ahead)
        flat = [v for row in tile for v in row]
        with e.loop_carried(low, high, 1, flat, "j") as (j, now, after):
            at = e.at(a, e.b.mul(j, i64(taps.offset_step * c.pixel)), self.num.element)
            columns = self._columns(e.at(b, e.b.mul(j, i64(run)), self.num.element), width)
            tile = accumulate(e, self.num, shaped(now, width), Rows(at, pixels, 1), columns, c.depth, active)
            after[:] = [v for row in tile for v in row]
        return shaped(after, width)

    def _listed_segment(self, e: Emitter, tile: Tile, a: ll.Value, b: ll.Value, number: int, low: int,
                        active: tuple[int, ...], run: int, lists: ll.Value, ahead: Ahead | None) -> Tile:
        """As ``_segment``, of the steps in list ``number``."""
        assert self.shared_zeros is not None
        steps, count = self.shared_zeros.listed(e, lists, i64(number), i64(low * self.c.depth))
        rows = Rows(e.at(a, low * self.c.depth, self.num.element), self._pixels(tile), 1)
        columns = self._columns(e.at(b, low * run, self.num.element), len(tile[0]))
        later = None if ahead is None else ahead.later(e, i64(low * self.c.depth))
        return accumulate_listed(e, self.num, tile, rows, columns, steps, count, active, later)

    def _columns(self, base: ll.Value, width: int) -> Columns:
        lanes = self.num.lanes
        return Columns(base, [v * lanes for v in range(width)], width * lanes, lanes, lanes * self.num.bytes)

