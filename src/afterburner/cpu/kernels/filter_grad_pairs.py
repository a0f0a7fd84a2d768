"""Gradient of a convolution's filter by products of bfloat16 pairs: two neighbouring output pixels a step.

Both operands are rounded and paired as they are copied. Of dy, pixels 2k and 2k + 1 of a row lie side by side, an odd
last one beside zero. Taps begin at even and at odd columns of x, so every column there is paired with the one that
lies a stride behind it; only of those that single taps meet, each is copied once.
"""

from __future__ import annotations

from collections.abc import Iterator

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from .filter_grad_tiles import FilterGradient
from .gemm import store_lanes
from .pairs import Pairs, join, join_stored, pack_pairs
from .prologue import Rows

_BLOCK = 4  # steps whose channels are copied together


class PairedFilterGradient(FilterGradient):
    """Emits the main phase of a plan of two pixels a step."""

    num: Pairs

    def _pack_output(self, e: Emitter, source: ll.Value, packed: ll.Value, width: int, last: int) -> None:
        f, row = self.f, width * self.num.lanes
        if f.flat or f.dy[2] % 2 == 0:
            pack_pairs(e, self.num, source, f.dy[3], self.pixels, packed, width, last, self.stored)
            return
        with e.loop(0, e.b.udiv(self.pixels, i64(f.dy[2])), name="line") as line:
            given = e.at(source, e.b.mul(line, i64(f.dy[2] * f.dy[3])), self.stored)
            into = e.at(packed, e.b.mul(line, i64(f.row_steps * row)), self.num.element)
            pack_pairs(e, self.num, given, f.dy[3], i64(f.dy[2]), into, width, last, self.stored)

    def _pack_input(self, e: Emitter, image: ll.Value, group: ll.Value,
                    tiles: tuple[ll.Value, ll.Value] | None) -> None:
        f, (_, height, width, _) = self.f, self.f.x
        if f.flat:
            assert tiles is not None
            pixel = e.b.mul(e.b.add(e.b.mul(image, i64(height)), self.first_row), i64(width))
            source, whole = self._at_input(e, pixel, group, i64(0)), e.b.udiv(self.pixels, i64(2))
            self._copy_steps(e, source, (0, 1), 2, (i64(0), whole), i64(0), tiles)
            end = e.b.udiv(e.b.add(self.pixels, i64(1)), i64(2))
            self._copy_steps(e, source, (0, None), 2, (whole, end), i64(0), tiles)
            return
        with e.loop(0, self.images, name="image") as i, e.loop(self.top, self.bottom, name="line") as y:
            at = e.b.add(e.b.mul(i, i64(f.input_rows)), e.b.sub(y, self.top))
            row = e.b.add(e.b.mul(e.b.add(image, i), i64(height)),
                          e.b.mul(y, i64(f.op.strides[0] if f.sparse else 1)))
            source = self._at_input(e, e.b.mul(row, i64(width)), group, i64(0))
            line = e.b.mul(at, i64(f.input_columns))
            for first, end, pair, each in self._spans():
                if tiles is None:
                    self._copy_elements(e, source, pair, (first, end), line)
                else:
                    self._copy_steps(e, source, pair, each, (i64(first), i64(end)), line, tiles)

    def _spans(self) -> Iterator[tuple[int, int, tuple[int | None, int | None], int]]:
        """Columns of a copied row that are made alike: (first, end, pixels of x that column 0 would pair, None where
        that is zero, pixels from a column to the next)."""
        f, stride = self.f, self.f.op.strides[1]
        if f.sparse:
            each, whole = 2 * stride, f.dy[2] // 2
            yield 0, whole, (0, stride), each
            if whole < f.row_steps:
                yield whole, f.row_steps, (0, None), each
            return
        left, width = f.op.padding[1][0], f.x[2]
        ends = {0, left - stride, left, left + width - stride, left + width, f.input_columns}
        inside = sorted(end for end in ends if 0 <= end <= f.input_columns)
        for first, end in zip(inside, inside[1:], strict=False):
            low, high = first - left, first - left + stride
            yield first, end, (-left if 0 <= low < width else None, stride - left if 0 <= high < width else None), 1

    def _copy_steps(self, e: Emitter, source: ll.Value, pair: tuple[int | None, int | None], each: int,
                    steps: tuple[ll.Value, ll.Value], line: ll.Value, tiles: tuple[ll.Value, ll.Value]) -> None:
        """Copy the pairs of some steps to each tile's, some at a time; the last ones not beyond their end."""
        blocks = e.b.sdiv(e.b.sub(e.b.sub(steps[1], steps[0]), i64(1)), i64(_BLOCK))
        middle = e.b.add(steps[0], e.b.mul(blocks, i64(_BLOCK)))
        for low, high, at_once in ((steps[0], middle, _BLOCK), (middle, steps[1], 1)):
            with e.loop(low, high, at_once, name="step") as step:
                begin = e.at(source, e.b.mul(step, i64(each * self.pitch)), self.stored)
                for size, target, channel in self._inputs(e, e.b.add(line, step), tiles):
                    first = e.b.add(self.first_channel, channel)
                    rows = None if self.prologue is None else self.prologue.rows(e, self.num, first, size)
                    given = e.at(begin, channel, self.stored)
                    for p in range(at_once):
                        into = e.at(target, p * size, self.num.element)
                        ends = [None if pixel is None else e.at(given, (pixel + p * each) * self.pitch, self.stored)
                                for pixel in pair]
                        self._copy_pair(e, ends, into, self._copied(size) if at_once > 1 else size, rows)

    def _copy_pair(self, e: Emitter, ends: list[ll.Value | None], into: ll.Value, copied: int,
                   rows: Rows | None) -> None:
        """The pairs of so many channels of two pixels."""
        num = self.num
        for at in range(0, copied, num.lanes):
            lanes = min(num.lanes, copied - at)
            if rows is None:
                low, high = (None if end is None else e.at(end, at, self.stored) for end in ends)
                value = join_stored(e, num, low, high, lanes, self.stored)
            else:
                made = [num.zero if end is None else rows.made(e, num, end, at, lanes, self.stored) for end in ends]
                value = join(e, num, made[0], made[1])
            store_lanes(e, value, e.at(into, at, num.element), num, lanes)

    def _copy_elements(self, e: Emitter, source: ll.Value, pair: tuple[int | None, int | None],
                       columns: tuple[int, int], line: ll.Value) -> None:
        """Copy the pairs of all channels of some columns, which lie in a row."""
        num, channels = self.num, self.f.x[3]
        first, count = columns[0] * channels, (columns[1] - columns[0]) * channels
        target = e.at(self._input(e), e.b.mul(line, i64(channels)), num.element)
        given = [None if pixel is None else e.at(source, pixel * channels, self.stored) for pixel in pair]

        def copy(at: ll.Value | int, lanes: int) -> None:
            low, high = (None if end is None else e.at(end, at, self.stored) for end in given)
            value = join_stored(e, num, low, high, lanes, self.stored)
            store_lanes(e, value, e.at(target, at, num.element), num, lanes)

        whole = count // num.lanes * num.lanes
        with e.loop(first, first + whole, num.lanes, "elements") as at:
            copy(at, num.lanes)
        if whole < count:
            copy(first + whole, count - whole)
