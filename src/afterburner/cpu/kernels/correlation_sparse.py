"""Correlation of an image that is often zero, as behind a ReLU: zeros are not multiplied.

A chunk lists what is not zero in the rows of the image that a block of output rows reads, and where the matrix of
the filter for it lies. For every output pixel, registers for many output channels at once take the entries of the
list in turn. What is left out are products with zero, so the results are the bits of ``correlation``, which computes
the blocks where few elements are zero, and everything where an element of the filter is not finite.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from math import gcd

from llvmlite import ir as ll

from ..emitter import F32, I1, I8, I32, I64, Emitter, const, i64
from ..isa import Isa
from .correlation import Correlation, Plan, tap_range
from .correlator import Correlator
from .epilogue import LINE, Finish, Streams, ask_early, cold
from .finite import NOTE, note_finite, noted_finite
from .gemm import MOST_CHUNKS, Numeric, larger, range_of_part, smaller
from .nonzeros import ENTRY, Lists
from .prologue import Prologue
from .sum_blocks import block_of_channels, ends_of

_FEWEST = 7  # registers of sums: a multiply-add takes four cycles, two start in each
_OTHERS = 4  # registers for other things than sums
_TAPS_BYTES = 25 << 10  # of filter that is read again and again from the first-level cache
_BLOCK_BYTES = 640 << 10  # of lists, which are never full, and sums: what is used stays in the second-level cache
_FEWEST_PIXELS = 64  # that use what was read of the filter
_FEWEST_PRODUCTS = 256  # of an element of the image: to list it takes as long as about 20
_ASKED_PIXELS = 8  # further on, of what sums are finished with
_MOST_NONZERO = 0.55  # of the elements; a list takes 5 to 6 cycles for what tiles do in 4, and has to be made
_MOST_OF_ONE_TAP = 0.42  # where it serves one tap: on Zen 3 nothing was gained with half of them


@dataclass(frozen=True)
class SparsePlan:
    """How a sparse correlation is cut.

    Attributes:
        dense: the plan for blocks with few zeros; its rows and chunks are those of the sparse way.
        together: panels whose sums are in registers at once.
        columns: adjacent taps of a filter row that one turn takes.
        depth: channels that one turn takes.
    """

    dense: Plan
    together: int
    columns: int
    depth: int


def sparse_plan(c: Correlation, dense: Plan, num: Numeric, isa: Isa) -> SparsePlan | None:
    """A plan, or None where the dense correlation is faster for all images."""
    wide, lanes = dense.panels.widest, num.lanes
    rows, columns = c.rows.taps, c.columns.taps
    products = rows.count * columns.count * c.width // (rows.stride * columns.stride)
    together = max((n for n in range(1, dense.panels.parts + 1) if dense.panels.parts % n == 0
                    and n * wide <= isa.registers - _OTHERS), default=0)
    if not is_plain(c, dense, num) or together * wide < _FEWEST or products < _FEWEST_PRODUCTS:
        return None
    tap = together * wide * lanes * num.bytes
    most = _TAPS_BYTES // tap
    if columns.count * c.depth <= most and len(ends_of(c)) <= 1:  # a turn is no more than a block
        taken, depth = columns.count, c.depth
    else:
        taken, depth = 1, turn_of(c, most)
    if depth < min(c.depth, lanes):
        return None
    for block in range(dense.block, 0, -1):
        found = SparsePlan(replace(dense, block=block), together, taken, depth)
        if _Lists(c, found, num).bytes <= _BLOCK_BYTES:
            break
    else:
        return None
    blocks = c.images * -(-c.rows.outputs // block)
    found = replace(found, dense=replace(found.dense, parts=(min(blocks, MOST_CHUNKS), 1)))
    return found if block * c.columns.outputs >= _FEWEST_PIXELS else None


def is_plain(c: Correlation, dense: Plan, num: Numeric) -> bool:
    """Whether leaving out zeros is provided for."""
    rows, columns = c.rows.taps, c.columns.taps
    return (c.groups == 1 and num.bytes == 4 and num.is_float and c.width % num.lanes == 0 and dense.panels.larger == 0
            and rows.offset_step == columns.offset_step == 1 and rows.count >= rows.stride
            and columns.count >= columns.stride)


def turn_of(c: Correlation, most: int, multiple: int = 1) -> int:
    """Channels of one turn, at most so many: those of a tap and of a block of them are some whole turns. A multiple of
    ``multiple``, or 1."""
    size = gcd(c.depth, block_of_channels(c.depth)) if ends_of(c) else c.depth
    return max((d for d in range(multiple, min(size, most) + 1, multiple) if size % d == 0), default=1)


class Layout:
    """Where the sums of a block lie in a worker's private memory, behind what tells the zeros, whose size each way of
    telling them knows; in bytes, but ``sums``: the output channels of a group of panels."""

    def __init__(self, c: Correlation, plan: SparsePlan, num: Numeric) -> None:
        self.rows = (plan.dense.block - 1) * c.rows.taps.stride + c.rows.taps.count
        self.parts = c.depth // plan.depth
        self.sums_at = -(-self.zeros_bytes(c, plan, num) // LINE) * LINE
        self.sums = plan.together * plan.dense.panels.widest * num.lanes
        size = plan.dense.block * c.columns.outputs * self.sums * num.bytes
        self.totals_at = self.sums_at + (size if ends_of(c) else 0)
        self.bytes = self.totals_at + size

    def zeros_bytes(self, c: Correlation, plan: SparsePlan, num: Numeric) -> int:
        """What tells the zeros of a block's rows and parts."""
        raise NotImplementedError


class _Lists(Layout):
    """Lists of offsets, of values, and of where columns start."""

    def zeros_bytes(self, c: Correlation, plan: SparsePlan, num: Numeric) -> int:
        self.list = c.columns.inputs * plan.depth + num.lanes
        self.starts = -(-(c.columns.inputs + 1) // 16) * 16
        lists = self.rows * self.parts
        self.values_at = lists * self.list * (ENTRY // 2)
        self.starts_at = 2 * self.values_at
        return self.starts_at + lists * self.starts * 4


class SparseCorrelator(Correlator):
    """Emits a correlation that chooses, block by block, whether zeros are left out.

    The classes below and in ``correlation_masked`` say how zeros are told: ``_layout``, ``_list_row`` and ``_some``.
    """

    most_nonzero, most_of_one_tap = _MOST_NONZERO, _MOST_OF_ONE_TAP

    def __init__(self, c: Correlation, plan: SparsePlan, num: Numeric, filter_columns: int, filter_size: int,
                 streams: Streams, made: Prologue | None = None) -> None:
        self.filter_size = filter_size  # with taps that are never read
        self.sparse, self.layout = plan, self._layout(c, plan, num)
        super().__init__(c, plan.dense, num, F32, 0, filter_columns, streams, made=made)
        self.totals_at = self.layout.sums_at // num.bytes
        self.unit = plan.dense.panels.widest * num.lanes * num.bytes  # bytes of a panel's filter for one element
        self.packs = max(1, min(MOST_CHUNKS, plan.dense.panels.parts))

    def _layout(self, c: Correlation, plan: SparsePlan, num: Numeric) -> Layout:
        raise NotImplementedError

    @property
    def own_scratch(self) -> int:
        """Bytes of private memory for what tells the zeros, and sums."""
        return self.layout.bytes

    @property
    def temps(self) -> tuple[int, int]:
        """Bytes of the packed filter, and of notes on whether the filter is finite."""
        return self.packed_elements * self.num.bytes, self.packs * NOTE

    def pack(self, e: Emitter, filter_: ll.Value, chunks: int) -> None:
        """Copy this chunk's share of the filter, and note whether its share is finite."""
        super().pack(e, filter_, chunks)
        note_finite(e, self.num, filter_, self.filter_size, chunks, e.temp(1))

    def _finite(self, e: Emitter) -> ll.Value:
        return noted_finite(e, e.temp(1), self.packs)

    def compute(self, e: Emitter, image: ll.Value, finish: Finish) -> None:
        """This chunk's share of the output pixels."""
        c, plan = self.c, self.plan
        blocks = c.images * self.blocks_per_image
        first_block, end_block = range_of_part(e, e.chunk, blocks, plan.parts[0])
        self.first_panel = i64(0)
        finite, lists = self._finite(e), Lists(e, self.unit)
        with e.loop(first_block, end_block, name="block") as index:
            block = self._block(e, image, index)
            number, first, end, source = block.number, block.first, block.end, block.read
            self.given = block.image
            with e.b.if_else(self._list(e, source, lists, first, end, finite)) as (then, otherwise):
                with then:
                    with e.loop(0, plan.panels.parts // self.sparse.together, name="group") as group:
                        self._leave_out(e, source, number, group, first, end, finish)
                with otherwise:
                    for width, panel, channel, last in self._panels(e, i64(0), i64(plan.panels.parts)):
                        self._dense_block(e, block, finish, i64(0), width, panel, channel, last)

    # What tells the zeros of a block

    def _top(self, e: Emitter, row: ll.Value) -> ll.Value:
        taps = self.c.rows.taps
        return e.b.add(e.b.mul(row, i64(taps.stride)), i64(taps.offset))

    def _list(self, e: Emitter, source: ll.Value, lists: Lists, first: ll.Value, end: ll.Value,
              finite: ll.Value) -> ll.Value:
        """List the rows that output rows [first, end) read. Whether few enough elements are not zero, in the row in
        the middle and in all: where they are not, nothing is listed, or all in vain."""
        c, layout = self.c, self.layout
        top = self._top(e, first)
        bottom = e.b.add(self._top(e, e.b.sub(end, i64(1))), i64(c.rows.taps.count))
        low, high = larger(e, top, i64(0)), smaller(e, bottom, i64(c.rows.inputs))
        middle = smaller(e, larger(e, e.b.ashr(e.b.add(low, high), i64(1)), i64(0)), i64(c.rows.inputs - 1))
        sample = self._count(e, e.at(source, e.b.mul(middle, i64(self._line)), F32))
        hopeful = e.b.and_(finite, self._few(e, sample, i64(self._line)))
        stop = e.b.select(hopeful, high, low)
        with e.loop_carried(low, stop, 1, [i64(0)], "row") as (row, now, after):
            line = e.at(source, e.b.mul(row, i64(self._line)), F32)
            with e.loop_carried(0, layout.parts, 1, [now[0]], "part") as (part, inner, following):
                index = e.b.add(e.b.mul(e.b.sub(row, top), i64(layout.parts)), part)
                following[0] = e.b.add(inner[0], self._list_row(e, lists, line, part, index))
            after[0] = following[0]
        rows = larger(e, e.b.sub(high, low), i64(0))
        return e.b.and_(hopeful, self._few(e, after[0], e.b.mul(rows, i64(self._line))))

    def _few(self, e: Emitter, count: ll.Value, of: ll.Value) -> ll.Value:
        """Whether so few elements are not zero that leaving out zeros pays."""
        taps = self.c.rows.taps.count * self.c.columns.taps.count
        share = self.most_nonzero if taps > 1 else self.most_of_one_tap
        most = e.b.fmul(e.b.sitofp(of, F32), const(F32, share))
        return e.b.fcmp_ordered("<=", e.b.sitofp(count, F32), most)

    @property
    def _line(self) -> int:
        """Elements of a row of the image."""
        return self.c.columns.inputs * self.c.pixel

    def _count(self, e: Emitter, line: ll.Value) -> ll.Value:
        """How many elements of a row are not zero; a rest that fills no register is left out."""
        num, integers = self.num, ll.VectorType(I32, self.num.lanes)
        with e.loop_carried(0, self._line - self._line % num.lanes, num.lanes, [const(integers, 0)], "count") as (
                k, now, after):
            value = e.load(e.at(line, k, F32), num.vector, 4)
            after[0] = e.b.add(now[0], e.b.zext(e.b.fcmp_unordered("!=", value, num.zero), integers))
        lanes = [e.b.extract_element(after[0], ll.Constant(I32, lane)) for lane in range(num.lanes)]
        return e.b.zext(reduce(e.b.add, lanes), I64)

    def _list_row(self, e: Emitter, lists: Lists, line: ll.Value, part: ll.Value, index: ll.Value) -> ll.Value:
        """Tell the zeros of a part of all pixels of a row; how many elements are not zero."""
        raise NotImplementedError

    # The sums of a block, for the panels of a group

    def _leave_out(self, e: Emitter, source: ll.Value, number: ll.Value, group: ll.Value, first: ll.Value,
                   end: ll.Value, finish: Finish) -> None:
        """The output rows [first, end) of the panels of a group, without zeros."""
        self._clear(e, first, end)
        self._multiply(e, source, group, first, end)
        self._finish(e, number, group, first, end, finish)

    def _sums(self, e: Emitter, first: ll.Value, row: ll.Value, column: ll.Value, at: int) -> ll.Value:
        pixel = e.b.add(e.b.mul(e.b.sub(row, first), i64(self.c.columns.outputs)), column)
        return e.at(e.at(e.scratch, at, I8), e.b.mul(pixel, i64(self.layout.sums)), F32)

    def _pixel_sums(self, e: Emitter, base: ll.Value) -> list[ll.Value]:
        return self._load(e, base, 1, self.layout.sums // self.num.lanes)[0]

    def _clear(self, e: Emitter, first: ll.Value, end: ll.Value) -> None:
        size = e.b.mul(e.b.sub(end, first), i64(self.c.columns.outputs * self.layout.sums))
        for at in sorted({self.layout.sums_at, self.layout.totals_at}):
            base = e.at(e.scratch, at, I8)
            with e.loop(0, size, self.num.lanes, "clear") as k:
                e.store(self.num.zero, e.at(base, k, F32), self.num.lanes * 4)

    def _multiply(self, e: Emitter, source: ll.Value, group: ll.Value, first: ll.Value, end: ll.Value) -> None:
        """Add all products, in the order of the dense correlation: tap rows, tap columns, channels."""
        c, plan = self.c, self.sparse
        panel = self.panel_address(e, i64(0), e.b.mul(group, i64(plan.together)))
        with e.loop(0, c.rows.taps.count, name="i") as i, e.loop(0, c.columns.taps.count, plan.columns, "j") as j, \
                e.loop(0, self.layout.parts, name="part") as part, e.loop(first, end, name="row") as y:
            low, high = (i64(t) if isinstance(t, int) else t for t in tap_range(e, c.rows, y))
            tap = e.b.mul(e.b.add(e.b.mul(i, i64(c.columns.taps.count)), j), i64(c.depth * self.unit))
            matrix, ends = e.at(panel, tap, I8), self._ends(e, j, part)
            inside = e.loop(larger(e, low, i), smaller(e, high, e.b.add(i, i64(1))), name="inside")
            with inside as tap_row:
                slot = e.b.add(e.b.sub(self._top(e, y), self._top(e, first)), tap_row)
                self._some(e, source, matrix, slot, ends, first, y, (i, j, part))

    def _some(self, e: Emitter, source: ll.Value, matrix: ll.Value, slot: ll.Value, ends: ll.Value, first: ll.Value,
              y: ll.Value, turn: tuple[ll.Value, ll.Value, ll.Value]) -> None:
        """Add the products of a turn (tap row, first tap column, part) to the sums of output row ``y``, from the listed
        row ``slot``."""
        raise NotImplementedError

    def _keep(self, e: Emitter, sums: ll.Value, totals: ll.Value, now: list[ll.Value], ends: ll.Value) -> None:
        """Store a pixel's sums; where a block ends, add them to its totals and begin anew."""
        if not self.ends:
            self._store(e, sums, [now])
            return
        with e.b.if_else(ends) as (then, otherwise):
            with then:
                self._flush(e, totals, [now], (0,))
                self._store(e, sums, [[self.num.zero] * len(now)])
            with otherwise:
                self._store(e, sums, [now])

    def _ends(self, e: Emitter, j: ll.Value, part: ll.Value) -> ll.Value:
        """Whether a block of the sums ends with this turn."""
        c, plan = self.c, self.sparse
        stop = e.b.add(e.b.mul(e.b.add(j, i64(plan.columns - 1)), i64(c.depth)),
                       e.b.mul(e.b.add(part, i64(1)), i64(plan.depth)))
        return reduce(e.b.or_, [e.b.icmp_signed("==", stop, i64(end)) for end in self.ends], const(I1, 0))

    def _finish(self, e: Emitter, number: ll.Value, group: ll.Value, first: ll.Value, end: ll.Value,
                finish: Finish) -> None:
        c, image, channel = self.c, self._into(e, number, group), self._channel(e, group)
        with e.loop(first, end, name="row") as y, e.loop(0, c.columns.outputs, name="x") as x:
            at = e.b.add(e.b.mul(y, i64(c.out_strides[1])), e.b.mul(x, i64(c.out_strides[2])))
            ahead = e.b.add(e.b.add(image, at), i64(_ASKED_PIXELS * c.out_strides[2]))
            ask_early(e, cold(self.streams(e), c.images * c.out_strides[0]), ahead, 1, 0, self.layout.sums)
            tile = [self._pixel_sums(e, self._sums(e, first, y, x, self.layout.totals_at))]
            finish(e, tile, e.b.add(image, at), c.out_strides[2], channel, self.num.lanes)

    def _channel(self, e: Emitter, group: ll.Value) -> ll.Value:
        """The first output channel of a group of panels."""
        return e.b.mul(group, i64(self.layout.sums))

    def _into(self, e: Emitter, number: ll.Value, group: ll.Value) -> ll.Value:
        """The element of the result at which an image's panels of a group begin."""
        image = e.b.add(e.b.mul(number, i64(self.c.out_strides[0])), self._channel(e, group))
        return e.b.add(image, i64(self.c.out_offset))


class ListCorrelator(SparseCorrelator):
    """Tells zeros by lists of what is not zero."""

    layout: _Lists

    def _layout(self, c: Correlation, plan: SparsePlan, num: Numeric) -> _Lists:
        return _Lists(c, plan, num)

    def _lists_at(self, e: Emitter, index: ll.Value) -> tuple[ll.Value, ll.Value, ll.Value]:
        """Addresses of list ``index``: its offsets, its values, and where each column starts."""
        layout = self.layout
        at = e.b.mul(index, i64(layout.list))
        return (e.at(e.scratch, at, I32), e.at(e.at(e.scratch, layout.values_at, I8), at, F32),
                e.at(e.at(e.scratch, layout.starts_at, I8), e.b.mul(index, i64(layout.starts)), I32))

    def _list_row(self, e: Emitter, lists: Lists, line: ll.Value, part: ll.Value, index: ll.Value) -> ll.Value:
        c, depth = self.c, self.sparse.depth
        offsets, values, starts = self._lists_at(e, index)
        channel = e.b.mul(part, i64(depth))
        with e.loop_carried(0, c.columns.inputs, 1, [i64(0)], "column") as (column, now, after):
            e.store(e.b.trunc(now[0], I32), e.at(starts, column, I32), 4)
            element = e.b.add(e.b.mul(column, i64(c.pixel)), channel)
            first = e.b.trunc(e.b.mul(element, i64(self.unit)), I32)
            after[0] = lists.append(e, e.at(line, element, F32), depth, first, offsets, values, now[0])
        e.store(e.b.trunc(after[0], I32), e.at(starts, c.columns.inputs, I32), 4)
        return after[0]

    def _some(self, e: Emitter, source: ll.Value, matrix: ll.Value, slot: ll.Value, ends: ll.Value, first: ll.Value,
              y: ll.Value, turn: tuple[ll.Value, ll.Value, ll.Value]) -> None:
        _, j, part = turn
        index = e.b.add(e.b.mul(slot, i64(self.layout.parts)), part)
        with e.loop(0, self.c.columns.outputs, name="x") as x:
            sums = self._sums(e, first, y, x, self.layout.sums_at)
            now = self._pixel(e, self._pixel_sums(e, sums), matrix, self._lists_at(e, index), x, j)
            self._keep(e, sums, self._sums(e, first, y, x, self.layout.totals_at), now, ends)

    def _pixel(self, e: Emitter, sums: list[ll.Value], matrix: ll.Value, lists: tuple[ll.Value, ll.Value, ll.Value],
               x: ll.Value, j: ll.Value) -> list[ll.Value]:
        """Sums of a pixel with the products of a turn."""
        c, plan, num = self.c, self.sparse, self.num
        offsets, values, starts = lists
        taps, size = c.columns.taps, i64(c.columns.inputs)
        left = e.b.add(e.b.add(e.b.mul(x, i64(taps.stride)), i64(taps.offset)), j)
        column, stop = (smaller(e, larger(e, at, i64(0)), size) for at in (left, e.b.add(left, i64(plan.columns))))
        start, end = (e.b.sext(e.load(e.at(starts, at, I32), I32, 4), I64) for at in (column, stop))
        origin = e.at(matrix, e.b.mul(left, i64(-c.depth * self.unit)), I8)
        with e.loop_carried(start, end, 1, sums, "entry") as (k, now, after):
            at = e.opaque(e.at(origin, e.b.sext(e.load(e.at(offsets, k, I32), I32, 4), I64), I8))
            value = e.splat(e.load(e.at(values, k, F32), F32, 4), num.lanes)
            for v, total in enumerate(now):
                panel, register = divmod(v, self.plan.panels.widest)
                vector = e.load(e.at(at, panel * self.slot + register * num.lanes, F32), num.vector, num.lanes * 4)
                after[v] = num.multiply_add(e, value, vector, total)
        return after
