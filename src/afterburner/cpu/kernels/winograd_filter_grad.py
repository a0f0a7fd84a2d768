"""Gradient of a 3x3 convolution with respect to its filter by Winograd's F(4x4, 3x3), in ``precision=fast``.

The transpose of the forward algorithm: 36 matrix products of the factors of input patches and of output gradients,
summed over all tiles, then transformed to the filter's nine taps. Blocks of tiles are transformed to scratch and
added to sums in memory; parts of the tiles have private sums, added in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...ir.ops.conv import Conv2dFilterGrad
from ..emitter import Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
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
    smaller,
    step_cycles,
    walk_panels,
    zeros,
)
from .winograd_lines import Scheme, transform
from .winograd_patches import LINE, Grid, Patches, apart, load, registers, store

SCHEME = Scheme(4, 3)
OUTPUTS, TAPS, PRODUCTS = SCHEME.outputs, SCHEME.taps, SCHEME.products

_BLOCK = 48  # tiles whose products are summed in registers
_SUMS = 8 << 20  # bytes of private sums
_PANELS = 4  # of a chunk at least: each chunk transforms the whole input of its tiles

# Cycles of one register of channels of one tile, and of the filter, measured with AVX2.
_INPUT_CYCLES, _GRADIENT_CYCLES, _FILTER_CYCLES = 220, 190, 500
WORTH = 0.9  # of the direct computation's estimated cycles
DIRECT = 0.85  # of its products' estimated rate that the direct computation reaches


@dataclass(frozen=True)
class Tiling:
    """How a filter gradient is cut.

    Attributes:
        grid: tiles of the output.
        rows: cut of the input channels in register tiles.
        panels: cut of the output channels, in registers.
        parts: chunks along (tiles, panels).
    """

    grid: Grid
    rows: Cut
    panels: Cut
    parts: tuple[int, int]

    @property
    def blocks(self) -> int:
        return -(-self.grid.tiles // _BLOCK)


def fits(op: Conv2dFilterGrad) -> bool:
    """Whether an operation is the gradient of a dense 3x3 convolution with stride 1."""
    return op.filter_shape[:2] == (TAPS, TAPS) and op.strides == (1, 1) and op.dilation == (1, 1) and op.groups == 1


def tiling_of(op: Conv2dFilterGrad, dy: tuple[int, ...], num: Numeric, isa: Isa) -> Tiling:
    """Tiles and chunks, from the sizes alone."""
    grid = Grid(dy[0], -(-dy[1] // OUTPUTS), -(-dy[2] // OUTPUTS))
    depth, width = op.filter_shape[2:]
    rows, panels = choose_tile(depth, -(-width // num.lanes), _BLOCK, isa)
    cycles = grid.tiles * PRODUCTS * depth * width / num.lanes / 2
    wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
    size = PRODUCTS * depth * width * num.bytes
    copies = max(1, min(wanted, _SUMS // size, -(-grid.tiles // (4 * _BLOCK))))
    across = max(1, min(-(-wanted // copies), panels.parts // _PANELS))
    return Tiling(grid, rows, panels, (copies, across))


def filter_grad_pays(op: Conv2dFilterGrad, dy: tuple[int, ...], num: Numeric, isa: Isa) -> bool:
    """Whether an operation ``fits`` and the transforms cost less than the products they save, by estimated
    cycles."""
    if not fits(op) or min(op.filter_shape[2:]) < num.lanes:
        return False
    t = tiling_of(op, dy, num, isa)
    depth, deep, wide = op.filter_shape[2], -(-op.filter_shape[2] // num.lanes), -(-op.filter_shape[3] // num.lanes)
    product = sum(step_cycles(t.rows.widest, w, isa) * (high - low) for w, low, high in t.panels.spans())
    product *= t.rows.parts
    traffic = 1 + LINE / _BLOCK * t.blocks * _BLOCK / t.grid.tiles  # sums are read and written once a block
    ours = PRODUCTS * product * t.grid.tiles * traffic + _FILTER_CYCLES * depth * wide
    ours += t.grid.tiles * (_INPUT_CYCLES * deep * t.parts[1] + _GRADIENT_CYCLES * wide)
    return ours < WORTH / DIRECT * prod(dy[:3]) * TAPS * TAPS * product


def lower_winograd_filter_grad(contraction: Contraction, num: Numeric, isa: Isa, label: str) -> Kernel:
    """The kernel of an operation that ``fits``."""
    op, (x, dy, _) = contraction.root.op, contraction.shapes
    assert isinstance(op, Conv2dFilterGrad)
    g = FilterGradient(op, x, dy, tiling_of(op, dy, num, isa), num)
    finish, chunks = contraction.finish(isa), max(1, min(MOST_CHUNKS, op.filter_shape[2]))

    def compute(e: Emitter) -> None:
        g.compute(e, contraction.operand(e, 0), contraction.operand(e, 1))

    phases = (Phase(prod(g.tiling.parts), compute), Phase(chunks, lambda e: g.combine(e, chunks, finish)))
    return Kernel(contraction.node, phases, f"winograd {contraction.key(isa)}", (g.sums_bytes,), g.scratch, label)


class FilterGradient:
    """Emits the phases. Temporary 0 holds sums as [part][product][input channel][registers]."""

    def __init__(self, op: Conv2dFilterGrad, x: tuple[int, ...], dy: tuple[int, ...], tiling: Tiling,
                 num: Numeric) -> None:
        self.num, self.tiling = num, tiling
        self.depth, self.width = op.filter_shape[2:]
        lanes = num.lanes
        self.input_row = -(-self.depth // lanes) * lanes + LINE
        widest = -(-tiling.panels.parts // tiling.parts[1]) * tiling.panels.widest
        self.gradient_row = widest * lanes + LINE
        input_plane, gradient_plane = apart(_BLOCK * self.input_row), apart(_BLOCK * self.gradient_row)
        self.gradients_at = PRODUCTS * input_plane
        spare_at = self.gradients_at + PRODUCTS * gradient_plane
        self.spare_at = spare_at
        self.scratch = (spare_at + PRODUCTS * lanes) * num.bytes
        self.inputs = Patches(tiling.grid, x[1], x[2], x[3], (-op.padding[0][0], -op.padding[1][0]), OUTPUTS, 1,
                              SCHEME.inputs_to_factors, input_plane, None, spare_at)
        self.gradients = Patches(tiling.grid, dy[1], dy[2], dy[3], (0, 0), OUTPUTS, 1, SCHEME.gradients_to_factors,
                                 gradient_plane, None, spare_at)
        self.row = -(-self.width // lanes) * lanes
        self.plane = apart(self.depth * self.row)

    @property
    def sums_bytes(self) -> int:
        return self.tiling.parts[0] * PRODUCTS * self.plane * self.num.bytes

    def compute(self, e: Emitter, x: ll.Value, dy: ll.Value) -> None:
        """This chunk's share of the sums."""
        t, num = self.tiling, self.num
        part, across = e.b.udiv(e.chunk, i64(t.parts[1])), e.b.urem(e.chunk, i64(t.parts[1]))
        first, end = range_of_part(e, part, t.blocks, t.parts[0])
        low, high = range_of_part(e, across, t.panels.parts, t.parts[1])
        begin = e.b.mul(t.panels.start(e, low), i64(num.lanes))
        stop = e.b.mul(t.panels.start(e, high), i64(num.lanes))
        sums = e.at(e.temp(0), e.b.mul(part, i64(PRODUCTS * self.plane)), num.element)
        with e.loop(first, end, name="block") as block:
            tile = e.b.mul(block, i64(_BLOCK))
            count = smaller(e, i64(_BLOCK), e.b.sub(i64(t.grid.tiles), tile))
            with e.loop(0, count, name="patch") as i:
                at = e.at(e.scratch, e.b.mul(i, i64(self.input_row)), num.element)
                self.inputs.factors(e, num, x, e.b.add(tile, i), at)
            with e.loop(0, count, name="gradient") as i:
                offset = e.b.add(i64(self.gradients_at), e.b.mul(i, i64(self.gradient_row)))
                at = e.at(e.scratch, offset, num.element)
                self.gradients.factors(e, num, dy, e.b.add(tile, i), at, begin, stop)
            self._multiply(e, sums, low, high, begin, count, e.b.icmp_signed(">", block, first))

    def _multiply(self, e: Emitter, sums: ll.Value, low: ll.Value, high: ll.Value, begin: ll.Value, count: ll.Value,
                  again: ll.Value) -> None:
        """Add a block's 36 products to the sums, or begin them."""
        t, num = self.tiling, self.num
        with e.loop(0, PRODUCTS, name="product") as product:
            inputs = e.at(e.scratch, e.b.mul(product, i64(self.inputs.plane)), num.element)
            at = e.b.add(i64(self.gradients_at), e.b.mul(product, i64(self.gradients.plane)))
            gradients = e.at(e.scratch, at, num.element)
            target = e.at(sums, e.b.mul(product, i64(self.plane)), num.element)
            for width, _, channel, _ in walk_panels(e, t.panels, num.lanes, self.width, low, high):
                base = e.at(gradients, e.b.sub(channel, begin), num.element)
                columns = Columns(base, [v * num.lanes for v in range(width)], self.gradient_row, num.lanes,
                                  num.lanes * num.bytes)
                for height, _, row in t.rows.walk(e, i64(0), i64(t.rows.parts)):
                    rows = Rows(e.at(inputs, row, num.element), range(height), self.input_row)
                    tile = accumulate(e, num, zeros(num, height, width), rows, columns, count)
                    into = e.at(target, e.b.add(e.b.mul(row, i64(self.row)), channel), num.element)
                    self._add(e, tile, into, again)

    def _add(self, e: Emitter, tile: Tile, target: ll.Value, again: ll.Value) -> None:
        num = self.num
        places = [(value, r * self.row + v * num.lanes) for r, row in enumerate(tile) for v, value in enumerate(row)]
        with e.b.if_else(again) as (then, otherwise):
            with then:
                for value, at in places:
                    store(e, num, num.add(e, load(e, num, target, at), value), target, at)
            with otherwise:
                for value, at in places:
                    store(e, num, value, target, at)

    def combine(self, e: Emitter, chunks: int, finish: Finish) -> None:
        """This chunk's share of the input channels: sums of all parts, then the filter's gradient."""
        first, end = range_of_part(e, e.chunk, self.depth, chunks)
        with e.loop(first, end, name="depth") as depth:
            for low, high, lanes in registers(self.width, self.num.lanes):
                with e.loop(low, high, self.num.lanes, "channel") as channel:
                    at = e.b.add(e.b.mul(depth, i64(self.row)), channel)
                    self._combine(e, finish, depth, channel, e.at(e.temp(0), at, self.num.element), lanes)

    def _combine(self, e: Emitter, finish: Finish, depth: ll.Value, channel: ll.Value, source: ll.Value,
                 lanes: int) -> None:
        num = self.num
        spare = e.at(e.scratch, self.spare_at, num.element)
        with e.loop(0, PRODUCTS, name="product") as product:
            given = e.at(source, e.b.mul(product, i64(self.plane)), num.element)
            with e.loop_carried(1, self.tiling.parts[0], 1, [load(e, num, given, 0)], "part") as (part, now, after):
                other = load(e, num, given, e.b.mul(part, i64(PRODUCTS * self.plane)))
                after[0] = num.add(e, now[0], other)
            store(e, num, after[0], spare, e.b.mul(product, i64(num.lanes)))
        points, lines = SCHEME.points, SCHEME.products_to_filter
        columns = [transform(e, num, lines, [load(e, num, spare, (i * points + j) * num.lanes) for i in range(points)])
                   for j in range(points)]
        for i in range(TAPS):
            for j, value in enumerate(transform(e, num, lines, [column[i] for column in columns])):
                tap = e.b.add(i64((i * TAPS + j) * self.depth), depth)
                finish(e, [[value]], e.b.add(e.b.mul(tap, i64(self.width)), channel), 0, channel, lanes)
