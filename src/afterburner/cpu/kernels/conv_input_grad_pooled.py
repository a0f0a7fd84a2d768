"""Gradient of the input of a convolution behind which only a max pooling reads: a product without its structural zeros.

A pixel behind the convolution has a gradient for some channels only: a list. What the list gives to one row of the
result is one run of adjacent elements, (filter column, input channel): registers hold the sums of that run, over the
list, of gradients times rows of the filter, which lies packed as [filter row][registers][output channel]. Runs of
neighbouring pixels overlap, so they are added up in scratch for a block of rows, which is then finished and written.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...ir import Node, Shape
from ...ir.ops.conv_pooled import Conv2dInputGradPooled
from ...ir.types import F32
from ..emitter import I8, I32, I64, Emitter, const, i64
from ..isa import Isa
from ..kernel import Kernel, Phase, Unsupported
from .epilogue import Contraction, Finish, contraction_of
from .finite import NOTE, note_finite, noted_finite
from .gemm import (
    CHUNK_CYCLES,
    MOST_CHUNKS,
    Cut,
    Numeric,
    cut,
    larger,
    load_lanes,
    numeric,
    range_of_part,
    smaller,
    store_lanes,
    walk_panels,
)
from .matmul import zero_kernel
from .packing import pack_columns_transposed
from .pooled_windows import (
    BLOCK,
    ENTRY,
    Windows,
    counted,
    entries_of,
    gradients_at,
    lane_of,
    load_entry,
    taps_at,
)

_BLOCK_BYTES = 160 << 10  # of a block of rows of the result, which shares the second-level cache with the lists
_REST = 4  # registers that hold no sums
_FINISHED = 4  # registers finished at once
_AHEAD, _ASKED = 2, 192  # pixels between asking for a list and using it; bytes of it


@dataclass(frozen=True)
class Plan:
    """Sizes, and how the work is cut.

    Attributes:
        op: the operation.
        windows: of the pooling.
        run: adjacent elements of the result that a gradient reaches in one row.
        panels: cut of a run in registers.
        block: rows of the result made together.
        chunks: of blocks.
    """

    op: Conv2dInputGradPooled
    windows: Windows
    filter: Shape
    run: int
    panels: Cut
    block: int
    chunks: int

    @property
    def blocks(self) -> int:
        """Blocks of an image."""
        return -(-self.op.input_shape[1] // self.block)

    @property
    def line(self) -> int:
        """Elements of a row of a block: all that its pixels reach, also in the padding."""
        return (self.windows.size[1] + self.filter[1] - 1) * self.filter[2]

    @property
    def lines(self) -> int:
        """Lines of windows that a block reads, at most."""
        return (self.block + self.filter[0] - 2) // self.windows.strides[0] + 2

    @property
    def room(self) -> int:
        """Entries of a list: whole cache lines, an odd number to use all of a cache."""
        return (-(-self.windows.channels // 8) | 1) * 8

    @property
    def field(self) -> int:
        """Bits of a list's length where the lengths of all lists of a window share one integer."""
        return min(32, 64 // self.windows.taps)


def windows_of(op: Conv2dInputGradPooled, filter_: Shape, dy: Shape) -> Windows:
    """The windows behind the convolution."""
    between = op.between(op.input_shape, filter_)
    return Windows(dy[0], (between[1], between[2]), (dy[1], dy[2]), op.window, op.strides, dy[3])


def plan_of(op: Conv2dInputGradPooled, filter_: Shape, dy: Shape, num: Numeric, isa: Isa) -> Plan:
    """Registers, blocks and chunks, from the sizes alone."""
    kh, kw, depth, _ = filter_
    panels = cut(-(-kw * depth // num.lanes), isa.registers - _REST)
    w = windows_of(op, filter_, dy)
    line = (w.size[1] + kw - 1) * depth * num.bytes
    rows = cut(op.input_shape[1], max(1, _BLOCK_BYTES // line)).widest
    found = Plan(op, w, filter_, kw * depth, panels, rows, 1)
    cycles = prod(dy) * kh * max(panels.size, 2) / 2
    wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
    if wanted > w.images * found.blocks:
        rows = -(-op.input_shape[1] // min(op.input_shape[1], -(-wanted // w.images)))
    found = Plan(op, w, filter_, kw * depth, panels, rows, 1)
    return Plan(op, w, filter_, kw * depth, panels, rows, min(wanted, w.images * found.blocks))


class PooledInputGradient:
    """Emits both phases. Temporaries: the packed filter; for each chunk that packs, whether all it saw is finite."""

    def __init__(self, plan: Plan, contraction: Contraction, num: Numeric) -> None:
        self.p, self.c, self.num = plan, contraction, num
        self.row = plan.panels.widest * num.lanes  # elements of the packed filter for one output channel
        self.slot = plan.windows.channels * self.row
        self.packed = plan.filter[0] * plan.panels.parts * self.slot
        self.packs = max(1, min(MOST_CHUNKS, self.packed * num.bytes // (64 << 10),
                                plan.filter[0] * plan.panels.parts))
        w = plan.windows
        self.places_at = -(-plan.block * plan.line * num.bytes // 64) * 64
        places = plan.lines * w.strides[0] * w.size[1] + _AHEAD
        self.zeros_at = -(-(self.places_at + places * 8) // 64) * 64
        self.lists_at = self.zeros_at + plan.room * ENTRY
        self.scratch = self.lists_at + plan.lines * w.counts[1] * w.taps * plan.room * ENTRY

    # The filter

    def pack(self, e: Emitter) -> None:
        """This chunk's share of the filter as [filter row][registers][output channel]."""
        p, num = self.p, self.num
        outputs = p.windows.channels
        filter_ = self.c.operand(e, 0)
        first, end = range_of_part(e, e.chunk, p.filter[0] * p.panels.parts, self.packs)
        with e.loop(e.b.udiv(first, i64(p.panels.parts)), p.filter[0], name="kh") as i:
            start = e.b.mul(i, i64(p.panels.parts))
            low = larger(e, i64(0), e.b.sub(first, start))
            high = smaller(e, i64(p.panels.parts), e.b.sub(end, start))
            for width, panel, column, last in walk_panels(e, p.panels, num.lanes, p.run, low, high):
                at = e.b.mul(e.b.add(e.b.mul(i, i64(p.run)), column), i64(outputs))
                self._pack_panel(e, e.at(filter_, at, num.element), self._panel(e, i, panel), width, last)
        note_finite(e, num, filter_, prod(p.filter), self.packs, e.temp(1))

    def _pack_panel(self, e: Emitter, source: ll.Value, target: ll.Value, width: int, last: int) -> None:
        """Rows of ``width`` registers are packed as rows of the widest panel's, so that all have one distance."""
        p, num = self.p, self.num
        outputs = p.windows.channels
        if width == p.panels.widest:
            pack_columns_transposed(e, num, source, outputs, i64(outputs), target, width, last, num.element)
            return
        tail = last if last < num.lanes else num.lanes
        with e.loop(0, outputs, name="channel") as channel:
            line = e.at(target, e.b.mul(channel, i64(self.row)), num.element)
            with e.loop(0, (width - 1) * num.lanes + tail, name="column") as column:
                at = e.at(source, e.b.add(e.b.mul(column, i64(outputs)), channel), num.element)
                e.store(e.load(at, num.element, 4), e.at(line, column, num.element), 4)
            for lane in range(tail, num.lanes):
                e.store(const(num.element, 0.0), e.at(line, (width - 1) * num.lanes + lane, num.element), 4)

    def _panel(self, e: Emitter, row: ll.Value, panel: ll.Value) -> ll.Value:
        index = e.b.add(e.b.mul(row, i64(self.p.panels.parts)), panel)
        return e.at(e.temp(0), e.b.mul(index, i64(self.slot)), self.num.element)

    # Blocks of rows

    def emit(self, e: Emitter, finish: Finish) -> None:
        """The code of one chunk."""
        p, w = self.p, self.p.windows
        self.finite = noted_finite(e, e.temp(1), self.packs)
        self._list_zeros(e)
        first, end = range_of_part(e, e.chunk, w.images * p.blocks, p.chunks)
        with e.loop_carried(first, end, 1, [i64(0)], "block") as (block, listed, after):
            image, inside = e.b.udiv(block, i64(p.blocks)), e.b.urem(block, i64(p.blocks))
            top = e.b.mul(inside, i64(p.block))
            bottom = smaller(e, e.b.add(top, i64(p.block)), i64(p.op.input_shape[1]))
            after[0] = self._list_lines(e, image, top, bottom, listed[0])
            size = e.b.mul(e.b.sub(bottom, top), i64(p.line))
            with e.loop(0, size, self.num.lanes, "clear") as i:  # to the end of a register
                align = self.num.lanes * self.num.bytes
                e.store(self.num.zero, e.at(e.scratch, i, self.num.element), align)
            self._products(e, top, bottom)
            self._finish(e, finish, image, top, bottom)

    # Lists

    def _byte(self, e: Emitter, offset: int) -> ll.Value:
        return e.at(e.scratch, offset, I8)

    def _list_zeros(self, e: Emitter) -> None:
        """The list of a pixel that no gradient goes to, for filters that are not finite."""
        with e.loop(0, self.p.windows.channels, name="zero") as channel:
            distance = e.b.trunc(e.b.mul(channel, i64(self.row * self.num.bytes)), I32)
            (entry,) = entries_of(e, const(I32, 0), distance)
            e.store(entry, e.at(self._byte(e, self.zeros_at), channel, I64), 8)

    def _list_lines(self, e: Emitter, image: ll.Value, top: ll.Value, bottom: ll.Value, listed: ll.Value) -> ll.Value:
        """List what the block reads and the blocks before it did not; returns the end of what is listed, in lines of
        windows of all images, those counted that only the input's last rows would fill."""
        w, before = self.p.windows, self.p.op.padding[0][0]
        reach, stride = self.p.filter[0] - 1, w.strides[0]
        low = larger(e, i64(0), e.b.add(top, i64(before - reach)))
        high = smaller(e, i64(w.size[0]), e.b.add(bottom, i64(before)))
        lines = -(-w.size[0] // stride)
        start = e.b.mul(image, i64(lines))
        first = larger(e, listed, e.b.add(start, e.b.udiv(low, i64(stride))))
        end = e.b.add(start, e.b.sdiv(e.b.add(high, i64(stride - 1)), i64(stride)))
        with e.loop(e.b.sub(first, start), e.b.sub(end, start), name="line") as row:
            self._list_line(e, image, row)
        return larger(e, listed, end)

    def _place(self, e: Emitter, row: ll.Value) -> ll.Value:
        """Where the lists of a row of pixels are noted: for each pixel length and distance of its list."""
        w = self.p.windows
        line = e.b.urem(e.b.udiv(row, i64(w.strides[0])), i64(self.p.lines))
        inside = e.b.add(e.b.mul(line, i64(w.strides[0])), e.b.urem(row, i64(w.strides[0])))
        return e.at(self._byte(e, self.places_at), e.b.mul(inside, i64(w.size[1])), I64)

    def _list_line(self, e: Emitter, image: ll.Value, row: ll.Value) -> None:
        w = self.p.windows
        places = self._place(e, e.b.mul(row, i64(w.strides[0])))
        nothing = e.b.select(self.finite, i64(0), i64(w.channels << 32 | self.zeros_at))
        with e.loop(0, w.strides[0] * w.size[1], name="pixel") as pixel:
            e.store(nothing, e.at(places, pixel, I64), 8)
        columns = e.b.select(e.b.icmp_signed("<", row, i64(w.counts[0])), i64(w.counts[1]), i64(0))
        line = e.b.mul(e.b.urem(row, i64(self.p.lines)), i64(w.counts[1]))
        with e.loop(0, columns, name="window") as column:
            source = w.offset(e, image, row, column)
            at = e.b.mul(e.b.add(line, column), i64(w.taps * self.p.room * ENTRY))
            at = e.b.add(at, i64(self.lists_at))
            with e.b.if_else(self.finite) as (then, otherwise):
                with then:
                    lengths = self._list_window(e, source, at)
                    after_then = e.b.block
                with otherwise:
                    all_ = self._list_all(e, source, at)
                    after_otherwise = e.b.block
            both = e.b.phi(I64)
            both.add_incoming(lengths, after_then)
            both.add_incoming(all_, after_otherwise)
            self._note(e, places, column, at, both)

    def _note(self, e: Emitter, places: ll.Value, column: ll.Value, at: ll.Value, lengths: ll.Value) -> None:
        w = self.p.windows
        for tap in range(w.taps):
            length = e.b.and_(e.b.lshr(lengths, i64(tap * self.p.field)), i64((1 << self.p.field) - 1))
            offset = e.b.add(at, i64(tap * self.p.room * ENTRY))
            pixel = e.b.add(e.b.mul(column, i64(w.strides[1])),
                            i64(tap // w.window[1] * w.size[1] + tap % w.window[1]))
            e.store(e.b.or_(e.b.shl(length, i64(32)), offset), e.at(places, pixel, I64), 8)

    def _list_window(self, e: Emitter, source: ll.Value, at: ll.Value) -> ll.Value:
        """Gradients of a window that are not zero, a list for each tap; returns the lists' lengths."""
        outputs = self.p.windows.channels
        whole = outputs // BLOCK * BLOCK
        lengths: ll.Value = i64(0)
        for first, end, block in ((0, whole, BLOCK), (whole, outputs, 1)):
            with e.loop_carried(first, end, block, [lengths], "channel") as (channel, now, after):
                after[0] = self._list_block(e, source, at, channel, block, now[0])
            lengths = after[0]
        return lengths

    def _list_block(self, e: Emitter, source: ll.Value, at: ll.Value, channel: ll.Value, block: int,
                    lengths: ll.Value) -> ll.Value:
        w, field = self.p.windows, self.p.field
        offset = e.b.add(source, channel)
        taps, gradients = taps_at(e, self.c.operand(e, 1), offset, block), \
            gradients_at(e, self.c.operand(e, 2), offset, block)
        kept = counted(e, w, taps, gradients)
        inside = e.b.icmp_signed("<", taps, const(taps.type, w.taps))
        taps = e.b.select(inside, taps, const(taps.type, 0))
        for i, entry in enumerate(entries_of(e, gradients, self._distances(e, channel, block))):
            tap = e.b.zext(lane_of(e, taps, i), I64)
            shift = e.b.mul(tap, i64(field))
            length = e.b.and_(e.b.lshr(lengths, shift), i64((1 << field) - 1))
            index = e.b.add(e.b.mul(tap, i64(self.p.room)), length)
            e.store(entry, e.at(e.at(e.scratch, at, I8), index, I64), 8)
            lengths = e.b.add(lengths, e.b.shl(kept[i], shift))
        return lengths

    def _distances(self, e: Emitter, channel: ll.Value, block: int) -> ll.Value:
        """Bytes from a panel's start to the rows of ``block`` output channels."""
        row = self.row * self.num.bytes
        start = e.splat(e.b.trunc(e.b.mul(channel, i64(row)), I32), block)
        if block == 1:
            return start
        return e.b.add(start, ll.Constant(start.type, [ll.Constant(I32, i * row) for i in range(block)]))

    def _list_all(self, e: Emitter, source: ll.Value, at: ll.Value) -> ll.Value:
        """All channels for each tap of a window, also the zeros; returns the lists' lengths."""
        w = self.p.windows
        with e.loop(0, w.taps, name="tap") as tap, e.loop(0, w.channels, name="channel") as channel:
            offset = e.b.add(source, channel)
            hit = e.b.icmp_signed("==", taps_at(e, self.c.operand(e, 1), offset, 1), e.b.trunc(tap, I32))
            gradient = e.b.select(hit, gradients_at(e, self.c.operand(e, 2), offset, 1), const(I32, 0))
            (entry,) = entries_of(e, gradient, self._distances(e, channel, 1))
            index = e.b.add(e.b.mul(tap, i64(self.p.room)), channel)
            e.store(entry, e.at(e.at(e.scratch, at, I8), index, I64), 8)
        return i64(sum(w.channels << tap * self.p.field for tap in range(w.taps)))

    # Products

    def _products(self, e: Emitter, top: ll.Value, bottom: ll.Value) -> None:
        """Add up what all pixels give to the rows [top, bottom) of the result."""
        p, num = self.p, self.num
        before = p.op.padding[0][0]
        with e.loop(0, p.filter[0], name="kh") as i:
            first = larger(e, top, e.b.sub(i, i64(before)))
            end = smaller(e, bottom, e.b.add(i, i64(p.windows.size[0] - before)))
            walk = walk_panels(e, p.panels, num.lanes, p.run, i64(0), i64(p.panels.parts))
            for width, panel, column, last in walk:
                packed = self._panel(e, i, panel)
                with e.loop(first, end, name="row") as y:
                    places = self._place(e, e.b.sub(e.b.add(y, i64(before)), i))
                    line = e.b.add(e.b.mul(e.b.sub(y, top), i64(p.line)), column)
                    with e.loop(0, p.windows.size[1], name="pixel") as x:
                        at = e.b.add(line, e.b.mul(x, i64(p.filter[2])))
                        self._ask(e, places, x)
                        self._pixel(e, e.at(places, x, I64), packed, e.at(e.scratch, at, num.element), width, last)

    def _ask(self, e: Emitter, places: ll.Value, x: ll.Value) -> None:
        """Ask for the list of a pixel that comes soon: lists are short and far apart."""
        noted = e.load(e.at(places, e.b.add(x, i64(_AHEAD)), I64), I64, 8)
        entries = e.at(e.scratch, e.b.and_(noted, i64(0xFFFF_FFFF)), I8)
        for line in range(0, min(_ASKED, self.p.room * ENTRY), 64):
            e.prefetch(e.at(entries, line, I8), at_once=True)

    def _pixel(self, e: Emitter, place: ll.Value, packed: ll.Value, into: ll.Value, width: int, last: int) -> None:
        """Add the products of a pixel's list to a run."""
        num = self.num
        noted = e.load(place, I64, 8)
        length = e.b.lshr(noted, i64(32))
        entries = e.at(e.scratch, e.b.and_(noted, i64(0xFFFF_FFFF)), I8)
        with e.b.if_then(e.b.icmp_signed("!=", length, i64(0))):
            with e.loop_carried(0, length, 1, [num.zero] * width, "entry") as (k, now, after):
                gradient, distance = load_entry(e, e.at(entries, k, I64), num)
                row = e.at(packed, distance, I8)
                after[:] = [num.multiply_add(e, gradient, self._register(e, row, v), now[v]) for v in range(width)]
            for v, value in enumerate(after):
                lanes = last if v == width - 1 else num.lanes
                address = e.at(into, v * num.lanes, num.element)
                store_lanes(e, num.add(e, load_lanes(e, address, num, lanes), value), address, num, lanes)

    def _register(self, e: Emitter, row: ll.Value, index: int) -> ll.Value:
        align = self.num.lanes * self.num.bytes
        return e.load(e.at(row, index * self.num.lanes, self.num.element), self.num.vector, align)

    def _finish(self, e: Emitter, finish: Finish, image: ll.Value, top: ll.Value, bottom: ll.Value) -> None:
        """Finish and write the rows [top, bottom) of the result."""
        p, num = self.p, self.num
        _, height, width, depth = p.op.input_shape
        across = cut(-(-depth // num.lanes), _FINISHED)
        with e.loop(top, bottom, name="row") as y, e.loop(0, width, name="pixel") as x:
            pixel = e.b.add(e.b.mul(e.b.add(e.b.mul(image, i64(height)), y), i64(width)), x)
            inside = e.b.mul(e.b.add(x, i64(p.op.padding[1][0])), i64(depth))
            source = e.b.add(e.b.mul(e.b.sub(y, top), i64(p.line)), inside)
            for registers, _, channel, last in walk_panels(e, across, num.lanes, depth, i64(0), i64(across.parts)):
                base = e.at(e.scratch, e.b.add(source, channel), num.element)
                tile = [[load_lanes(e, e.at(base, v * num.lanes, num.element), num,
                                    last if v == registers - 1 else num.lanes) for v in range(registers)]]
                finish(e, tile, e.b.add(e.b.mul(pixel, i64(depth)), channel), depth, channel, last)


def lower_conv2d_input_grad_pooled(node: Node, isa: Isa) -> Kernel:
    """The kernel of a conv2d_input_grad_pooled node, or of a fusion around one.

    Raises:
        Unsupported: elements that are not float32; windows of so many taps and channels that lengths of lists do not
            fit; or the fusion's epilogue cannot be computed on tiles.
    """
    c = contraction_of(node)
    op, (w, _, dy, _) = c.root.op, c.shapes
    assert isinstance(op, Conv2dInputGradPooled)
    if c.empty:
        return zero_kernel(c, isa)
    if c.dtype != F32 or dy[3] >= 1 << 64 // prod(op.window):
        raise Unsupported(f"a pooled input gradient of {c.root.results[0].type} from windows of {op.window}")
    num, finish = numeric(F32, isa), c.finish(isa)
    gradient = PooledInputGradient(plan_of(op, w, dy, num, isa), c, num)
    label = f"conv2d input grad {w[0]}x{w[1]} {w[3]}->{w[2]} of maxima{c.label}"
    phases = Phase(gradient.packs, gradient.pack), Phase(gradient.p.chunks, lambda e: gradient.emit(e, finish))
    temps = (gradient.packed * num.bytes, gradient.packs * NOTE)
    return Kernel(node, phases, c.key(isa), temps, gradient.scratch, label)
