"""Winograd's algorithms along one axis: F(m, r) makes m outputs of an r-tap filter from m + r - 1 inputs by so many
products.

With five or six points the transforms interpolate at 0, ±5/8, ±3/2 and, where six are needed, infinity (Barabasz et
al., "Error analysis and improving the accuracy of Winograd convolution", 2020, on why not at 0, ±1, ±2): products of
these points are short binary fractions, and rounding errors grow to a third of those of whole numbers. With four they
interpolate at 0, ±1 and infinity, which takes sums and halves only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import prod

from llvmlite import ir as ll

from ..emitter import Emitter, const, i64
from .gemm import Numeric

Matrix = tuple[tuple[Fraction, ...], ...]

_FEWEST = tuple(Fraction(n) for n in (0, 1))
_FEW = tuple(Fraction(n) for n in (0, 1, -1))  # neighbours differ in sign: see ``transform``
_MANY = tuple(Fraction(n, 8) for n in (0, 5, -5, 12, -12))


@dataclass(frozen=True)
class Bound:
    """What bounds the rounding errors of an algorithm: the same on operands without signs, by matrices without signs.
    What belongs to a point and its negative is then alike, and is there once.

    Attributes:
        inputs, filter, outputs: in place of B^T, G and A^T.
    """

    inputs: Matrix
    filter: Matrix
    outputs: Matrix


@dataclass(frozen=True)
class Scheme:
    """F(outputs, taps), with three to six points.

    Attributes:
        outputs: computed together along an axis.
        taps: of the filter along an axis.
    """

    outputs: int
    taps: int

    @property
    def points(self) -> int:
        """Inputs, and products, along an axis."""
        return self.outputs + self.taps - 1

    @property
    def finite(self) -> tuple[Fraction, ...]:
        """The points but infinity."""
        few = [points for points in (_FEWEST, _FEW) if len(points) + 1 == self.points]
        return few[0] if few else _MANY

    @property
    def products(self) -> int:
        """Of a square tile."""
        return self.points**2

    @cached_property
    def inputs_to_factors(self) -> Matrix:
        """B^T: a row of the coefficients of the polynomial that vanishes at all other points."""
        rows = [_polynomial([q for q in self.finite if q != p], self.points, 1 if norm > 0 else -1)
                for p, norm in zip(self.finite, self._norms, strict=True)]
        return tuple(rows if self.points == len(self.finite) else [*rows, _polynomial(self.finite, self.points)])

    @cached_property
    def filter_to_factors(self) -> Matrix:
        """G: powers of a point, divided by its distances to the others."""
        scaled = [tuple(p**k / abs(n) for k in range(self.taps)) for p, n in zip(self.finite, self._norms, strict=True)]
        return self._at_points(scaled)

    @cached_property
    def gradients_to_factors(self) -> Matrix:
        """A: powers of a point."""
        return self._at_points([tuple(p**k for k in range(self.outputs)) for p in self.finite])

    @cached_property
    def products_to_outputs(self) -> Matrix:
        """A^T."""
        return tuple(zip(*self.gradients_to_factors, strict=True))

    @cached_property
    def products_to_filter(self) -> Matrix:
        """G^T."""
        return tuple(zip(*self.filter_to_factors, strict=True))

    @cached_property
    def bound(self) -> Bound:
        """Of its errors."""
        kept = [i for i, p in enumerate((*self.finite, None)[:self.points]) if p is None or p >= 0]
        weights = [2 if p and -p in self.finite else 1 for p in (*self.finite, None)[:self.points]]
        inputs, outputs = ([tuple(map(abs, matrix[i])) for i in kept]
                           for matrix in (self.inputs_to_factors, self.gradients_to_factors))
        filter_ = [tuple(abs(weights[i] * c) for c in self.filter_to_factors[i]) for i in kept]
        return Bound(tuple(inputs), tuple(filter_), tuple(zip(*outputs, strict=True)))

    @property
    def _norms(self) -> list[Fraction]:
        return [prod((p - q for q in self.finite if q != p), start=Fraction(1)) for p in self.finite]

    def _at_points(self, rows: list[tuple[Fraction, ...]]) -> Matrix:
        last = tuple(Fraction(k == len(rows[0]) - 1) for k in range(len(rows[0])))  # at infinity the highest power
        return tuple(rows if self.points == len(self.finite) else [*rows, last])


@dataclass(frozen=True)
class Runs:
    """Taps along an axis as runs of as many as an algorithm takes, each tap a stride from the next: with stride 2 four
    taps are (0, 2) and (1, 3), with stride 1 (0, 1) and (2, 3). A run meets pixels that lie a stride apart, as in a
    convolution with stride 1, and what all runs sum to is added before it is transformed.

    Attributes:
        taps: of a run.
        stride: between outputs.
        count: of runs.
    """

    taps: int
    stride: int
    count: int

    @property
    def span(self) -> int:
        """Pixels from the first output's first tap to the last tap."""
        return self.taps * self.count

    def first(self, run: int) -> int:
        """The first tap of a run."""
        return run % self.stride + run // self.stride * self.stride * self.taps

    def first_of(self, e: Emitter, run: ll.Value) -> ll.Value:
        """As ``first``."""
        stride = i64(self.stride)
        beyond = e.b.mul(e.b.udiv(run, stride), i64(self.stride * self.taps))
        return e.b.add(e.b.urem(run, stride), beyond)

    def firsts_of(self, e: Emitter, phase: ll.Value) -> tuple[ll.Value, ll.Value]:
        """First taps down and across of a pair of runs, of which there are ``count`` squared."""
        return self.first_of(e, e.b.udiv(phase, i64(self.count))), self.first_of(e, e.b.urem(phase, i64(self.count)))


def runs_of(scheme: Scheme, taps: int, stride: int) -> Runs:
    """How an algorithm takes so many taps, a multiple of its own and of the stride."""
    return Runs(scheme.taps, stride, taps // scheme.taps)


def _polynomial(roots: Sequence[Fraction], size: int, factor: int = 1) -> tuple[Fraction, ...]:
    """Coefficients of ``factor`` times the product of (x - root), ascending."""
    found = [Fraction(factor)]
    for root in roots:
        found = [above - root * here for above, here in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return (*found, *[Fraction(0)] * (size - len(found)))


def transform(e: Emitter, num: Numeric, matrix: Matrix, values: Sequence[ll.Value]) -> list[ll.Value]:
    """``matrix`` times ``values``. What belongs to a point and its negative differs in every other sign only: even and
    odd terms are summed once for both."""
    columns = list(zip(*matrix, strict=True))
    if not any(_mirrored(*pair) for pair in zip(columns, columns[1:], strict=False)):
        return _by_rows(e, num, matrix, values)
    even: list[tuple[int, ll.Value]] = []  # column, value that it multiplies
    odd: list[tuple[int, ll.Value]] = []
    k = 0
    while k < len(columns):
        if k + 1 < len(columns) and _mirrored(columns[k], columns[k + 1]):
            even.append((k, e.b.fadd(values[k], values[k + 1])))
            odd.append((k, e.b.fsub(values[k], values[k + 1])))
            k += 2
        else:
            even.append((k, values[k]))
            odd.append((k, values[k]))
            k += 1
    return [_sum(e, num, [(row[k], value) for k, value in (odd if i % 2 else even)]) for i, row in enumerate(matrix)]


def _by_rows(e: Emitter, num: Numeric, matrix: Matrix, values: Sequence[ll.Value]) -> list[ll.Value]:
    results: list[ll.Value] = []
    while len(results) < len(matrix):
        row = matrix[len(results)]
        if len(results) + 1 == len(matrix) or not _mirrored(row, matrix[len(results) + 1]):
            results.append(_sum(e, num, list(zip(row, values, strict=True))))
            continue
        scale = next(c for c in reversed(row[1::2]) if c)
        even = _sum(e, num, list(zip(row[::2], values[::2], strict=True)))
        odd = _sum(e, num, [(c / scale, v) for c, v in zip(row[1::2], values[1::2], strict=True)])
        results += [num.multiply_add(e, const(num.vector, float(s)), odd, even) for s in (scale, -scale)]
    return results


def _mirrored(a: Sequence[Fraction], b: Sequence[Fraction]) -> bool:
    """Whether two lines are those of a point and its negative."""
    return any(a[1::2]) and tuple(b) == tuple(-c if k % 2 else c for k, c in enumerate(a))


def _sum(e: Emitter, num: Numeric, terms: Sequence[tuple[Fraction, ll.Value]]) -> ll.Value:
    """The sum of coefficients times values."""
    ordered = sorted([t for t in terms if t[0]], key=lambda t: t[0] != 1)
    factor, total = ordered[0]
    if factor != 1:
        total = e.b.fmul(const(num.vector, float(factor)), total)
    for factor, value in ordered[1:]:
        if abs(factor) == 1:
            total = e.b.fadd(total, value) if factor == 1 else e.b.fsub(total, value)
        else:
            total = num.multiply_add(e, const(num.vector, float(factor)), value, total)
    return total
