"""Gradient of a 3x3 convolution with respect to its filter by Winograd's algorithms: F(2x2, 3x3), and in
``precision=fast`` F(4x4, 3x3).

The transpose of the forward algorithm: 16 or 36 matrix products of the factors of input patches and of output
gradients, summed over all tiles, then transformed to the filter's nine taps. Blocks of tiles are transformed to scratch
and added to sums in memory; parts of the tiles have private sums, added in a fixed order.

All taps share their products: what bounds the error of one is the largest sum of products among them. These differ
where most elements of x or dy are zero, so default precision takes F(2x2, 3x3) only where dy is not known to have
many zeros; and where both are large at the same distance, which a sample of taps tells (``winograd_sample``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...ir.ops.conv import Conv2dFilterGrad
from ..emitter import I1, Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
from .doubts import Doubts, Finite, otherwise
from .epilogue import Contraction, Finish, store_result
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
from .pairs import Pairs
from .prologue import Prologue, maker_of, operands_of
from .winograd import F2X2, F4X4
from .winograd_lines import Scheme, runs_of, transform
from .winograd_patches import LINE, Grid, Patches, apart, load, registers, store
from .winograd_sample import FilterGradientSample

_BLOCK = 48  # tiles whose products are summed in registers
_SUMS = 8 << 20  # bytes of private sums, and of sums that a third-level cache holds
_PANELS = 4  # of a chunk at least: each chunk transforms the whole input of its tiles

# Cycles of one register of channels and one product: of a tile, and of the filter, measured with AVX2.
_INPUT_CYCLES, _GRADIENT_CYCLES, _FILTER_CYCLES = 6.1, 5.3, 14
_PAIRED = 0.8  # of its estimate that F(2x2, 3x3) of pairs takes where F(4x4, 3x3) takes all: 64 channels on Zen 4
_SUM_CYCLES = 0.5  # of a byte of sums that is read from memory and written back
WORTH = 0.9  # of the direct computation's estimated cycles
DIRECT = 0.85  # of its products' estimated rate that the direct computation reaches


@dataclass(frozen=True)
class Tiling:
    """How a filter gradient is cut.

    Attributes:
        scheme: the algorithm.
        grid: tiles of the output.
        rows: cut of the input channels in register tiles.
        panels: cut of the output channels, in registers.
        parts: chunks along (tiles, panels).
        block: tiles whose products are summed in registers.
    """

    scheme: Scheme
    grid: Grid
    rows: Cut
    panels: Cut
    parts: tuple[int, int]
    block: int

    @property
    def blocks(self) -> int:
        return -(-self.grid.tiles // self.block)


def fits(op: Conv2dFilterGrad) -> bool:
    """Whether an operation is the gradient of a dense 3x3 convolution with stride 1."""
    plain = op.strides == (1, 1) and op.dilation == (1, 1) and op.groups == 1
    return plain and op.filter_shape[:2] == (F2X2.taps, F2X2.taps)


def tiling_of(op: Conv2dFilterGrad, scheme: Scheme, dy: tuple[int, ...], num: Numeric, isa: Isa,
              together: int = 1) -> Tiling:
    """Tiles and chunks, from the sizes alone; ``together``: tiles whose products are summed in one step."""
    grid = Grid(dy[0], -(-dy[1] // scheme.outputs), -(-dy[2] // scheme.outputs))
    depth, width = op.filter_shape[2:]
    rows, panels = choose_tile(depth, -(-width // num.lanes), _BLOCK, isa)
    cycles = grid.tiles * scheme.products * depth * width / num.lanes / 2
    wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
    size = scheme.products * depth * width * num.bytes
    block = _BLOCK * together
    copies = max(1, min(wanted, _SUMS // size, -(-grid.tiles // (4 * block))))
    across = max(1, min(-(-wanted // copies), panels.parts // _PANELS))
    return Tiling(scheme, grid, rows, panels, (copies, across), block)


def filter_scheme_that_pays(op: Conv2dFilterGrad, schemes: Sequence[Scheme], dy: tuple[int, ...], num: Numeric,
                            isa: Isa) -> Scheme | None:
    """The algorithm that takes fewest cycles, by an estimate; None where an operation does not fit or the transforms
    cost more than the products they save."""
    schemes = [scheme for scheme in schemes if scheme != F2X2 or not op.sparse_dy]
    if not schemes or not fits(op) or min(op.filter_shape[2:]) < num.lanes:
        return None
    best = min(schemes, key=lambda scheme: _cycles(op, scheme, dy, num, isa))
    t = tiling_of(op, best, dy, num, isa)
    direct = prod(dy[:3]) * best.taps**2 * _product_cycles(t, isa)
    return best if _cycles(op, best, dy, num, isa) < WORTH / DIRECT * direct else None


def pairs_pay(op: Conv2dFilterGrad, dy: tuple[int, ...], num: Numeric, isa: Isa) -> bool:
    """Whether F(2x2, 3x3) of bfloat16 pairs takes fewest cycles, by an estimate: fewer than F(4x4, 3x3) and than direct
    sums of pairs."""
    if not fits(op) or min(op.filter_shape[2:]) < num.lanes:
        return False
    ours = _cycles(op, F2X2, dy, num, isa, 2)
    direct = prod(dy[:3]) * F2X2.taps**2 * _product_cycles(tiling_of(op, F2X2, dy, num, isa), isa) / 2
    return ours < WORTH / DIRECT * direct and _PAIRED * ours < _cycles(op, F4X4, dy, num, isa)


def _cycles(op: Conv2dFilterGrad, scheme: Scheme, dy: tuple[int, ...], num: Numeric, isa: Isa,
            together: int = 1) -> float:
    """Estimated cycles of an operation; ``together``: tiles whose products are summed in one step."""
    t = tiling_of(op, scheme, dy, num, isa, together)
    depth, deep, wide = op.filter_shape[2], -(-op.filter_shape[2] // num.lanes), -(-op.filter_shape[3] // num.lanes)
    traffic = LINE * t.blocks  # sums are read and written once a block
    products = _product_cycles(t, isa) * (t.grid.tiles / together + traffic) + _FILTER_CYCLES * depth * wide
    size = prod(op.filter_shape[2:]) * num.bytes
    if scheme.products * size > _SUMS:
        products += _SUM_CYCLES * size * t.blocks
    return scheme.products * (products + t.grid.tiles * (_INPUT_CYCLES * deep * t.parts[1] + _GRADIENT_CYCLES * wide))


def _product_cycles(t: Tiling, isa: Isa) -> float:
    """Estimated cycles of the products of one tile."""
    return t.rows.parts * sum(step_cycles(t.rows.widest, wide, isa) * (high - low)
                              for wide, low, high in t.panels.spans())


def lower_winograd_filter_grad(contraction: Contraction, num: Numeric, isa: Isa, label: str) -> Kernel:
    """The kernel of an operation that ``fits`` by F(4x4, 3x3)."""
    g = FilterGradient(contraction, F4X4, None, num, isa)
    finish = contraction.finish(isa)

    def combine(e: Emitter) -> None:
        g.combine(e, finish)

    phases = (Phase(prod(g.tiling.parts), g.compute), Phase(g.combine_chunks, combine))
    return Kernel(contraction.node, phases, f"winograd {contraction.key(isa)}", (g.sums_bytes,), g.scratch, label)


def lower_checked_filter_grad(contraction: Contraction, prologue: Prologue | None, num: Numeric, isa: Isa, label: str,
                              direct: Kernel, pairs: Pairs | None = None) -> Kernel:
    """The kernel of an operation that ``fits`` by F(2x2, 3x3), and ``direct`` for what that does not compute as
    exactly: operands of which a sample tells so, and results that are not finite: an infinity would become NaN.
    Factors may be rounded to ``pairs``."""
    g = FilterGradient(contraction, F2X2, prologue, num, isa, pairs)
    sample, finish = g.sample(), store_result(num, contraction.dtype)
    inexact = Doubts(1, 0, sample.chunks)
    infinite = Doubts(1, inexact.chunks, g.combine_chunks)

    def compare(e: Emitter) -> None:
        inexact.tell(e, sample.differs(e, *g.operands(e)))

    def compute(e: Emitter) -> None:
        with e.b.if_then(e.b.not_(inexact.any(e))):
            g.compute(e)

    def combine(e: Emitter) -> None:
        infinite.tell(e, ll.Constant(I1, 0))
        with e.b.if_then(e.b.not_(inexact.any(e))):
            infinite.tell(e, g.combine(e, finish))

    phases = (Phase(inexact.chunks, compare), Phase(prod(g.tiling.parts), compute), Phase(infinite.chunks, combine))
    kernel = Kernel(contraction.node, phases, f"winograd checked {contraction.key(isa)}",
                    (g.sums_bytes, inexact.chunks + infinite.chunks), max(g.scratch, sample.scratch), label)
    return otherwise(kernel, (inexact, infinite), direct)


class FilterGradient:
    """Emits the phases. Temporary 0 holds sums as [part][product][input channel][registers]. Factors may be rounded to
    ``pairs`` of two tiles."""

    def __init__(self, contraction: Contraction, scheme: Scheme, prologue: Prologue | None, num: Numeric, isa: Isa,
                 pairs: Pairs | None = None) -> None:
        op, (x, dy, _) = contraction.root.op, contraction.shapes
        assert isinstance(op, Conv2dFilterGrad)
        self.product: Numeric = pairs or num
        self.together = 1 if pairs is None else 2
        tiling = tiling_of(op, scheme, dy, num, isa, self.together)
        steps = tiling.block // self.together
        self.contraction, self.prologue, self.scheme, self.tiling, self.num = contraction, prologue, scheme, tiling, num
        self.depth, self.width = op.filter_shape[2:]
        lanes = num.lanes
        self.input_row = -(-self.depth // lanes) * lanes + LINE
        widest = -(-tiling.panels.parts // tiling.parts[1]) * tiling.panels.widest
        self.gradient_row = widest * lanes + LINE
        input_plane, gradient_plane = apart(steps * self.input_row), apart(steps * self.gradient_row)
        self.gradients_at = scheme.products * input_plane
        self.spare_at = self.gradients_at + scheme.products * gradient_plane
        self.noted_at = self.spare_at + scheme.products * lanes
        self.scratch = (self.noted_at + lanes) * num.bytes
        self.inputs = Patches(tiling.grid, x[1], x[2], x[3], (-op.padding[0][0], -op.padding[1][0]), scheme.outputs, 1,
                              scheme.inputs_to_factors, input_plane, None, self.spare_at,
                              maker_of(prologue), pairs)
        self.gradients = Patches(tiling.grid, dy[1], dy[2], dy[3], (0, 0), scheme.outputs, 1,
                                 scheme.gradients_to_factors, gradient_plane, None, self.spare_at, None, pairs)
        self.row = -(-self.width // lanes) * lanes
        self.plane = apart(self.depth * self.row)

    @property
    def sums_bytes(self) -> int:
        return self.tiling.parts[0] * self.scheme.products * self.plane * self.num.bytes

    @property
    def combine_chunks(self) -> int:
        return max(1, min(MOST_CHUNKS, self.depth))

    def sample(self) -> FilterGradientSample:
        """Of the results."""
        x, dy, _ = self.contraction.shapes
        runs = runs_of(self.scheme, self.scheme.taps, 1)
        return FilterGradientSample(self.tiling.grid, self.scheme, runs, x, dy, self.inputs.offset, self.num,
                                    self.prologue)

    def operands(self, e: Emitter) -> tuple[ll.Value, ll.Value]:
        """Pointers to x, or what the prologue makes x of, and dy."""
        return operands_of(e, self.contraction, self.prologue)

    def compute(self, e: Emitter) -> None:
        """This chunk's share of the sums."""
        t, num = self.tiling, self.num
        x, dy = self.operands(e)
        part, across = e.b.udiv(e.chunk, i64(t.parts[1])), e.b.urem(e.chunk, i64(t.parts[1]))
        first, end = range_of_part(e, part, t.blocks, t.parts[0])
        low, high = range_of_part(e, across, t.panels.parts, t.parts[1])
        begin = e.b.mul(t.panels.start(e, low), i64(num.lanes))
        stop = e.b.mul(t.panels.start(e, high), i64(num.lanes))
        sums = e.at(e.temp(0), e.b.mul(part, i64(self.scheme.products * self.plane)), num.element)
        with e.loop(first, end, name="block") as block:
            tile = e.b.mul(block, i64(t.block))
            tiles = smaller(e, i64(t.block), e.b.sub(i64(t.grid.tiles), tile))
            count = tiles if self.together == 1 else e.b.udiv(e.b.add(tiles, i64(1)), i64(2))
            with e.loop(0, count, name="patch") as i:
                at = e.at(e.scratch, e.b.mul(i, i64(self.input_row)), num.element)
                self._factors(self.inputs)(e, num, x, self._tile(e, tile, i), at)
            with e.loop(0, count, name="gradient") as i:
                offset = e.b.add(i64(self.gradients_at), e.b.mul(i, i64(self.gradient_row)))
                at = e.at(e.scratch, offset, num.element)
                self._factors(self.gradients)(e, num, dy, self._tile(e, tile, i), at, begin, stop)
            self._multiply(e, sums, low, high, begin, count, e.b.icmp_signed(">", block, first))

    def _factors(self, patches: Patches) -> Callable[..., None]:
        return patches.factors if self.together == 1 else patches.factors_of_two

    def _tile(self, e: Emitter, first: ll.Value, step: ll.Value) -> ll.Value:
        return e.b.add(first, e.b.mul(step, i64(self.together)))

    def _multiply(self, e: Emitter, sums: ll.Value, low: ll.Value, high: ll.Value, begin: ll.Value, count: ll.Value,
                  again: ll.Value) -> None:
        """Add a block's products to the sums, or begin them."""
        t, num = self.tiling, self.num
        with e.loop(0, self.scheme.products, name="product") as product:
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
                    tile = accumulate(e, self.product, zeros(num, height, width), rows, columns, count)
                    into = e.at(target, e.b.add(e.b.mul(row, i64(self.row)), channel), num.element)
                    add_or_store(e, num, tile, into, self.row, again)

    def combine(self, e: Emitter, finish: Finish) -> ll.Value:
        """This chunk's share of the input channels: sums of all parts, then the filter's gradient. Returned is whether
        an element of it is not finite, an i1."""
        first, end = range_of_part(e, e.chunk, self.depth, self.combine_chunks)
        finite = Finite(self.noted_at)
        finite.begin(e, self.num)
        with e.loop(first, end, name="depth") as depth:
            for low, high, lanes in registers(self.width, self.num.lanes):
                with e.loop(low, high, self.num.lanes, "channel") as channel:
                    at = e.b.add(e.b.mul(depth, i64(self.row)), channel)
                    taps = self._taps(e, e.at(e.temp(0), at, self.num.element))
                    finite.note(e, self.num, taps)
                    for k, value in enumerate(taps):
                        tap = e.b.add(i64(k * self.depth), depth)
                        finish(e, [[value]], e.b.add(e.b.mul(tap, i64(self.width)), channel), 0, channel, lanes)
        return finite.end(e, self.num)

    def _taps(self, e: Emitter, source: ll.Value) -> list[ll.Value]:
        """The taps that a register of sums becomes."""
        num = self.num
        spare = e.at(e.scratch, self.spare_at, num.element)
        with e.loop(0, self.scheme.products, name="product") as product:
            given = e.at(source, e.b.mul(product, i64(self.plane)), num.element)
            with e.loop_carried(1, self.tiling.parts[0], 1, [load(e, num, given, 0)], "part") as (part, now, after):
                other = load(e, num, given, e.b.mul(part, i64(self.scheme.products * self.plane)))
                after[0] = num.add(e, now[0], other)
            store(e, num, after[0], spare, e.b.mul(product, i64(num.lanes)))
        points, matrix = self.scheme.points, self.scheme.products_to_filter
        columns = [transform(e, num, matrix, [load(e, num, spare, (i * points + j) * num.lanes)
                                              for i in range(points)]) for j in range(points)]
        return [value for i in range(self.scheme.taps)
                for value in transform(e, num, matrix, [column[i] for column in columns])]


def add_or_store(e: Emitter, num: Numeric, tile: Tile, target: ll.Value, row: int, again: ll.Value) -> None:
    """Add a tile to sums whose rows lie ``row`` elements apart, or begin these where it is not done ``again``."""
    places = [(value, r * row + v * num.lanes) for r, line in enumerate(tile) for v, value in enumerate(line)]
    with e.b.if_else(again) as (then, otherwise):
        with then:
            for value, at in places:
                store(e, num, num.add(e, load(e, num, target, at), value), target, at)
        with otherwise:
            for value, at in places:
                store(e, num, value, target, at)
