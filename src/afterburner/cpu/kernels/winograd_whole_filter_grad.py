"""Gradient of a convolution with respect to its filter by Winograd's algorithms where all tiles are summed at once: 4x4
filters with stride 1 or 2, and in ``precision=fast`` large filters of 3x3.

By F(3x3, 2x2), 16 products of a tile of 3x3 output gradients in place of 36, an element is made of its own products
only, as by F(2x2, 3x3), which this is if the output gradients are taken for the filter: so it is about as exact as
direct sums under the same conditions (``winograd_filter_grad``).

The transpose of ``winograd_streamed``: factors of the patches of each phase of the input, and of the output gradients,
are made for all tiles. A chunk then sums their products over the tiles for some input channels and a panel of output
channels, and transforms the sums to taps while they lie in a cache: they are never written to memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from math import inf, prod

from llvmlite import ir as ll

from ...ir.ops.conv import Conv2dFilterGrad
from ..emitter import I1, Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
from .doubts import Doubts, Finite, otherwise
from .epilogue import Contraction, Finish, store_result
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
    step_cycles,
    zeros,
)
from .pairs import Pairs
from .prologue import Prologue, maker_of, operands_of
from .winograd_filter_grad import DIRECT, WORTH, add_or_store
from .winograd_lines import Runs, Scheme, runs_of, transform
from .winograd_patches import LINE, Grid, Patches, apart, load, registers
from .winograd_sample import FilterGradientSample
from .winograd_streamed import FAST

F3X3 = Scheme(3, 2)
EXACT = {2: F3X3, 4: F3X3}  # by the taps to a stride along an axis; as exact as direct sums

_LONGEST = 96  # tiles whose products are summed in one chain
_ROWS = LINE  # input channels of a block: their factors for a tile fill a cache line
_TILE_BYTES = 32 << 10  # of one product's factors for a block and a panel: a first-level cache
_FACTORS_BYTES = 64 << 20  # of all patches and gradients

# Cycles of one register of channels: of a factor of a tile, of a sum to be transformed, measured with AVX2.
_PATCH_CYCLES, _SUM_CYCLES = 5.5, 6.0


@dataclass(frozen=True)
class Tiling:
    """How a filter gradient is cut.

    Attributes:
        grid: tiles of the output.
        steps: of tiles whose products are summed together.
        blocks: of input channels of a phase.
        rows: cut of a block in register tiles.
        vectors: registers of output channels in a panel; the last one may have fewer.
        panels: of output channels.
        parts: chunks along (blocks of all phases, panels).
    """

    grid: Grid
    steps: int
    blocks: int
    rows: Cut
    vectors: int
    panels: int
    parts: tuple[int, int]


def scheme_of(op: Conv2dFilterGrad, schemes: Mapping[int, Scheme]) -> Scheme | None:
    """The algorithm of an operation; None where there is none."""
    (height, width), stride = op.filter_shape[:2], op.strides[0]
    if height != width or op.strides != (stride, stride) or op.dilation != (1, 1) or op.groups > 1:
        return None
    return schemes.get(height // stride) if height % stride == 0 else None


def _runs(op: Conv2dFilterGrad, scheme: Scheme) -> Runs:
    return runs_of(scheme, op.filter_shape[0], op.strides[0])


def tiling_of(op: Conv2dFilterGrad, scheme: Scheme, dy: tuple[int, ...], num: Numeric, isa: Isa,
              together: int = 1) -> Tiling:
    """Tiles, blocks and chunks, from the sizes alone; ``together``: tiles whose products are summed in one step."""
    grid = Grid(dy[0], *(-(-n // scheme.outputs) for n in dy[1:3]))
    depth, width = op.filter_shape[2:]
    steps = -(-grid.tiles // together)
    rows, across = choose_tile(_ROWS, -(-width // num.lanes), steps, isa)
    blocks, panels = -(-depth // _ROWS), -(-width // (across.widest * num.lanes))
    all_blocks = _runs(op, scheme).count**2 * blocks
    wanted = chunks_of(steps * scheme.products * all_blocks * _ROWS * width / num.lanes / 2)
    beside = min(panels, wanted)
    return Tiling(grid, steps, blocks, rows, across.widest, panels, (min(all_blocks, -(-wanted // beside)), beside))


def whole_filter_grad_pays(op: Conv2dFilterGrad, schemes: Mapping[int, Scheme], dy: tuple[int, ...], num: Numeric,
                           isa: Isa) -> bool:
    """Whether an operation has an algorithm whose transforms cost less than the products it saves, by estimated
    cycles. In default precision not where dy is known to have many zeros: elements share their products then."""
    if op.sparse_dy and schemes is EXACT:
        return False
    return _cycles(op, schemes, dy, num, isa) < WORTH / DIRECT * _direct_cycles(op, dy, num, isa)


def pairs_of_tiles_pay(op: Conv2dFilterGrad, dy: tuple[int, ...], num: Numeric, isa: Isa) -> bool:
    """Whether F(3x3, 2x2) of bfloat16 pairs takes fewest cycles, by an estimate: fewer than larger algorithms of
    float32 and than direct sums of pairs."""
    direct = WORTH / DIRECT * _direct_cycles(op, dy, num, isa) / 2
    return _cycles(op, EXACT, dy, num, isa, 2) < min(direct, _cycles(op, FAST, dy, num, isa))


def _direct_cycles(op: Conv2dFilterGrad, dy: tuple[int, ...], num: Numeric, isa: Isa) -> float:
    depth, width = op.filter_shape[2:]
    rows, panels = choose_tile(depth, -(-width // num.lanes), prod(dy[:3]), isa)
    return prod(dy[:3]) * prod(op.filter_shape[:2]) * product_cycles(rows, panels, isa)


def _cycles(op: Conv2dFilterGrad, schemes: Mapping[int, Scheme], dy: tuple[int, ...], num: Numeric, isa: Isa,
            together: int = 1) -> float:
    """Estimated cycles of an operation; infinite where there is no algorithm for it, or too much to keep."""
    scheme = scheme_of(op, schemes)
    if scheme is None or min(op.filter_shape[2:]) < num.lanes:
        return inf
    t, (depth, width) = tiling_of(op, scheme, dy, num, isa, together), op.filter_shape[2:]
    phases, deep, wide = _runs(op, scheme).count**2, -(-depth // num.lanes), -(-width // num.lanes)
    if sum(_factors(scheme, t, phases, num)) * num.bytes > _FACTORS_BYTES:
        return inf
    block = sum(step_cycles(h, t.vectors, isa) * (high - low) for h, low, high in t.rows.spans())
    products = phases * t.blocks * t.panels * block
    patches = _PATCH_CYCLES * t.grid.tiles * (phases * deep + wide)
    return scheme.products * (products * t.steps + patches + _SUM_CYCLES * phases * depth * wide)


def few_tiles(op: Conv2dFilterGrad, dy: tuple[int, ...], num: Numeric, isa: Isa) -> bool:
    """Whether the tiles are so few that their factors stay in a first-level cache: all summed at once, they then beat
    blocks of tiles whose sums are in memory."""
    scheme = scheme_of(op, FAST)
    if scheme is None:
        return False
    t = tiling_of(op, scheme, dy, num, isa)
    return t.grid.tiles * (_ROWS + t.vectors * num.lanes) * num.bytes <= _TILE_BYTES


def _factors(scheme: Scheme, t: Tiling, phases: int, num: Numeric) -> tuple[int, int]:
    """Elements of the factors of patches and of gradients."""
    return (scheme.products * apart(phases * t.blocks * t.steps * _ROWS),
            scheme.products * apart(t.panels * t.steps * t.vectors * num.lanes))


def lower_whole_filter_grad(contraction: Contraction, num: Numeric, isa: Isa, label: str) -> Kernel:
    """The kernel of ``precision=fast`` of an operation for which it pays."""
    g, finish = WholeFilterGradient(contraction, FAST, None, num, isa), contraction.finish(isa)

    def compute(e: Emitter) -> None:
        g.compute(e, finish)

    phases = (Phase(g.operand_chunks, g.transform_operands), Phase(prod(g.tiling.parts), compute))
    return Kernel(contraction.node, phases, f"winograd whole {contraction.key(isa)}", g.temps, g.scratch, label)


def lower_checked_whole(contraction: Contraction, prologue: Prologue | None, num: Numeric, isa: Isa, label: str,
                        direct: Kernel, pairs: Pairs | None = None) -> Kernel:
    """The kernel of an operation for which F(3x3, 2x2) pays, and ``direct`` for what that does not compute as exactly:
    operands of which a sample tells so, and results that are not finite. Factors may be rounded to ``pairs``."""
    g, finish = WholeFilterGradient(contraction, EXACT, prologue, num, isa, pairs), store_result(num, contraction.dtype)
    sample = g.sample()
    inexact = Doubts(2, 0, sample.chunks)
    infinite = Doubts(2, inexact.chunks, prod(g.tiling.parts))

    def compare(e: Emitter) -> None:
        inexact.tell(e, sample.differs(e, *g.operands(e)))

    def transform_operands(e: Emitter) -> None:
        with e.b.if_then(e.b.not_(inexact.any(e))):
            g.transform_operands(e)

    def compute(e: Emitter) -> None:
        infinite.tell(e, ll.Constant(I1, 0))
        with e.b.if_then(e.b.not_(inexact.any(e))):
            infinite.tell(e, g.compute(e, finish))

    phases = (Phase(inexact.chunks, compare), Phase(g.operand_chunks, transform_operands),
              Phase(infinite.chunks, compute))
    kernel = Kernel(contraction.node, phases, f"winograd checked whole {contraction.key(isa)}",
                    (*g.temps, inexact.chunks + infinite.chunks), max(g.scratch, sample.scratch), label)
    return otherwise(kernel, (inexact, infinite), direct)


class WholeFilterGradient:
    """Emits the phases. Temporary 0 holds the factors of patches as [product][phase, block][tile][row], temporary 1
    those of gradients as [product][panel][tile][registers], scratch the sums of a block and a panel. By F(3x3, 2x2)
    factors may be rounded to ``pairs`` of two tiles."""

    def __init__(self, contraction: Contraction, schemes: Mapping[int, Scheme], prologue: Prologue | None, num: Numeric,
                 isa: Isa, pairs: Pairs | None = None) -> None:
        op, (x, dy, _) = contraction.root.op, contraction.shapes
        assert isinstance(op, Conv2dFilterGrad)
        scheme = scheme_of(op, schemes)
        assert scheme is not None
        self.together = 1 if pairs is None else 2
        tiling = tiling_of(op, scheme, dy, num, isa, self.together)
        self.contraction, self.prologue = contraction, prologue
        self.product: Numeric = pairs or num
        self.op, self.scheme, self.tiling, self.num = op, scheme, tiling, num
        self.runs = _runs(op, scheme)
        self.phases = self.runs.count**2
        lanes = num.lanes
        self.panel = tiling.vectors * lanes
        self.input_block, self.gradient_block = tiling.steps * _ROWS, tiling.steps * self.panel
        factors = _factors(scheme, tiling, self.phases, num)
        self.temps = tuple(size * num.bytes for size in factors)
        self.input_plane, self.gradient_plane = (size // scheme.products for size in factors)
        self.sum_plane = apart(_ROWS * self.panel)
        self.noted_at = scheme.products * max(self.sum_plane, lanes)
        self.scratch = (self.noted_at + lanes) * num.bytes
        self.finite = Finite(self.noted_at) if scheme == F3X3 else None
        self.offset, pitch = (-op.padding[0][0], -op.padding[1][0]), scheme.outputs * self.runs.stride
        self.inputs = [
            Patches(tiling.grid, x[1], x[2], x[3], (self.offset[0] + i, self.offset[1] + j), pitch, self.runs.stride,
                    scheme.inputs_to_factors, self.input_plane, (_ROWS, self.input_block), 0, maker_of(prologue),
                    pairs)
            for i, j in product(map(self.runs.first, range(self.runs.count)), repeat=2)]
        self.gradients = Patches(tiling.grid, dy[1], dy[2], dy[3], (0, 0), scheme.outputs, 1,
                                 scheme.gradients_to_factors, self.gradient_plane, (self.panel, self.gradient_block), 0,
                                 None, pairs)

    @property
    def operand_chunks(self) -> int:
        """Chunks that transform the operands."""
        return min(MOST_CHUNKS, self.tiling.steps)

    def sample(self) -> FilterGradientSample:
        """Of the results."""
        x, dy, _ = self.contraction.shapes
        return FilterGradientSample(self.tiling.grid, self.scheme, self.runs, x, dy, self.offset, self.num,
                                    self.prologue)

    def operands(self, e: Emitter) -> tuple[ll.Value, ll.Value]:
        """Pointers to x, or what the prologue makes x of, and dy."""
        return operands_of(e, self.contraction, self.prologue)

    def transform_operands(self, e: Emitter) -> None:
        """This chunk's share of the tiles."""
        t, element, (x, dy) = self.tiling, self.num.element, self.operands(e)
        with e.loop(*range_of_part(e, e.chunk, t.steps, self.operand_chunks), name="step") as step:
            tile = e.b.mul(step, i64(self.together))
            for phase, patches in enumerate(self.inputs):
                at = e.b.add(i64(phase * t.blocks * self.input_block), e.b.mul(step, i64(_ROWS)))
                self._factors(e, patches, x, tile, e.at(e.temp(0), at, element))
            into = e.at(e.temp(1), e.b.mul(step, i64(self.panel)), element)
            self._factors(e, self.gradients, dy, tile, into)

    def _factors(self, e: Emitter, patches: Patches, source: ll.Value, tile: ll.Value, into: ll.Value) -> None:
        make = patches.factors if self.together == 1 else patches.factors_of_two
        make(e, self.num, source, tile, into)

    def compute(self, e: Emitter, finish: Finish) -> ll.Value:
        """This chunk's share of the filter's gradient. Returned is whether an element of it is not finite, if that is
        checked, an i1."""
        t, depth = self.tiling, self.op.filter_shape[2]
        if self.finite is not None:
            self.finite.begin(e, self.num)
        down, across = e.b.udiv(e.chunk, i64(t.parts[1])), e.b.urem(e.chunk, i64(t.parts[1]))
        with e.loop(*range_of_part(e, across, t.panels, t.parts[1]), name="panel") as panel, \
                e.loop(*range_of_part(e, down, self.phases * t.blocks, t.parts[0]), name="block") as block:
            self._multiply(e, panel, block)
            phase, row = self._place(e, block)
            with e.loop(0, smaller(e, i64(_ROWS), e.b.sub(i64(depth), row)), name="row") as r:
                self._taps(e, finish, phase, e.b.add(row, r), r, panel)
        return ll.Constant(I1, 0) if self.finite is None else self.finite.end(e, self.num)

    def _multiply(self, e: Emitter, panel: ll.Value, block: ll.Value) -> None:
        """Products of a block of input channels and a panel of output channels, summed over all tiles."""
        t, num = self.tiling, self.num
        chains = cut(t.steps, _LONGEST // self.together)
        with e.loop(0, self.scheme.products, name="product") as product:
            self._ask(e, panel, block, product)
            at = e.b.add(e.b.mul(product, i64(self.input_plane)), e.b.mul(block, i64(self.input_block)))
            inputs = e.at(e.temp(0), at, num.element)
            at = e.b.add(e.b.mul(product, i64(self.gradient_plane)), e.b.mul(panel, i64(self.gradient_block)))
            gradients = e.at(e.temp(1), at, num.element)
            sums = e.at(e.scratch, e.b.mul(product, i64(self.sum_plane)), num.element)
            for steps, low, high in chains.spans():
                with e.loop(low, high, name="chain") as chain:
                    step = chains.start(e, chain)
                    base = e.at(gradients, e.b.mul(step, i64(self.panel)), num.element)
                    columns = Columns(base, [v * num.lanes for v in range(t.vectors)], self.panel, num.lanes,
                                      num.lanes * num.bytes)
                    rows = e.at(inputs, e.b.mul(step, i64(_ROWS)), num.element)
                    self._multiply_chain(e, sums, rows, columns, steps, e.b.icmp_signed(">", chain, i64(0)))

    def _multiply_chain(self, e: Emitter, sums: ll.Value, inputs: ll.Value, columns: Columns, steps: int,
                        again: ll.Value) -> None:
        """Add the products of some tiles to the sums, or begin them."""
        t, num = self.tiling, self.num
        for height, _, row in t.rows.walk(e, i64(0), i64(t.rows.parts)):
            rows = Rows(e.at(inputs, row, num.element), range(height), _ROWS)
            done = accumulate(e, self.product, zeros(num, height, t.vectors), rows, columns, steps, unroll=4)
            add_or_store(e, num, done, e.at(sums, e.b.mul(row, i64(self.panel)), num.element), self.panel, again)

    def _ask(self, e: Emitter, panel: ll.Value, block: ll.Value, product: ll.Value) -> None:
        """Ask for a product's share of the taps that the sums will become: rows that lie far apart."""
        lines = self.scheme.taps**2 * _ROWS
        share = -(-lines // self.scheme.products)
        first = e.b.mul(product, i64(share))
        phase, row = self._place(e, block)
        channel = e.b.mul(panel, i64(self.panel))
        with e.loop(first, smaller(e, e.b.add(first, i64(share)), i64(lines)), name="ask") as line:
            tap, r = e.b.udiv(line, i64(_ROWS)), e.b.urem(line, i64(_ROWS))
            i, j = (f(tap, i64(self.scheme.taps)) for f in (e.b.udiv, e.b.urem))
            at = e.b.add(self._tap(e, phase, i, j, e.b.add(row, r)), channel)
            for register in range(0, self.panel, LINE):
                e.prefetch(e.at(e.result(0), e.b.add(at, i64(register)), self.num.element), to_write=True)

    def _place(self, e: Emitter, block: ll.Value) -> tuple[ll.Value, ll.Value]:
        """The phase and the first input channel of a block."""
        blocks = i64(self.tiling.blocks)
        return e.b.udiv(block, blocks), e.b.mul(e.b.urem(block, blocks), i64(_ROWS))

    def _tap(self, e: Emitter, phase: ll.Value, i: ll.Value, j: ll.Value, depth: ll.Value) -> ll.Value:
        """Where a phase's tap lies in the gradient for an input channel."""
        (_, kw, channels, width), stride = self.op.filter_shape, i64(self.runs.stride)
        row, column = (e.b.add(first, e.b.mul(index, stride))
                       for first, index in zip(self.runs.firsts_of(e, phase), (i, j), strict=True))
        tap = e.b.add(e.b.mul(row, i64(kw)), column)
        return e.b.mul(e.b.add(e.b.mul(tap, i64(channels)), depth), i64(width))

    def _taps(self, e: Emitter, finish: Finish, phase: ll.Value, depth: ll.Value, row: ll.Value,
              panel: ll.Value) -> None:
        """The sums of an input channel to its taps of a phase."""
        num, width = self.num, self.op.filter_shape[3]
        begin = e.b.mul(panel, i64(self.panel))
        given = e.at(e.scratch, e.b.mul(row, i64(self.panel)), num.element)
        for low, high, lanes in registers(width, num.lanes):
            stop = smaller(e, i64(high), e.b.add(begin, i64(self.panel)))
            start = begin if low == 0 else e.b.select(e.b.icmp_signed(">", begin, i64(low)), begin, i64(low))
            with e.loop(start, stop, num.lanes, "channel") as channel:
                self._transform(e, finish, phase, depth, channel, e.at(given, e.b.sub(channel, begin), num.element),
                                lanes)

    def _transform(self, e: Emitter, finish: Finish, phase: ll.Value, depth: ll.Value, channel: ll.Value,
                   source: ll.Value, lanes: int) -> None:
        num, points, matrix = self.num, self.scheme.points, self.scheme.products_to_filter
        columns = [transform(e, num, matrix, [load(e, num, source, (i * points + j) * self.sum_plane)
                                              for i in range(points)]) for j in range(points)]
        for i in range(self.scheme.taps):
            taps = transform(e, num, matrix, [column[i] for column in columns])
            if self.finite is not None:
                self.finite.note(e, num, taps)
            for j, value in enumerate(taps):
                at = e.b.add(self._tap(e, phase, i64(i), i64(j), depth), channel)
                finish(e, [[value]], at, 0, channel, lanes)
