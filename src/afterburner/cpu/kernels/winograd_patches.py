"""Patches of an image to Winograd's factors, and what the phases of all Winograd kernels share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir as ll

from ..emitter import I1, Emitter, i64
from .gemm import Numeric, larger, load_lanes, smaller
from .prologue import Made, Maker
from .winograd_lines import Matrix, transform

LINE = 16  # floats of a cache line
REGISTERS = 16  # of the processors that have fewest: patches of so many pixels are transformed in registers


def apart(size: int) -> int:
    """At least ``size`` floats, an odd number of cache lines: neighbouring products never share a set of a cache."""
    return (-(-size // LINE) | 1) * LINE


def load(e: Emitter, num: Numeric, base: ll.Value, offset: ll.Value | int) -> ll.Value:
    """An aligned register."""
    return e.load(e.at(base, offset, num.element), num.vector, num.lanes * num.bytes)


def store(e: Emitter, num: Numeric, value: ll.Value, base: ll.Value, offset: ll.Value | int) -> None:
    """Store an aligned register."""
    e.store(value, e.at(base, offset, num.element), num.lanes * num.bytes)


def registers(size: int, lanes: int) -> list[tuple[int, int, int]]:
    """Runs of channels that fill registers alike: (first, end, lanes used)."""
    whole = size // lanes * lanes
    return [run for run in ((0, whole, lanes), (whole, size, size - whole)) if run[0] < run[1]]


def _where(e: Emitter, num: Numeric, bits: ll.Value, value: ll.Value) -> ll.Value:
    """The bits of a register that are set in another one."""
    return e.b.bitcast(e.b.and_(e.b.bitcast(value, bits.type), bits), num.vector)


@contextmanager
def between(e: Emitter, index: ll.Value, low: int, high: int, count: int) -> Iterator[None]:
    """What is emitted inside runs only for ``low <= index < high`` of ``range(count)``."""
    if (low, high) == (0, count):
        yield
        return
    above, below = e.b.icmp_signed(">=", index, i64(low)), e.b.icmp_signed("<", index, i64(high))
    with e.b.if_then(e.b.and_(above, below)):
        yield


@dataclass(frozen=True)
class Grid:
    """The tiles of a batch of images, counted image by image, row by row."""

    images: int
    down: int
    across: int

    @property
    def tiles(self) -> int:
        return self.images * self.down * self.across

    def position(self, e: Emitter, tile: ll.Value) -> tuple[ll.Value, ll.Value, ll.Value]:
        """(image, row, column) of a tile, the latter two counted in tiles."""
        line, across = e.b.udiv(tile, i64(self.across)), e.b.urem(tile, i64(self.across))
        return e.b.udiv(line, i64(self.down)), e.b.urem(line, i64(self.down)), across


@dataclass(frozen=True)
class Patches:
    """Patches of a tensor, one a tile, and where their factors go.

    Attributes:
        grid: the tiles.
        rows, columns, channels: of an image of the tensor.
        offset: pixels from a tile's corner to its patch's.
        pitch: pixels between tiles.
        stride: pixels between those of a patch.
        matrix: what makes factors of a line of a patch; pixels outside of the image count as zeros.
        plane: elements between the factors of neighbouring products.
        block: (channels, elements) from one block of channels to the next; inside of one, channels are adjacent.
        spare: element of scratch where a register for each product may be kept.
        maker: given a place to emit, a channel and lanes, what makes a register of pixels there of what is read; small
            patches only.
    """

    grid: Grid
    rows: int
    columns: int
    channels: int
    offset: tuple[int, int]
    pitch: int
    stride: int
    matrix: Matrix
    plane: int
    block: tuple[int, int] | None
    spare: int
    maker: Maker | None = None

    @property
    def side(self) -> int:
        """Pixels along a side of a patch."""
        return len(self.matrix[0])

    @property
    def points(self) -> int:
        """Factors of a line."""
        return len(self.matrix)

    def factors(self, e: Emitter, num: Numeric, source: ll.Value, tile: ll.Value, target: ll.Value,
                first: ll.Value | None = None, end: ll.Value | None = None) -> None:
        """Write the factors of a tile's channels [first, end), all by default, from ``target`` on; ``first`` is a
        multiple of the lanes."""
        number, down, across = self.grid.position(e, tile)
        top = e.b.add(e.b.mul(down, i64(self.pitch)), i64(self.offset[0]))
        left = e.b.add(e.b.mul(across, i64(self.pitch)), i64(self.offset[1]))
        if self.side**2 <= REGISTERS and self.stride == 1:
            self._at_once(e, num, source, number, (top, left), target, first, end)
            return
        line = e.b.add(e.b.mul(number, i64(self.rows)), top)
        pixel = e.b.add(e.b.mul(line, i64(self.columns)), left)
        given = e.at(source, e.b.mul(pixel, i64(self.channels)), num.element)
        inside = smaller(e, i64(self.side), self._lines_to(e, e.b.sub(i64(0), top)))
        outside = larger(e, inside, smaller(e, i64(self.side), self._lines_to(e, e.b.sub(i64(self.rows), top))))
        for channel, lanes, into in self._channels(e, num, target, first, end):
            self._rows(e, num, e.at(given, channel, num.element), across, inside, outside, lanes)
            self._columns(e, num, into)

    def _channels(self, e: Emitter, num: Numeric, target: ll.Value, first: ll.Value | None,
                  end: ll.Value | None) -> Iterator[tuple[ll.Value, int, ll.Value]]:
        """(channel, lanes, where its factors go) of each register of channels [first, end); what is emitted between
        runs for each."""
        for low, high, lanes in registers(self.channels, num.lanes):
            start = i64(low) if first is None else larger(e, i64(low), first)
            stop = i64(high) if end is None else smaller(e, i64(high), end)
            with e.loop(start, stop, num.lanes, "channel") as channel:
                at = channel if first is None else e.b.sub(channel, first)
                yield channel, lanes, e.at(target, self._place(e, at), num.element)

    def _at_once(self, e: Emitter, num: Numeric, source: ll.Value, number: ll.Value, corner: tuple[ll.Value, ll.Value],
                 target: ll.Value, first: ll.Value | None, end: ll.Value | None) -> None:
        """The factors of a patch that fits in registers: where it crosses the border of the image, what lies outside is
        read from inside and masked."""
        base = e.at(source, e.b.mul(number, i64(self.rows * self.columns * self.channels)), num.element)
        sizes = (self.rows, self.columns)
        inside = [e.b.icmp_unsigned("<=", at, i64(size - self.side)) if size >= self.side else ll.Constant(I1, 0)
                  for at, size in zip(corner, sizes, strict=True)]
        with e.b.if_else(e.b.and_(*inside)) as (whole, cut):
            with whole:
                pixel = e.b.add(e.b.mul(corner[0], i64(self.columns)), corner[1])
                given = e.at(base, e.b.mul(pixel, i64(self.channels)), num.element)
                places = [[i64((r * self.columns + c) * self.channels) for c in range(self.side)]
                          for r in range(self.side)]
                for channel, lanes, into in self._channels(e, num, target, first, end):
                    at, make = e.at(given, channel, num.element), self._make(e, num, channel, lanes)
                    self._transform(e, num, [[make(load_lanes(e, e.at(at, place, num.element), num, lanes))
                                              for place in row] for row in places], into)
            with cut:
                rows, columns = ([self._clamped(e, num, e.b.add(at, i64(k)), size) for k in range(self.side)]
                                 for at, size in zip(corner, sizes, strict=True))
                given_rows = [e.at(base, e.b.mul(at, i64(self.columns * self.channels)), num.element) for at, _ in rows]
                offsets = [e.b.mul(at, i64(self.channels)) for at, _ in columns]
                for channel, lanes, into in self._channels(e, num, target, first, end):
                    patch, make = [], self._make(e, num, channel, lanes)
                    for line, (_, row) in zip(given_rows, rows, strict=True):
                        at = e.at(line, channel, num.element)
                        loaded = [make(load_lanes(e, e.at(at, offset, num.element), num, lanes)) for offset in offsets]
                        patch.append([_where(e, num, e.b.and_(row, column), value)
                                      for value, (_, column) in zip(loaded, columns, strict=True)])
                    self._transform(e, num, patch, into)

    def _make(self, e: Emitter, num: Numeric, channel: ll.Value, lanes: int) -> Made:
        return (lambda value: value) if self.maker is None else self.maker(e, num, channel, lanes)

    def _clamped(self, e: Emitter, num: Numeric, at: ll.Value, size: int) -> tuple[ll.Value, ll.Value]:
        """The nearest line inside of ``range(size)``, and all bits of a register set where that is ``at`` itself."""
        inside = e.b.sext(e.b.icmp_unsigned("<", at, i64(size)), ll.IntType(8 * num.bytes))
        return larger(e, i64(0), smaller(e, at, i64(size - 1))), e.splat(inside, num.lanes)

    def _transform(self, e: Emitter, num: Numeric, patch: list[list[ll.Value]], target: ll.Value) -> None:
        lines = [transform(e, num, self.matrix, line) for line in patch]
        for j in range(self.points):
            for i, value in enumerate(transform(e, num, self.matrix, [line[j] for line in lines])):
                store(e, num, value, target, (i * self.points + j) * self.plane)

    def _lines_to(self, e: Emitter, pixels: ll.Value) -> ll.Value:
        """Lines of a patch in so many rows of pixels."""
        return e.b.udiv(e.b.add(larger(e, i64(0), pixels), i64(self.stride - 1)), i64(self.stride))

    def _place(self, e: Emitter, channel: ll.Value) -> ll.Value:
        if self.block is None:
            return channel
        size, distance = self.block
        return e.b.add(e.b.mul(e.b.udiv(channel, i64(size)), i64(distance)), e.b.urem(channel, i64(size)))

    def _rows(self, e: Emitter, num: Numeric, source: ll.Value, across: ll.Value, inside: ll.Value,
              outside: ll.Value, lanes: int) -> None:
        """Transform the rows of a patch into the spare registers; rows outside of the image are zeros."""
        spare, row = e.at(e.scratch, self.spare, num.element), self.points * num.lanes
        for low, high in ((i64(0), inside), (outside, i64(self.side))):
            with e.loop(low, high, name="outside") as r:
                line = e.at(spare, e.b.mul(r, i64(row)), num.element)
                for j in range(self.points):
                    store(e, num, num.zero, line, j * num.lanes)
        for kept in self._kinds(e, across):
            with e.loop(inside, outside, name="inside") as r:
                down = e.b.mul(r, i64(self.stride * self.columns * self.channels))
                given = e.at(source, down, num.element)
                pixels = [load_lanes(e, e.at(given, j * self.stride * self.channels, num.element), num, lanes)
                          if j in kept else num.zero for j in range(self.side)]
                line = e.at(spare, e.b.mul(r, i64(row)), num.element)
                for j, value in enumerate(transform(e, num, self.matrix, pixels)):
                    store(e, num, value, line, j * num.lanes)

    def _columns(self, e: Emitter, num: Numeric, target: ll.Value) -> None:
        spare, points = e.at(e.scratch, self.spare, num.element), self.points
        for j in range(points):
            column = [load(e, num, spare, (i * points + j) * num.lanes) for i in range(self.side)]
            for i, value in enumerate(transform(e, num, self.matrix, column)):
                store(e, num, value, target, (i * points + j) * self.plane)

    def _kinds(self, e: Emitter, across: ll.Value) -> Iterator[tuple[int, ...]]:
        """The columns of a patch that lie inside of the image; what is emitted between runs for such tiles only."""
        runs: list[tuple[tuple[int, ...], int, int]] = []
        for tile in range(self.grid.across):
            start = tile * self.pitch + self.offset[1]
            kept = tuple(j for j in range(self.side) if 0 <= start + j * self.stride < self.columns)
            first = runs.pop()[1] if runs and runs[-1][0] == kept else tile
            runs.append((kept, first, tile + 1))
        for kept, low, high in runs:
            with between(e, across, low, high, self.grid.across):
                yield kept
