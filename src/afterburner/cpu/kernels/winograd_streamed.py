"""Convolutions with large filters by Winograd's algorithms: 4x4 filters, above all with stride 2.

Along an axis the taps are taken in runs (``winograd_lines.Runs``), whose sums are added before they are transformed to
outputs: a 4x4 filter takes 9 products for 2x2 outputs and each of four pairs of runs, its phases, F(2x2, 2x2), where it
takes 16 directly. An input gradient with stride 2 is four correlations with 2x2 taps. In ``precision=fast`` stride 2
takes 25 products for 4x4 outputs in place of 64, F(4x4, 2x2), and stride 1 36 for 3x3 outputs in place of 144,
F(3x3, 4x4).

F(2x2, 2x2) is about as exact as direct sums under the conditions of F(2x2, 3x3), which are checked in the same way
(``winograd``): each output is made of its own inputs only, so that taps of about one size suffice but where a sample
tells otherwise. F(3x3, 2x2), with 16 products in place of 36, is not: an output sees its neighbours' pixels, however
large these are.

Filters are large against the image here and their factors two to six times larger: they are never written to memory.
First the factors of all patches are made; then a chunk owns panels of output channels, transforms some panels' taps for
some input channels into its second-level cache, and adds their products to the sums of its tiles. (Where there are more
tiles than filters, ``winograd`` takes F(2x2, 2x2): its filters' factors are in memory, and those of patches are not.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod

from llvmlite import ir as ll

from ..emitter import I1, Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
from .column_sums import with_sums
from .correlation import Axis, Correlation
from .doubts import Doubts, Finite, otherwise
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
    load_lanes,
    product_cycles,
    range_of_part,
    smaller,
    walk_panels,
    zeros,
)
from .packing import pack_columns_transposed
from .pairs import Pairs, join
from .unequal_taps import is_excess, larger_excess, with_sizes
from .winograd import EXACT, F2X2_2X2, scheme_of
from .winograd_lines import Runs, Scheme, runs_of, transform
from .winograd_outputs import Outputs
from .winograd_patches import LINE, Grid, Patches, apart, load, of_parts, store
from .winograd_sample import ConvolutionSample

FAST = {2: Scheme(4, 2), 3: Scheme(4, 3), 4: Scheme(3, 4)}  # by the taps to a stride along an axis

_DEPTH = 64  # input channels, or pairs, whose factors of the filter lie in the second-level cache together
_TILES = 2304  # of a chunk at least, for each product of one: each chunk transforms the filter, and has all sums
_KEPT_BYTES = 12 << 10  # of factors and sums, for each byte of a register: those with longer ones have larger caches
_FEW_CHUNKS = 8  # fewer would not keep workers busy
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
        together: panels whose factors and sums are kept at a time.
        parts: chunks along (turns, panels).
    """

    grid: Grid
    turns: Cut
    panels: Cut
    depth: int
    blocks: int
    together: int
    parts: tuple[int, int]

    @property
    def tiles(self) -> int:
        """Of a chunk, at most."""
        return _tiles_of_chunk(self.turns, self.parts[0])


def _tiles_of_chunk(turns: Cut, parts: int) -> int:
    return -(-turns.parts // parts) * turns.widest


def _runs(c: Correlation, scheme: Scheme) -> Runs:
    return runs_of(scheme, c.rows.taps.count, c.rows.taps.stride)


def _phases(c: Correlation, scheme: Scheme) -> int:
    return _runs(c, scheme).count**2


def tiling_of(c: Correlation, scheme: Scheme, num: Numeric, isa: Isa, per_step: int = 1) -> Tiling:
    """Tiles, blocks and chunks, from the sizes alone; ``per_step``: channels whose products are summed in one step."""
    grid = Grid(c.images, *(-(-a.outputs // scheme.outputs) for a in (c.rows, c.columns)))
    turns, panels = choose_tile(grid.tiles, -(-c.width // num.lanes), _DEPTH, isa)
    depth = -(-cut(c.depth, _DEPTH * per_step).widest // num.lanes) * num.lanes
    steps = _phases(c, scheme) * c.depth / per_step
    wanted = chunks_of(grid.tiles * scheme.products * steps * c.width / num.lanes / 2)
    down = max(1, min(wanted, grid.tiles * scheme.products // _TILES))
    panel = scheme.products * (_tiles_of_chunk(turns, down) + depth // per_step) * panels.widest * num.lanes * num.bytes
    kept = max(1, _KEPT_BYTES * isa.vector_bytes // panel)
    across = max(-(-panels.parts // kept), min(panels.parts, -(-_FEW_CHUNKS // down)))
    return Tiling(grid, turns, panels, depth, -(-c.depth // depth), -(-panels.parts // across),
                  (down, max(1, min(across, wanted // down))))


def streamed_winograd_pays(parts: Sequence[Correlation], schemes: Mapping[int, Scheme], num: Numeric,
                           isa: Isa) -> bool:
    """Whether the correlations of one result all have an algorithm whose transforms cost less than the products it
    saves, by estimated cycles."""
    return _cycles(parts, schemes, num, isa) < _WORTH * _direct_cycles(parts, num, isa)


def streamed_pairs_pay(parts: Sequence[Correlation], num: Numeric, isa: Isa) -> bool:
    """Whether F(2x2, 2x2) of bfloat16 pairs takes fewest cycles, by an estimate: fewer than larger algorithms of
    float32 and than direct sums of pairs."""
    if any(c.depth % (2 * num.lanes) for c in parts):
        return False
    direct = _WORTH * _direct_cycles(parts, num, isa) / 2
    return _cycles(parts, EXACT, num, isa, 2) < min(direct, _cycles(parts, FAST, num, isa))


def _direct_cycles(parts: Sequence[Correlation], num: Numeric, isa: Isa) -> float:
    total = 0.0
    for c in parts:
        taps = prod(sum(a.reads(p, t) for p in range(a.outputs) for t in range(a.taps.count)) / a.outputs
                    for a in (c.rows, c.columns))
        row = product_cycles(*choose_tile(c.columns.outputs, -(-c.width // num.lanes), c.steps, isa), isa)
        total += c.images * c.rows.outputs * taps * row * c.depth
    return total


def _cycles(parts: Sequence[Correlation], schemes: Mapping[int, Scheme], num: Numeric, isa: Isa,
            per_step: int = 1) -> float:
    """Estimated cycles of correlations; infinite where there is no algorithm for one, or too much to keep."""
    total = 0.0
    for c in parts:
        scheme = scheme_of(c, schemes)
        if scheme is None or c.depth < num.lanes:
            return inf
        t = tiling_of(c, scheme, num, isa, per_step)
        if _patches_bytes(c, scheme, t, num, per_step) > _PATCHES_BYTES:
            return inf
        phases, deep, wide = _phases(c, scheme), -(-c.depth // num.lanes), -(-c.width // num.lanes)
        steps = phases * c.depth
        product = product_cycles(t.turns, t.panels, isa) * steps / per_step
        patches = _PATCH_CYCLES * t.grid.tiles * (phases * deep + wide)
        total += scheme.products * (product + patches + _FILTER_CYCLES * t.parts[0] * steps * wide)
    return total


def _patches_bytes(c: Correlation, scheme: Scheme, t: Tiling, num: Numeric, per_step: int = 1) -> int:
    return _phases(c, scheme) * t.blocks * scheme.products * apart(t.grid.tiles * t.depth // per_step) * num.bytes


def lower_streamed_winograd(contraction: Contraction, parts: Sequence[Correlation], num: Numeric, isa: Isa,
                            order: tuple[int, int], filter_columns: int, label: str) -> Kernel:
    """The kernel of ``precision=fast`` of correlations for which it pays.

    Args:
        order: which operands of the contraction are the image and the filter.
        filter_columns: columns of the filter in memory.
    """
    all_ = _of_parts(parts, FAST, num, isa, filter_columns)
    finish = contraction.finish(isa)
    phases: list[Phase] = []
    for w in all_:

        def transform_image(e: Emitter, w: StreamedWinograd = w) -> None:
            w.transform_image(e, contraction.operand(e, order[0]))

        def compute(e: Emitter, w: StreamedWinograd = w) -> None:
            w.compute(e, contraction.operand(e, order[1]), finish)

        phases += [Phase(w.image_chunks, transform_image), Phase(w.chunks, compute)]
    return Kernel(contraction.node, tuple(phases), f"winograd streamed {contraction.key(isa)}",
                  (max(w.patches_bytes for w in all_),), max(w.scratch for w in all_), label)


def lower_checked_streamed(contraction: Contraction, parts: Sequence[Correlation], num: Numeric, isa: Isa,
                           order: tuple[int, int], filter_columns: int, label: str, direct: Kernel,
                           pairs: Pairs | None = None) -> Kernel:
    """The kernel of correlations for which F(2x2, 2x2) pays, and ``direct`` for what that does not compute as exactly:
    operands of which a sample tells so, filters whose taps are of unequal size, and results that are not finite.
    Factors may be rounded to ``pairs``."""
    all_ = _of_parts(parts, EXACT, num, isa, filter_columns, pairs)
    samples = [ConvolutionSample(c, F2X2_2X2, num, filter_columns) for c in parts]
    finish = contraction.finish(isa)
    inexact = Doubts(1, 0, sum(sample.chunks for sample in samples))
    doubts, phases = [inexact], []

    def compare(e: Emitter) -> None:
        for sample, chunk in of_parts(e, samples, [sample.chunks for sample in samples]):
            image, filter_ = (contraction.operand(e, i) for i in order)
            inexact.tell(e, sample.differs(e, image, filter_, chunk))

    for w in all_:
        untrusted = Doubts(1, doubts[-1].at + doubts[-1].chunks, w.chunks)

        def transform_image(e: Emitter, w: StreamedWinograd = w) -> None:
            with e.b.if_then(e.b.not_(inexact.any(e))):
                w.transform_image(e, contraction.operand(e, order[0]))

        def compute(e: Emitter, w: StreamedWinograd = w, untrusted: Doubts = untrusted) -> None:
            untrusted.tell(e, ll.Constant(I1, 0))
            with e.b.if_then(e.b.not_(inexact.any(e))):
                untrusted.tell(e, w.compute(e, contraction.operand(e, order[1]), finish))

        phases += [Phase(w.image_chunks, transform_image), Phase(w.chunks, compute)]
        doubts.append(untrusted)
    kernel = Kernel(contraction.node, (Phase(inexact.chunks, compare), *phases),
                    f"winograd checked streamed {contraction.key(isa)}",
                    (max(w.patches_bytes for w in all_), doubts[-1].at + doubts[-1].chunks),
                    max(*(w.scratch for w in all_), *(sample.scratch for sample in samples)), label)
    return otherwise(with_sums(kernel, contraction, isa), doubts, with_sums(direct, contraction, isa))


def _of_parts(parts: Sequence[Correlation], schemes: Mapping[int, Scheme], num: Numeric, isa: Isa,
              filter_columns: int, pairs: Pairs | None = None) -> list[StreamedWinograd]:
    found = []
    for c in parts:
        scheme = scheme_of(c, schemes)
        assert scheme is not None
        tiling = tiling_of(c, scheme, num, isa, 1 if pairs is None else 2)
        found.append(StreamedWinograd(c, scheme, tiling, num, filter_columns, pairs))
    return found


class StreamedWinograd:
    """Emits the phases. Temporary 0 holds the factors of patches as [phase, block][product][tile][depth]; scratch some
    packed taps, the factors of a block of them, the sums of a chunk's tiles, and what is known of the sizes of taps. By
    F(2x2, 2x2) factors may be rounded to ``pairs`` of adjacent channels, of which two registers must be whole."""

    def __init__(self, c: Correlation, scheme: Scheme, tiling: Tiling, num: Numeric, filter_columns: int,
                 pairs: Pairs | None = None) -> None:
        self.c, self.scheme, self.tiling, self.num, self.filter_columns = c, scheme, tiling, num, filter_columns
        self.pairs, self.per_step = pairs, 1 if pairs is None else 2
        self.product: Numeric = pairs or num
        self.deep = tiling.depth // self.per_step  # steps of a block
        self.runs, self.phases = _runs(c, scheme), _phases(c, scheme)
        self.panel = tiling.panels.widest * num.lanes
        self.row = tiling.together * self.panel
        self.tap = self.deep * self.panel
        self.plane = apart(tiling.grid.tiles * self.deep)
        self.block = scheme.products * self.plane
        self.filter_plane, self.sum_plane = apart(tiling.together * self.tap), apart(tiling.tiles * self.row)
        self.packed = tiling.depth * self.panel if c.transposed else 0  # elements of a tap
        self.filter_at = scheme.taps**2 * self.packed
        self.sums_at = self.filter_at + scheme.products * self.filter_plane
        self.spare_at = self.sums_at + scheme.products * self.sum_plane
        self.excess_at = self.spare_at + scheme.products * num.lanes
        self.sizes_at = self.excess_at + num.lanes
        self.checked = scheme == F2X2_2X2
        self.scratch = (self.sizes_at + self.checked * scheme.taps**2 * self.row) * num.bytes
        self.finite = Finite(self.spare_at) if self.checked else None
        self.patches_bytes = _patches_bytes(c, scheme, tiling, num, self.per_step)
        self.outputs = Outputs(c, tiling.grid, scheme, self.sum_plane, self.spare_at, self.finite)

    @property
    def image_chunks(self) -> int:
        """Chunks that transform the image."""
        return min(MOST_CHUNKS, self.tiling.grid.tiles)

    @property
    def chunks(self) -> int:
        """Chunks that compute the result."""
        return prod(self.tiling.parts)

    def transform_image(self, e: Emitter, image: ll.Value) -> None:
        """This chunk's share of the patches."""
        c, t, stride = self.c, self.tiling, self.runs.stride
        first, end = range_of_part(e, e.chunk, t.grid.tiles, self.image_chunks)
        firsts = [self.runs.first(run) for run in range(self.runs.count)]
        for phase, (i, j) in enumerate((i, j) for i in firsts for j in firsts):
            offset = (c.rows.taps.offset + i, c.columns.taps.offset + j)
            patches = Patches(t.grid, c.rows.inputs, c.columns.inputs, c.depth, offset, self.scheme.outputs * stride,
                              stride, self.scheme.inputs_to_factors, self.plane,
                              (t.depth, self.block * self.per_step), 0, None, self.pairs)
            base = e.at(e.temp(0), phase * t.blocks * self.block, self.num.element)
            with e.loop(first, end, name="tile") as tile:
                target = e.at(base, e.b.mul(tile, i64(self.deep)), self.num.element)
                patches.factors(e, self.num, image, tile, target)

    def compute(self, e: Emitter, filter_: ll.Value, finish: Finish) -> ll.Value:
        """This chunk's share of the output pixels. Returned is whether it is not to be trusted, if that is checked: of
        unequal taps, or not finite; an i1."""
        c, t, num = self.c, self.tiling, self.num
        down, across = e.b.udiv(e.chunk, i64(t.parts[1])), e.b.urem(e.chunk, i64(t.parts[1]))
        turns = range_of_part(e, down, t.turns.parts, t.parts[0])
        first, end = (t.turns.start(e, turn) for turn in turns)
        low, high = range_of_part(e, across, t.panels.parts, t.parts[1])
        sums = e.at(e.scratch, self.sums_at, num.element)
        if self.finite is not None:
            self.finite.begin(e, num)
            store(e, num, num.zero, e.scratch, self.excess_at)
        with e.loop(low, high, t.together, "panels") as begin:
            panels = (begin, smaller(e, high, e.b.add(begin, i64(t.together))))
            self._clear(e, self.sums_at, self.scheme.products * self.sum_plane)
            with e.loop(0, self.phases, name="phase") as phase:
                self._add_phase(e, filter_, phase, panels, turns, first)
            channel, stop = (e.b.mul(t.panels.start(e, panel), i64(num.lanes)) for panel in panels)
            with e.loop(first, end, name="outputs") as tile:
                given = e.at(sums, e.b.mul(e.b.sub(tile, first), i64(self.row)), num.element)
                self.outputs.write(e, num, finish, tile, given, channel, smaller(e, stop, i64(c.width)))
        if self.finite is None:
            return ll.Constant(I1, 0)
        return e.b.or_(self.finite.end(e, num), is_excess(e, num, load(e, num, e.scratch, self.excess_at)))

    def _clear(self, e: Emitter, begin: int, count: int) -> None:
        with e.loop(begin, begin + count, self.num.lanes, "clear") as at:
            store(e, self.num, self.num.zero, e.scratch, at)

    def _add_phase(self, e: Emitter, filter_: ll.Value, phase: ll.Value, panels: tuple[ll.Value, ll.Value],
                   turns: tuple[ll.Value, ll.Value], first: ll.Value) -> None:
        """Add the products of a phase's taps to the sums."""
        c, t, num, sizes = self.c, self.tiling, self.num, self.scheme.taps**2 * self.row
        channel = e.b.mul(t.panels.start(e, panels[0]), i64(num.lanes))
        if self.checked:
            self._clear(e, self.sizes_at, sizes)
        with e.loop(0, t.blocks, name="block") as block:
            depth = e.b.mul(block, i64(t.depth))
            count = i64(t.depth) if c.depth == t.depth else smaller(e, i64(t.depth), e.b.sub(i64(c.depth), depth))
            for width, panel, at, last in walk_panels(e, t.panels, num.lanes, c.width, *panels):
                self._transform_filter(e, filter_, (phase, depth, at), count, (width, last), e.b.sub(panel, panels[0]))
            index = e.b.add(e.b.mul(phase, i64(t.blocks)), block)
            patches = e.at(e.temp(0), e.b.mul(index, i64(self.block)), num.element)
            with e.loop(0, self.scheme.products, name="product") as product:
                self._ask(e, filter_, index, channel, product)
                for width, panel, at, _ in walk_panels(e, t.panels, num.lanes, c.width, *panels):
                    place = (e.b.sub(panel, panels[0]), e.b.sub(at, channel))
                    self._multiply(e, patches, count, width, turns, first, product, place)
        if self.checked:
            for width, panel, _, _ in walk_panels(e, t.panels, num.lanes, c.width, *panels):
                self._compare_sizes(e, width, e.b.sub(panel, panels[0]))

    def _compare_sizes(self, e: Emitter, width: int, slot: ll.Value) -> None:
        """Note by how much the taps of a panel differ in size."""
        num = self.num
        given = e.at(e.scratch, e.b.add(i64(self.sizes_at), self._sizes(e, slot)), num.element)
        for v in range(width):
            sizes = [load(e, num, given, (v * self.scheme.taps**2 + tap) * num.lanes)
                     for tap in range(self.scheme.taps**2)]
            excess = larger_excess(e, num, load(e, num, e.scratch, self.excess_at), sizes)
            store(e, num, excess, e.scratch, self.excess_at)

    def _sizes(self, e: Emitter, slot: ll.Value) -> ll.Value:
        return e.b.mul(slot, i64(self.scheme.taps**2 * self.panel))

    @property
    def line(self) -> int:
        """Elements between the filter's lines: those of an input channel, or of an output channel if transposed."""
        return self.c.depth if self.c.transposed else self.c.width

    def _taps(self, e: Emitter, filter_: ll.Value, phase: ll.Value, tap: ll.Value, depth: ll.Value,
              channel: ll.Value) -> ll.Value:
        """Where a phase's tap lies in the filter for an input and an output channel."""
        c, taps = self.c, i64(self.scheme.taps)
        down, across = self.runs.firsts_of(e, phase)
        row = self._tap(e, c.rows, down, e.b.udiv(tap, taps))
        column = self._tap(e, c.columns, across, e.b.urem(tap, taps))
        matrix = e.b.mul(e.b.add(e.b.mul(row, i64(self.filter_columns)), column), i64(c.depth * c.width))
        first, second = (channel, depth) if c.transposed else (depth, channel)
        inside = e.b.add(e.b.mul(first, i64(self.line)), second)
        return e.at(filter_, e.b.add(matrix, inside), self.num.element)

    def _tap(self, e: Emitter, axis: Axis, first: ll.Value, index: ll.Value) -> ll.Value:
        """Where a tap of a run lies in the filter."""
        number = e.b.add(first, e.b.mul(index, i64(self.runs.stride)))
        return e.b.add(i64(axis.taps.index), e.b.mul(number, i64(axis.taps.index_step)))

    def _ask(self, e: Emitter, filter_: ll.Value, index: ll.Value, channel: ll.Value, product: ll.Value) -> None:
        """Ask for a product's share of the taps that are packed next: of the next block, or the next panels' first. Its
        lines lie too far apart for a processor to see that they will be read."""
        c, t, num = self.c, self.tiling, self.num
        following = e.b.add(index, i64(1))
        more = e.b.icmp_signed("<", following, i64(self.phases * t.blocks))
        following = e.b.select(more, following, i64(0))
        channel = e.b.select(more, channel, e.b.add(channel, i64(self.row)))
        phase, depth = e.b.udiv(following, i64(t.blocks)), e.b.mul(e.b.urem(following, i64(t.blocks)), i64(t.depth))
        lines, size = (self.row, t.depth) if c.transposed else (t.depth, self.row)
        share = -(-lines * self.scheme.taps**2 // self.scheme.products)
        begin = e.b.mul(product, i64(share))
        with e.loop(begin, smaller(e, e.b.add(begin, i64(share)), i64(lines * self.scheme.taps**2)), name="ask") as n:
            source = self._taps(e, filter_, phase, e.b.udiv(n, i64(lines)), depth, channel)
            line = e.at(source, e.b.mul(e.b.urem(n, i64(lines)), i64(self.line)), num.element)
            for at in range(0, size, LINE):
                e.prefetch(e.at(line, at, num.element))

    def _transform_filter(self, e: Emitter, filter_: ll.Value, place: tuple[ll.Value, ll.Value, ll.Value],
                          count: ll.Value, size: tuple[int, int], slot: ll.Value) -> None:
        """The factors of a panel's taps of some input channels, and the sizes of these taps if they are checked.

        Args:
            place: phase, first input channel, first output channel.
            count: of input channels.
            size: registers of output channels, and lanes of the last.
            slot: of the panel among those that are kept.
        """
        num, (phase, depth, channel), (width, last) = self.num, place, size
        target = e.at(e.scratch, e.b.add(i64(self.filter_at), e.b.mul(slot, i64(self.tap))), num.element)
        if not self.c.transposed:
            taps = [self._taps(e, filter_, phase, i64(tap), depth, channel) for tap in range(self.scheme.taps**2)]
            self._factors_of(e, taps, self.line, target, count, width, last, slot)
            return
        with e.loop(0, self.scheme.taps**2, name="tap") as tap:
            source = self._taps(e, filter_, phase, tap, depth, channel)
            into = e.at(e.scratch, e.b.mul(tap, i64(self.packed)), num.element)
            pack_columns_transposed(e, num, source, self.line, count, into, width, last, num.element)
        taps = [e.at(e.scratch, tap * self.packed, num.element) for tap in range(self.scheme.taps**2)]
        self._factors_of(e, taps, width * num.lanes, target, count, width, num.lanes, slot)

    def _factors_of(self, e: Emitter, taps: Sequence[ll.Value], step: int, target: ll.Value, count: ll.Value,
                    width: int, last: int, slot: ll.Value) -> None:
        """The factors of taps whose input channels lie ``step`` elements apart, and the sizes of the taps."""
        num, of_one = self.num, self.scheme.taps**2
        noted = e.at(e.scratch, e.b.add(i64(self.sizes_at), self._sizes(e, slot)), num.element)
        places = [n * num.lanes for n in range(width * of_one)] if self.checked else []
        given = [load(e, num, noted, at) for at in places]
        with e.loop_carried(0, count, self.per_step, given, "depth") as (k, now, after):
            into, sizes = e.b.mul(e.b.udiv(k, i64(self.per_step)), i64(width * num.lanes)), list(now)
            for v in range(width):
                lanes, channels = last if v == width - 1 else num.lanes, []
                for channel in range(self.per_step):
                    at = e.b.add(e.b.mul(e.b.add(k, i64(channel)), i64(step)), i64(v * num.lanes))
                    channels.append([load_lanes(e, e.at(tap, at, num.element), num, lanes) for tap in taps])
                    if self.checked:
                        of_these = slice(v * of_one, (v + 1) * of_one)
                        sizes[of_these] = with_sizes(e, num, sizes[of_these], channels[-1])
                self._write_factors(e, channels, e.at(target, e.b.add(into, i64(v * num.lanes)), num.element))
            after[:] = sizes
        for at, value in zip(places, after, strict=True):
            store(e, num, value, noted, at)

    def _write_factors(self, e: Emitter, channels: Sequence[Sequence[ll.Value]], target: ll.Value) -> None:
        """The factors of a register of taps of a phase, or of two as pairs."""
        num, side, points, matrix = self.num, self.scheme.taps, self.scheme.points, self.scheme.filter_to_factors
        columns = [[transform(e, num, matrix, taps[j::side]) for j in range(side)] for taps in channels]
        for i in range(points):
            rows = [transform(e, num, matrix, [column[i] for column in of_one]) for of_one in columns]
            for j, values in enumerate(zip(*rows, strict=True)):
                value = values[0] if self.pairs is None else join(e, self.pairs, *values)
                store(e, num, value, target, (i * points + j) * self.filter_plane)

    def _multiply(self, e: Emitter, patches: ll.Value, count: ll.Value, width: int,
                  turns: tuple[ll.Value, ll.Value], first: ll.Value, product: ll.Value,
                  place: tuple[ll.Value, ll.Value]) -> None:
        """Add a block's sums of one product to those of all tiles; ``place``: of the panel among those that are kept,
        and its first channel there."""
        t, num = self.tiling, self.num
        steps = self.deep if isinstance(count, ll.Constant) else e.b.udiv(count, i64(self.per_step))
        factors = e.at(patches, e.b.mul(product, i64(self.plane)), num.element)
        factor = e.b.add(e.b.mul(product, i64(self.filter_plane)), e.b.mul(place[0], i64(self.tap)))
        factor = e.b.add(i64(self.filter_at), factor)
        columns = Columns(e.at(e.scratch, factor, num.element), [v * num.lanes for v in range(width)],
                          width * num.lanes, num.lanes, num.lanes * num.bytes)
        sum_ = e.b.add(e.b.mul(product, i64(self.sum_plane)), place[1])
        sums = e.at(e.scratch, e.b.add(i64(self.sums_at), sum_), num.element)
        for height, _, tile in t.turns.walk(e, *turns):
            rows = Rows(e.at(factors, e.b.mul(tile, i64(self.deep)), num.element),
                        [r * self.deep for r in range(height)], 1)
            into = e.at(sums, e.b.mul(e.b.sub(tile, first), i64(self.row)), num.element)
            places = [[r * self.row + v * num.lanes for v in range(width)] for r in range(height)]
            done = accumulate(e, self.product, zeros(num, height, width), rows, columns, steps)
            for line, values in zip(places, done, strict=True):
                for offset, value in zip(line, values, strict=True):
                    store(e, num, num.add(e, load(e, num, into, offset), value), into, offset)
