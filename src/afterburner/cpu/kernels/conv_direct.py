"""Forward convolution and its input gradient as correlations with a packed filter."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.conv import Conv2d, Conv2dInputGrad
from ..emitter import Emitter, stored_type
from ..isa import Isa
from ..kernel import Kernel, Phase
from .correlation import Axis, Correlation, Correlator, Finish, Plan, Taps
from .gemm import Numeric, Tile, choose_tile, is_half, kernel_key, numeric, range_of_part, store_lanes
from .matmul import zero_kernel
from .packing import copy_rows

_CHUNK_CYCLES = 60_000  # about 20 us: less does not pay for meeting at a barrier
_MOST_CHUNKS = 32
_IMAGE_BYTES = 128 << 10  # input rows of a block: a quarter of a 512 KB second-level cache
_FILTER_BYTES = 256 << 10  # a packed filter that stays in the second-level cache


def plan_of(c: Correlation, num: Numeric, isa: Isa, parts: tuple[int, int] | None = None) -> Plan:
    """Tiles, blocks and chunks of a correlation, from its sizes alone."""
    vectors = -(-c.width // num.lanes)
    tiles, panels = choose_tile(c.columns.outputs, vectors, c.steps, isa)
    row_bytes = c.columns.inputs * c.pixel * num.bytes * c.rows.taps.stride
    cycles = c.images * c.rows.outputs * c.columns.outputs * c.width * c.groups * max(c.steps, 4) / num.lanes / 2
    wanted = int(max(1, min(_MOST_CHUNKS, cycles // _CHUNK_CYCLES)))
    most_rows = max(1, min(c.rows.outputs, _IMAGE_BYTES // row_bytes))
    panels_outer = c.steps * c.width * c.groups * num.bytes > _FILTER_BYTES
    blocks_wanted = -(-wanted // (min(wanted, panels.parts * c.groups) if panels_outer else 1))
    per_image = max(-(-c.rows.outputs // most_rows), min(c.rows.outputs, -(-blocks_wanted // c.images)))
    block = -(-c.rows.outputs // per_image)
    blocks = c.images * -(-c.rows.outputs // block)
    if panels_outer:
        across = min(wanted, panels.parts * c.groups)
        return Plan(tiles, panels, block, parts or (min(blocks, -(-wanted // across)), across), True)
    return Plan(tiles, panels, block, parts or (min(blocks, wanted), 1), False)


@dataclass(frozen=True)
class Layer:
    """Correlations that together write one result.

    Attributes:
        correlators: what to compute, each over its own pixels.
        image, filter: which operand is which.
        chunks: of the main phase, the same for all correlators.
    """

    node: Node
    correlators: tuple[Correlator, ...]
    image: int
    filter: int
    chunks: int

    def kernel(self, isa: Isa, finish: Finish, key: str, label: str) -> Kernel:
        """Pack the filter, widen the image where it is 16 bits wide, correlate."""
        num = self.correlators[0].num
        dtype = self.node.results[0].type.dtype
        packed = sum(c.packed_elements for c in self.correlators) * num.bytes
        image = self.node.operands[self.image].type
        half = is_half(dtype)
        pack_chunks = max(1, min(_MOST_CHUNKS, packed // (64 << 10),
                                 max(c.plan.panels.parts * c.c.groups for c in self.correlators)))

        def pack(e: Emitter) -> None:
            for c in self.correlators:
                c.pack(e, e.operand(self.filter), pack_chunks)

        def compute(e: Emitter) -> None:
            source = e.temp(1) if half else e.operand(self.image)
            for c in self.correlators:
                c.compute(e, source, finish)

        widen = [widen_phase(num, self.image, image.size, stored_type(dtype))] if half else []
        temps = (packed, image.size * 4) if half else (packed,)
        return Kernel(self.node, (Phase(pack_chunks, pack), *widen, Phase(self.chunks, compute)), key, temps, 0,
                      label)


def widen_phase(num: Numeric, operand: int, size: int, stored: ll.Type, temp: int = 1) -> Phase:
    """Convert a 16-bit operand to f32 in a temporary."""
    chunks = max(1, min(_MOST_CHUNKS, size // 65536))
    per = -(-size // chunks)

    def emit(e: Emitter) -> None:
        first, end = range_of_part(e, e.chunk, size, chunks)
        source, target = e.at(e.operand(operand), first, stored), e.at(e.temp(temp), first, num.element)
        copy_rows(e, num, source, per, target, per, 1, e.b.sub(end, first), stored)

    return Phase(chunks, emit)


def store_result(num: Numeric, stored: ll.Type) -> Finish:
    """Writes tiles to result 0 as they are."""

    def finish(e: Emitter, tile: Tile, offset: ll.Value, stride: int, column: ll.Value, last: int) -> None:
        base = e.at(e.result(0), offset, stored)
        for r, row in enumerate(tile):
            for v, value in enumerate(row):
                lanes = last if v == len(row) - 1 else num.lanes
                store_lanes(e, value, e.at(base, r * stride + v * num.lanes, stored), num, lanes, stored)

    return finish


def forward_correlation(op: Conv2d, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...]) -> Correlation:
    """conv2d as a correlation: output position o reads input o * stride + tap * dilation - padding."""
    axes = [Axis(x[1 + i], y[1 + i], Taps(w[i], 0, 1, op.strides[i], -op.padding[i][0], op.dilation[i]))
            for i in (0, 1)]
    strides = (prod(y[1:]), prod(y[2:]), y[3])
    return Correlation(x[0], axes[0], axes[1], op.groups, w[2], w[3] // op.groups, strides, 0, False)


def lower_conv2d(node: Node, isa: Isa) -> Kernel:
    """The kernel of a conv2d node."""
    op = node.op
    assert isinstance(op, Conv2d)
    x, w, y = (v.shape for v in (*node.operands, *node.results))
    c = forward_correlation(op, x, w, y)
    return _lower(node, isa, [c], 0, 1, w[1], f"conv2d {w[0]}x{w[1]} {x[3]}->{y[3]}")


def _lower(node: Node, isa: Isa, correlations: list[Correlation], image: int, filter_: int, filter_columns: int,
           label: str) -> Kernel:
    dtype = node.results[0].type.dtype
    if not all(v.type.size for v in (*node.operands, *node.results)):
        return zero_kernel(node, isa, kernel_key(node, isa))
    num, stored = numeric(dtype, isa), stored_type(dtype)
    plans = [plan_of(c, num, isa) for c in correlations]
    correlators, at, chunks = [], 0, max(prod(p.parts) for p in plans)
    for c, plan in zip(correlations, plans, strict=True):
        plan = plan if len(plans) == 1 else plan_of(c, num, isa, (chunks, 1))
        correlators.append(Correlator(c, plan, num, stored, at, filter_columns))
        at += -(-correlators[-1].packed_elements // 16) * 16
    layer = Layer(node, tuple(correlators), image, filter_, chunks)
    return layer.kernel(isa, store_result(num, stored), kernel_key(node, isa), label)


def gradient_taps(size: int, stride: int, dilation: int, before: int, phase: int) -> Taps:
    """Taps that reach the input positions ``y * stride + phase``: tap k from output y + (phase + before - k *
    dilation) / stride, where that is whole; listed by ascending output."""
    hits = [k for k in range(size) if (phase + before - k * dilation) % stride == 0][::-1]
    if not hits:
        return Taps(0, 0, 1, 1, 0, 1)
    offsets = [(phase + before - k * dilation) // stride for k in hits]
    step = hits[1] - hits[0] if len(hits) > 1 else 1
    return Taps(len(hits), hits[0], step, 1, offsets[0], offsets[1] - offsets[0] if len(hits) > 1 else 1)


def gradient_correlations(op: Conv2dInputGrad, w: tuple[int, ...], dy: tuple[int, ...]) -> list[Correlation]:
    """The input gradient: one correlation of dy for each residue of the input position by the stride."""
    n, height, width, channels = op.input_shape
    found = []
    for r in range(min(op.strides[0], height)):
        for s in range(min(op.strides[1], width)):
            rows = Axis(dy[1], -(-(height - r) // op.strides[0]),
                        gradient_taps(w[0], op.strides[0], op.dilation[0], op.padding[0][0], r))
            columns = Axis(dy[2], -(-(width - s) // op.strides[1]),
                           gradient_taps(w[1], op.strides[1], op.dilation[1], op.padding[1][0], s))
            strides = (height * width * channels, op.strides[0] * width * channels, op.strides[1] * channels)
            found.append(Correlation(n, rows, columns, op.groups, dy[3] // op.groups, w[2], strides,
                                     (r * width + s) * channels, True))
    return found


def lower_conv2d_input_grad(node: Node, isa: Isa) -> Kernel:
    """The kernel of a conv2d_input_grad node."""
    op = node.op
    assert isinstance(op, Conv2dInputGrad)
    w, dy = (v.shape for v in node.operands)
    correlations = gradient_correlations(op, w, dy)
    return _lower(node, isa, correlations, 1, 0, w[1], f"conv2d input grad {w[0]}x{w[1]} {w[3]}->{w[2]}")
