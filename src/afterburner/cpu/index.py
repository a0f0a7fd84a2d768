"""Symbolic indices: where an element lies, as a sum over the axes of an iteration space.

An index is ``const + sum(coefs[a] * axis_a) + sum(coef * term)``; terms are what no sum can say
(quotients and remainders of reshapes, looked-up positions). Everything is decided while code is
emitted; only what cannot be decided from the ranges of the axes becomes code.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

Range = tuple[int, int]  # first and end (exclusive)


class Bounded(Protocol):
    """A term: an integer known to lie in [low, high] that varies along some axes."""

    low: int
    high: int
    axes: frozenset[int]


@dataclass(frozen=True)
class Index:
    """A position: see the file's docstring. ``coefs`` has one entry for every axis of the space."""

    const: int
    coefs: tuple[int, ...]
    terms: tuple[tuple[Bounded, int], ...] = ()

    @cached_property
    def axes(self) -> frozenset[int]:
        """The axes along which the index varies."""
        own = frozenset(a for a, c in enumerate(self.coefs) if c)
        return own.union(*(t.axes for t, _ in self.terms)) if self.terms else own

    def __add__(self, other: Index | int) -> Index:
        if isinstance(other, int):
            return Index(self.const + other, self.coefs, self.terms)
        terms = dict(self.terms)
        for term, coef in other.terms:
            terms[term] = terms.get(term, 0) + coef
        return Index(self.const + other.const,
                     tuple(a + b for a, b in zip(self.coefs, other.coefs, strict=True)),
                     tuple((t, c) for t, c in terms.items() if c))

    def __mul__(self, factor: int) -> Index:
        if factor == 0:
            return Index(0, (0,) * len(self.coefs))
        return Index(self.const * factor, tuple(c * factor for c in self.coefs),
                     tuple((t, c * factor) for t, c in self.terms))

    def bounds(self, box: tuple[Range, ...]) -> tuple[int, int]:
        """Smallest and largest value (inclusive) over a box of the space."""
        low = high = self.const
        for coef, (first, end) in zip(self.coefs, box, strict=True):
            ends = (coef * first, coef * (end - 1)) if coef else (0, 0)
            low, high = low + min(ends), high + max(ends)
        for term, coef in self.terms:
            ends = (coef * term.low, coef * term.high)
            low, high = low + min(ends), high + max(ends)
        return low, high

    def divided(self, divisor: int) -> tuple[Index, Index]:
        """(quotient, rest) with self = divisor * quotient + rest: what divides evenly moves left."""
        whole, const = divmod(self.const, divisor)
        even = tuple(c // divisor if c % divisor == 0 else 0 for c in self.coefs)
        odd = tuple(c if c % divisor else 0 for c in self.coefs)
        return (Index(whole, even, tuple((t, c // divisor) for t, c in self.terms if c % divisor == 0)),
                Index(const, odd, tuple((t, c) for t, c in self.terms if c % divisor)))


def constant(value: int, rank: int) -> Index:
    """The same position everywhere in a space of ``rank`` axes."""
    return Index(value, (0,) * rank)


def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Elements from one position to the next along each axis of a dense row-major tensor."""
    steps, step = [], 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


def refine(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Axes that cut a row-major space wherever one of ``shapes`` does; the first shape wins
    where two do not divide each other. All shapes have the same number of elements, not 0."""
    cuts: list[int] = []
    for shape in shapes:
        for step in strides(shape):
            fits = all(step % c == 0 or c % step == 0 for c in cuts)
            if fits and step not in cuts:
                cuts.append(step)
    total = 1
    for size in shapes[0]:
        total *= size
    ordered = sorted({*cuts, total}, reverse=True)
    if 1 not in ordered:
        ordered.append(1)
    return tuple(a // b for a, b in zip(ordered, ordered[1:], strict=False))
