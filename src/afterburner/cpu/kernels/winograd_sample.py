"""Whether F(2x2, 3x3) is about as exact as direct sums for the operands at hand: for a sample of the results, what
bounds its rounding errors is compared with what bounds those of direct sums, the sum of |x||w|.

The bound is the algorithm on operands without signs, by matrices without signs: it is what would be added if no term
were taken away again. It is 7 times the sum of |x||w| for normal random numbers, and grows where a result shares its
products with terms that are large beside its own: where few elements count, of very unequal size, or where large ones
meet in other results only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import gcd

from llvmlite import ir as ll

from ..emitter import Emitter, const, i64
from .correlation import Axis, Correlation, Plan
from .correlator import Correlator
from .gemm import Cut, Numeric
from .prologue import Made, Maker, Prologue, maker_of
from .winograd_lines import Matrix, transform
from .winograd_patches import Grid, Patches, apart, load

# How many times the sum the bound may be, root mean square over the sample. Of normal numbers, half of them zeros or
# not, it is 7.1 to 8 for outputs, 7.6 to 9.3 for taps; errors beyond twice those of direct sums begin at 10 and 12.
_LIMIT, _TAPS_LIMIT = 9.0, 11.0
_CHUNKS = 4
_FEWEST_TILES, _TILES = 3, 10  # of a chunk's sample of a convolution
_SHARE = 256  # as many registers of outputs of a tile are in the sample as one in so many
_FEWEST_SUMMED, _SUMMED = 64, 256  # tiles of a filter gradient's sample
_SHARE_SUMMED = 8  # one tile in so many is in it
_CHANNELS = 2  # of x for each chunk of it
_PITCH, _SIDE = 2, 4  # pixels between tiles, and along a patch


def _matrix(*rows: Sequence[int]) -> Matrix:
    return tuple(tuple(Fraction(n) for n in row) for row in rows)


# Of F(2, 3), without signs. What belongs to the points 1 and -1 is then alike: it is there once, not halved twice.
_INPUTS = _matrix((1, 0, 1, 0), (0, 1, 1, 0), (0, 1, 0, 1))
_FILTER = _matrix((1, 0, 0), (1, 1, 1), (0, 0, 1))
_OUTPUTS = _matrix((1, 1, 0), (0, 1, 1))


class ConvolutionSample:
    """A sample of the results of a 3x3 convolution or its input gradient, of tiles away from the border if there are
    such: at the border there are fewer terms to a sum. The image may be made from another tensor, ``made``."""

    def __init__(self, c: Correlation, num: Numeric, filter_columns: int, made: Prologue | None = None) -> None:
        (top, down), (left, across) = map(_tiles_inside, (c.rows, c.columns))
        grid = Grid(c.images, down, across)
        self.c, self.grid, self.num = c, grid, num
        self.lanes = min(c.width, num.lanes)
        self.registers = c.width // self.lanes
        self.chunks = min(_CHUNKS, self.registers)
        wanted = grid.tiles * self.registers // (_SHARE * self.chunks)
        self.tiles = max(_FEWEST_TILES, min(_TILES, wanted))
        self.taps = 9 * c.depth * num.lanes
        plane = apart(-(-c.depth // num.lanes) * num.lanes)
        self.scratch = (self.taps + 16 * plane) * num.bytes
        self.pixels = _pixels(grid, (c.rows.inputs, c.columns.inputs, c.depth),
                              (c.rows.taps.offset + top, c.columns.taps.offset + left), _SIDE, plane,
                              maker_of(made))
        one = Plan(Cut(1, 1), Cut(1, 1), 0, (1, 1))
        self.packer = Correlator(c, one, num, num.element, 0, filter_columns)

    def differs(self, e: Emitter, image: ll.Value, filter_: ll.Value) -> ll.Value:
        """Whether this chunk's share shows that the bound exceeds the sums by too much, an i1."""
        num, depth = self.num, self.c.depth
        register = e.b.udiv(e.b.mul(e.chunk, i64(self.registers)), i64(self.chunks))
        channel = e.b.mul(register, i64(self.lanes))
        self.packer.pack_panel(e, filter_, i64(0), channel, e.scratch, 1, self.lanes)
        pixels = e.at(e.scratch, self.taps, num.element)
        ratios = Ratios(num, _LIMIT)
        with _scattered(e, e.b.mul(e.chunk, i64(self.tiles)), self.tiles, self.grid, ratios.none) as (tile, now, after):
            self.pixels.factors(e, num, image, tile, pixels)
            with e.loop_carried(0, depth, 1, [num.zero] * 13, "depth") as (k, sums, sums_after):
                patch = _patch(e, num, pixels, k, self.pixels.plane)
                taps = e.at(e.scratch, e.b.mul(k, i64(num.lanes)), num.element)
                filters = _square([_without_sign(e, num, load(e, num, taps, t * depth * num.lanes)) for t in range(9)])
                inside, outside = _both(e, num, _INPUTS, patch), _both(e, num, _FILTER, filters)
                sums_after[:] = _products(e, num, inside, outside, sums[:9]) + [
                    _summed(e, num, [(patch[i + p][j + q], filters[i][j]) for i in range(3) for j in range(3)],
                            sums[9 + 2 * p + q]) for p in range(2) for q in range(2)]
            bounds = _flat(_both(e, num, _OUTPUTS, _square(sums_after[:9])))
            after[:] = ratios.add(e, now, bounds, sums_after[9:])
        return ratios.too_large(e, after)


class FilterGradientSample:
    """A sample of the gradients of a 3x3 filter: of a few channels, summed over a share of the tiles.

    Args:
        x, dy: shapes of the operands.
        offset: from a tile's corner to its patch of x, in pixels.
    """

    def __init__(self, grid: Grid, x: tuple[int, ...], dy: tuple[int, ...], offset: tuple[int, int], num: Numeric,
                 prologue: Prologue | None) -> None:
        self.grid, self.num, self.chunks = grid, num, _CHUNKS
        self.tiles = min(grid.tiles, max(_FEWEST_SUMMED, min(_SUMMED, grid.tiles // _SHARE_SUMMED)))
        self.inputs, self.gradients = x[3], dy[3]
        plane = num.lanes
        self.scratch = 20 * plane * num.bytes
        self.patches = _pixels(grid, (x[1], x[2], x[3]), offset, _SIDE, plane, maker_of(prologue))
        self.outputs = _pixels(grid, (dy[1], dy[2], dy[3]), (0, 0), _PITCH, plane, None)

    def differs(self, e: Emitter, x: ll.Value, dy: ll.Value) -> ll.Value:
        """Whether this chunk's share shows that the bound exceeds the sums by too much, an i1."""
        num, ratios = self.num, Ratios(self.num, _TAPS_LIMIT)
        given, wanted = self._register(e, self.inputs), self._register(e, self.gradients)
        patches, outputs = e.scratch, e.at(e.scratch, 16 * num.lanes, num.element)
        with e.loop_carried(0, min(_CHANNELS, self.inputs), 1, ratios.none, "channel") as (channel, now, after):
            k = e.b.urem(e.b.add(e.b.mul(e.chunk, i64(_CHANNELS)), channel), i64(min(num.lanes, self.inputs)))
            with _scattered(e, i64(0), self.tiles, self.grid, [num.zero] * 18) as (tile, sums, sums_after):
                self.patches.factors(e, num, x, tile, patches, given, e.b.add(given, i64(num.lanes)))
                self.outputs.factors(e, num, dy, tile, outputs, wanted, e.b.add(wanted, i64(num.lanes)))
                patch = _patch(e, num, patches, k, num.lanes)
                gradients = [[load(e, num, outputs, (2 * i + j) * num.lanes) for j in range(2)] for i in range(2)]
                inside, outside = _both(e, num, _INPUTS, patch), _both(e, num, _transposed(_OUTPUTS), gradients)
                sums_after[:] = _products(e, num, inside, outside, sums[:9]) + [
                    _summed(e, num, [(patch[i + p][j + q], gradients[p][q]) for p in range(2) for q in range(2)],
                            sums[9 + 3 * i + j]) for i in range(3) for j in range(3)]
            bounds = _flat(_both(e, num, _transposed(_FILTER), _square(sums_after[:9])))
            after[:] = ratios.add(e, now, bounds, sums_after[9:])
        return ratios.too_large(e, after)

    def _register(self, e: Emitter, channels: int) -> ll.Value:
        """First channel of a register of them, another one for each chunk if there are so many."""
        whole = max(1, channels // self.num.lanes)
        return e.b.mul(e.b.udiv(e.b.mul(e.chunk, i64(whole)), i64(self.chunks)), i64(self.num.lanes))


@dataclass(frozen=True)
class Ratios:
    """Adds up, in two registers, squares of bounds over sums, and how many there are. Neither counted are results
    without terms, nor such that are not finite."""

    num: Numeric
    limit: float

    @property
    def none(self) -> list[ll.Value]:
        """Before the first."""
        return [self.num.zero, self.num.zero]

    def add(self, e: Emitter, now: Sequence[ll.Value], bounds: Sequence[ll.Value],
            sums: Sequence[ll.Value]) -> list[ll.Value]:
        """With more of them."""
        squares, count = now
        for bound, total in zip(bounds, sums, strict=True):
            ratio = e.b.fdiv(bound, total)
            counted = e.b.fcmp_ordered("ord", ratio, ratio)
            square = e.b.fmul(ratio, ratio)
            squares = e.b.fadd(squares, e.b.select(counted, square, self.num.zero))
            count = e.b.fadd(count, e.b.select(counted, const(self.num.vector, 1.0), self.num.zero))
        return [squares, count]

    def too_large(self, e: Emitter, now: Sequence[ll.Value]) -> ll.Value:
        """Whether their root mean square is beyond the limit, an i1."""
        squares, count = (self._across(e, v) for v in now)
        return e.b.fcmp_ordered(">", squares, e.b.fmul(const(self.num.element, self.limit**2), count))

    def _across(self, e: Emitter, register: ll.Value) -> ll.Value:
        lanes = [e.b.extract_element(register, i64(k)) for k in range(self.num.lanes)]
        return reduce(e.b.fadd, lanes)


def _tiles_inside(axis: Axis) -> tuple[int, int]:
    """First pixel of the first tile whose patch lies inside of the image, and how many such tiles there are along an
    axis; of all tiles if there are none."""
    first, tiles = max(0, -(axis.taps.offset // _PITCH)), axis.outputs // _PITCH
    count = min(tiles, (axis.inputs - _SIDE - axis.taps.offset) // _PITCH + 1) - first
    return (_PITCH * first, count) if count > 0 else (0, max(1, tiles))


@contextmanager
def _scattered(e: Emitter, first: ll.Value, count: int, grid: Grid,
               initial: list[ll.Value]) -> Iterator[tuple[ll.Value, list[ll.Value], list[ll.Value]]]:
    """A loop over ``count`` tiles from all over the grid, another one for each index from ``first`` on."""
    step = next(n for n in range(max(1, round(grid.tiles * 0.618)), 2 * grid.tiles + 1) if gcd(n, grid.tiles) == 1)
    with e.loop_carried(0, count, 1, initial, "sample") as (i, now, after):
        yield e.b.urem(e.b.mul(e.b.add(first, i), i64(step)), i64(grid.tiles)), now, after


def _pixels(grid: Grid, shape: tuple[int, int, int], offset: tuple[int, int], side: int, plane: int,
            maker: Maker | None) -> Patches:
    """Patches of the pixels themselves, without their signs."""
    same = _matrix(*[[int(i == j) for j in range(side)] for i in range(side)])

    def positive(e: Emitter, num: Numeric, channel: ll.Value, lanes: int) -> Made:
        make = None if maker is None else maker(e, num, channel, lanes)
        return lambda value: _without_sign(e, num, value if make is None else make(value))

    return Patches(grid, *shape, offset, _PITCH, 1, same, plane, None, 0, positive)


def _patch(e: Emitter, num: Numeric, pixels: ll.Value, k: ll.Value, plane: int) -> list[list[ll.Value]]:
    """A channel of a patch, each pixel in all lanes."""
    at = e.at(pixels, k, num.element)
    return [[e.splat(e.load(e.at(at, (i * _SIDE + j) * plane, num.element), num.element, num.bytes), num.lanes)
             for j in range(_SIDE)] for i in range(_SIDE)]


def _without_sign(e: Emitter, num: Numeric, value: ll.Value) -> ll.Value:
    """The absolute value of each lane."""
    return e.intrinsic("llvm.fabs", num.vector, value)


def _both(e: Emitter, num: Numeric, matrix: Matrix, square: Sequence[Sequence[ll.Value]]) -> list[list[ll.Value]]:
    """``matrix`` times ``square`` times ``matrix`` transposed."""
    columns = [transform(e, num, matrix, column) for column in zip(*square, strict=True)]
    return [transform(e, num, matrix, row) for row in zip(*columns, strict=True)]


def _products(e: Emitter, num: Numeric, inside: Sequence[Sequence[ll.Value]], outside: Sequence[Sequence[ll.Value]],
              totals: Sequence[ll.Value]) -> list[ll.Value]:
    """``totals`` with the products of two squares, factor by factor, added."""
    return [num.multiply_add(e, a, b, total) for a, b, total in zip(_flat(inside), _flat(outside), totals, strict=True)]


def _summed(e: Emitter, num: Numeric, terms: Sequence[tuple[ll.Value, ll.Value]], total: ll.Value) -> ll.Value:
    for a, b in terms:
        total = num.multiply_add(e, a, b, total)
    return total


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _square(values: Sequence[ll.Value]) -> list[list[ll.Value]]:
    return [list(values[3 * i:3 * i + 3]) for i in range(3)]


def _flat(square: Sequence[Sequence[ll.Value]]) -> list[ll.Value]:
    return [value for row in square for value in row]
