"""Depthwise convolution and its gradients: every channel has a filter of its own, so vectors run along channels.

Forward and input gradient keep some pixels of one output row in registers; each input pixel is read once for a
row of taps. The filter gradient keeps the taps of a filter row for some registers of channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...ir.ops.conv import Conv2dFilterGrad
from ..emitter import Emitter, i64, stored_type
from ..halves import is_half
from ..isa import Isa
from ..kernel import Kernel, Phase
from .correlation import Axis, Correlation, Taps, kinds_of, tap_range
from .epilogue import Contraction, Finish, Stream, Streams, ask_early, cold
from .gemm import (
    CHUNK_CYCLES,
    MOST_CHUNKS,
    Cut,
    Numeric,
    chunks_of,
    cut,
    larger,
    load_lanes,
    numeric,
    range_of_part,
    smaller,
    store_lanes,
    walk_panels,
)
from .matmul import combine_phase
from .packing import widen_phase

_CHAINS = 8  # sums in flight that hide the latency of a multiply-add
_BLOCK_ROWS = 8  # of a unit, whose operands are read again for every filter row
_SHARE = 16  # private sums are a smaller part of what is read
_WRITTEN_OUT = 4  # pixels whose code is repeated instead of a loop


def is_depthwise(c: Correlation) -> bool:
    """One input and one output channel a group, and more than one group."""
    return c.groups > 1 and c.depth == c.width == 1


class Depthwise:
    """Emits one depthwise correlation."""

    def __init__(self, c: Correlation, num: Numeric, isa: Isa, stored: ll.Type, filter_columns: int,
                 streams: Streams, alone: bool) -> None:
        self.c, self.num, self.stored, self.filter_columns, self.streams = c, num, stored, filter_columns, streams
        self.alone = alone  # no other correlation reads the same image
        taps = c.columns.taps.count
        self.tiles = cut(c.columns.outputs, max(4, min(8, isa.registers - taps - 2)))
        # one load for each multiply-add or two
        self.cycles = c.images * c.rows.outputs * c.columns.outputs * c.groups * max(c.steps, 4) / num.lanes

    def compute(self, e: Emitter, chunks: int, image: ll.Value, filter_: ll.Value, finish: Finish) -> None:
        """This chunk's share of the output rows."""
        c, num = self.c, self.num
        first, end = range_of_part(e, e.chunk, c.images * c.rows.outputs, chunks)
        whole = c.groups - c.groups % num.lanes
        with e.loop(first, end, name="row") as row:
            number, y = e.b.udiv(row, i64(c.rows.outputs)), e.b.urem(row, i64(c.rows.outputs))
            top = e.b.add(e.b.mul(y, i64(c.rows.taps.stride)), i64(c.rows.taps.offset))
            line = e.b.mul(e.b.add(e.b.mul(number, i64(c.rows.inputs)), top), i64(c.columns.inputs * c.groups))
            start = e.b.add(e.b.mul(number, i64(c.out_strides[0])), e.b.mul(y, i64(c.out_strides[1])))
            start = e.b.add(start, i64(c.out_offset))
            rows = tap_range(e, c.rows, y)
            for pixels, masks, low, high in kinds_of(self.tiles, c.columns):
                with e.loop(low, high, name="tile") as tile:
                    x = self.tiles.start(e, tile)
                    left = e.b.add(e.b.mul(x, i64(c.columns.taps.stride)), i64(c.columns.taps.offset))
                    source = e.at(image, e.b.add(line, e.b.mul(left, i64(c.groups))), num.element)
                    target = e.b.add(start, e.b.mul(x, i64(c.out_strides[2])))
                    with e.loop(0, whole, num.lanes, "channel") as channel:
                        self._ask(e, e.at(source, channel, num.element), e.b.add(target, channel), pixels)
                        sums = self._tile(e, source, filter_, channel, pixels, masks, rows, num.lanes)
                        finish(e, sums, e.b.add(target, channel), c.out_strides[2], channel, num.lanes)
                    if whole < c.groups:
                        last = i64(whole)
                        sums = self._tile(e, source, filter_, last, pixels, masks, rows, c.groups - whole)
                        finish(e, sums, e.b.add(target, last), c.out_strides[2], last, c.groups - whole)

    def _ask(self, e: Emitter, source: ll.Value, target: ll.Value, pixels: int) -> None:
        """Ask for what the row below will read and write that this one does not."""
        c, rows = self.c, self.c.rows.taps
        image = c.images * c.rows.inputs * c.columns.inputs * c.groups if self.alone else 0
        below = (max(0, rows.count - 1) * rows.offset_step + rows.stride) * c.columns.inputs * c.groups
        size = self.num.bytes
        given = cold([Stream(e.at(source, below, self.num.element), size, False)], image)
        ask_early(e, given, i64(0), pixels * c.columns.taps.stride, c.groups, self.num.lanes)
        written = cold(self.streams(e), c.images * c.out_strides[0])
        ask_early(e, written, e.b.add(target, i64(c.out_strides[1])), pixels, c.out_strides[2], self.num.lanes)

    def _tile(self, e: Emitter, source: ll.Value, filter_: ll.Value, channel: ll.Value, pixels: int,
              masks: tuple[tuple[int, ...], ...], rows: tuple[ll.Value | int, ll.Value | int],
              lanes: int) -> list[list[ll.Value]]:
        c, num, taps = self.c, self.num, self.c.columns.taps
        uses: dict[int, list[tuple[int, int]]] = {}  # input column: the pixels and taps that read it
        for j, active in enumerate(masks):
            for p in active:
                uses.setdefault(p * taps.stride + j * taps.offset_step, []).append((p, j))
        with e.loop_carried(*rows, 1, [num.zero] * pixels, "i") as (i, now, after):
            index = e.b.add(i64(c.rows.taps.index), e.b.mul(i, i64(c.rows.taps.index_step)))
            weights = e.at(filter_, e.b.add(e.b.mul(index, i64(self.filter_columns * c.groups)), channel), self.stored)
            step = c.rows.taps.offset_step * c.columns.inputs * c.groups
            line = e.at(source, e.b.add(e.b.mul(i, i64(step)), channel), num.element)
            factors = [load_lanes(e, e.at(weights, (taps.index + j * taps.index_step) * c.groups, self.stored), num,
                                  lanes, self.stored) for j in range(taps.count)]
            sums = list(now)
            for column in sorted(uses):
                value = load_lanes(e, e.at(line, column * c.groups, num.element), num, lanes)
                for p, j in uses[column]:
                    sums[p] = num.multiply_add(e, value, factors[j], sums[p])
            after[:] = sums
        return [[value] for value in after]


def lower_depthwise(c: Contraction, isa: Isa, parts: list[Correlation], order: tuple[int, int],
                    filter_columns: int, label: str) -> Kernel:
    """The kernel of correlations that are all depthwise; ``order`` says which operand is image and filter."""
    num = numeric(c.dtype, isa)
    stored, half, finish = stored_type(c.dtype), is_half(c.dtype), c.finish(isa)
    emitters = [Depthwise(part, num, isa, stored, filter_columns, c.streams, len(parts) == 1) for part in parts]
    rows = max(part.images * part.rows.outputs for part in parts)
    chunks = max(1, min(rows, chunks_of(sum(x.cycles for x in emitters))))
    image = c.root.operands[order[0]].type

    def compute(e: Emitter) -> None:
        source = e.temp(0) if half else c.operand(e, order[0])
        for emitter in emitters:
            emitter.compute(e, chunks, source, c.operand(e, order[1]), finish)

    phases, temps = (Phase(chunks, compute),), ()
    if half:
        widen = widen_phase(num, stored, lambda e: c.operand(e, order[0]), image.size, 0)
        return Kernel(c.node, (widen, *phases), c.key(isa), (image.size * 4,), 0, label)
    return Kernel(c.node, phases, c.key(isa), temps, 0, label)


@dataclass(frozen=True)
class FilterPlan:
    """How a depthwise filter gradient is cut.

    Attributes:
        channels: cut of the channels, in registers, in blocks.
        block: output rows of a unit.
        parts: chunks along (units, blocks of channels).
    """

    channels: Cut
    block: int
    parts: tuple[int, int]


class DepthwiseFilterGradient:
    """Emits the main phase of a depthwise filter gradient."""

    def __init__(self, op: Conv2dFilterGrad, x: tuple[int, ...], dy: tuple[int, ...], num: Numeric,
                 stored: ll.Type, isa: Isa) -> None:
        self.op, self.x, self.dy, self.num, self.stored = op, x, dy, num, stored
        kh, kw, _, self.channels = op.filter_shape
        self.axes = [Axis(x[1 + i], dy[1 + i], Taps(op.filter_shape[i], 0, 1, op.strides[i], -op.padding[i][0],
                                                    op.dilation[i])) for i in (0, 1)]
        vectors = -(-self.channels // num.lanes)
        channels = cut(vectors, max(1, min(-(-_CHAINS // kw), (isa.registers - 1) // (kw + 1))))
        cycles = prod(dy) * kh * kw / num.lanes
        wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
        block = min(dy[1], _BLOCK_ROWS)
        units = dy[0] * -(-dy[1] // block)
        self.size = prod(op.filter_shape)
        # whole pixels are read in one go; only where private sums would be much beside them, parts of their channels
        copies = min(wanted, units, max(1, (prod(x) + prod(dy)) // (_SHARE * self.size)))
        self.plan = FilterPlan(channels, block, (copies, min(channels.parts, -(-wanted // copies))))

    def emit(self, e: Emitter, image: ll.Value, dy: ll.Value, target: ll.Value) -> None:
        """The code of one chunk; sums go to ``target`` plus one copy for each part of the units."""
        plan, outputs = self.plan, self.dy[1]
        part, across = e.b.udiv(e.chunk, i64(plan.parts[1])), e.b.urem(e.chunk, i64(plan.parts[1]))
        per = -(-outputs // plan.block)
        first, end = range_of_part(e, part, self.dy[0] * per, plan.parts[0])
        blocks = range_of_part(e, across, plan.channels.parts, plan.parts[1])
        target = e.at(target, e.b.mul(part, i64(self.size)), self.num.element)
        with e.loop(first, end, name="unit") as unit:
            again = e.b.icmp_signed(">", unit, first)
            number, inside = e.b.udiv(unit, i64(per)), e.b.urem(unit, i64(per))
            low = e.b.mul(inside, i64(plan.block))
            high = smaller(e, i64(outputs), e.b.add(low, i64(plan.block)))
            for width, _, channel, last in walk_panels(e, plan.channels, self.num.lanes, self.channels, *blocks):
                with e.loop(0, self.op.filter_shape[0], name="i") as i:
                    sums = self._row(e, image, dy, number, i, (low, high), channel, width, last)
                    self._store(e, sums, target, i, channel, last, again)

    def _row(self, e: Emitter, image: ll.Value, dy: ll.Value, number: ll.Value, i: ll.Value,
             rows: tuple[ll.Value, ll.Value], channel: ll.Value, width: int, last: int) -> list[ll.Value]:
        """Sums of the taps of filter row ``i``: tap by tap, each for all registers of channels."""
        taps, columns = self.axes[0].taps, self.axes[1]
        # position * stride + tap * dilation - before lies in [0, size)
        short = e.b.sub(i64(-taps.offset), e.b.mul(i, i64(taps.offset_step)))
        low = e.b.udiv(larger(e, i64(0), e.b.add(short, i64(taps.stride - 1))), i64(taps.stride))
        high = e.b.udiv(larger(e, i64(0), e.b.add(short, i64(self.x[1] + taps.stride - 1))), i64(taps.stride))
        sums = [self.num.zero] * (columns.taps.count * width)
        with e.loop_carried(larger(e, rows[0], low), smaller(e, rows[1], high), 1, sums, "y") as (y, now, after):
            x_row = e.b.sub(e.b.mul(y, i64(taps.stride)), short)
            line = e.b.mul(e.b.add(e.b.mul(number, i64(self.x[1])), x_row), i64(self.x[2] * self.channels))
            out = e.b.mul(e.b.add(e.b.mul(number, i64(self.dy[1])), y), i64(self.dy[2] * self.channels))
            source = e.at(image, e.b.add(line, channel), self.num.element)
            given = e.at(dy, e.b.add(out, channel), self.num.element)
            sums = list(now)
            for _, masks, start, stop in kinds_of(Cut(columns.outputs, columns.outputs), columns):
                sums = self._pixels(e, source, given, [j for j, m in enumerate(masks) if m], start, stop, sums, width,
                                    last)
            after[:] = sums
        return after

    def _pixels(self, e: Emitter, source: ll.Value, given: ll.Value, active: list[int], start: int, stop: int,
                sums: list[ll.Value], width: int, last: int) -> list[ll.Value]:
        if stop - start <= _WRITTEN_OUT:
            for x in range(start, stop):
                sums = self._pixel(e, source, given, active, i64(x), sums, width, last)
            return sums
        with e.loop_carried(start, stop, 1, sums, "x") as (at, now, after):
            after[:] = self._pixel(e, source, given, active, at, now, width, last)
        return after

    def _pixel(self, e: Emitter, source: ll.Value, given: ll.Value, active: list[int], x: ll.Value,
               sums: list[ll.Value], width: int, last: int) -> list[ll.Value]:
        num, taps = self.num, self.axes[1].taps
        pixel = e.at(given, e.b.mul(x, i64(self.channels)), num.element)
        line = e.at(source, e.b.mul(x, i64(taps.stride * self.channels)), num.element)
        lanes = [last if v == width - 1 else num.lanes for v in range(width)]
        factors = [load_lanes(e, e.at(pixel, v * num.lanes, num.element), num, lanes[v]) for v in range(width)]
        following = list(sums)
        for j in active:
            at = (taps.offset + j * taps.offset_step) * self.channels
            for v in range(width):
                value = load_lanes(e, e.at(line, at + v * num.lanes, num.element), num, lanes[v])
                following[j * width + v] = num.multiply_add(e, value, factors[v], sums[j * width + v])
        return following

    def _store(self, e: Emitter, sums: list[ll.Value], target: ll.Value, i: ll.Value, channel: ll.Value, last: int,
               again: ll.Value) -> None:
        num, columns = self.num, self.axes[1].taps.count
        width = len(sums) // columns
        base = e.at(target, e.b.add(e.b.mul(i, i64(columns * self.channels)), channel), num.element)
        for n, value in enumerate(sums):
            j, v = divmod(n, width)
            lanes = last if v == width - 1 else num.lanes
            address = e.at(base, j * self.channels + v * num.lanes, num.element)
            before = load_lanes(e, address, num, lanes)
            store_lanes(e, e.b.select(again, num.add(e, before, value), value), address, num, lanes)


def lower_depthwise_filter_grad(c: Contraction, isa: Isa, label: str) -> Kernel:
    """The kernel of a conv2d_filter_grad node with one channel a group."""
    op, (x, dy, _) = c.root.op, c.shapes
    assert isinstance(op, Conv2dFilterGrad)
    num, stored, half = numeric(c.dtype, isa), stored_type(c.dtype), is_half(c.dtype)
    gradient = DepthwiseFilterGradient(op, x, dy, num, stored, isa)
    copies = gradient.plan.parts[0]
    partial = half or copies > 1

    def emit(e: Emitter) -> None:
        target = e.temp(0) if partial else e.result(0)
        image, slope = (e.temp(1 + i) if half else c.operand(e, i) for i in (0, 1))
        gradient.emit(e, image, slope, target)

    def operand(i: int) -> Callable[[Emitter], ll.Value]:
        return lambda e: c.operand(e, i)

    phases = [Phase(prod(gradient.plan.parts), emit)]
    temps: tuple[int, ...] = (copies * gradient.size * num.bytes,) if partial else ()
    if half:
        phases = [*(widen_phase(num, stored, operand(i), prod(shape), 1 + i)
                    for i, shape in enumerate((x, dy))), *phases]
        temps = (*temps, prod(x) * 4, prod(dy) * 4)
    if partial:
        phases.append(combine_phase(num, 1, gradient.size, copies, c.finish(isa)))
    return Kernel(c.node, tuple(phases), c.key(isa), temps, 0, label)
