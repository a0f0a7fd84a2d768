"""Forward convolution and its input gradient as correlations with a packed filter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from llvmlite import ir as ll

from ...ir import DType, Node
from ...ir.ops.conv import Conv2d, Conv2dInputGrad
from ...ir.types import F32
from ..emitter import F32 as LLVM_F32
from ..emitter import Emitter, stored_type
from ..halves import is_half
from ..isa import Isa
from ..kernel import Kernel, Phase, Unsupported
from . import library
from .column_sums import with_sums
from .conv_correlations import forward_correlation, gradient_correlations
from .conv_input_grad_narrow import lower_narrow_input_grad, narrow_pays
from .correlation import Correlation, Plan, in_rows_of
from .correlation_masked import MaskedCorrelator, masked_plan
from .correlation_pairs import PairedCorrelator
from .correlation_sparse import ListCorrelator, SparseCorrelator, SparsePlan, sparse_plan
from .correlation_split import SplitCorrelator, SplitPlan, split_plan
from .correlation_streamed import StreamedCorrelator, in_one_row, streamed_plans
from .correlator import Correlator
from .depthwise import is_depthwise, lower_depthwise
from .epilogue import Contraction, Streams, contraction_of
from .gemm import LINE, MOST_CHUNKS, TALLEST, WIDEST, Cut, Numeric, choose_tile, chunks_of, numeric, product_cycles
from .matmul import Product, lower_product, zero_kernel
from .packing import widen_phase
from .pairs import Layout, PairedOperands, Pairs, Pointer, halved, pairs, pays, temporary
from .prologue import Given, Prologue, made_operand
from .shared_zeros import SharedZeros, shared_zeros
from .winograd import (
    EXACT,
    F2X2,
    F2X2_2X2,
    F4X4,
    few_tiles,
    lower_checked_winograd,
    lower_winograd,
    pairs_2x2_pay,
    pairs_pay,
    scheme_that_pays,
    winograd_2x2_pays,
)
from .winograd_streamed import (
    FAST,
    lower_checked_streamed,
    lower_streamed_winograd,
    streamed_pairs_pay,
    streamed_winograd_pays,
)

_IMAGE_BYTES = 128 << 10  # input rows of a block: a quarter of a 512 KB second-level cache
_FILTER_BYTES = 192 << 10  # of packed filter that a chunk reads again and again from the second-level cache

_SHORTEST_ROW, _LONGEST_ROW = 24, 128  # pixels: to begin one takes time, and tiles cut longer ones no better

_SET_BYTES = 4 << 10  # apart, lines are in one set of the first-level caches of x86 processors
_WAYS = 8  # of the smallest of these
_FEW_CHUNKS = 16  # more come out even enough
_ROUNDED = 2  # chunks that each round the same pixels to pairs: with more a pass of its own is faster
_FEW_PIXELS = 32  # of a 1x1 convolution
# Output channels for which it takes so long to make an image that each of its pixels is made once, though more of the
# filter is then read again and again; bytes of that for each of a register: processors with longer ones have larger
# second-level caches.
_FEW_CHANNELS, _MADE_FILTER_BYTES = 256, 8 << 10


def plan_of(c: Correlation, num: Numeric, isa: Isa, parts: tuple[int, int] | None = None,
            widest: int = WIDEST) -> Plan:
    """Tiles, blocks and chunks of a correlation, from its sizes alone; panels of at most ``widest`` registers."""
    vectors = -(-c.width // num.lanes)
    tiles, panels = choose_tile(c.columns.outputs, vectors, c.steps, isa, widest, tallest_tile(c, num))
    row_bytes = c.columns.inputs * c.pixel * num.bytes * c.rows.taps.stride
    cycles = c.images * c.rows.outputs * c.columns.outputs * c.width * c.groups * max(c.steps, 4) / num.lanes / 2
    wanted = chunks_of(cycles)
    most_rows = max(1, min(c.rows.outputs, _IMAGE_BYTES // row_bytes))
    filter_bytes = c.steps * c.width * c.groups * num.bytes
    across = max(1, min(panels.parts * c.groups, -(-filter_bytes // _FILTER_BYTES)))
    down = -(-wanted // across)
    per_image = max(-(-c.rows.outputs // most_rows), min(c.rows.outputs, -(-down // c.images)))
    block = -(-c.rows.outputs // per_image)
    blocks = c.images * -(-c.rows.outputs // block)
    return Plan(tiles, panels, block, parts or (min(blocks, down), min(wanted, across)))


def in_even_rows(c: Correlation, num: Numeric, isa: Isa) -> Correlation:
    """The correlation; one without rows as over rows of as many pixels as register tiles cut best."""
    if not c.rowless:
        return c
    vectors = -(-c.width // num.lanes)
    most = max(c.columns.outputs, min(_LONGEST_ROW, _IMAGE_BYTES // (c.pixel * num.bytes)))

    def cycles(row: int) -> float:
        tiles, panels = choose_tile(row, vectors, c.steps, isa, WIDEST, tallest_tile(c, num))
        return product_cycles(tiles, panels, isa) / row

    rows = [n for n in range(min(_SHORTEST_ROW, c.columns.outputs), most + 1) if c.pixels % n == 0]
    best = min(rows, key=lambda n: (round(cycles(n), 3), n != c.columns.outputs, n))
    return in_rows_of(c, best)


def tallest_tile(c: Correlation, num: Numeric) -> int:
    """Rows of a tile: where its pixels fall into one set of a first-level cache, and each is read by itself, no more
    than the set has ways."""
    apart = c.columns.taps.stride * c.pixel * num.bytes
    return _WAYS if c.columns.taps.count == 1 and apart % _SET_BYTES == 0 else TALLEST


def balanced(c: Correlation, plan: Plan) -> Plan:
    """The plan, or where chunks are few one like it that keeps two and four workers busier: with a row a block, or
    cut along the output channels too."""
    if not 1 < prod(plan.parts) <= _FEW_CHUNKS:
        return plan
    plans, panels = [plan], plan.panels.parts * c.groups
    for across in {plan.parts[1], *(n for n in (2, 4) if panels % n == 0)}:
        for block in {1, plan.block, c.rows.outputs}:
            blocks = c.images * -(-c.rows.outputs // block)
            if prod(plan.parts) <= blocks * across <= max(_FEW_CHUNKS, 2 * prod(plan.parts)):
                plans.append(replace(plan, block=block, parts=(blocks, across)))
    return min(plans, key=lambda p: (round(_longest(c, p), 2), p is not plan, prod(p.parts)))


def _longest(c: Correlation, plan: Plan) -> float:
    """How much longer the chunks take two and four workers than if they were cut evenly."""
    across = Cut(plan.panels.parts * c.groups, plan.parts[1])
    rows = [min(plan.block, c.rows.outputs - first) for first in range(0, c.rows.outputs, plan.block)] * c.images
    down = Cut(len(rows), plan.parts[0])
    sizes, at = [], 0
    for width, first, end in down.spans():
        for _ in range(first, end):
            high = sum(rows[at: at + width])
            sizes += [high * wide for wide, low, stop in across.spans() for _ in range(low, stop)]
            at += width
    ratios = []
    for workers in (2, 4):
        busy = [0] * workers
        for size in sizes:  # as they are claimed, in order
            busy[busy.index(min(busy))] += size
        ratios.append(max(busy) * workers / sum(sizes))
    return sum(ratios)


@dataclass(frozen=True)
class Layer:
    """Correlations that together write one result.

    Attributes:
        contraction: what is computed.
        correlators: its parts, each over its own pixels.
        image, filter: which operand is which.
        chunks: of the main phase, the same for all correlators.
        zeros: those that pixels share, where they are left out.
        paired: the image as pairs, where it is taken so and not made block by block.
    """

    contraction: Contraction
    correlators: tuple[Correlator, ...]
    image: int
    filter: int
    chunks: int
    zeros: SharedZeros | None = None
    paired: PairedOperands | None = None

    def kernel(self, isa: Isa, label: str) -> Kernel:
        """Pack the filter, pair the image where that is taken so, or widen it where it is 16 bits wide, correlate."""
        c, num = self.contraction, self.correlators[0].num
        packed = max(x.packed_at + x.packed_elements for x in self.correlators) * num.bytes
        image, blocks = c.root.operands[self.image].type, self.correlators[0].blocks
        finish, stored = c.finish(isa), stored_type(c.dtype)
        pack_chunks = max(1, min(MOST_CHUNKS, packed // (64 << 10),
                                 max(x.plan.panels.parts * x.c.groups for x in self.correlators)))
        source: Pointer = partial(c.operand, index=self.image) if blocks is None else blocks.prologue.operand
        filter_: Pointer = partial(c.operand, index=self.filter)
        kept = kept_filter(c, self.filter, 1)
        copying: list[Phase] = []
        temps = [packed]
        if self.paired is not None:
            copying, (source,) = self.paired.phases, self.paired.pointers
            temps += self.paired.temps
        elif is_half(c.dtype):
            copying = [widen_phase(num, stored, source, image.size, 1)]
            source = temporary(1)
            temps.append(image.size * 4)

        def pack(e: Emitter) -> None:
            for x in self.correlators:
                x.pack(e, filter_(e), pack_chunks)
            if self.zeros is not None:
                self.zeros.note(e, filter_(e), c.root.operands[self.filter].type.size, pack_chunks)

        def compute(e: Emitter) -> None:
            for x in self.correlators:
                x.compute(e, source(e), finish)

        phases = (Phase(pack_chunks, pack), *copying, Phase(self.chunks, compute))
        kernel = Kernel(c.node, phases, c.key(isa), tuple(temps),
                        max(x.scratch for x in self.correlators), label, kept)
        return kernel if self.zeros is None else _with_lists(kernel, c, self.zeros, (self.image, self.filter))


def _with_lists(kernel: Kernel, c: Contraction, zeros: SharedZeros, order: tuple[int, int]) -> Kernel:
    """The kernel with a phase between packing and computing that lists which steps are computed."""
    pack, compute = kernel.phases
    listing = zeros.phase(lambda e: c.operand(e, order[0]), pack.chunks)
    return replace(kernel, phases=(pack, listing, compute), temps=(*kernel.temps, *zeros.temps(pack.chunks)),
                   label=f"{kernel.label} (shared zeros left out)", kept=kept_filter(c, order[1], 2))


def kept_filter(contraction: Contraction, operand: int, temps: int) -> tuple[int, int] | None:
    """``Kernel.kept`` of a convolution whose first phase makes ``temps`` of its filter, an operand."""
    given = contraction.given(operand)
    return None if given is None or not is_kept(contraction) else (given, temps)


def is_kept(contraction: Contraction) -> bool:
    """Whether many runs have the same filter."""
    return bool(getattr(contraction.root.op, "kept", False))


def lower_conv2d(node: Node, isa: Isa) -> Kernel:
    """The kernel of a conv2d node, or of a fusion around one.

    Raises:
        Unsupported: the fusion's epilogue cannot be computed on tiles.
    """
    contraction = contraction_of(node, made=True)
    op, (x, w, y) = contraction.root.op, contraction.shapes
    assert isinstance(op, Conv2d)
    label = f"conv2d {w[0]}x{w[1]} {x[3]}->{y[3]}{contraction.label}"
    made = made_operand(contraction)
    if made is not None:
        return _lower_made(contraction, made, forward_correlation(op, x, w, y), isa, w[1], label)
    return _lower(contraction, isa, lambda: [forward_correlation(op, x, w, y)], (0, 1), w[1], label)


def _lower_made(contraction: Contraction, made: Prologue, c: Correlation, isa: Isa, filter_columns: int,
                label: str) -> Kernel:
    """The layer of an image that is made block by block.

    Raises:
        Unsupported: it is of groups, or of another type than f32.
    """
    if c.groups > 1 or contraction.dtype != F32:
        raise Unsupported(f"a convolution of {contraction.dtype} in {c.groups} groups that makes its image")
    num, num_of_pairs = numeric(contraction.dtype, isa), pairs(contraction.dtype, isa)
    adjacent = made.pitch == c.depth  # patches are made of adjacent pixels only
    if num_of_pairs is not None and adjacent and pairs_pay(c, num, num_of_pairs, isa):
        return _winograd_of_pairs(contraction, c, num_of_pairs, isa, (0, 1), filter_columns, label, made)
    scheme = scheme_that_pays(c, (F2X2,), num, isa) if adjacent else None
    if scheme is None and num_of_pairs is not None:
        named = f"{label} (bfloat16 pairs)"
        paired = _paired(contraction, [c.trimmed], num_of_pairs, isa, (0, 1), filter_columns, named, made)
        if paired is not None:
            return with_sums(paired, contraction, isa)
    if scheme is None and isa.finds_zeros and _often_zero(contraction, [c]):
        size = contraction.root.operands[1].type.size
        sparse = _sparse_correlator(c.trimmed, num, isa, filter_columns, size, contraction.streams, made)
        if sparse is not None:
            return with_sums(_sparse(contraction, sparse, isa, (0, 1), label), contraction, isa)
    direct = _made_directly(contraction, made, c.trimmed, num, isa, filter_columns, label)
    if scheme is None:
        return with_sums(direct, contraction, isa)
    return lower_checked_winograd(contraction, [c], num, isa, (0, 1), filter_columns, f"{label} (Winograd 2x2)",
                                  kept_filter(contraction, 1, 1), direct, made=made)


def _made_directly(contraction: Contraction, made: Prologue, c: Correlation, num: Numeric, isa: Isa,
                   filter_columns: int, label: str) -> Kernel:
    """All products of an image that is made block by block."""
    c = _apart(in_even_rows(c, num, isa), num)
    plan = _made_once(c, _plans([c], num, isa)[0], num, isa)
    correlator = Correlator(c, plan, num, stored_type(contraction.dtype), 0, filter_columns, contraction.streams,
                            made=made)
    return Layer(contraction, (correlator,), 0, 1, prod(plan.parts)).kernel(isa, label)


def _apart(c: Correlation, num: Numeric) -> Correlation:
    """The correlation; of single pixels that are made apart, so that they do not all fall into one set of a cache."""
    return replace(c, gap=LINE // num.bytes) if c.pointwise else c


def _made_once(c: Correlation, plan: Plan, num: Numeric, isa: Isa) -> Plan:
    """The plan, or where there are few output channels one in which each pixel is made once."""
    blocks = c.images * -(-c.rows.outputs // plan.block)
    filter_bytes = c.steps * c.width * num.bytes
    if blocks >= _FEW_CHUNKS and c.width <= _FEW_CHANNELS and filter_bytes <= _MADE_FILTER_BYTES * isa.vector_bytes:
        return replace(plan, parts=(min(blocks, prod(plan.parts)), 1))
    return plan


def pointwise_product(parts: list[Correlation], dtype: DType, isa: Isa) -> Product | None:
    """The matrix product that a convolution of single pixels is, where a library takes it, or where there are so few
    pixels that packing the filter for them takes longer than they take."""
    c = parts[0]
    other_tap = c.rows.taps.index or c.columns.taps.index  # the product's matrix begins where the filter does
    if len(parts) > 1 or not c.pointwise or other_tap:
        return None
    product = Product(1, c.pixels, c.width, c.depth, False, c.transposed)
    return product if c.pixels <= _FEW_PIXELS or library.pays(product, dtype, isa) else None


def _lower(contraction: Contraction, isa: Isa, correlations: Callable[[], list[Correlation]],
           order: tuple[int, int], filter_columns: int, label: str) -> Kernel:
    if contraction.empty:
        return zero_kernel(contraction, isa)
    num = numeric(contraction.dtype, isa)
    parts = correlations()
    if is_depthwise(parts[0]):
        label = label.replace("conv2d", "depthwise", 1)
        return with_sums(lower_depthwise(contraction, isa, parts, order, filter_columns, label), contraction, isa)
    product = pointwise_product(parts, contraction.dtype, isa)
    if product is not None:
        return with_sums(lower_product(contraction, product, isa, order, label), contraction, isa)
    if contraction.dtype == F32:
        kernel = _winograd(contraction, parts, num, isa, order, filter_columns, label)
        if kernel is not None:
            return kernel
    kernel = _directly(contraction, parts, num, isa, order, filter_columns, label)
    return with_sums(kernel, contraction, isa)


def _directly(contraction: Contraction, parts: list[Correlation], num: Numeric, isa: Isa, order: tuple[int, int],
              filter_columns: int, label: str) -> Kernel:
    """The layer by its products, all or those that are not zero."""
    parts = [c.trimmed for c in parts]
    num_of_pairs = pairs(contraction.dtype, isa)
    if num_of_pairs is not None:
        paired = _paired(contraction, parts, num_of_pairs, isa, order, filter_columns, f"{label} (bfloat16 pairs)")
        if paired is not None:
            return paired
    split = split_plan(parts[0], num, isa) if len(parts) == 1 and not is_half(contraction.dtype) else None
    if split is not None and kept_filter(contraction, order[1], 1) is None:
        return _split(contraction, parts[0], split, isa, order, filter_columns, label)
    merged = in_one_row(parts)
    streamed = None if is_half(contraction.dtype) else streamed_plans(merged, num, isa)
    if streamed is not None:
        return _streamed(contraction, merged, streamed, isa, order, filter_columns, label)
    often_zero = isa.finds_zeros and _often_zero(contraction, parts)
    if often_zero:
        size = contraction.root.operands[order[1]].type.size
        correlator = _sparse_correlator(parts[0], num, isa, filter_columns, size, contraction.streams)
        if correlator is not None:
            return _sparse(contraction, correlator, isa, order, label)
    parts = [in_even_rows(c, num, isa) for c in parts]
    return _dense(contraction, parts, num, isa, order, filter_columns, label, often_zero)


def _winograd(contraction: Contraction, parts: list[Correlation], num: Numeric, isa: Isa, order: tuple[int, int],
              filter_columns: int, label: str) -> Kernel | None:
    """The layer by one of Winograd's algorithms; None where they do not pay."""
    fast, named = isa.precision == "fast", f"{label} (Winograd)"
    num_of_pairs = pairs(contraction.dtype, isa)
    if num_of_pairs is not None and len(parts) == 1 and pairs_pay(parts[0], num, num_of_pairs, isa):
        return _winograd_of_pairs(contraction, parts[0], num_of_pairs, isa, order, filter_columns, label)
    if num_of_pairs is not None and (pairs_2x2_pay(parts, num, isa) or streamed_pairs_pay(parts, num, isa)):
        return _winograd_2x2(contraction, parts, num, isa, order, filter_columns, label, num_of_pairs)
    scheme = None
    if len(parts) == 1:
        scheme = scheme_that_pays(parts[0], (F2X2, F4X4) if fast else (F2X2,), num, isa)
    kept = kept_filter(contraction, order[1], 1)
    by_use = scheme is None or (few_tiles(parts[0]) and not is_kept(contraction))
    if fast and by_use and streamed_winograd_pays(parts, FAST, num, isa):
        kernel = lower_streamed_winograd(contraction, parts, num, isa, order, filter_columns, named)
        return with_sums(kernel, contraction, isa)
    if scheme is None and not fast:
        return _winograd_2x2(contraction, parts, num, isa, order, filter_columns, label)
    if scheme is None:
        return None
    if scheme == F4X4:
        kernel = lower_winograd(contraction, parts[0], num, isa, order, filter_columns, named, kept)
        return with_sums(kernel, contraction, isa)
    direct = _dense(contraction, [parts[0].trimmed], num, isa, order, filter_columns, label, False)
    named = f"{label} (Winograd 2x2)"
    return lower_checked_winograd(contraction, parts, num, isa, order, filter_columns, named, kept, direct)


def _winograd_2x2(contraction: Contraction, parts: list[Correlation], num: Numeric, isa: Isa, order: tuple[int, int],
                  filter_columns: int, label: str, num_of_pairs: Pairs | None = None) -> Kernel | None:
    """The layer by F(2x2, 2x2), of bfloat16 pairs or not; None where that does not pay."""
    given = (contraction, parts, num, isa, order, filter_columns)
    direct = partial(_directly, *given, label)
    if num_of_pairs is None:
        named, in_blocks = f"{label} (Winograd 2x2)", winograd_2x2_pays(parts, num, isa)
    else:
        named, in_blocks = f"{label} (Winograd 2x2 of bfloat16 pairs)", pairs_2x2_pay(parts, num, isa)
    if in_blocks:
        kept = kept_filter(contraction, order[1], 1)
        return lower_checked_winograd(*given, named, kept, direct(), F2X2_2X2, pairs=num_of_pairs)
    if not is_kept(contraction) and (num_of_pairs is not None or streamed_winograd_pays(parts, EXACT, num, isa)):
        return lower_checked_streamed(*given, named, direct(), num_of_pairs)
    return None


def _winograd_of_pairs(contraction: Contraction, c: Correlation, num_of_pairs: Pairs, isa: Isa,
                       order: tuple[int, int], filter_columns: int, label: str,
                       made: Prologue | None = None) -> Kernel:
    """The layer by F(2x2, 3x3) of bfloat16 pairs."""
    num, named = numeric(contraction.dtype, isa), f"{label} (bfloat16 pairs)"
    direct = _paired(contraction, [c.trimmed], num_of_pairs, isa, order, filter_columns, named, made)
    if direct is None and made is not None:
        direct = _made_directly(contraction, made, c.trimmed, num, isa, filter_columns, label)
    if direct is None:
        direct = _dense(contraction, [c.trimmed], num, isa, order, filter_columns, label, False)
    return lower_checked_winograd(contraction, [c], num, isa, order, filter_columns,
                                  f"{label} (Winograd 2x2 of bfloat16 pairs)", kept_filter(contraction, order[1], 1),
                                  direct, made=made, pairs=num_of_pairs)


def _dense(contraction: Contraction, parts: list[Correlation], num: Numeric, isa: Isa, order: tuple[int, int],
           filter_columns: int, label: str, often_zero: bool) -> Kernel:
    """The layer with its filter packed; what all pixels of a tile share of zeros is left out if they are frequent."""
    plans = _plans(parts, num, isa)
    zeros = shared_zeros(parts[0], plans[0], num) if often_zero else None
    correlators = _correlators(contraction, parts, plans, num, stored_type(contraction.dtype), filter_columns, zeros)
    return Layer(contraction, correlators, *order, _chunks(plans), zeros).kernel(isa, label)


def _plans(parts: list[Correlation], num: Numeric, isa: Isa) -> list[Plan]:
    """How each of the correlations that together write a result is cut, into equally many chunks."""
    plans = [plan_of(c, num, isa) for c in parts]
    if len(parts) == 1:
        return [balanced(parts[0], plans[0])]
    return [plan_of(c, num, isa, (_chunks(plans), 1)) for c in parts]


def _chunks(plans: list[Plan]) -> int:
    return max(prod(p.parts) for p in plans)


def _correlators(contraction: Contraction, parts: list[Correlation], plans: list[Plan], num: Numeric,
                 stored: ll.Type, filter_columns: int, zeros: SharedZeros | None = None) -> tuple[Correlator, ...]:
    """Their packed filters one after another."""
    correlators: list[Correlator] = []
    at = 0
    for c, plan in zip(parts, plans, strict=True):
        correlators.append(Correlator(c, plan, num, stored, at, filter_columns, contraction.streams, zeros))
        at += -(-correlators[-1].packed_elements // 16) * 16
    return tuple(correlators)


def _paired(contraction: Contraction, parts: list[Correlation], num: Pairs, isa: Isa, order: tuple[int, int],
            filter_columns: int, label: str, made: Prologue | None = None) -> Kernel | None:
    """The layer on pairs of channels; None where pairing them takes longer than it saves. The image may be ``made``:
    then None also where that is not provided for."""
    c, stored = parts[0], stored_type(contraction.dtype)
    image, taps = contraction.shapes[order[0]], prod(contraction.shapes[order[1]][:2])
    filter_ = Layout(taps * c.width * c.groups, c.depth, 1) if c.transposed else Layout(taps, c.depth,
                                                                                       c.width * c.groups)
    layout = Layout(prod(image[:3]) * c.groups, c.depth, 1)
    products = sum(p.pixels * p.width * p.groups * p.steps for p in parts)
    if not pays(products, c.depth, (layout, filter_), stored, num):
        return None
    by_block = None
    if len(parts) == 1 and c.pointwise and c.depth % 2 == 0 and stored is LLVM_F32:
        by_block = _paired_by_block(contraction, c, num, isa, order, filter_columns, label, made)
    if by_block is not None or made is not None:
        return by_block
    halves = [replace(p, depth=halved(p.depth)) for p in parts]
    plans = _plans(halves, num, isa)
    correlators: list[PairedCorrelator] = []
    for given, half, plan in zip(parts, halves, plans, strict=True):
        at = correlators[-1].packed_at + -(-correlators[-1].packed_elements // 16) * 16 if correlators else 0
        correlators.append(PairedCorrelator(given, half, plan, num, stored, at, filter_columns, contraction.streams))
    paired = PairedOperands(num, stored, [(layout, partial(contraction.operand, index=order[0]))], 1)
    return Layer(contraction, tuple(correlators), *order, _chunks(plans), None, paired).kernel(isa, label)


def _paired_by_block(contraction: Contraction, c: Correlation, num: Pairs, isa: Isa, order: tuple[int, int],
                     filter_columns: int, label: str, made: Prologue | None) -> Kernel | None:
    """The layer whose image is rounded as blocks of it are read; None where too many chunks would each round all."""
    half = _apart(in_even_rows(replace(c, depth=halved(c.depth)), num, isa), num)
    plan = _made_once(half, _plans([half], num, isa)[0], num, isa)
    if plan.parts[1] > _ROUNDED and made is None:
        return None
    given = replace(half, depth=c.depth)
    correlator = PairedCorrelator(given, half, plan, num, LLVM_F32, 0, filter_columns, contraction.streams,
                                  made or Given(contraction, order[0]))
    return Layer(contraction, (correlator,), *order, prod(plan.parts)).kernel(isa, label)


def _often_zero(contraction: Contraction, parts: list[Correlation]) -> bool:
    """Whether the image is marked as often zero, and leaving zeros out is provided for."""
    marked = bool(getattr(contraction.root.op, "sparse", False))
    return marked and len(parts) == 1 and contraction.dtype == F32


def _sparse_correlator(c: Correlation, num: Numeric, isa: Isa, filter_columns: int, filter_size: int,
                       streams: Streams, made: Prologue | None = None) -> SparseCorrelator | None:
    """What leaves out the zeros of single elements; None where that takes longer than all products."""
    ways: tuple[tuple[Callable[..., SparsePlan | None], type[SparseCorrelator]], ...] = (
        (masked_plan, MaskedCorrelator), (sparse_plan, ListCorrelator))
    for plan_of_way, correlator in ways:
        taken = in_even_rows(c, num, isa) if correlator is ListCorrelator else c
        for widest in (WIDEST, 2):
            plan = plan_of_way(taken, plan_of(taken, num, isa, widest=widest), num, isa)
            if plan is not None:
                return correlator(taken, plan, num, filter_columns, filter_size, streams, made)
    return None


def _sparse(contraction: Contraction, correlator: SparseCorrelator, isa: Isa, order: tuple[int, int],
            label: str) -> Kernel:
    """Pack the filter, then correlate what is not zero."""
    finish = contraction.finish(isa)

    def pack(e: Emitter) -> None:
        correlator.pack(e, contraction.operand(e, order[1]), correlator.packs)

    blocks = correlator.blocks
    image: Pointer = partial(contraction.operand, index=order[0]) if blocks is None else blocks.prologue.operand

    def compute(e: Emitter) -> None:
        correlator.compute(e, image(e), finish)

    phases = (Phase(correlator.packs, pack), Phase(correlator.plan.parts[0], compute))
    label = f"{label} (zeros left out)"
    return Kernel(contraction.node, phases, contraction.key(isa), correlator.temps, correlator.scratch, label,
                  kept_filter(contraction, order[1], len(correlator.temps)))


def _streamed(contraction: Contraction, parts: list[Correlation], plans: list[Plan], isa: Isa,
              order: tuple[int, int], filter_columns: int, label: str) -> Kernel:
    """One phase, cut along output channels, in which the filter is packed where it is used; where it is kept, a phase
    before it packs it whole."""
    num, finish = numeric(contraction.dtype, isa), contraction.finish(isa)
    chunks = max(p.parts[1] for p in plans)
    kept = kept_filter(contraction, order[1], 1)
    often_zero = isa.finds_zeros and kept is not None and _often_zero(contraction, parts)
    zeros = shared_zeros(parts[0], plans[0], num) if often_zero else None
    correlators: list[StreamedCorrelator] = []
    for c, p in zip(parts, plans, strict=True):
        at = correlators[-1].packed_at + correlators[-1].packed_elements if correlators and kept else 0
        correlators.append(StreamedCorrelator(c, p, num, stored_type(contraction.dtype), -(-at // 16) * 16,
                                              filter_columns, contraction.streams, kept is not None, zeros))

    def pack(e: Emitter) -> None:
        for correlator in correlators:
            correlator.pack(e, contraction.operand(e, order[1]), chunks)
        if zeros is not None:
            zeros.note(e, contraction.operand(e, order[1]), contraction.root.operands[order[1]].type.size, chunks)

    def compute(e: Emitter) -> None:
        image, filter_ = (contraction.operand(e, i) for i in order)
        for correlator in correlators:
            correlator.stream(e, image, filter_, finish, chunks)

    scratch = max(correlator.scratch for correlator in correlators)
    if kept is None:
        return Kernel(contraction.node, (Phase(chunks, compute),), contraction.key(isa), (), scratch, label)
    temps = (max(x.packed_at + x.packed_elements for x in correlators) * num.bytes,)
    phases = (Phase(chunks, pack), Phase(chunks, compute))
    kernel = Kernel(contraction.node, phases, contraction.key(isa), temps, scratch, label, kept)
    return kernel if zeros is None else _with_lists(kernel, contraction, zeros, order)


def _split(contraction: Contraction, c: Correlation, plan: SplitPlan, isa: Isa, order: tuple[int, int],
           filter_columns: int, label: str) -> Kernel:
    """The layer cut along its sums, and a phase that adds them up."""
    num, finish = numeric(contraction.dtype, isa), contraction.finish(isa)
    correlator = SplitCorrelator(c, plan, num, stored_type(contraction.dtype), filter_columns, contraction.streams)

    def add_products(e: Emitter) -> None:
        correlator.add_products(e, *(contraction.operand(e, i) for i in order))

    def add_up(e: Emitter) -> None:
        correlator.add_up(e, finish)

    phases = (Phase(correlator.chunks, add_products), Phase(plan.plan.parts[1], add_up))
    return Kernel(contraction.node, phases, contraction.key(isa), (correlator.temp_bytes,), correlator.scratch, label)


def lower_conv2d_input_grad(node: Node, isa: Isa) -> Kernel:
    """The kernel of a conv2d_input_grad node, or of a fusion around one.

    Raises:
        Unsupported: the fusion's epilogue cannot be computed on tiles.
    """
    contraction = contraction_of(node)
    op, (w, dy, _) = contraction.root.op, contraction.shapes
    assert isinstance(op, Conv2dInputGrad)
    label = f"conv2d input grad {w[0]}x{w[1]} {w[3]}->{w[2]}{contraction.label}"
    if not contraction.empty and narrow_pays(op, w, contraction.dtype, isa):
        return with_sums(lower_narrow_input_grad(contraction, isa, label), contraction, isa)
    return _lower(contraction, isa, lambda: gradient_correlations(op, w, dy), (1, 0), w[1], label)
