"""Correlation whose filter is larger than its image, cut along its sums: the filter is read in the order in which it
lies in memory.

A filter of 4x4x512x1024 has 33 MB, and memory gives lines that follow one another faster than pieces of a panel's
width that lie kilobytes apart (``benchmarks/pieces.py``; Zen 3, two threads: 21 GB/s, pieces of 96 bytes 8). So a chunk
owns one block of the sums (``sum_blocks``), whose part of the filter is one piece of memory. It packs some rows
of it into its second-level cache and adds their products to the block's sums of all pixels, tile by tile; meanwhile
the next rows are asked for. A second phase adds up the blocks and finishes. Every sum is added up in the same order as
in ``correlation``, so that results are the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import gcd

from llvmlite import ir as ll

from ..emitter import I8, Emitter, i64
from ..isa import Isa
from .correlation import Correlation, Plan, tap_range
from .correlator import Correlator
from .epilogue import Finish, Streams
from .gemm import (
    LINE,
    MOST_CHUNKS,
    Ahead,
    Numeric,
    Rows,
    Tile,
    accumulate,
    choose_tile,
    lines_ahead,
    range_of_part,
    shaped,
    smaller,
    zeros,
)
from .packing import copy_columns
from .sum_blocks import ends_of

_FILTER_BYTES = 2 << 20  # smaller ones stay in the caches, wherever their lines lie
_SHARE = 4  # of a block's steps, how many pixels at most: the blocks' sums then are a quarter of the filter
_TAPS = 16  # columns: the code is written out for each
_BLOCKS = 8  # at least: chunks are cut along them only
_STEPS, _FEWEST_STEPS = 64, 32  # of a sum between reading it from the second-level cache and writing it back
_PACKED_BYTES = 256 << 10  # where more steps would be larger, the fewest are packed at once
_WIDEST = 4  # registers of a tile's row


@dataclass(frozen=True)
class _Block:
    """Blocks of the sums that differ in their channels only: their number in a row of taps, the tap columns that each
    takes, how many there are, and the channels of each but perhaps the last."""

    number: int
    taps: range
    count: int
    channels: int


def _blocks(c: Correlation, ends: Sequence[int]) -> list[_Block]:
    """The blocks of a row of taps."""
    edges = (0, *ends)
    if ends[0] >= c.depth:
        return [_Block(n, range(start // c.depth, end // c.depth), 1, c.depth)
                for n, (start, end) in enumerate(zip(edges, edges[1:], strict=False))]
    each = -(-c.depth // ends[0])
    return [_Block(tap * each, range(tap, tap + 1), each, ends[0]) for tap in range(c.columns.taps.count)]


@dataclass(frozen=True)
class SplitPlan:
    """How a correlation is cut.

    Attributes:
        plan: register tiles and panels.
        steps: rows of the filter that are packed at once.
    """

    plan: Plan
    steps: int


def split_plan(c: Correlation, num: Numeric, isa: Isa) -> SplitPlan | None:
    """A plan; None where another way is faster, or sums are made in one block."""
    ends = ends_of(c) if num.is_float and num.bytes == 4 else ()
    if (not ends or c.groups > 1 or c.transposed or c.pixels > ends[0] // _SHARE or c.columns.taps.count > _TAPS
            or c.steps * c.width * num.bytes < _FILTER_BYTES or c.rows.taps.count * len(ends) < _BLOCKS):
        return None
    steps = gcd(_STEPS, c.depth, *ends)
    if steps * c.width * num.bytes > _PACKED_BYTES:
        steps = gcd(_FEWEST_STEPS, steps)
    if steps < _FEWEST_STEPS:
        return None
    tiles, panels = choose_tile(c.columns.outputs, -(-c.width // num.lanes), steps, isa, _WIDEST)
    return SplitPlan(Plan(tiles, panels, c.rows.outputs, (1, min(MOST_CHUNKS, panels.parts))), steps)


class SplitCorrelator(Correlator):
    """Emits both phases; temporary 0 holds the blocks' sums, [tap row][block][panel][pixel][registers]."""

    def __init__(self, c: Correlation, split: SplitPlan, num: Numeric, stored: ll.Type, filter_columns: int,
                 streams: Streams) -> None:
        super().__init__(c, split.plan, num, stored, 0, filter_columns, streams)
        self.steps = split.steps
        self.blocks_of_row = _blocks(c, self.ends)

    @property
    def chunks(self) -> int:
        """Of the first phase."""
        return self.c.rows.taps.count * len(self.ends)

    @property
    def temp_bytes(self) -> int:
        return self.chunks * self._block_elements * self.num.bytes

    @property
    def scratch(self) -> int:
        """Bytes of private memory: packed rows."""
        return self.plan.panels.parts * self._packed_panel * self.num.bytes

    @property
    def _packed_panel(self) -> int:
        return self.steps * self.plan.panels.widest * self.num.lanes

    @property
    def _panel_elements(self) -> int:
        """Sums of a panel."""
        return self.c.pixels * self.plan.panels.widest * self.num.lanes

    @property
    def _block_elements(self) -> int:
        return self.plan.panels.parts * self._panel_elements

    def add_products(self, e: Emitter, image: ll.Value, filter_: ll.Value) -> None:
        """The first phase: this chunk's block of the sums of all pixels."""
        i = e.b.udiv(e.chunk, i64(len(self.ends)))
        number = e.b.urem(e.chunk, i64(len(self.ends)))
        sums = e.at(e.temp(0), e.b.mul(e.chunk, i64(self._block_elements)), self.num.element)
        self._clear(e, sums)
        for block in self.blocks_of_row:
            inside = e.b.icmp_unsigned("<", e.b.sub(number, i64(block.number)), i64(block.count))
            with e.b.if_then(inside):
                start = e.b.mul(e.b.sub(number, i64(block.number)), i64(block.channels))
                stop = smaller(e, e.b.add(start, i64(block.channels)), i64(self.c.depth))
                for tap in block.taps:
                    with e.loop(start, stop, self.steps, "channels") as channel:
                        rows = self._rows(e, filter_, i, tap, channel)
                        self._pack(e, rows)
                        later = e.b.icmp_signed("<", e.b.add(channel, i64(self.steps)), stop)
                        more = later if tap == block.taps[-1] else ll.Constant(later.type, 1)
                        self._multiply(e, image, i, tap, channel, sums, rows, more)

    def _clear(self, e: Emitter, sums: ll.Value) -> None:
        size = self.num.lanes * self.num.bytes
        with e.loop(0, self._block_elements, self.num.lanes, "clear") as at:
            e.store(self.num.zero, e.at(sums, at, self.num.element), size)

    def _rows(self, e: Emitter, filter_: ll.Value, i: ll.Value, tap: int, channel: ll.Value) -> ll.Value:
        """Where the filter's rows from ``channel`` of a tap lie."""
        offset = self._filter_offset(e, i64(0), i64(0), i, i64(tap))
        return e.at(filter_, e.b.add(offset, e.b.mul(channel, i64(self.c.width))), self.stored)

    def _pack(self, e: Emitter, rows: ll.Value) -> None:
        """Copy rows of the filter, as they lie, to [panel][row][registers]."""
        with e.loop(0, self.steps, name="pack") as k:
            row = e.at(rows, e.b.mul(k, i64(self.c.width)), self.stored)
            for width, panel, column, last in self._panels(e, i64(0), i64(self.plan.panels.parts)):
                into = e.at(self._packed(e, panel), e.b.mul(k, i64(width * self.num.lanes)), self.num.element)
                copy_columns(e, self.num, e.at(row, column, self.stored), into, width, last, self.stored)

    def _packed(self, e: Emitter, panel: ll.Value) -> ll.Value:
        return e.at(e.scratch, e.b.mul(panel, i64(self._packed_panel)), self.num.element)

    def _ahead(self, e: Emitter, rows: ll.Value, more: ll.Value, turn: ll.Value) -> Ahead:
        """What a tile, the ``turn``th, asks for of the rows that are packed next; the same lines again if there are no
        ``more``."""
        size = self.steps * self.c.width * self.num.bytes
        lines = -(-size // LINE // self._turns)
        base = e.at(rows, e.b.select(more, i64(size), i64(0)), I8)
        return lines_ahead(e.at(base, e.b.mul(turn, i64(lines * LINE)), I8), lines, self.steps)

    @property
    def _turns(self) -> int:
        """Tiles of all panels."""
        return self.plan.panels.parts * self.c.images * self.c.rows.outputs * self.plan.tiles.parts

    def _multiply(self, e: Emitter, image: ll.Value, i: ll.Value, tap: int, channel: ll.Value, sums: ll.Value,
                  filter_rows: ll.Value, more: ll.Value) -> None:
        """Add the products of the packed rows to the sums of the pixels whose tap lies inside of the image."""
        taps = self.c.columns.taps
        at_tap = e.b.add(channel, i64(tap * taps.offset_step * self.c.pixel))
        row_step = self.c.rows.taps.offset_step * self.c.columns.inputs * self.c.pixel
        for width, panel, _, _ in self._panels(e, i64(0), i64(self.plan.panels.parts)):
            columns = self._columns(self._packed(e, panel), width)
            held = e.at(sums, e.b.mul(panel, i64(self._panel_elements)), self.num.element)
            for at in self.all_tiles(e, image):
                active = at.masks[tap]
                if not active:
                    continue
                low, high = (i64(n) if isinstance(n, int) else n for n in tap_range(e, self.c.rows, at.row))
                inside = e.b.and_(e.b.icmp_signed("<=", low, i), e.b.icmp_signed("<", i, high))
                with e.b.if_then(inside):
                    left = e.b.mul(e.b.add(e.b.mul(at.column, i64(taps.stride)), i64(taps.offset)), i64(self.c.pixel))
                    left = e.b.add(e.b.add(left, at_tap), e.b.mul(i, i64(row_step)))
                    target = e.at(held, e.b.mul(at.pixel, i64(width * self.num.lanes)), self.num.element)
                    tile = self._load(e, target, at.pixels, width)
                    rows = Rows(e.at(at.line, left, self.num.element), self._pixels(tile), 1)
                    turn = e.b.add(e.b.mul(panel, i64(self._turns // self.plan.panels.parts)), at.number)
                    ahead = self._ahead(e, filter_rows, more, turn)
                    tile = accumulate(e, self.num, tile, rows, columns, self.steps, active, ahead=ahead)
                    self._store(e, target, tile)

    def add_up(self, e: Emitter, finish: Finish) -> None:
        """The second phase: the blocks of this chunk's panels added up in order, and finished."""
        first, end = range_of_part(e, e.chunk, self.plan.panels.parts, self.plan.parts[1])
        for width, panel, channel, last in self._panels(e, first, end):
            held = e.at(e.temp(0), e.b.mul(panel, i64(self._panel_elements)), self.num.element)
            self.finish_all(e, finish, width, channel, last, partial(self._total, e, held, width))

    def _total(self, e: Emitter, held: ll.Value, width: int, pixel: ll.Value, pixels: int) -> Tile:
        """The sums of all blocks of some pixels of a panel, whose first block lies at ``held``."""
        at = e.at(held, e.b.mul(pixel, i64(width * self.num.lanes)), self.num.element)
        flat = [v for row in zeros(self.num, pixels, width) for v in row]
        with e.loop_carried(0, self.chunks, 1, flat, "block") as (block, now, after):
            base = e.at(at, e.b.mul(block, i64(self._block_elements)), self.num.element)
            tile = self._load(e, base, pixels, width)
            after[:] = [self.num.add(e, total, v) for total, v in zip(now, (v for r in tile for v in r), strict=True)]
        return shaped(after, width)
