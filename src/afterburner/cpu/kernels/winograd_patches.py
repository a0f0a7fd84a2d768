"""Patches of an image to Winograd's factors, and what the phases of all Winograd kernels share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from typing import TypeVar

from llvmlite import ir as ll

from ..emitter import BF16, I1, Emitter, i64
from .gemm import Numeric, larger, load_lanes, smaller
from .pairs import Pairs, join, round_register
from .prologue import Made, Maker
from .winograd_lines import Matrix, transform

# A patch: its image, the pixel at its corner, and whether it is there where that is in question; what reads its
# registers of a channel and lanes, made of what is given.
Placed = tuple[ll.Value, tuple[ll.Value, ll.Value], ll.Value | None]
Reader = Callable[[ll.Value, int, Made], list[list[ll.Value]]]

Part = TypeVar("Part")

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


def of_parts(e: Emitter, parts: Sequence[Part], chunks: Sequence[int]) -> Iterator[tuple[Part, ll.Value]]:
    """Parts of a phase that have so many chunks each, and this chunk's number in its part; what is emitted between runs
    for the chunks of that part."""
    first = 0
    for part, count in zip(parts, chunks, strict=True):
        with between(e, e.chunk, first, first + count, sum(chunks)):
            yield part, e.b.sub(e.chunk, i64(first)) if first else e.chunk
        first += count


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
        pairs: factors are rounded to bfloat16, those of adjacent channels or of two tiles side by side; small patches
            only.
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
    pairs: Pairs | None = None

    @property
    def side(self) -> int:
        """Pixels along a side of a patch."""
        return len(self.matrix[0])

    @property
    def span(self) -> int:
        """Pixels of the image from one side of a patch to the other."""
        return (self.side - 1) * self.stride + 1

    @property
    def points(self) -> int:
        """Factors of a line."""
        return len(self.matrix)

    def factors(self, e: Emitter, num: Numeric, source: ll.Value, tile: ll.Value, target: ll.Value,
                first: ll.Value | None = None, end: ll.Value | None = None,
                shift: tuple[ll.Value, ll.Value] | None = None) -> None:
        """Write the factors of a tile's channels [first, end), all by default, from ``target`` on; ``first`` is a
        multiple of the lanes. ``shift``: pixels by which the patch lies further on; small patches only."""
        number, across, (top, left) = self._corner(e, tile)
        if shift is not None:
            top, left = e.b.add(top, shift[0]), e.b.add(left, shift[1])
        if self.side**2 <= REGISTERS:
            self._at_once(e, num, source, [(number, (top, left), None)], target, first, end)
            return
        line = e.b.add(e.b.mul(number, i64(self.rows)), top)
        pixel = e.b.add(e.b.mul(line, i64(self.columns)), left)
        given = e.at(source, e.b.mul(pixel, i64(self.channels)), num.element)
        inside = smaller(e, i64(self.side), self._lines_to(e, e.b.sub(i64(0), top)))
        outside = larger(e, inside, smaller(e, i64(self.side), self._lines_to(e, e.b.sub(i64(self.rows), top))))
        for channel, lanes, into in self._channels(e, num, target, first, end):
            self._rows(e, num, e.at(given, channel, num.element), across, inside, outside, lanes)
            self._columns(e, num, into)

    def factors_of_two(self, e: Emitter, num: Numeric, source: ll.Value, tile: ll.Value, target: ll.Value,
                       first: ll.Value | None = None, end: ll.Value | None = None) -> None:
        """As ``factors``, of a tile and the next, as pairs of the two; beyond the last tile there are zeros."""
        following = e.b.add(tile, i64(1))
        there = e.b.icmp_signed("<", following, i64(self.grid.tiles))
        tiles = []
        for number, valid in ((tile, None), (e.b.select(there, following, tile), there)):
            image, _, corner = self._corner(e, number)
            tiles.append((image, corner, valid))
        self._at_once(e, num, source, tiles, target, first, end)

    def _corner(self, e: Emitter, tile: ll.Value) -> tuple[ll.Value, ll.Value, tuple[ll.Value, ll.Value]]:
        """A tile's image, its column in tiles, and the pixel at the corner of its patch."""
        number, down, across = self.grid.position(e, tile)
        top = e.b.add(e.b.mul(down, i64(self.pitch)), i64(self.offset[0]))
        left = e.b.add(e.b.mul(across, i64(self.pitch)), i64(self.offset[1]))
        return number, across, (top, left)

    def _channels(self, e: Emitter, num: Numeric, target: ll.Value, first: ll.Value | None, end: ll.Value | None,
                  adjacent: bool = False) -> Iterator[tuple[ll.Value, int, ll.Value]]:
        """(channel, lanes, where its factors go) of each register of channels [first, end); what is emitted between
        runs for each. ``adjacent``: factors of two channels take the place of one."""
        element = BF16 if adjacent else num.element
        for low, high, lanes in registers(self.channels, num.lanes):
            start = i64(low) if first is None else larger(e, i64(low), first)
            stop = i64(high) if end is None else smaller(e, i64(high), end)
            with e.loop(start, stop, num.lanes, "channel") as channel:
                at = channel if first is None else e.b.sub(channel, first)
                yield channel, lanes, e.at(target, self._place(e, at), element)

    def _at_once(self, e: Emitter, num: Numeric, source: ll.Value, tiles: Sequence[Placed], target: ll.Value,
                 first: ll.Value | None, end: ll.Value | None) -> None:
        """The factors of patches that fit in registers, of one or of two as pairs: where one crosses the border of the
        image, what lies outside is read from inside and masked."""
        with e.b.if_else(e.b.and_(*self._inside(e, tiles))) as branches:
            for reader, branch in zip((self._whole_patch, self._cut_patch), branches, strict=True):
                with branch:
                    patches = [reader(e, num, source, tile) for tile in tiles]
                    adjacent = self.pairs is not None and len(tiles) == 1
                    for channel, lanes, into in self._channels(e, num, target, first, end, adjacent):
                        make = self._make(e, num, channel, lanes)
                        self._transform(e, num, [patch(channel, lanes, make) for patch in patches], into)

    def _inside(self, e: Emitter, tiles: Sequence[Placed]) -> tuple[ll.Value, ll.Value]:
        """Two i1 that are both set where all patches lie inside of the image."""
        found: list[ll.Value] = []
        for _, corner, valid in tiles:
            found += [e.b.icmp_unsigned("<=", at, i64(size - self.span)) if size >= self.span else ll.Constant(I1, 0)
                      for at, size in zip(corner, (self.rows, self.columns), strict=True)]
            found += [] if valid is None else [valid]
        return reduce(e.b.and_, found[:-1]), found[-1]

    def _image(self, e: Emitter, num: Numeric, source: ll.Value, number: ll.Value) -> ll.Value:
        return e.at(source, e.b.mul(number, i64(self.rows * self.columns * self.channels)), num.element)

    def _whole_patch(self, e: Emitter, num: Numeric, source: ll.Value, tile: Placed) -> Reader:
        """What reads a patch that lies inside of the image."""
        number, corner, _ = tile
        pixel = e.b.add(e.b.mul(corner[0], i64(self.columns)), corner[1])
        given = e.at(self._image(e, num, source, number), e.b.mul(pixel, i64(self.channels)), num.element)
        steps = range(0, self.span, self.stride)
        places = [[i64((r * self.columns + c) * self.channels) for c in steps] for r in steps]

        def read(channel: ll.Value, lanes: int, make: Made) -> list[list[ll.Value]]:
            at = e.at(given, channel, num.element)
            return [[make(load_lanes(e, e.at(at, place, num.element), num, lanes)) for place in row] for row in places]

        return read

    def _cut_patch(self, e: Emitter, num: Numeric, source: ll.Value, tile: Placed) -> Reader:
        """What reads a patch that may cross the border."""
        number, corner, valid = tile
        base, sizes = self._image(e, num, source, number), (self.rows, self.columns)
        rows, columns = ([self._clamped(e, num, e.b.add(at, i64(k)), size) for k in range(0, self.span, self.stride)]
                         for at, size in zip(corner, sizes, strict=True))
        if valid is not None:
            all_ = e.splat(e.b.sext(valid, ll.IntType(8 * num.bytes)), num.lanes)
            rows = [(at, e.b.and_(bits, all_)) for at, bits in rows]
        lines = [e.at(base, e.b.mul(at, i64(self.columns * self.channels)), num.element) for at, _ in rows]
        offsets = [e.b.mul(at, i64(self.channels)) for at, _ in columns]

        def read(channel: ll.Value, lanes: int, make: Made) -> list[list[ll.Value]]:
            patch = []
            for line, (_, row) in zip(lines, rows, strict=True):
                at = e.at(line, channel, num.element)
                loaded = [make(load_lanes(e, e.at(at, offset, num.element), num, lanes)) for offset in offsets]
                patch.append([_where(e, num, e.b.and_(row, column), value)
                              for value, (_, column) in zip(loaded, columns, strict=True)])
            return patch

        return read

    def _make(self, e: Emitter, num: Numeric, channel: ll.Value, lanes: int) -> Made:
        return (lambda value: value) if self.maker is None else self.maker(e, num, channel, lanes)

    def _clamped(self, e: Emitter, num: Numeric, at: ll.Value, size: int) -> tuple[ll.Value, ll.Value]:
        """The nearest line inside of ``range(size)``, and all bits of a register set where that is ``at`` itself."""
        inside = e.b.sext(e.b.icmp_unsigned("<", at, i64(size)), ll.IntType(8 * num.bytes))
        return larger(e, i64(0), smaller(e, at, i64(size - 1))), e.splat(inside, num.lanes)

    def _transform(self, e: Emitter, num: Numeric, patches: Sequence[list[list[ll.Value]]], target: ll.Value) -> None:
        """Write the factors of a patch, or of two as pairs."""
        lines = [[transform(e, num, self.matrix, line) for line in patch] for patch in patches]
        for j in range(self.points):
            columns = [transform(e, num, self.matrix, [line[j] for line in patch]) for patch in lines]
            for i, values in enumerate(zip(*columns, strict=True)):
                self._write(e, num, values, target, (i * self.points + j) * self.plane)

    def _write(self, e: Emitter, num: Numeric, values: Sequence[ll.Value], target: ll.Value, at: int) -> None:
        if self.pairs is None:
            store(e, num, values[0], target, at)
        elif len(values) > 1:
            store(e, num, join(e, self.pairs, *values), target, at)
        else:
            e.store(round_register(e, self.pairs, values[0]), e.at(target, at, num.element), num.lanes * 2)

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
