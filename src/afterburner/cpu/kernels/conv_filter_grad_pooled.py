"""Gradient of a filter behind whose convolution only a max pooling reads: a product without its structural zeros.

For one output channel and one row of the filter, the elements of the input that a gradient multiplies are adjacent
in memory: (filter column, input channel). Registers hold the sums of such a run, over the windows of a unit whose
input stays in the first-level cache; the gradient lies there as [output channel][filter row][column, channel].
Parts of the windows have private sums that a second phase adds in a fixed order.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from llvmlite import ir as ll

from ...ir import Node, Shape
from ...ir.ops.conv_pooled import Conv2dFilterGradPooled
from ...ir.types import F32
from ..emitter import I32, I64, Emitter, const, i64
from ..isa import Isa
from ..kernel import Kernel, Phase, Unsupported, key_of
from .finite import is_finite, largest, no_magnitudes
from .gemm import CHUNK_CYCLES, MOST_CHUNKS, Cut, Numeric, cut, larger, load_lanes, numeric, range_of_part, smaller
from .pooled_windows import (
    BLOCK,
    ENTRY,
    Windows,
    counted,
    entries_of,
    gradients_at,
    load_entry,
    taps_at,
)

_INPUT_BYTES = 20 << 10  # of input that a unit's products read again and again from the first-level cache
_COPIES = 4 << 20  # bytes of private sums
_CHANNELS = 32  # at least, of a chunk: each looks through its input
_REST = 4  # registers that hold no sums


@dataclass(frozen=True)
class Plan:
    """Sizes, and how the work is cut.

    Attributes:
        op, x: the operation and the shape of its input.
        windows: of the pooling.
        run: adjacent elements of the input that meet one gradient.
        rows: cut of the filter's rows.
        vectors: cut of a run in registers.
        unit: rows and columns of windows whose input stays in a cache.
        parts: chunks along (units, output channels).
    """

    op: Conv2dFilterGradPooled
    x: Shape
    windows: Windows
    run: int
    rows: Cut
    vectors: Cut
    unit: tuple[int, int]
    parts: tuple[int, int]

    @property
    def units(self) -> tuple[int, int]:
        """Units down and across an image."""
        return -(-self.windows.counts[0] // self.unit[0]), -(-self.windows.counts[1] // self.unit[1])

    @property
    def bordered(self) -> bool:
        """A unit's input is copied between zeros."""
        return self.op.padding != ((0, 0), (0, 0))

    @property
    def copied(self) -> tuple[int, int]:
        """Rows and columns of the input of a unit, at most."""
        down, across = (self.windows.pixels(self.unit[i], i) + self.op.filter_shape[i] - 1 for i in (0, 1))
        return down, across

    @property
    def pitch(self) -> int:
        """Elements between rows of the input that products read."""
        return (self.copied[1] if self.bordered else self.x[2]) * self.x[3]

    @property
    def entries(self) -> int:
        """Room for the entries of one output channel: whole cache lines, an odd number to use all of a cache."""
        pixels = self.windows.pixels(self.unit[0], 0) * self.windows.pixels(self.unit[1], 1)
        return (-(-pixels // 8) | 1) * 8


def windows_of(op: Conv2dFilterGradPooled, x: Shape, dy: Shape) -> Windows:
    """The windows behind the convolution of an input."""
    between = op.between(x, op.filter_shape)
    return Windows(dy[0], (between[1], between[2]), (dy[1], dy[2]), op.window, op.strides, dy[3])


def plan_of(op: Conv2dFilterGradPooled, x: Shape, dy: Shape, num: Numeric, isa: Isa) -> Plan:
    """Registers, units and chunks, from the sizes alone."""
    kh, kw, depth, outputs = op.filter_shape
    run = kw * depth
    vectors = cut(-(-run // num.lanes), isa.registers - _REST)
    rows = cut(kh, max(1, (isa.registers - _REST) // vectors.widest))
    w = windows_of(op, x, dy)
    pixel = min(depth, vectors.widest * num.lanes) * num.bytes
    line = ((w.counts[1] * op.strides[1] + kw - 1) * pixel)
    most = (_INPUT_BYTES // line - rows.widest + 1) // op.strides[0]
    if most >= 1:
        down = cut(w.counts[0], most)
        unit = (down.widest, w.counts[1])
    else:
        line = _INPUT_BYTES // (op.strides[0] + rows.widest - 1)
        wide = max(1, (line // pixel - kw + 1) // op.strides[1])
        unit = (1, cut(w.counts[1], wide).widest)
    cycles = prod(dy) * kh * max(vectors.size, 2) / 2
    size = outputs * kh * vectors.size * num.lanes * num.bytes
    found = Plan(op, x, w, run, rows, vectors, unit, (1, 1))
    wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
    copies = max(1, min(wanted, _COPIES // size, x[0] * prod(found.units)))
    across = max(1, min(wanted // copies, outputs // _CHANNELS))
    return replace(found, parts=(copies, across))


class PooledFilterGradient:
    """Emits both phases."""

    def __init__(self, plan: Plan, num: Numeric) -> None:
        self.p, self.num = plan, num
        self.depth, self.outputs = plan.op.filter_shape[2:]
        self.slot = plan.vectors.size * num.lanes  # sums of one filter row of one output channel
        self.sums = self.outputs * plan.op.filter_shape[0] * self.slot
        self.counts_at = self.outputs * plan.entries * ENTRY
        self.input_at = self.counts_at + -(-self.outputs * 8 // 64) * 64
        copied = prod(plan.copied) * self.depth * num.bytes if plan.bordered else 0
        self.scratch = self.input_at + copied

    # Sums of one chunk

    def emit(self, e: Emitter) -> None:
        """The code of one chunk."""
        p = self.p
        down, across = p.units
        part, channels = e.b.udiv(e.chunk, i64(p.parts[1])), e.b.urem(e.chunk, i64(p.parts[1]))
        blocks = range_of_part(e, channels, -(-self.outputs // BLOCK), p.parts[1])
        self.channels = e.b.mul(blocks[0], i64(BLOCK)), smaller(e, e.b.mul(blocks[1], i64(BLOCK)), i64(self.outputs))
        self.target = e.at(e.temp(0), e.b.mul(part, i64(self.sums)), self.num.element)
        row = p.op.filter_shape[0] * self.slot
        with e.loop(e.b.mul(self.channels[0], i64(row)), e.b.mul(self.channels[1], i64(row)), self.num.lanes) as i:
            e.store(self.num.zero, e.at(self.target, i, self.num.element), self.num.lanes * self.num.bytes)
        first, end = range_of_part(e, part, p.x[0] * down * across, p.parts[0])
        with e.loop(first, end, name="unit") as unit:
            image, inside = e.b.udiv(unit, i64(down * across)), e.b.urem(unit, i64(down * across))
            self._unit(e, image, e.b.udiv(inside, i64(across)), e.b.urem(inside, i64(across)))

    def _unit(self, e: Emitter, image: ll.Value, down: ll.Value, across: ll.Value) -> None:
        w = self.p.windows
        self.image = image
        self.first = [e.b.mul(at, i64(size)) for at, size in zip((down, across), self.p.unit, strict=True)]
        self.end = [smaller(e, e.b.add(at, i64(size)), i64(count)) for at, size, count in
                    zip(self.first, self.p.unit, w.counts, strict=True)]
        self.pixel = [e.b.mul(at, i64(stride)) for at, stride in zip(self.first, w.strides, strict=True)]
        self.past = [w.end(e, axis, end) for axis, end in enumerate(self.end)]
        source, magnitudes = self._input(e)
        with e.b.if_else(is_finite(e, self.num, magnitudes)) as (then, otherwise):
            with then:
                self._list_windows(e)
            with otherwise:
                self._list_pixels(e)
        for rows, _, row in self.p.rows.walk(e, i64(0), i64(self.p.rows.parts)):
            for vectors, _, vector in self.p.vectors.walk(e, i64(0), i64(self.p.vectors.parts)):
                self._products(e, source, rows, row, vectors, vector)

    def _input(self, e: Emitter) -> tuple[ll.Value, ll.Value]:
        """The unit's first pixel of the input, and the largest magnitudes of what the unit reads."""
        p, num, op = self.p, self.num, self.p.op
        _, height, width, depth = p.x
        top, left = (e.b.sub(self.pixel[i], i64(op.padding[i][0])) for i in (0, 1))
        down, across = (e.b.add(e.b.sub(self.past[i], self.pixel[i]), i64(op.filter_shape[i] - 1)) for i in (0, 1))
        start = e.b.mul(self.image, i64(height * width))
        if p.bordered:
            source = self._bordered(e, start, top, left, down, across)
        else:
            pixel = e.b.add(start, e.b.add(e.b.mul(top, i64(width)), left))
            source = e.at(e.operand(0), e.b.mul(pixel, i64(depth)), num.element)
        line = e.b.mul(across, i64(depth))
        with e.loop_carried(0, down, 1, [no_magnitudes(e, num)], "line") as (y, now, after):
            after[0] = largest(e, num, e.at(source, e.b.mul(y, i64(p.pitch)), num.element), line, now[0])
        return source, after[0]

    def _bordered(self, e: Emitter, start: ll.Value, top: ll.Value, left: ll.Value, down: ll.Value,
                  across: ll.Value) -> ll.Value:
        """The unit's input copied, with zeros where it reaches beyond the image."""
        _, height, width, depth = self.p.x
        num = self.num
        target = e.at(e.scratch, self.input_at, ll.IntType(8))
        low = smaller(e, across, larger(e, i64(0), e.b.sub(i64(0), left)))
        high = larger(e, low, smaller(e, across, e.b.sub(i64(width), left)))
        with e.loop(0, down, name="line") as i:
            y = e.b.add(top, i)
            inside = e.b.and_(e.b.icmp_signed(">=", y, i64(0)), e.b.icmp_signed("<", y, i64(height)))
            into = e.at(target, e.b.mul(i, i64(self.p.pitch)), num.element)
            first, last = (e.b.mul(e.b.select(inside, at, i64(0)), i64(depth)) for at in (low, high))
            pixel = e.b.add(start, e.b.add(e.b.mul(y, i64(width)), left))
            self._copy(e, e.b.mul(pixel, i64(depth)), into, first, last)
            with e.loop(0, first, name="border") as x:
                e.store(const(num.element, 0.0), e.at(into, x, num.element), num.bytes)
            with e.loop(last, e.b.mul(across, i64(depth)), name="border") as x:
                e.store(const(num.element, 0.0), e.at(into, x, num.element), num.bytes)
        return target

    def _copy(self, e: Emitter, start: ll.Value, into: ll.Value, first: ll.Value, end: ll.Value) -> None:
        """Elements [first, end) of a row of the input."""
        num = self.num
        source = e.at(e.operand(0), start, num.element)
        whole = e.b.add(first, e.b.and_(e.b.sub(end, first), i64(-num.lanes)))
        with e.loop(first, whole, num.lanes, "copy") as x:
            e.store(e.load(e.at(source, x, num.element), num.vector, num.bytes), e.at(into, x, num.element), num.bytes)
        with e.loop(whole, end, name="copy") as x:
            e.store(e.load(e.at(source, x, num.element), num.element, num.bytes), e.at(into, x, num.element), num.bytes)

    # Lists

    def _list(self, e: Emitter, channel: ll.Value) -> ll.Value:
        return e.at(e.scratch, e.b.mul(channel, i64(self.p.entries)), I64)

    def _set_count(self, e: Emitter, channel: ll.Value, count: ll.Value) -> None:
        e.store(count, e.at(e.at(e.scratch, self.counts_at, ll.IntType(8)), channel, I64), 8)

    def _list_windows(self, e: Emitter) -> None:
        """Per output channel the gradients of the unit's windows that are not zero, row by row."""
        whole = self.outputs // BLOCK * BLOCK
        first, end = self.channels
        with e.loop(first, smaller(e, end, i64(whole)), BLOCK, "channel") as channel:
            self._list_block(e, channel, BLOCK)
        if whole < self.outputs:
            with e.loop(larger(e, first, i64(whole)), end, name="channel") as channel:
                self._list_block(e, channel, 1)

    def _list_block(self, e: Emitter, channel: ll.Value, block: int) -> None:
        w = self.p.windows
        row, column = self.p.pitch * self.num.bytes, self.depth * self.num.bytes
        across = e.b.sub(self.end[1], self.first[1])
        lists = [self._list(e, e.b.add(channel, i64(i))) for i in range(block)]
        with e.loop_carried(self.first[0], self.end[0], 1, [i64(0)] * block, "row") as (y, now, after):
            base = e.b.add(w.offset(e, self.image, y, self.first[1]), channel)
            down = e.b.mul(e.b.sub(y, self.first[0]), i64(w.strides[0] * row))
            with e.loop_carried(0, across, 1, now, "column") as (x, counts, following):
                at = e.b.add(base, e.b.mul(x, i64(w.channels)))
                place = e.b.add(down, e.b.mul(x, i64(w.strides[1] * column)))
                taps, gradients = taps_at(e, e.operand(1), at, block), gradients_at(e, e.operand(2), at, block)
                distances = w.distances(e, taps, place, row, column)
                entries, kept = entries_of(e, gradients, distances), counted(e, w, taps, gradients)
                for i, entry in enumerate(entries):
                    e.store(entry, e.at(lists[i], counts[i], I64), ENTRY)
                    following[i] = e.b.add(counts[i], kept[i])
            after[:] = following
        for i, count in enumerate(after):
            self._set_count(e, e.b.add(channel, i64(i)), count)

    def _list_pixels(self, e: Emitter) -> None:
        """Per output channel all elements of what is pooled, also the zeros."""
        bytes_ = self.num.bytes
        down, across = (e.b.sub(self.past[i], self.pixel[i]) for i in (0, 1))
        with e.loop(*self.channels, name="channel") as channel, e.loop(0, down, name="y") as y:
            line = e.at(self._list(e, channel), e.b.mul(y, across), I64)
            with e.loop(0, across, name="x") as x:
                gradient = self._scattered(e, channel, y, x)
                place = e.b.add(e.b.mul(y, i64(self.p.pitch * bytes_)), e.b.mul(x, i64(self.depth * bytes_)))
                (entry,) = entries_of(e, gradient, e.b.trunc(place, I32))
                e.store(entry, e.at(line, x, I64), ENTRY)
            self._set_count(e, channel, e.b.mul(down, across))

    def _scattered(self, e: Emitter, channel: ll.Value, y: ll.Value, x: ll.Value) -> ll.Value:
        """What max_pool_scatter has at a pixel of the unit."""
        w = self.p.windows
        at, inside = [], []
        for axis, place in enumerate((y, x)):
            window = e.b.add(self.first[axis], e.b.udiv(place, i64(w.strides[axis])))
            at.append(smaller(e, window, i64(w.counts[axis] - 1)))
            inside.append(e.b.icmp_signed("==", window, at[axis]))
        rest = [e.b.urem(place, i64(stride)) for place, stride in zip((y, x), w.strides, strict=True)]
        inside += [e.b.icmp_signed("<", r, i64(size)) for r, size in zip(rest, w.window, strict=True)]
        offset = e.b.add(w.offset(e, self.image, *at), channel)
        tap = e.b.add(e.b.mul(rest[0], i64(w.window[1])), rest[1])
        hit = e.b.icmp_signed("==", e.b.trunc(tap, I32), taps_at(e, e.operand(1), offset, 1))
        for condition in inside:
            hit = e.b.and_(hit, condition)
        return e.b.select(hit, gradients_at(e, e.operand(2), offset, 1), const(I32, 0))

    # Products

    def _products(self, e: Emitter, source: ll.Value, rows: int, row: ll.Value, vectors: int,
                  vector: ll.Value) -> None:
        """Add the products of some filter rows and some registers of their runs, for every output channel."""
        p, num = self.p, self.num
        column = e.b.mul(vector, i64(num.lanes))
        base = e.at(source, e.b.add(e.b.mul(row, i64(p.pitch)), column), num.element)
        kh = p.op.filter_shape[0]
        counts = e.at(e.scratch, self.counts_at, ll.IntType(8))
        with e.loop(*self.channels, name="channel") as channel:
            count = e.load(e.at(counts, channel, I64), I64, 8)
            flat = [num.zero] * (rows * vectors)
            begin = self._list(e, channel)
            with e.loop_carried(0, count, 1, [begin, *flat], "entry") as (_, now, after):
                gradient, distance = load_entry(e, now[0], num)
                line = e.at(base, distance, ll.IntType(8))
                after[:] = [e.at(now[0], 1, I64), *self._multiply(e, gradient, line, now[1:], rows, vectors, vector)]
            slot = e.b.add(e.b.mul(channel, i64(kh)), row)
            into = e.at(self.target, e.b.add(e.b.mul(slot, i64(self.slot)), column), num.element)
            for i, value in enumerate(after[1:]):
                place = e.at(into, i // vectors * self.slot + i % vectors * num.lanes, num.element)
                before = e.load(place, num.vector, num.lanes * num.bytes)
                e.store(num.add(e, before, value), place, num.lanes * num.bytes)

    def _multiply(self, e: Emitter, gradient: ll.Value, line: ll.Value, sums: list[ll.Value], rows: int,
                  vectors: int, vector: ll.Value) -> list[ll.Value]:
        num, following = self.num, []
        tail = (self.p.run - 1) % num.lanes + 1
        for i, value in enumerate(sums):
            at = e.at(line, i // vectors * self.p.pitch + i % vectors * num.lanes, num.element)
            if i % vectors == vectors - 1 and tail < num.lanes:
                factor = self._last(e, at, vector, vectors, tail)
            else:
                factor = e.load(at, num.vector, num.bytes)
            following.append(num.multiply_add(e, gradient, factor, value))
        return following

    def _last(self, e: Emitter, at: ll.Value, vector: ll.Value, vectors: int, tail: int) -> ll.Value:
        """The last register of a panel; the run's last one is read no further than its end."""
        if self.p.vectors.parts == 1:
            return load_lanes(e, at, self.num, tail)
        back = e.b.icmp_signed("==", e.b.add(vector, i64(vectors)), i64(self.p.vectors.size))
        whole, part = e.b.append_basic_block("whole"), e.b.append_basic_block("part")
        joined = e.b.append_basic_block("joined")
        e.b.cbranch(back, part, whole)
        e.b.position_at_end(whole)
        full = e.load(at, self.num.vector, self.num.bytes)
        e.b.branch(joined)
        e.b.position_at_end(part)
        rest = load_lanes(e, at, self.num, tail)
        e.b.branch(joined)
        e.b.position_at_end(joined)
        value = e.b.phi(self.num.vector)
        value.add_incoming(full, whole)
        value.add_incoming(rest, part)
        return value

    # The second phase

    def combine(self, chunks: int) -> Phase:
        """Adds the parts' sums in order and stores them as [filter row][column][input channel][output channel]."""
        num, kh = self.num, self.p.op.filter_shape[0]
        across = self.p.vectors.size

        def emit(e: Emitter) -> None:
            first, end = range_of_part(e, e.chunk, kh * across, chunks)
            with e.loop(first, end, name="register") as index:
                row, vector = e.b.udiv(index, i64(across)), e.b.urem(index, i64(across))
                column = e.b.mul(vector, i64(num.lanes))
                count = smaller(e, i64(num.lanes), e.b.sub(i64(self.p.run), column))
                place = e.b.mul(e.b.add(e.b.mul(row, i64(self.p.run)), column), i64(self.outputs))
                into = e.at(e.result(0), place, num.element)
                with e.loop(0, self.outputs, name="channel") as channel:
                    slot = e.b.add(e.b.mul(channel, i64(kh)), row)
                    total = self._total(e, e.b.add(e.b.mul(slot, i64(self.slot)), column))
                    self._spread(e, total, e.at(into, channel, num.element), count)

        return Phase(chunks, emit)

    def _total(self, e: Emitter, offset: ll.Value) -> ll.Value:
        num, align = self.num, self.num.lanes * self.num.bytes
        base = e.at(e.temp(0), offset, num.element)
        with e.loop_carried(1, self.p.parts[0], 1, [e.load(base, num.vector, align)], "part") as (part, now, after):
            address = e.at(base, e.b.mul(part, i64(self.sums)), num.element)
            after[0] = num.add(e, now[0], e.load(address, num.vector, align))
        return after[0]

    def _spread(self, e: Emitter, value: ll.Value, target: ll.Value, count: ll.Value) -> None:
        """Store the first ``count`` lanes, each to a row of its own."""
        for lane in range(self.num.lanes):
            with e.b.if_then(e.b.icmp_signed("<", i64(lane), count)):
                one = e.b.extract_element(value, const(I32, lane)) if self.num.lanes > 1 else value
                e.store(one, e.at(target, lane * self.outputs, self.num.element), self.num.bytes)


def lower_conv2d_filter_grad_pooled(node: Node, isa: Isa) -> Kernel:
    """The kernel of a conv2d_filter_grad_pooled node.

    Raises:
        Unsupported: elements that are not float32, or a size of 0.
    """
    op, (x, _, dy) = node.op, (v.shape for v in node.operands)
    assert isinstance(op, Conv2dFilterGradPooled)
    if node.results[0].type.dtype != F32 or not prod((*x, *dy, *op.filter_shape)):
        raise Unsupported(f"a pooled filter gradient of {node.results[0].type} from {dy}")
    num = numeric(F32, isa)
    gradient = PooledFilterGradient(plan_of(op, x, dy, num, isa), num)
    size = gradient.p.parts[0] * gradient.sums * num.bytes
    chunks = max(1, min(MOST_CHUNKS, size // (256 << 10), op.filter_shape[0] * gradient.p.vectors.size))
    label = f"conv2d filter grad {op.filter_shape[0]}x{op.filter_shape[1]} {x[3]}->{dy[3]} of maxima"
    return Kernel(node, (Phase(prod(gradient.p.parts), gradient.emit), gradient.combine(chunks)), key_of(node, isa),
                  (size,), gradient.scratch, label)
