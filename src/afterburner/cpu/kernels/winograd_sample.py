"""Whether one of Winograd's algorithms is about as exact as direct sums for the operands at hand: for a sample of the
results, what bounds its rounding errors is compared with what bounds those of direct sums, the sum of |x||w|.

The bound is the algorithm on operands without signs, by matrices without signs: it is what would be added if no term
were taken away again. By F(2x2, 3x3) it is 7 times the sum of |x||w| for normal random numbers, by F(2x2, 2x2) 4 times,
and grows where a result shares its products with terms that are large beside its own: where few elements count, of very
unequal size, or where large ones meet in other results only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from math import gcd, isqrt

from llvmlite import ir as ll

from ..emitter import Emitter, const, i64
from .correlation import Axis, Correlation, Plan
from .correlator import Correlator
from .gemm import Cut, Numeric
from .prologue import Made, Maker, Prologue, maker_of
from .winograd_lines import Matrix, Runs, Scheme, runs_of, transform
from .winograd_patches import Grid, Patches, apart, load

# How many times the sum the bound may be, root mean square over the sample. Of normal numbers, half of them zeros or
# not, it is 7.1 to 8 for outputs by F(2x2, 3x3) and 4 to 4.6 by F(2x2, 2x2); for taps by these transposed 7.6 to 9.3,
# by F(3x3, 2x2) 7 to 8.5. Errors beyond twice those of direct sums begin at 10, 5.5, 12 and 10.
_LIMITS = {Scheme(2, 3): 9.0, Scheme(2, 2): 5.0}
_TAPS_LIMITS = {Scheme(2, 3): 11.0, Scheme(3, 2): 9.0}
_CHUNKS = 4
_FEWEST_TILES, _TILES = 3, 10  # of a chunk's sample of a convolution
_SHARE = 256  # as many registers of outputs of a tile are in the sample as one in so many
_FEWEST_SUMMED, _SUMMED = 64, 256  # tiles of a filter gradient's sample
_SHARE_SUMMED = 8  # one tile in so many is in it
_CHANNELS = 2  # of x for each chunk of it


class ConvolutionSample:
    """A sample of the results of a convolution or of a part of its input gradient, of tiles away from the border if
    there are such: at the border there are fewer terms to a sum. The image may be made from another tensor, ``made``.

    Args:
        scheme: the algorithm for the taps of a phase: a run down and one across.
    """

    def __init__(self, c: Correlation, scheme: Scheme, num: Numeric, filter_columns: int,
                 made: Prologue | None = None) -> None:
        (top, down), (left, across) = (_tiles_inside(axis, scheme) for axis in (c.rows, c.columns))
        grid = Grid(c.images, down, across)
        self.c, self.scheme, self.grid, self.num = c, scheme, grid, num
        self.runs = runs_of(scheme, c.rows.taps.count, c.rows.taps.stride)
        self.lanes = min(c.width, num.lanes)
        self.registers = c.width // self.lanes
        self.chunks = min(_CHUNKS, self.registers)
        wanted = grid.tiles * self.registers // (_SHARE * self.chunks)
        self.tiles = max(_FEWEST_TILES, min(_TILES, wanted))
        self.taps = c.rows.taps.count**2 * c.depth * num.lanes
        plane = apart(-(-c.depth // num.lanes) * num.lanes)
        self.phase = scheme.points**2 * plane
        self.scratch = (self.taps + self.runs.count**2 * self.phase) * num.bytes
        self.pixels = _pixels(grid, (c.rows.inputs, c.columns.inputs, c.depth),
                              (c.rows.taps.offset + top, c.columns.taps.offset + left), scheme.points,
                              scheme.outputs * self.runs.stride, self.runs.stride, plane, maker_of(made))
        one = Plan(Cut(1, 1), Cut(1, 1), 0, (1, 1))
        self.packer = Correlator(c, one, num, num.element, 0, filter_columns)

    def differs(self, e: Emitter, image: ll.Value, filter_: ll.Value, chunk: ll.Value | None = None) -> ll.Value:
        """Whether a chunk's share, by default this one's, shows that the bound exceeds the sums by too much, an i1."""
        num, chunk, scheme = self.num, e.chunk if chunk is None else chunk, self.scheme
        register = e.b.udiv(e.b.mul(chunk, i64(self.registers)), i64(self.chunks))
        channel = e.b.mul(register, i64(self.lanes))
        self.packer.pack_panel(e, filter_, i64(0), channel, e.scratch, 1, self.lanes)
        ratios, products = Ratios(num, _LIMITS[scheme]), len(scheme.bound.inputs)**2
        none = [num.zero] * (products + scheme.outputs**2)
        with _scattered(e, e.b.mul(chunk, i64(self.tiles)), self.tiles, self.grid, ratios.none) as (tile, now, after):
            with e.loop_carried(0, self.runs.count**2, 1, none, "phase") as (phase, sums, sums_after):
                sums_after[:] = self._with_phase(e, image, tile, phase, sums)
            bounds = _flat(_both(e, num, scheme.bound.outputs, _square(sums_after[:products])))
            after[:] = ratios.add(e, now, bounds, sums_after[products:])
        return ratios.too_large(e, after)

    def _with_phase(self, e: Emitter, image: ll.Value, tile: ll.Value, phase: ll.Value,
                    sums: list[ll.Value]) -> list[ll.Value]:
        """Products of the bound, and sums of |x||w|, with those of a phase."""
        num, scheme, stride, depth = self.num, self.scheme, self.runs.stride, self.c.depth
        products, row = len(scheme.bound.inputs)**2, self.c.columns.taps.count
        i, j = self.runs.firsts_of(e, phase)
        pixels = e.at(e.scratch, e.b.add(i64(self.taps), e.b.mul(phase, i64(self.phase))), num.element)
        self.pixels.factors(e, num, image, tile, pixels, shift=(i, j))
        first_tap = e.b.mul(e.b.add(e.b.mul(i, i64(row)), j), i64(depth * num.lanes))
        packed = e.at(e.scratch, first_tap, num.element)
        with e.loop_carried(0, depth, 1, sums, "depth") as (k, now, after):
            patch = _patch(e, num, pixels, k, scheme.points, self.pixels.plane)
            at = e.at(packed, e.b.mul(k, i64(num.lanes)), num.element)
            taps = [[_without_sign(e, num, load(e, num, at, (a * row + b) * stride * depth * num.lanes))
                     for b in range(scheme.taps)] for a in range(scheme.taps)]
            inside, outside = _both(e, num, scheme.bound.inputs, patch), _both(e, num, scheme.bound.filter, taps)
            after[:] = [*_products(e, num, inside, outside, now[:products]),
                        *_correlated(e, num, patch, taps, now[products:])]
        return after


class FilterGradientSample:
    """A sample of the gradients of a filter: of a few channels, summed over a share of the tiles.

    Args:
        scheme: the algorithm for the taps of a phase: a run down and one across.
        runs: of taps.
        x, dy: shapes of the operands.
        offset: from a tile's corner to its patch of x, in pixels.
    """

    def __init__(self, grid: Grid, scheme: Scheme, runs: Runs, x: tuple[int, ...], dy: tuple[int, ...],
                 offset: tuple[int, int], num: Numeric, prologue: Prologue | None) -> None:
        self.grid, self.scheme, self.runs, self.num, self.chunks = grid, scheme, runs, num, _CHUNKS
        self.tiles = min(grid.tiles, max(_FEWEST_SUMMED, min(_SUMMED, grid.tiles // _SHARE_SUMMED)))
        self.inputs, self.gradients = x[3], dy[3]
        plane, outputs = num.lanes, scheme.outputs
        self.outputs_at = scheme.points**2 * plane
        self.scratch = (self.outputs_at + outputs**2 * plane) * num.bytes
        self.patches = _pixels(grid, (x[1], x[2], x[3]), offset, scheme.points, outputs * runs.stride, runs.stride,
                               plane, maker_of(prologue))
        self.outputs = _pixels(grid, (dy[1], dy[2], dy[3]), (0, 0), outputs, outputs, 1, plane, None)

    def differs(self, e: Emitter, x: ll.Value, dy: ll.Value) -> ll.Value:
        """Whether this chunk's share shows that the bound exceeds the sums by too much, an i1."""
        num, scheme, ratios = self.num, self.scheme, Ratios(self.num, _TAPS_LIMITS[self.scheme])
        given, wanted = self._register(e, self.inputs), self._register(e, self.gradients)
        patches, outputs = e.scratch, e.at(e.scratch, self.outputs_at, num.element)
        products = len(scheme.bound.inputs)**2
        shift = self.runs.firsts_of(e, e.b.urem(e.chunk, i64(self.runs.count**2)))
        none = [num.zero] * (products + scheme.taps**2)
        with e.loop_carried(0, min(_CHANNELS, self.inputs), 1, ratios.none, "channel") as (channel, now, after):
            k = e.b.urem(e.b.add(e.b.mul(e.chunk, i64(_CHANNELS)), channel), i64(min(num.lanes, self.inputs)))
            with _scattered(e, i64(0), self.tiles, self.grid, none) as (tile, sums, sums_after):
                self.patches.factors(e, num, x, tile, patches, given, e.b.add(given, i64(num.lanes)), shift)
                self.outputs.factors(e, num, dy, tile, outputs, wanted, e.b.add(wanted, i64(num.lanes)))
                patch = _patch(e, num, patches, k, scheme.points, num.lanes)
                gradients = [[load(e, num, outputs, (scheme.outputs * i + j) * num.lanes)
                              for j in range(scheme.outputs)] for i in range(scheme.outputs)]
                inside = _both(e, num, scheme.bound.inputs, patch)
                outside = _both(e, num, _transposed(scheme.bound.outputs), gradients)
                sums_after[:] = [*_products(e, num, inside, outside, sums[:products]),
                                 *_correlated(e, num, patch, gradients, sums[products:])]
            bounds = _flat(_both(e, num, _transposed(scheme.bound.filter), _square(sums_after[:products])))
            after[:] = ratios.add(e, now, bounds, sums_after[products:])
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


def _tiles_inside(axis: Axis, scheme: Scheme) -> tuple[int, int]:
    """First pixel of the first tile whose patch lies inside of the image, and how many such tiles there are along an
    axis; of all tiles if there are none."""
    stride, outputs = axis.taps.stride, scheme.outputs
    pitch = stride * outputs
    first, tiles = max(0, -(axis.taps.offset // pitch)), axis.outputs // outputs
    count = min(tiles, (axis.inputs - pitch + stride - axis.taps.count - axis.taps.offset) // pitch + 1) - first
    return (pitch * first, count) if count > 0 else (0, max(1, tiles))


@contextmanager
def _scattered(e: Emitter, first: ll.Value, count: int, grid: Grid,
               initial: list[ll.Value]) -> Iterator[tuple[ll.Value, list[ll.Value], list[ll.Value]]]:
    """A loop over ``count`` tiles from all over the grid, another one for each index from ``first`` on."""
    step = next(n for n in range(max(1, round(grid.tiles * 0.618)), 2 * grid.tiles + 1) if gcd(n, grid.tiles) == 1)
    with e.loop_carried(0, count, 1, initial, "sample") as (i, now, after):
        yield e.b.urem(e.b.mul(e.b.add(first, i), i64(step)), i64(grid.tiles)), now, after


def _pixels(grid: Grid, shape: tuple[int, int, int], offset: tuple[int, int], side: int, pitch: int, stride: int,
            plane: int, maker: Maker | None) -> Patches:
    """Patches of the pixels themselves, without their signs."""
    same = tuple(tuple(Fraction(i == j) for j in range(side)) for i in range(side))

    def positive(e: Emitter, num: Numeric, channel: ll.Value, lanes: int) -> Made:
        make = None if maker is None else maker(e, num, channel, lanes)
        return lambda value: _without_sign(e, num, value if make is None else make(value))

    return Patches(grid, *shape, offset, pitch, stride, same, plane, None, 0, positive)


def _patch(e: Emitter, num: Numeric, pixels: ll.Value, k: ll.Value, side: int, plane: int) -> list[list[ll.Value]]:
    """A channel of a patch, each pixel in all lanes."""
    at = e.at(pixels, k, num.element)
    return [[e.splat(e.load(e.at(at, (i * side + j) * plane, num.element), num.element, num.bytes), num.lanes)
             for j in range(side)] for i in range(side)]


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


def _correlated(e: Emitter, num: Numeric, patch: Sequence[Sequence[ll.Value]], taps: Sequence[Sequence[ll.Value]],
                totals: Sequence[ll.Value]) -> list[ll.Value]:
    """``totals`` with the sums of products of a patch's pixels and the taps added, output by output."""
    count = len(taps)
    side, found = len(patch) - count + 1, []
    for number, total in enumerate(totals):
        p, q = divmod(number, side)
        for i in range(count):
            for j in range(count):
                total = num.multiply_add(e, patch[i + p][j + q], taps[i][j], total)
        found.append(total)
    return found


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))


def _square(values: Sequence[ll.Value]) -> list[list[ll.Value]]:
    side = isqrt(len(values))
    return [list(values[side * i: side * (i + 1)]) for i in range(side)]


def _flat(square: Sequence[Sequence[ll.Value]]) -> list[ll.Value]:
    return [value for row in square for value in row]
