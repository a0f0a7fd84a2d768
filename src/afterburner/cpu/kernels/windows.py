"""Windows over the two spatial axes of NHWC tensors: which cover what, and loops over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir as ll

from ...ir import DType, Node, Shape
from ...ir.ops.conv import Pads
from ...ir.ops.pool import AvgPool, AvgPoolGrad, MaxPool, MaxPoolGrad, MaxPoolScatter, MaxPoolTaps
from .. import halves
from ..emitter import Emitter, i64
from ..isa import Isa

PoolOp = MaxPool | AvgPool | MaxPoolGrad | AvgPoolGrad | MaxPoolTaps | MaxPoolScatter
Bounds = tuple[ll.Value | int, ll.Value | int]  # first and end (exclusive)
_CHUNK_TAPS = 1 << 15  # elements looked at by a chunk: about 20 us of one core
_MAX_CHUNKS = 64
_UNROLLED_TAPS = 16


@dataclass(frozen=True)
class Axis:
    """One spatial axis.

    Attributes:
        size: elements of the input.
        count: window positions.
        window: elements of a window.
        stride: from one window to the next.
        before: padding before the first element.
    """

    size: int
    count: int
    window: int
    stride: int
    before: int

    @property
    def inside(self) -> tuple[int, int]:
        """The positions whose window lies within the input: first and end."""
        first = min(-(-self.before // self.stride), self.count)
        end = (self.size + self.before - self.window) // self.stride + 1
        return first, max(first, min(end, self.count))

    @property
    def padded(self) -> bool:
        """Whether any window reaches into the padding."""
        return self.inside != (0, self.count)

    @property
    def tiles(self) -> bool:
        """Windows do not overlap."""
        return self.stride >= self.window

    @property
    def covers(self) -> bool:
        """Every input element lies in a window."""
        reach = (self.count - 1) * self.stride + self.window - self.before
        return self.stride <= self.window and reach >= self.size

    def clipped(self, e: Emitter, position: ll.Value) -> tuple[ll.Value, ll.Value]:
        """The taps of a window that lie in the input: first and end."""
        first = e.b.sub(e.b.mul(position, i64(self.stride)), i64(self.before))
        low = e.larger(e.b.sub(i64(0), first), i64(0))
        return low, e.larger(e.smaller(e.b.sub(i64(self.size), first), i64(self.window)), low)

    def positions(self, e: Emitter, element: ll.Value) -> tuple[ll.Value, ll.Value]:
        """The windows that hold an input element."""
        last = e.b.sdiv(e.b.add(element, i64(self.before)), i64(self.stride))
        past = e.b.add(element, i64(self.before - self.window + self.stride))
        first = e.b.sdiv(e.larger(past, i64(0)), i64(self.stride))
        return first, e.smaller(e.b.add(last, i64(1)), i64(self.count))

    def regular(self) -> tuple[int, int]:
        """The range of q such that all elements q*stride + r - before, 0 <= r < stride, exist and
        all windows q - j that could hold them exist."""
        reach = (self.window - 1) // self.stride
        first = max(reach, -(-self.before // self.stride))
        end = min(self.count, (self.size + self.before) // self.stride)
        return first, max(first, end)


@dataclass(frozen=True)
class Geometry:
    """A pooling of [images, rows.size, columns.size, channels]."""

    images: int
    rows: Axis
    columns: Axis
    channels: int
    dtype: DType

    @property
    def taps(self) -> int:
        return self.rows.window * self.columns.window

    def all_taps(self, axis: Axis) -> Bounds:
        """The taps of an axis: to be unrolled where windows are small, else a loop."""
        return (0, axis.window) if self.taps <= _UNROLLED_TAPS else (i64(0), i64(axis.window))

    def row_taps(self, e: Emitter, row: ll.Value) -> Bounds:
        """The taps along rows of the windows in line ``row`` of the result."""
        return self.rows.clipped(e, row) if self.rows.padded else self.all_taps(self.rows)

    def tap_offset(self, e: Emitter, row: ll.Value | int, column: ll.Value | int) -> ll.Value:
        """Elements from a window's first tap to another."""
        line = scaled(e, row, self.columns.size * self.channels)
        return e.b.add(line, scaled(e, column, self.channels))

    def width(self, isa: Isa) -> int:
        """Channels computed at once."""
        lanes = isa.lanes(8 if self.dtype.bytes == 8 else 4)
        return min(lanes, 1 << max(self.channels.bit_length() - 1, 0))

    def x_offset(self, e: Emitter, image: ll.Value, row: ll.Value, column: ll.Value) -> ll.Value:
        """Elements before x[image, row, column, 0]; row and column may lie in the padding."""
        return self._offset(e, image, row, column, self.rows.size, self.columns.size)

    def y_offset(self, e: Emitter, image: ll.Value, row: ll.Value, column: ll.Value) -> ll.Value:
        """Elements before y[image, row, column, 0]."""
        return self._offset(e, image, row, column, self.rows.count, self.columns.count)

    def _offset(self, e: Emitter, image: ll.Value, row: ll.Value, column: ll.Value, rows: int, columns: int,
                ) -> ll.Value:
        line = e.b.add(e.b.mul(image, i64(rows)), row)
        return e.b.mul(e.b.add(e.b.mul(line, i64(columns)), column), i64(self.channels))


def geometry(x: Shape, dtype: DType, window: tuple[int, int], strides: tuple[int, int], pads: Pads,
             counts: tuple[int, int]) -> Geometry:
    """The geometry of pooling an input of shape ``x`` into ``counts`` positions."""
    rows, columns = (Axis(x[1 + i], counts[i], window[i], strides[i], pads[i][0]) for i in (0, 1))
    return Geometry(x[0], rows, columns, x[3], dtype)


def pooling_of(node: Node, x: Shape) -> tuple[PoolOp, Geometry]:
    """The operation of a pooling node and its geometry, for an input of shape ``x``."""
    op = node.op
    assert isinstance(op, PoolOp)
    counts = op.output_shape(x)[1:3]
    dtype = node.results[0].type.dtype
    return op, geometry(x, dtype, op.window, op.strides, op.padding, (counts[0], counts[1]))


def vector(e: Emitter, g: Geometry) -> ll.Type:
    """A block of channels in the compute type."""
    return e.vector(halves.compute_type(g.dtype), g.width(e.isa))


def origin(e: Emitter, g: Geometry, image: ll.Value, row: ll.Value, column: ll.Value) -> ll.Value:
    """Offset of a window's first tap, which may lie in the padding."""
    first = [e.b.sub(e.b.mul(at, i64(axis.stride)), i64(axis.before))
             for at, axis in ((row, g.rows), (column, g.columns))]
    return g.x_offset(e, image, first[0], first[1])


def chunks_of(lines: int, taps: int) -> int:
    """Number of chunks for ``lines`` pieces of work that look at ``taps`` elements in all."""
    return max(1, min(lines, taps // _CHUNK_TAPS, _MAX_CHUNKS))


def scaled(e: Emitter, value: ll.Value | int, factor: int) -> ll.Value:
    """``value * factor`` as an i64."""
    return i64(value * factor) if isinstance(value, int) else e.b.mul(value, i64(factor))


@contextmanager
def lines(e: Emitter, images: int, rows: int, chunks: int) -> Iterator[tuple[ll.Value, ll.Value]]:
    """A loop over this chunk's share of (image, row)."""
    start, stop = e.range_of_chunk(images * rows, chunks)
    with e.loop(start, stop, name="line") as line:
        image = e.b.sdiv(line, i64(rows))
        yield image, e.b.sub(line, e.b.mul(image, i64(rows)))


@contextmanager
def channel_blocks(e: Emitter, g: Geometry) -> Iterator[ll.Value]:
    """A loop over first channels of blocks of ``g.width``; the last block overlaps the one before it
    where the width does not divide the channels, which is right as long as results are only written."""
    width = g.width(e.isa)
    if g.channels % width == 0:
        with e.loop(0, g.channels, width, name="channel") as channel:
            yield channel
        return
    with e.loop(0, g.channels, width, name="channel") as channel:
        yield e.smaller(channel, i64(g.channels - width))


@contextmanager
def border(e: Emitter, size: int, inside: tuple[int, int]) -> Iterator[ll.Value]:
    """A loop over ``range(size)`` without ``range(*inside)``."""
    first, end = inside
    with e.loop(0, size - (end - first), name="border") as i:
        yield e.b.add(i, e.b.select(e.b.icmp_signed("<", i, i64(first)), i64(0), i64(end - first)))


def over_windows(e: Emitter, g: Geometry, position: Callable[[ll.Value, Bounds], None]) -> None:
    """Code for all window columns of a line: ``position(column, column taps)``, once for the windows
    inside the input, with every tap known, and once for those that padding clips."""
    inside = g.columns.inside
    if inside[0] < inside[1]:
        with e.loop(*inside, name="column") as column:
            position(column, g.all_taps(g.columns))
    if g.columns.padded:
        with border(e, g.columns.count, inside) as column:
            position(column, g.columns.clipped(e, column))


Body = Callable[[ll.Value | int, ll.Value | int, list[ll.Value]], list[ll.Value]]


def over_taps(
    e: Emitter, rows: Bounds, columns: Bounds, initial: list[ll.Value], body: Body,
) -> list[ll.Value]:
    """Values carried over the taps (row, column) in row-major order; a range whose bounds are
    Python integers is unrolled."""
    def line(row: ll.Value | int, values: list[ll.Value]) -> list[ll.Value]:
        return over(e, columns, values, lambda column, now: body(row, column, now))

    return over(e, rows, initial, line)


def over(e: Emitter, bounds: Bounds, values: list[ll.Value],
          body: Callable[[ll.Value | int, list[ll.Value]], list[ll.Value]]) -> list[ll.Value]:
    """Values carried over a range; unrolled where its bounds are Python integers."""
    first, end = bounds
    if isinstance(first, int) and isinstance(end, int):
        for i in range(first, end):
            values = body(i, values)
        return values
    with e.loop_carried(first, end, 1, values, "tap") as (index, current, following):
        following[:] = body(index, current)
    return following


def load_at(e: Emitter, base: ll.Value, offset: ll.Value, g: Geometry) -> ll.Value:
    """A block of channels at an element offset, in the compute type."""
    return halves.load(e, e.at(base, offset, halves.stored_type(g.dtype)), g.dtype, g.width(e.isa))


def store_at(e: Emitter, value: ll.Value, base: ll.Value, offset: ll.Value, g: Geometry) -> None:
    """Write a block of channels at an element offset."""
    halves.store(e, value, e.at(base, offset, halves.stored_type(g.dtype)), g.dtype)
