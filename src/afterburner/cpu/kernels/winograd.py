"""3x3 convolutions by Winograd's algorithms: F(2x2, 3x3), 16 products for 4 outputs instead of 36, and in
``precision=fast`` F(4x4, 3x3), 36 products for 16 outputs instead of 144. And those whose taps are runs of two
(``winograd_lines.Runs``), above all 4x4 filters, by F(2x2, 2x2): for each pair of runs 9 products for 4 outputs instead
of 16. An input gradient with stride 2 is four correlations.

Filters are transformed once a call. A block of tiles is then computed at a time: 3x3, 4x4 or 6x6 patches of the input
become as many factors, a matrix product with the filters' factors follows for each, and what they sum becomes 2x2 or
4x4 outputs, to which the epilogue is applied. Factors and sums of a block stay near the second-level cache.

F(2x2, 3x3) is by norm more exact than the direct sum of products: each output is made of its own inputs only, by sums
and halves. Single outputs are not where the taps of a filter differ in size as much as the pixels that they meet: a
large product of another tap is then added and taken away again. So the kernel compares the sizes of the taps of each
filter, and what bounds its errors with what bounds those of direct sums on a sample of outputs (``winograd_sample``);
it computes directly if these are too unequal. So it does if a result is not finite: an infinity would become NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import prod

from llvmlite import ir as ll

from ..emitter import I1, Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
from .column_sums import with_sums
from .correlation import Correlation, Plan
from .correlator import Correlator
from .doubts import Doubts, Finite, otherwise
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
from .pairs import Pairs, Pointer, halved, join
from .prologue import Prologue, maker_of
from .unequal_taps import is_excess, larger_excess, with_sizes
from .winograd_lines import Scheme, runs_of, transform
from .winograd_outputs import Outputs
from .winograd_patches import LINE, Grid, Patches, apart, load, of_parts, store
from .winograd_sample import ConvolutionSample

F2X2, F4X4 = Scheme(2, 3), Scheme(4, 3)
F2X2_2X2 = Scheme(2, 2)
EXACT = {2: F2X2_2X2, 4: F2X2_2X2}  # by the taps to a stride along an axis, where these are no three with stride 1
CHECKED = (F2X2, F2X2_2X2)  # about as exact as direct sums, but not always

_BLOCK = {F2X2: 64, F4X4: 24, F2X2_2X2: 64}  # tiles of a block, about: each reads all factors of the filters
_DIRECT_BLOCK = 24  # pixels of a row in register tiles, likewise
_FACTORS_BYTES = 2 << 20  # of a block's patches, at most
_SUMS_BYTES = 512 << 10  # sums of a block before they become outputs
_CACHED_BYTES = 256 << 10  # of filters' factors that stay in the second-level cache
_LONGEST = {F2X2: 192, F4X4: 192, F2X2_2X2: 96}  # products of a sum
_STRETCH = 16  # steps between prefetches
_FEW_TILES = 144  # six blocks: up to here factors made where they are used are faster, measured with AVX2
_PANELS = 4  # of a chunk at least: each chunk transforms the whole input of its tiles

# Cycles of one register of channels of a tile and one product, measured with AVX2 and AVX-512; of a byte of filters'
# factors where they are made of a filter in memory, and where a block reads them from the third-level cache.
_INPUT_CYCLES, _OUTPUT_CYCLES, _FILTER_CYCLES, _READ_CYCLES = 6.1, 5.3, 0.3, 0.06
_WORTH = 0.95  # of the direct convolution's estimated cycles


@dataclass(frozen=True)
class Tiling:
    """How a convolution is cut.

    Attributes:
        scheme: the algorithm.
        down, across: tiles of an image.
        height: tiles in a register tile.
        panels: cut of the output channels, in registers.
        block: tiles of a block, a multiple of ``height``.
        together: panels whose sums are kept at a time.
        parts: chunks along (blocks, panels).
    """

    scheme: Scheme
    down: int
    across: int
    height: int
    panels: Cut
    block: int
    together: int
    parts: tuple[int, int]


def fits(c: Correlation) -> bool:
    """Whether a correlation is 3x3, dense and ungrouped, and writes every pixel of its result."""
    plain = all((a.taps.count, a.taps.stride, a.taps.offset_step) == (F2X2.taps, 1, 1) for a in (c.rows, c.columns))
    return plain and c.groups == 1 and c.out_offset == 0 and c.out_strides[2] == c.width \
        and c.out_strides[1] == c.width * c.columns.outputs


def _phases(c: Correlation, scheme: Scheme) -> int:
    return runs_of(scheme, c.rows.taps.count, c.rows.taps.stride).count**2


def tiles_of(c: Correlation, scheme: Scheme) -> tuple[int, int]:
    """Tiles down and across one image."""
    return -(-c.rows.outputs // scheme.outputs), -(-c.columns.outputs // scheme.outputs)


def scheme_that_pays(c: Correlation, schemes: Sequence[Scheme], num: Numeric, isa: Isa) -> Scheme | None:
    """The algorithm that takes fewest cycles, by an estimate; None where a correlation does not fit or the transforms
    cost more than the products they save."""
    if not fits(c):
        return None
    best = min(schemes, key=lambda scheme: _cycles(c, scheme, num, isa))
    return best if _cycles(c, best, num, isa) < _WORTH * _direct_cycles(c, num, isa) else None


def scheme_of(c: Correlation, schemes: Mapping[int, Scheme]) -> Scheme | None:
    """The algorithm of a correlation by the taps to a stride; None where there is none."""
    counts, strides = ({getattr(a.taps, name) for a in (c.rows, c.columns)} for name in ("count", "stride"))
    if len(counts) > 1 or len(strides) > 1 or c.groups > 1 or not c.merged or c.rows.taps.offset_step != 1:
        return None
    count, stride = *counts, *strides
    return schemes.get(count // stride) if count % stride == 0 else None


def winograd_2x2_pays(parts: Sequence[Correlation], num: Numeric, isa: Isa) -> bool:
    """Whether F(2x2, 2x2) takes fewer cycles than direct sums for the correlations of one result, by an estimate, with
    the filter's factors in memory: where there are more tiles than filters, whose factors would take more of it."""
    direct = _WORTH * sum(_direct_cycles(c, num, isa) for c in parts)
    return _fits_2x2(parts, num.lanes) and sum(_cycles(c, F2X2_2X2, num, isa) for c in parts) < direct


def pairs_2x2_pay(parts: Sequence[Correlation], num: Numeric, isa: Isa) -> bool:
    """As ``winograd_2x2_pays``, of bfloat16 pairs."""
    direct = _WORTH * sum(_direct_cycles(c, num, isa) for c in parts) / 2
    halves = [(replace(c, depth=halved(c.depth)), c.depth) for c in parts]
    return _fits_2x2(parts, 2 * num.lanes) and sum(_cycles(c, F2X2_2X2, num, isa, n) for c, n in halves) < direct


def _fits_2x2(parts: Sequence[Correlation], channels: int) -> bool:
    """Whether F(2x2, 2x2) with the filter's factors in memory is possible, and these are fewer than the patches'; input
    channels are a multiple of ``channels``."""
    return all(scheme_of(c, EXACT) and c.depth % channels == 0
               and c.images * prod(tiles_of(c, F2X2_2X2)) >= c.width for c in parts)


def _direct_cycles(c: Correlation, num: Numeric, isa: Isa) -> float:
    """Estimated cycles of all products of a correlation."""
    taps = prod(sum(a.reads(p, t) for p in range(a.outputs) for t in range(a.taps.count)) / a.outputs
                for a in (c.rows, c.columns))
    row = _product_cycles(c.columns.outputs, -(-c.width // num.lanes), c.depth, _DIRECT_BLOCK, isa)
    return c.images * c.rows.outputs * taps * row


def _cycles(c: Correlation, scheme: Scheme, num: Numeric, isa: Isa, channels: int = 0) -> float:
    """Estimated cycles of a correlation; ``channels``: of its input, where ``c`` is of pairs of them."""
    phases = _phases(c, scheme)
    deep, wide = phases * -(-(channels or c.depth) // num.lanes), -(-c.width // num.lanes)
    tiles = c.images * prod(tiles_of(c, scheme))
    product = _product_cycles(tiles, wide, phases * c.depth, _BLOCK[scheme], isa)
    factors = phases * c.depth * wide * num.lanes * num.bytes
    again = tiles / _BLOCK[scheme] if scheme.products * factors > _CACHED_BYTES else 0
    filters = factors * (_FILTER_CYCLES + _READ_CYCLES * again)
    return scheme.products * (product + filters + tiles * (_INPUT_CYCLES * deep + _OUTPUT_CYCLES * wide))


def pairs_pay(c: Correlation, num: Numeric, pairs: Pairs, isa: Isa) -> bool:
    """Whether F(2x2, 3x3) of bfloat16 pairs takes fewest cycles, by an estimate: fewer than F(4x4, 3x3) and than direct
    sums of pairs."""
    if not fits(c) or c.depth % (2 * num.lanes):
        return False
    half = replace(c, depth=c.depth // 2)
    wide = -(-c.width // num.lanes)
    direct = c.pixels * F2X2.taps**2 * _product_cycles(c.columns.outputs, wide, half.depth, _DIRECT_BLOCK, isa) \
        / c.columns.outputs
    return _cycles(half, F2X2, num, isa, c.depth) < min(_WORTH * direct, _cycles(c, F4X4, num, isa))


def few_tiles(c: Correlation) -> bool:
    """Whether a correlation has so few tiles of 4x4 that its filter is better transformed where it is used, if it must
    be transformed in each call: each block of tiles reads all factors of the filter, four times what it takes."""
    return c.images * prod(tiles_of(c, F4X4)) <= _FEW_TILES


def _product_cycles(rows: int, vectors: int, steps: int, block: int, isa: Isa) -> float:
    """Estimated cycles of a matrix product in register tiles, ``block`` rows at a time."""
    down, across = choose_tile(min(rows, block), vectors, steps, isa)
    cycles = sum(step_cycles(down.widest, wide, isa) * (high - low) for wide, low, high in across.spans())
    return -(-rows // down.widest) * steps * cycles


def tiling_of(c: Correlation, scheme: Scheme, num: Numeric, isa: Isa) -> Tiling:
    """Tiles, blocks and chunks, from the sizes alone."""
    down, across = tiles_of(c, scheme)
    total = c.images * down * across
    most = _BLOCK[scheme]
    steps = c.depth * _phases(c, scheme)
    rows, panels = choose_tile(min(total, most), -(-c.width // num.lanes), steps, isa)
    height = rows.widest
    fitting = _FACTORS_BYTES // (scheme.products * steps * num.bytes)
    block = height * max(1, min(most // height, -(-total // height), fitting // height))
    slot = scheme.products * block * panels.widest * num.lanes * num.bytes
    together = max(1, min(panels.parts, _SUMS_BYTES // slot))
    cycles = total * scheme.products * max(steps, 4) * c.width / num.lanes / 2
    wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
    blocks = -(-total // block)
    parts = min(blocks, wanted)
    sideways = max(1, min(-(-wanted // parts), panels.parts // _PANELS))
    return Tiling(scheme, down, across, height, panels, block, together, (parts, sideways))


def lower_winograd(contraction: Contraction, c: Correlation, num: Numeric, isa: Isa, order: tuple[int, int],
                   filter_columns: int, label: str, kept: tuple[int, int] | None) -> Kernel:
    """The kernel of a correlation that ``fits`` by F(4x4, 3x3).

    Args:
        order: which operands of the contraction are the image and the filter.
        filter_columns: columns of the filter in memory.
        kept: as of the kernel.
    """
    w = Winograd(c, tiling_of(c, F4X4, num, isa), num, filter_columns)
    finish = contraction.finish(isa)

    def transform_filter(e: Emitter) -> None:
        w.transform_filter(e, contraction.operand(e, order[1]), e.chunk)

    def compute(e: Emitter) -> None:
        w.compute(e, contraction.operand(e, order[0]), finish, e.chunk)

    phases = (Phase(w.filter_chunks, transform_filter), Phase(w.chunks, compute))
    return Kernel(contraction.node, phases, f"winograd {contraction.key(isa)}", (w.filter_bytes,),
                  max(w.scratch, w.pack_scratch), label, kept)


def lower_checked_winograd(contraction: Contraction, parts: Sequence[Correlation], num: Numeric, isa: Isa,
                           order: tuple[int, int], filter_columns: int, label: str, kept: tuple[int, int] | None,
                           direct: Kernel, scheme: Scheme = F2X2, made: Prologue | None = None,
                           pairs: Pairs | None = None) -> Kernel:
    """The kernel of correlations that write one result by F(2x2, 3x3) or F(2x2, 2x2), and ``direct`` for what these do
    not compute as exactly: filters whose taps are of unequal size, operands of which a sample tells so, and results
    that are not finite. The image may be made from another tensor, ``made``; factors may be rounded to ``pairs``."""
    all_: list[Winograd] = []
    for c in parts:
        at = sum(w.filter_bytes for w in all_) // num.bytes
        all_.append(Winograd(c, tiling_of(c, scheme, num, isa), num, filter_columns, made, pairs, at))
    samples = [ConvolutionSample(c, scheme, num, filter_columns, made) for c in parts]
    filter_bytes, finish = sum(w.filter_bytes for w in all_), contraction.finish(isa)
    image: Pointer = partial(contraction.operand, index=order[0]) if made is None else made.operand
    unequal = Doubts(0, filter_bytes, sum(w.filter_chunks for w in all_))
    inexact = Doubts(1, 0, sum(sample.chunks for sample in samples))
    infinite = Doubts(1, inexact.chunks, sum(w.chunks for w in all_))

    def transform_filter(e: Emitter) -> None:
        for w, chunk in of_parts(e, all_, [w.filter_chunks for w in all_]):
            unequal.tell(e, w.transform_filter(e, contraction.operand(e, order[1]), chunk))

    def compare(e: Emitter) -> None:
        for sample, chunk in of_parts(e, samples, [sample.chunks for sample in samples]):
            inexact.tell(e, sample.differs(e, image(e), contraction.operand(e, order[1]), chunk))

    def compute(e: Emitter) -> None:
        infinite.tell(e, ll.Constant(I1, 0))
        with e.b.if_then(e.b.not_(e.b.or_(unequal.any(e), inexact.any(e)))):
            for w, chunk in of_parts(e, all_, [w.chunks for w in all_]):
                infinite.tell(e, w.compute(e, image(e), finish, chunk))

    phases = (Phase(unequal.chunks, transform_filter), Phase(inexact.chunks, compare), Phase(infinite.chunks, compute))
    kernel = Kernel(contraction.node, phases, f"winograd checked {contraction.key(isa)}",
                    (filter_bytes + unequal.chunks, inexact.chunks + infinite.chunks),
                    max(*(w.scratch for w in all_), *(w.pack_scratch for w in all_),
                        *(sample.scratch for sample in samples)), label, kept)
    direct = with_sums(direct, contraction, isa)
    return otherwise(with_sums(kernel, contraction, isa), (unequal, inexact, infinite), direct)


class Winograd:
    """Emits the phases. Temporary 0 holds the filters' factors from ``filter_at`` on as
    [product][panel][phase][depth][registers]. But by F(4x4, 3x3) the image may be made from another tensor, ``made``,
    and factors be rounded to ``pairs`` of adjacent channels, of which two registers must be whole."""

    def __init__(self, c: Correlation, tiling: Tiling, num: Numeric, filter_columns: int,
                 made: Prologue | None = None, pairs: Pairs | None = None, filter_at: int = 0) -> None:
        self.c, self.tiling, self.scheme, self.num, self.pairs = c, tiling, tiling.scheme, num, pairs
        self.product: Numeric = pairs or num
        self.filter_at = filter_at
        self.runs = runs_of(self.scheme, c.rows.taps.count, c.rows.taps.stride)
        self.phases = self.runs.count**2
        self.deep = c.depth if pairs is None else halved(c.depth)  # steps of a phase
        self.steps = self.phases * self.deep
        self.checked = self.scheme in CHECKED
        self.total = c.images * tiling.down * tiling.across
        widest, lanes, products = tiling.panels.widest, num.lanes, tiling.scheme.products
        self.panel = self.steps * widest * lanes
        self.filter_plane = apart(tiling.panels.parts * self.panel)
        self.ahead = self.filter_bytes > _CACHED_BYTES and self.steps >= 2 * _STRETCH
        self.row = -(-self.steps // lanes) * lanes + LINE  # of factors: one tile, all channels
        self.factor_plane = apart(tiling.block * self.row)
        self.sum_row = tiling.together * widest * lanes
        self.sum_plane = apart(tiling.block * self.sum_row)
        self.sums_at = products * self.factor_plane
        self.spare_at = self.sums_at + products * self.sum_plane
        self.scratch = (self.spare_at + products * lanes) * num.bytes
        self.finite = Finite(self.spare_at) if self.checked else None
        grid = Grid(c.images, tiling.down, tiling.across)
        self.patches = Patches(grid, c.rows.inputs, c.columns.inputs, c.depth,
                               (c.rows.taps.offset, c.columns.taps.offset), self.scheme.outputs * self.runs.stride,
                               self.runs.stride, self.scheme.inputs_to_factors, self.factor_plane, None,
                               self.spare_at, maker_of(made), pairs)
        self.outputs = Outputs(c, grid, self.scheme, self.sum_plane, self.spare_at, self.finite)
        one = Plan(Cut(1, 1), tiling.panels, 0, (1, 1))
        self.packer = Correlator(c, one, num, num.element, 0, filter_columns)

    @property
    def chunks(self) -> int:
        """Chunks that compute the result."""
        return prod(self.tiling.parts)

    @property
    def filter_bytes(self) -> int:
        """Size of the filters' factors."""
        return self.scheme.products * self.filter_plane * self.num.bytes

    @property
    def filter_chunks(self) -> int:
        """Chunks that transform the filter."""
        return min(MOST_CHUNKS, self.tiling.panels.parts)

    @property
    def pack_scratch(self) -> int:
        """Bytes of one panel of the filter, packed, and of a register."""
        return (self.packer.slot + self.num.lanes) * self.num.bytes

    def transform_filter(self, e: Emitter, filter_: ll.Value, chunk: ll.Value) -> ll.Value:
        """A chunk's share of the panels: packed to scratch, then transformed. Returned is whether the taps of an
        output channel are of unequal size, an i1."""
        c, num, panels = self.c, self.num, self.tiling.panels
        first, end = range_of_part(e, chunk, panels.parts, self.filter_chunks)
        excess = e.at(e.scratch, self.packer.slot, num.element)
        store(e, num, num.zero, excess, 0)
        for width, panel, channel, last in walk_panels(e, panels, num.lanes, c.width, first, end):
            self.packer.pack_panel(e, filter_, i64(0), channel, e.scratch, width, last)
            target = e.at(e.temp(0), e.b.add(i64(self.filter_at), e.b.mul(panel, i64(self.panel))), num.element)
            with e.loop(0, self.phases, name="phase") as phase, \
                    e.loop(0, width * num.lanes, num.lanes, "register") as register:
                sizes = self._transform_filters(e, phase, register, width, target)
                if self.checked:
                    store(e, num, larger_excess(e, num, load(e, num, excess, 0), sizes), excess, 0)
        return is_excess(e, num, load(e, num, excess, 0))

    def _transform_filters(self, e: Emitter, phase: ll.Value, register: ll.Value, width: int,
                           target: ll.Value) -> list[ll.Value]:
        """The factors of a register of filters from their packed taps of a phase. Returned are the sizes of the taps:
        for each the sum of its weights without their signs, if they are checked."""
        num, taps, points, matrix = self.num, self.scheme.taps, self.scheme.points, self.scheme.filter_to_factors
        step, together = width * num.lanes, 1 if self.pairs is None else 2
        run, row, stride = self.c.depth * step, self.c.columns.taps.count, self.runs.stride
        down, across = self.runs.firsts_of(e, phase)
        packed = e.at(e.scratch, e.b.mul(e.b.add(e.b.mul(down, i64(row)), across), i64(run)), num.element)
        target = e.at(target, e.b.mul(phase, i64(self.deep * step)), num.element)
        places = [(i * row + j) * stride * run for i in range(taps) for j in range(taps)]
        sizes: list[ll.Value] = [num.zero] * taps**2 if self.checked else []
        with e.loop_carried(0, run, together * step, sizes, "depth") as (depth, now, after):
            source = e.at(packed, e.b.add(depth, register), num.element)
            into = e.at(target, e.b.add(e.b.udiv(depth, i64(together)), register), num.element)
            all_columns, sizes = [], list(now)
            for channel in range(together):
                flat = [load(e, num, source, place + channel * step) for place in places]
                sizes = with_sizes(e, num, sizes, flat) if self.checked else sizes
                all_columns.append([transform(e, num, matrix, flat[j::taps]) for j in range(taps)])
            after[:] = sizes
            for i in range(points):
                rows = [transform(e, num, matrix, [column[i] for column in columns]) for columns in all_columns]
                for j, values in enumerate(zip(*rows, strict=True)):
                    value = values[0] if self.pairs is None else join(e, self.pairs, *values)
                    store(e, num, value, into, (i * points + j) * self.filter_plane)
        return after

    def compute(self, e: Emitter, image: ll.Value, finish: Finish, chunk: ll.Value) -> ll.Value:
        """A chunk's share of the output pixels. Returned is whether one is not finite, if that is checked, an i1."""
        t = self.tiling
        if self.finite is not None:
            self.finite.begin(e, self.num)
        index, part = e.b.udiv(chunk, i64(t.parts[1])), e.b.urem(chunk, i64(t.parts[1]))
        first_block, end_block = range_of_part(e, index, -(-self.total // t.block), t.parts[0])
        first_panel, end_panel = range_of_part(e, part, t.panels.parts, t.parts[1])
        with e.loop(first_block, end_block, name="block") as block:
            tile = e.b.mul(block, i64(t.block))
            count = smaller(e, i64(t.block), e.b.sub(i64(self.total), tile))
            with e.loop(0, count, name="patch") as i:
                self._transform_patch(e, image, e.b.add(tile, i), e.b.mul(i, i64(self.row)))
            with e.loop(first_panel, end_panel, t.together, "panels") as low:
                high = smaller(e, end_panel, e.b.add(low, i64(t.together)))
                self._multiply(e, low, high, count)
                with e.loop(0, count, name="outputs") as i:
                    at = e.b.add(i64(self.sums_at), e.b.mul(i, i64(self.sum_row)))
                    first, end = (e.b.mul(t.panels.start(e, p), i64(self.num.lanes)) for p in (low, high))
                    given = e.at(e.scratch, at, self.num.element)
                    self.outputs.write(e, self.num, finish, e.b.add(tile, i), given, first, end)
        return ll.Constant(I1, 0) if self.finite is None else self.finite.end(e, self.num)

    def _transform_patch(self, e: Emitter, image: ll.Value, tile: ll.Value, row: ll.Value) -> None:
        """The factors of a tile's patches, phase by phase."""
        if self.phases == 1:
            self.patches.factors(e, self.num, image, tile, e.at(e.scratch, row, self.num.element))
            return
        with e.loop(0, self.phases, name="phase") as phase:
            target = e.at(e.scratch, e.b.add(row, e.b.mul(phase, i64(self.deep))), self.num.element)
            self.patches.factors(e, self.num, image, tile, target, shift=self.runs.firsts_of(e, phase))

    def _multiply(self, e: Emitter, low: ll.Value, high: ll.Value, count: ll.Value) -> None:
        """Products of a block's factors with those of panels [low, high)."""
        c, t, num = self.c, self.tiling, self.num
        turns = e.b.udiv(e.b.add(count, i64(t.height - 1)), i64(t.height))
        with e.loop(0, self.scheme.products, name="product") as product:
            factors = e.at(e.scratch, e.b.mul(product, i64(self.factor_plane)), num.element)
            sums = e.at(e.scratch, e.b.add(i64(self.sums_at), e.b.mul(product, i64(self.sum_plane))), num.element)
            for width, panel, channel, _ in walk_panels(e, t.panels, num.lanes, c.width, low, high):
                at = e.b.add(e.b.mul(product, i64(self.filter_plane)), e.b.mul(panel, i64(self.panel)))
                filters = e.at(e.temp(0), e.b.add(i64(self.filter_at), at), num.element)
                column = e.b.sub(channel, e.b.mul(t.panels.start(e, low), i64(num.lanes)))
                with e.loop(0, turns, name="turn") as turn:
                    row = e.b.mul(turn, i64(t.height))
                    rows = Rows(e.at(factors, e.b.mul(row, i64(self.row)), num.element),
                                [r * self.row for r in range(t.height)], 1)
                    columns = Columns(filters, [v * num.lanes for v in range(width)], width * num.lanes, num.lanes,
                                      num.lanes * num.bytes)
                    into = e.at(sums, e.b.add(e.b.mul(row, i64(self.sum_row)), column), num.element)
                    for start, count in self._pieces():
                        done = self._sums(e, rows, columns, turn, start, count)
                        places = [[r * self.sum_row + v * num.lanes for v in range(width)] for r in range(t.height)]
                        for place, value in zip(chain(*places), chain(*done), strict=True):
                            sum_ = num.add(e, load(e, num, into, place), value) if start else value
                            store(e, num, sum_, into, place)

    def _pieces(self) -> list[tuple[int, int]]:
        """(first step, steps) of what is summed by itself: long sums lose digits."""
        depth = Cut(self.steps, -(-self.steps // _LONGEST[self.scheme]))
        return [(depth.base * i + min(i, depth.larger), depth.base + (i < depth.larger)) for i in range(depth.parts)]

    def _sums(self, e: Emitter, rows: Rows, columns: Columns, turn: ll.Value, start: int, count: int) -> Tile:
        """A register tile of sums over ``count`` steps; every turn over the tiles fetches a part of the next panel's
        factors."""
        t, num, depth = self.tiling, self.product, self.steps
        width = len(columns.offsets)
        rows = replace(rows, base=e.at(rows.base, start, num.element))
        columns = replace(columns, base=e.at(columns.base, start * columns.step, num.element))
        tile = zeros(num, t.height, width)
        if not self.ahead:
            return accumulate(e, num, tile, rows, columns, count)
        turns = t.block // t.height
        stretch = _STRETCH * columns.step
        lines = -(-stretch // (LINE * turns))
        part = e.b.add(i64(depth * columns.step), e.b.mul(turn, i64(lines * LINE)))
        initial = [rows.base, columns.base, e.at(columns.base, part, num.element)]
        flat = [v for row in tile for v in row]
        with e.loop_carried(0, count // _STRETCH, 1, [*initial, *flat], "stretch") as (_, now, after):
            for i in range(lines):
                e.prefetch(e.at(now[2], i * LINE, num.element))
            done = accumulate(e, num, shaped(now[3:], width), replace(rows, base=now[0]),
                              replace(columns, base=now[1]), _STRETCH)
            after[:] = [e.at(now[0], _STRETCH, num.element), e.at(now[1], stretch, num.element),
                        e.at(now[2], stretch, num.element), *[v for row in done for v in row]]
        return accumulate(e, num, shaped(after[3:], width), replace(rows, base=after[0]),
                          replace(columns, base=after[1]), count % _STRETCH)
