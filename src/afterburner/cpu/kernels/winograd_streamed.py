"""Convolutions of a few large tiles by Winograd's algorithms, in ``precision=fast``: 4x4 filters, above all with
stride 2.

Along an axis, stride s makes s phases of an input: every s-th pixel meets every s-th tap, as in a convolution with
stride 1 whose sums are added before they are transformed to outputs, so that a 4x4 filter with stride 2 takes 25
products for 4x4 outputs and each of four phases, F(4x4, 2x2), where it takes 64 directly; with stride 1 36 for 3x3
outputs in place of 144, F(3x3, 4x4). An input gradient with stride 2 is four such correlations with 2x2 taps.

Filters are large against the image here and their factors six times larger: they are never written to memory. First
the factors of all patches are made; then a chunk owns panels of output channels, transforms a panel's taps for some
input channels into its second-level cache, and adds their products to the sums of its tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
from .correlation import Axis, Correlation
from .epilogue import Contraction, Finish
from .gemm import (
    MOST_CHUNKS,
    Columns,
    Cut,
    Numeric,
    Rows,
    accumulate,
    choose_tile,
    chunks_of,
    cut,
    product_cycles,
    range_of_part,
    smaller,
    walk_panels,
    zeros,
)
from .packing import pack_columns, pack_columns_transposed
from .winograd_lines import Scheme, transform
from .winograd_outputs import Outputs
from .winograd_patches import LINE, Grid, Patches, apart, load, store

SCHEMES = {2: Scheme(4, 2), 3: Scheme(4, 3), 4: Scheme(3, 4)}  # by the taps of a phase along an axis

_DEPTH = 64  # input channels whose factors of the filter lie in the second-level cache together
_TILES = 64  # of a chunk at least: each transforms the filter
_PATCHES_BYTES = 64 << 20  # of the factors of all patches

# Cycles of one register of channels: of a factor of a tile, of a factor of the filter, measured with AVX2.
_PATCH_CYCLES, _FILTER_CYCLES = 5.5, 5.0
_WORTH = 0.9  # of the direct convolution's estimated cycles


@dataclass(frozen=True)
class Tiling:
    """How a correlation is cut.

    Attributes:
        grid: tiles of the result.
        turns: cut of the tiles in register tiles.
        panels: cut of the output channels, in registers.
        depth: input channels of a block.
        blocks: of a phase's input channels.
        parts: chunks along (turns, panels).
    """

    grid: Grid
    turns: Cut
    panels: Cut
    depth: int
    blocks: int
    parts: tuple[int, int]

    @property
    def tiles(self) -> int:
        """Of a chunk, at most."""
        return -(-self.turns.parts // self.parts[0]) * self.turns.widest


def scheme_of(c: Correlation) -> Scheme | None:
    """The algorithm of a correlation; None where there is none."""
    counts, strides = ({getattr(a.taps, name) for a in (c.rows, c.columns)} for name in ("count", "stride"))
    if len(counts) > 1 or len(strides) > 1 or c.groups > 1 or not c.merged or c.rows.taps.offset_step != 1:
        return None
    count, stride = *counts, *strides
    return SCHEMES.get(count // stride) if count % stride == 0 else None


def tiling_of(c: Correlation, scheme: Scheme, num: Numeric, isa: Isa) -> Tiling:
    """Tiles, blocks and chunks, from the sizes alone."""
    grid = Grid(c.images, *(-(-a.outputs // scheme.outputs) for a in (c.rows, c.columns)))
    turns, panels = choose_tile(grid.tiles, -(-c.width // num.lanes), _DEPTH, isa)
    depth = -(-cut(c.depth, _DEPTH).widest // num.lanes) * num.lanes
    wanted = chunks_of(grid.tiles * scheme.products * _phases(c) * c.depth * c.width / num.lanes / 2)
    down = max(1, min(wanted, grid.tiles // _TILES))
    return Tiling(grid, turns, panels, depth, -(-c.depth // depth), (down, max(1, min(panels.parts, wanted // down))))


def _phases(c: Correlation) -> int:
    return c.rows.taps.stride**2


def streamed_winograd_pays(parts: Sequence[Correlation], num: Numeric, isa: Isa) -> bool:
    """Whether the correlations of one result all have an algorithm whose transforms cost less than the products it
    saves, by estimated cycles."""
    ours = direct = 0.0
    for c in parts:
        scheme = scheme_of(c)
        if scheme is None or c.depth < num.lanes:
            return False
        t = tiling_of(c, scheme, num, isa)
        if _patches_bytes(c, scheme, t, num) > _PATCHES_BYTES:
            return False
        steps, deep, wide = _phases(c) * c.depth, -(-c.depth // num.lanes), -(-c.width // num.lanes)
        product = product_cycles(t.turns, t.panels, isa) * steps
        patches = _PATCH_CYCLES * t.grid.tiles * (_phases(c) * deep + wide)
        ours += scheme.products * (product + patches + _FILTER_CYCLES * t.parts[0] * steps * wide)
        taps = prod(sum(a.reads(p, t) for p in range(a.outputs) for t in range(a.taps.count)) / a.outputs
                    for a in (c.rows, c.columns))
        row = product_cycles(*choose_tile(c.columns.outputs, wide, c.steps, isa), isa)
        direct += c.images * c.rows.outputs * taps * row * c.depth
    return ours < _WORTH * direct


def _patches_bytes(c: Correlation, scheme: Scheme, t: Tiling, num: Numeric) -> int:
    return _phases(c) * t.blocks * scheme.products * apart(t.grid.tiles * t.depth) * num.bytes


def lower_streamed_winograd(contraction: Contraction, parts: Sequence[Correlation], num: Numeric, isa: Isa,
                            order: tuple[int, int], filter_columns: int, label: str) -> Kernel:
    """The kernel of correlations for which it pays.

    Args:
        order: which operands of the contraction are the image and the filter.
        filter_columns: columns of the filter in memory.
    """
    finish = contraction.finish(isa)
    phases: list[Phase] = []
    all_: list[StreamedWinograd] = []
    for c in parts:
        scheme = scheme_of(c)
        assert scheme is not None
        w = StreamedWinograd(c, scheme, tiling_of(c, scheme, num, isa), num, filter_columns)
        chunks = min(MOST_CHUNKS, w.tiling.grid.tiles)

        def transform_image(e: Emitter, w: StreamedWinograd = w, chunks: int = chunks) -> None:
            w.transform_image(e, contraction.operand(e, order[0]), chunks)

        def compute(e: Emitter, w: StreamedWinograd = w) -> None:
            w.compute(e, contraction.operand(e, order[1]), finish)

        phases += [Phase(chunks, transform_image), Phase(prod(w.tiling.parts), compute)]
        all_.append(w)
    return Kernel(contraction.node, tuple(phases), f"winograd streamed {contraction.key(isa)}",
                  (max(w.patches_bytes for w in all_),), max(w.scratch for w in all_), label)


class StreamedWinograd:
    """Emits the phases. Temporary 0 holds the factors of patches as [phase, block][product][tile][depth]; scratch the
    packed taps of a block, its factors, and the sums of a chunk's tiles."""

    def __init__(self, c: Correlation, scheme: Scheme, tiling: Tiling, num: Numeric, filter_columns: int) -> None:
        self.c, self.scheme, self.tiling, self.num, self.filter_columns = c, scheme, tiling, num, filter_columns
        self.row = tiling.panels.widest * num.lanes
        self.tap = tiling.depth * self.row
        self.plane = apart(tiling.grid.tiles * tiling.depth)
        self.block = scheme.products * self.plane
        self.filter_plane, self.sum_plane = apart(self.tap), apart(tiling.tiles * self.row)
        self.filter_at = scheme.taps**2 * self.tap
        self.sums_at = self.filter_at + scheme.products * self.filter_plane
        self.spare_at = self.sums_at + scheme.products * self.sum_plane
        self.scratch = (self.spare_at + scheme.products * num.lanes) * num.bytes
        self.patches_bytes = _patches_bytes(c, scheme, tiling, num)
        self.outputs = Outputs(c, tiling.grid, scheme, self.sum_plane, self.spare_at)

    def transform_image(self, e: Emitter, image: ll.Value, chunks: int) -> None:
        """This chunk's share of the patches."""
        c, t, s = self.c, self.tiling, self.c.rows.taps.stride
        first, end = range_of_part(e, e.chunk, t.grid.tiles, chunks)
        for phase, (i, j) in enumerate((i, j) for i in range(s) for j in range(s)):
            offset = (c.rows.taps.offset + i, c.columns.taps.offset + j)
            patches = Patches(t.grid, c.rows.inputs, c.columns.inputs, c.depth, offset, self.scheme.outputs * s, s,
                              self.scheme.inputs_to_factors, self.plane, (t.depth, self.block), 0)
            base = e.at(e.temp(0), phase * t.blocks * self.block, self.num.element)
            with e.loop(first, end, name="tile") as tile:
                target = e.at(base, e.b.mul(tile, i64(t.depth)), self.num.element)
                patches.factors(e, self.num, image, tile, target)

    def compute(self, e: Emitter, filter_: ll.Value, finish: Finish) -> None:
        """This chunk's share of the output pixels."""
        c, t, num = self.c, self.tiling, self.num
        down, across = e.b.udiv(e.chunk, i64(t.parts[1])), e.b.urem(e.chunk, i64(t.parts[1]))
        turns = range_of_part(e, down, t.turns.parts, t.parts[0])
        first, end = (t.turns.start(e, turn) for turn in turns)
        low, high = range_of_part(e, across, t.panels.parts, t.parts[1])
        sums = e.at(e.scratch, self.sums_at, num.element)
        for width, _, channel, last in walk_panels(e, t.panels, num.lanes, c.width, low, high):
            with e.loop(0, self.scheme.products * self.sum_plane, num.lanes, "clear") as at:
                store(e, num, num.zero, sums, at)
            with e.loop(0, _phases(c), name="phase") as phase, e.loop(0, t.blocks, name="block") as block:
                depth = e.b.mul(block, i64(t.depth))
                count = i64(t.depth) if c.depth == t.depth else smaller(e, i64(t.depth), e.b.sub(i64(c.depth), depth))
                self._pack(e, filter_, phase, depth, count, channel, width, last)
                self._transform_filter(e, count, width)
                index = e.b.add(e.b.mul(phase, i64(t.blocks)), block)
                patches = e.at(e.temp(0), e.b.mul(index, i64(self.block)), num.element)
                with e.loop(0, self.scheme.products, name="product") as product:
                    self._ask(e, filter_, index, channel, width, product)
                    self._multiply(e, patches, count, width, turns, first, product)
            with e.loop(first, end, name="outputs") as tile:
                given = e.at(sums, e.b.mul(e.b.sub(tile, first), i64(self.row)), num.element)
                stop = e.b.add(channel, i64(width * num.lanes))
                self.outputs.write(e, num, finish, tile, given, channel, smaller(e, stop, i64(c.width)))

    def _pack(self, e: Emitter, filter_: ll.Value, phase: ll.Value, depth: ll.Value, count: ll.Value,
              channel: ll.Value, width: int, last: int) -> None:
        """Copy the taps of a phase and of some input channels to [row][column][depth][registers]."""
        c, taps, num = self.c, self.scheme.taps, self.num
        pack = pack_columns_transposed if c.transposed else pack_columns
        with e.loop(0, taps**2, name="tap") as tap:
            source = self._taps(e, filter_, phase, tap, depth, channel)
            into = e.at(e.scratch, e.b.mul(tap, i64(self.tap)), num.element)
            pack(e, num, source, self.line, count, into, width, last, num.element)

    @property
    def line(self) -> int:
        """Elements between the filter's lines: those of an input channel, or of an output channel if transposed."""
        return self.c.depth if self.c.transposed else self.c.width

    def _taps(self, e: Emitter, filter_: ll.Value, phase: ll.Value, tap: ll.Value, depth: ll.Value,
              channel: ll.Value) -> ll.Value:
        """Where a phase's tap lies in the filter for an input and an output channel."""
        c, s, taps = self.c, i64(self.c.rows.taps.stride), i64(self.scheme.taps)
        row = _tap(e, c.rows, e.b.udiv(phase, s), e.b.udiv(tap, taps))
        column = _tap(e, c.columns, e.b.urem(phase, s), e.b.urem(tap, taps))
        matrix = e.b.mul(e.b.add(e.b.mul(row, i64(self.filter_columns)), column), i64(c.depth * c.width))
        first, second = (channel, depth) if c.transposed else (depth, channel)
        inside = e.b.add(e.b.mul(first, i64(self.line)), second)
        return e.at(filter_, e.b.add(matrix, inside), self.num.element)

    def _ask(self, e: Emitter, filter_: ll.Value, index: ll.Value, channel: ll.Value, width: int,
             product: ll.Value) -> None:
        """Ask for a product's share of the taps that are packed next: of the next block, or the next panel's first. Its
        lines lie too far apart for a processor to see that they will be read."""
        c, t, num = self.c, self.tiling, self.num
        following = e.b.add(index, i64(1))
        more = e.b.icmp_signed("<", following, i64(_phases(c) * t.blocks))
        following = e.b.select(more, following, i64(0))
        channel = e.b.select(more, channel, e.b.add(channel, i64(width * num.lanes)))
        phase, depth = e.b.udiv(following, i64(t.blocks)), e.b.mul(e.b.urem(following, i64(t.blocks)), i64(t.depth))
        lines, size = (width * num.lanes, t.depth) if c.transposed else (t.depth, width * num.lanes)
        share = -(-lines * self.scheme.taps**2 // self.scheme.products)
        begin = e.b.mul(product, i64(share))
        with e.loop(begin, smaller(e, e.b.add(begin, i64(share)), i64(lines * self.scheme.taps**2)), name="ask") as n:
            source = self._taps(e, filter_, phase, e.b.udiv(n, i64(lines)), depth, channel)
            line = e.at(source, e.b.mul(e.b.urem(n, i64(lines)), i64(self.line)), num.element)
            for at in range(0, size, LINE):
                e.prefetch(e.at(line, at, num.element))

    def _transform_filter(self, e: Emitter, count: ll.Value, width: int) -> None:
        taps, points, num, matrix = self.scheme.taps, self.scheme.points, self.num, self.scheme.filter_to_factors
        target = e.at(e.scratch, self.filter_at, num.element)
        with e.loop(0, e.b.mul(count, i64(width * num.lanes)), num.lanes, "register") as at:
            source, into = e.at(e.scratch, at, num.element), e.at(target, at, num.element)
            lines = [[load(e, num, source, (i * taps + j) * self.tap) for i in range(taps)] for j in range(taps)]
            columns = [transform(e, num, matrix, line) for line in lines]
            for i in range(points):
                for j, value in enumerate(transform(e, num, matrix, [column[i] for column in columns])):
                    store(e, num, value, into, (i * points + j) * self.filter_plane)

    def _multiply(self, e: Emitter, patches: ll.Value, count: ll.Value, width: int,
                  turns: tuple[ll.Value, ll.Value], first: ll.Value, product: ll.Value) -> None:
        """Add a block's sums of one product to those of all tiles."""
        t, num = self.tiling, self.num
        steps = t.depth if isinstance(count, ll.Constant) else count
        factors = e.at(patches, e.b.mul(product, i64(self.plane)), num.element)
        at = e.b.add(i64(self.filter_at), e.b.mul(product, i64(self.filter_plane)))
        columns = Columns(e.at(e.scratch, at, num.element), [v * num.lanes for v in range(width)], width * num.lanes,
                          num.lanes, num.lanes * num.bytes)
        sums = e.at(e.scratch, e.b.add(i64(self.sums_at), e.b.mul(product, i64(self.sum_plane))), num.element)
        for height, _, tile in t.turns.walk(e, *turns):
            rows = Rows(e.at(factors, e.b.mul(tile, i64(t.depth)), num.element),
                        [r * t.depth for r in range(height)], 1)
            into = e.at(sums, e.b.mul(e.b.sub(tile, first), i64(self.row)), num.element)
            places = [[r * self.row + v * num.lanes for v in range(width)] for r in range(height)]
            done = accumulate(e, num, zeros(num, height, width), rows, columns, steps)
            for line, values in zip(places, done, strict=True):
                for place, value in zip(line, values, strict=True):
                    store(e, num, num.add(e, load(e, num, into, place), value), into, place)


def _tap(e: Emitter, axis: Axis, phase: ll.Value, index: ll.Value) -> ll.Value:
    """Where a phase's tap lies in the filter."""
    taps = axis.taps
    number = e.b.add(e.b.mul(index, i64(taps.stride)), phase)
    return e.b.add(i64(taps.index), e.b.mul(number, i64(taps.index_step)))
