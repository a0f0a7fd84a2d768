"""3x3 convolutions by Winograd's F(4x4, 3x3): 36 products for 16 outputs instead of 144, in ``precision=fast``.

Filters are transformed once a call. A block of tiles is then computed at a time: 6x6 patches of the input become
36 factors each, 36 matrix products with the filters' factors follow, and what they sum becomes 4x4 outputs, to
which the epilogue is applied. Factors and sums of a block stay near the second-level cache.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
from .correlation import Correlation, Correlator, Plan
from .epilogue import Contraction, Finish
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
    range_of_part,
    shaped,
    smaller,
    step_cycles,
    walk_panels,
    zeros,
)
from .winograd_lines import Scheme, transform
from .winograd_outputs import Outputs
from .winograd_patches import LINE, Grid, Patches, apart, load, store

SCHEME = Scheme(4, 3)
OUTPUTS, TAPS, PRODUCTS = SCHEME.outputs, SCHEME.taps, SCHEME.products

_BLOCK = 24  # tiles of a block, about: what is read of the filters' factors serves so many
_SUMS_BYTES = 512 << 10  # sums of a block before they become outputs
_CACHED_BYTES = 256 << 10  # of filters' factors that stay in the second-level cache
_STRETCH = 16  # steps between prefetches
_FEW_TILES = 144  # six blocks: up to here factors made where they are used are faster, measured with AVX2
_PANELS = 4  # of a chunk at least: each chunk transforms the whole input of its tiles

# Cycles of one register of channels of one tile, measured with AVX2; of the filter where it comes from memory.
_INPUT_CYCLES, _OUTPUT_CYCLES, _FILTER_CYCLES = 220, 190, 300
_WORTH = 0.9  # of the direct convolution's estimated cycles


@dataclass(frozen=True)
class Tiling:
    """How a convolution is cut.

    Attributes:
        down, across: tiles of an image.
        height: tiles in a register tile.
        panels: cut of the output channels, in registers.
        block: tiles of a block, a multiple of ``height``.
        together: panels whose sums are kept at a time.
        parts: chunks along (blocks, panels).
    """

    down: int
    across: int
    height: int
    panels: Cut
    block: int
    together: int
    parts: tuple[int, int]


def fits(c: Correlation) -> bool:
    """Whether a correlation is 3x3, dense and ungrouped, and writes every pixel of its result."""
    plain = all(a.taps.count == TAPS and a.taps.stride == 1 and a.taps.offset_step == 1 for a in (c.rows, c.columns))
    return plain and c.groups == 1 and c.out_offset == 0 and c.out_strides[2] == c.width \
        and c.out_strides[1] == c.width * c.columns.outputs


def tiles_of(c: Correlation) -> tuple[int, int]:
    """Tiles down and across one image."""
    return -(-c.rows.outputs // OUTPUTS), -(-c.columns.outputs // OUTPUTS)


def winograd_pays(c: Correlation, num: Numeric, isa: Isa) -> bool:
    """Whether a correlation ``fits`` and the transforms cost less than the products they save, by estimated
    cycles."""
    if not fits(c):
        return False
    deep, wide, tiles = -(-c.depth // num.lanes), -(-c.width // num.lanes), c.images * prod(tiles_of(c))
    ours = PRODUCTS * _product_cycles(tiles, wide, c.depth, isa) + _FILTER_CYCLES * c.depth * wide
    ours += tiles * (_INPUT_CYCLES * deep + _OUTPUT_CYCLES * wide)
    taps = prod(sum(a.reads(p, t) for p in range(a.outputs) for t in range(TAPS)) / a.outputs
                for a in (c.rows, c.columns))
    return ours < _WORTH * c.images * c.rows.outputs * taps * _product_cycles(c.columns.outputs, wide, c.depth, isa)


def few_tiles(c: Correlation) -> bool:
    """Whether a correlation has so few tiles that its filter is better transformed where it is used, if it must be
    transformed in each call: each block of tiles reads all factors of the filter, four times what the filter takes."""
    return c.images * prod(tiles_of(c)) <= _FEW_TILES


def _product_cycles(rows: int, vectors: int, steps: int, isa: Isa) -> float:
    """Estimated cycles of a matrix product in register tiles."""
    down, across = choose_tile(min(rows, _BLOCK), vectors, steps, isa)
    cycles = sum(step_cycles(down.widest, wide, isa) * (high - low) for wide, low, high in across.spans())
    return -(-rows // down.widest) * steps * cycles


def tiling_of(c: Correlation, num: Numeric, isa: Isa) -> Tiling:
    """Tiles, blocks and chunks, from the sizes alone."""
    down, across = tiles_of(c)
    total = c.images * down * across
    rows, panels = choose_tile(min(total, _BLOCK), -(-c.width // num.lanes), c.depth, isa)
    height = rows.widest
    block = height * max(1, min(_BLOCK // height, -(-total // height)))
    slot = PRODUCTS * block * panels.widest * num.lanes * num.bytes
    together = max(1, min(panels.parts, _SUMS_BYTES // slot))
    cycles = total * PRODUCTS * max(c.depth, 4) * c.width / num.lanes / 2
    wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
    blocks = -(-total // block)
    parts = min(blocks, wanted)
    sideways = max(1, min(-(-wanted // parts), panels.parts // _PANELS))
    return Tiling(down, across, height, panels, block, together, (parts, sideways))


def lower_winograd(contraction: Contraction, c: Correlation, num: Numeric, isa: Isa, order: tuple[int, int],
                   filter_columns: int, label: str) -> Kernel:
    """The kernel of a correlation that ``fits``.

    Args:
        order: which operands of the contraction are the image and the filter.
        filter_columns: columns of the filter in memory.
    """
    w = Winograd(c, tiling_of(c, num, isa), num, filter_columns)
    finish, filter_chunks = contraction.finish(isa), min(MOST_CHUNKS, w.tiling.panels.parts)
    phases = (Phase(filter_chunks, lambda e: w.transform_filter(e, contraction.operand(e, order[1]), filter_chunks)),
              Phase(prod(w.tiling.parts), lambda e: w.compute(e, contraction.operand(e, order[0]), finish)))
    return Kernel(contraction.node, phases, f"winograd {contraction.key(isa)}", (w.filter_bytes,),
                  max(w.scratch, w.pack_scratch), label)


class Winograd:
    """Emits the phases. Temporary 0 holds the filters' factors as [product][panel][depth][registers]."""

    def __init__(self, c: Correlation, tiling: Tiling, num: Numeric, filter_columns: int) -> None:
        self.c, self.tiling, self.num = c, tiling, num
        self.total = c.images * tiling.down * tiling.across
        widest, lanes = tiling.panels.widest, num.lanes
        self.panel = c.depth * widest * lanes
        self.filter_plane = apart(tiling.panels.parts * self.panel)
        self.ahead = self.filter_bytes > _CACHED_BYTES and c.depth >= 2 * _STRETCH
        self.row = -(-c.depth // lanes) * lanes + LINE  # of factors: one tile, all channels
        self.factor_plane = apart(tiling.block * self.row)
        self.sum_row = tiling.together * widest * lanes
        self.sum_plane = apart(tiling.block * self.sum_row)
        self.sums_at = PRODUCTS * self.factor_plane
        self.spare_at = self.sums_at + PRODUCTS * self.sum_plane
        self.scratch = (self.spare_at + PRODUCTS * lanes) * num.bytes
        grid = Grid(c.images, tiling.down, tiling.across)
        self.patches = Patches(grid, c.rows.inputs, c.columns.inputs, c.depth,
                               (c.rows.taps.offset, c.columns.taps.offset), OUTPUTS, 1, SCHEME.inputs_to_factors,
                               self.factor_plane, None, self.spare_at)
        self.outputs = Outputs(c, grid, SCHEME, self.sum_plane, self.spare_at)
        one = Plan(Cut(1, 1), tiling.panels, 0, (1, 1))
        self.packer = Correlator(c, one, num, num.element, 0, filter_columns)

    @property
    def filter_bytes(self) -> int:
        """Size of the filters' factors."""
        return PRODUCTS * self.filter_plane * self.num.bytes

    @property
    def pack_scratch(self) -> int:
        """Bytes of one panel of the filter, packed."""
        return self.packer.slot * self.num.bytes

    def transform_filter(self, e: Emitter, filter_: ll.Value, chunks: int) -> None:
        """This chunk's share of the panels: packed to scratch, then transformed."""
        c, num, panels = self.c, self.num, self.tiling.panels
        first, end = range_of_part(e, e.chunk, panels.parts, chunks)
        for width, panel, channel, last in walk_panels(e, panels, num.lanes, c.width, first, end):
            self.packer.pack_panel(e, filter_, i64(0), channel, e.scratch, width, last)
            target = e.at(e.temp(0), e.b.mul(panel, i64(self.panel)), num.element)
            run = c.depth * width * num.lanes
            with e.loop(0, run, num.lanes, "register") as at:
                source, into = e.at(e.scratch, at, num.element), e.at(target, at, num.element)
                taps = [[load(e, self.num, source, (i * TAPS + j) * run) for i in range(TAPS)] for j in range(TAPS)]
                columns = [transform(e, num, SCHEME.filter_to_factors, column) for column in taps]
                for i in range(SCHEME.points):
                    row = transform(e, num, SCHEME.filter_to_factors, [column[i] for column in columns])
                    for j, value in enumerate(row):
                        store(e, num, value, into, (i * SCHEME.points + j) * self.filter_plane)

    def compute(self, e: Emitter, image: ll.Value, finish: Finish) -> None:
        """This chunk's share of the output pixels."""
        t = self.tiling
        index, part = e.b.udiv(e.chunk, i64(t.parts[1])), e.b.urem(e.chunk, i64(t.parts[1]))
        first_block, end_block = range_of_part(e, index, -(-self.total // t.block), t.parts[0])
        first_panel, end_panel = range_of_part(e, part, t.panels.parts, t.parts[1])
        with e.loop(first_block, end_block, name="block") as block:
            tile = e.b.mul(block, i64(t.block))
            count = smaller(e, i64(t.block), e.b.sub(i64(self.total), tile))
            with e.loop(0, count, name="patch") as i:
                target = e.at(e.scratch, e.b.mul(i, i64(self.row)), self.num.element)
                self.patches.factors(e, self.num, image, e.b.add(tile, i), target)
            with e.loop(first_panel, end_panel, t.together, "panels") as low:
                high = smaller(e, end_panel, e.b.add(low, i64(t.together)))
                self._multiply(e, low, high, count)
                with e.loop(0, count, name="outputs") as i:
                    at = e.b.add(i64(self.sums_at), e.b.mul(i, i64(self.sum_row)))
                    first, end = (e.b.mul(t.panels.start(e, p), i64(self.num.lanes)) for p in (low, high))
                    given = e.at(e.scratch, at, self.num.element)
                    self.outputs.write(e, self.num, finish, e.b.add(tile, i), given, first, end)

    def _multiply(self, e: Emitter, low: ll.Value, high: ll.Value, count: ll.Value) -> None:
        """36 products of a block's factors with those of panels [low, high)."""
        c, t, num = self.c, self.tiling, self.num
        turns = e.b.udiv(e.b.add(count, i64(t.height - 1)), i64(t.height))
        with e.loop(0, PRODUCTS, name="product") as product:
            factors = e.at(e.scratch, e.b.mul(product, i64(self.factor_plane)), num.element)
            sums = e.at(e.scratch, e.b.add(i64(self.sums_at), e.b.mul(product, i64(self.sum_plane))), num.element)
            for width, panel, channel, _ in walk_panels(e, t.panels, num.lanes, c.width, low, high):
                at = e.b.add(e.b.mul(product, i64(self.filter_plane)), e.b.mul(panel, i64(self.panel)))
                filters = e.at(e.temp(0), at, num.element)
                column = e.b.sub(channel, e.b.mul(t.panels.start(e, low), i64(num.lanes)))
                with e.loop(0, turns, name="turn") as turn:
                    tile = e.b.mul(turn, i64(t.height))
                    rows = Rows(e.at(factors, e.b.mul(tile, i64(self.row)), num.element),
                                [r * self.row for r in range(t.height)], 1)
                    columns = Columns(filters, [v * num.lanes for v in range(width)], width * num.lanes, num.lanes,
                                      num.lanes * num.bytes)
                    done = self._sums(e, rows, columns, turn)
                    into = e.at(sums, e.b.add(e.b.mul(tile, i64(self.sum_row)), column), num.element)
                    for r, registers in enumerate(done):
                        for v, value in enumerate(registers):
                            store(e, self.num, value, into, r * self.sum_row + v * num.lanes)

    def _sums(self, e: Emitter, rows: Rows, columns: Columns, turn: ll.Value) -> Tile:
        """A register tile of sums; every turn over the tiles fetches a part of the next panel's factors."""
        t, num, depth = self.tiling, self.num, self.c.depth
        width = len(columns.offsets)
        tile = zeros(num, t.height, width)
        if not self.ahead:
            return accumulate(e, num, tile, rows, columns, depth)
        turns = t.block // t.height
        stretch = _STRETCH * columns.step
        lines = -(-stretch // (LINE * turns))
        part = e.b.add(i64(depth * columns.step), e.b.mul(turn, i64(lines * LINE)))
        initial = [rows.base, columns.base, e.at(columns.base, part, num.element)]
        flat = [v for row in tile for v in row]
        with e.loop_carried(0, depth // _STRETCH, 1, [*initial, *flat], "stretch") as (_, now, after):
            for i in range(lines):
                e.prefetch(e.at(now[2], i * LINE, num.element))
            done = accumulate(e, num, shaped(now[3:], width), replace(rows, base=now[0]),
                              replace(columns, base=now[1]), _STRETCH)
            after[:] = [e.at(now[0], _STRETCH, num.element), e.at(now[1], stretch, num.element),
                        e.at(now[2], stretch, num.element), *[v for row in done for v in row]]
        return accumulate(e, num, shaped(after[3:], width), replace(rows, base=after[0]),
                          replace(columns, base=after[1]), depth % _STRETCH)
