"""Operations that combine elements along axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..op import Op, require
from ..types import DType, Shape, TensorType


@dataclass(frozen=True)
class _Reduction(Op):
    axes: Shape
    reduction: ClassVar[bool] = True
    kinds: ClassVar[tuple[str, ...]] = ("float", "int", "uint")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        """Constraints: (1) one operand of a kind it knows; (2) increasing axes within the rank."""
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        operand = types[0]
        require(operand.dtype.kind in self.kinds, f"does not take {operand.dtype}")
        require(list(self.axes) == sorted(set(self.axes)), f"axes {self.axes} do not increase")
        require(all(0 <= a < operand.rank for a in self.axes), f"axes {self.axes} of {operand}")
        kept = tuple(s for i, s in enumerate(operand.shape) if i not in self.axes)
        return (TensorType(operand.dtype, kept),)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return operands[0].size if operands[0].dtype.is_float else 0

    def combine(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        if all(x.shape[a] == 1 for a in self.axes):  # a copy in TensorFlow, too: a sum keeps -0.0
            return (x.reshape([s for i, s in enumerate(x.shape) if i not in self.axes]),)
        wide = x
        if x.dtype.kind not in "iub":
            wide = x.astype(np.float64)
        return (np.asarray(self.combine(wide)).astype(x.dtype),)


class ReduceSum(_Reduction):
    """Sum; 0 of nothing. Integers wrap."""

    def combine(self, x: np.ndarray) -> np.ndarray:
        return np.sum(x, axis=self.axes, dtype=x.dtype)


class ReduceProd(_Reduction):
    """Product; 1 of nothing. Integers wrap."""

    def combine(self, x: np.ndarray) -> np.ndarray:
        return np.prod(x, axis=self.axes, dtype=x.dtype)


def _lowest(dtype: np.dtype) -> float | int:
    return -np.inf if dtype.kind == "f" else int(np.iinfo(dtype).min)


def _highest(dtype: np.dtype) -> float | int:
    return np.inf if dtype.kind == "f" else int(np.iinfo(dtype).max)


class ReduceMax(_Reduction):
    """Largest element, NaN if any is NaN; the type's lowest value (-inf) of nothing."""

    def combine(self, x: np.ndarray) -> np.ndarray:
        return np.max(x, axis=self.axes, initial=_lowest(x.dtype))


class ReduceMin(_Reduction):
    """Smallest element, NaN if any is NaN; the type's highest value (inf) of nothing."""

    def combine(self, x: np.ndarray) -> np.ndarray:
        return np.min(x, axis=self.axes, initial=_highest(x.dtype))


class ReduceAnd(_Reduction):
    """Whether all hold; true of nothing."""

    kinds: ClassVar[tuple[str, ...]] = ("bool",)

    def combine(self, x: np.ndarray) -> np.ndarray:
        return np.all(x, axis=self.axes)


class ReduceOr(_Reduction):
    """Whether any holds; false of nothing."""

    kinds: ClassVar[tuple[str, ...]] = ("bool",)

    def combine(self, x: np.ndarray) -> np.ndarray:
        return np.any(x, axis=self.axes)


@dataclass(frozen=True)
class _ArgReduction(Op):
    axis: int
    dtype: DType

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        operand = types[0]
        require(0 <= self.axis < operand.rank, f"no axis {self.axis} in {operand}")
        require(operand.shape[self.axis] > 0, f"axis {self.axis} of {operand} is empty")
        require(self.dtype.is_integer, f"an index is no {self.dtype}")
        kept = operand.shape[: self.axis] + operand.shape[self.axis + 1:]
        return (TensorType(self.dtype, kept),)


class Argmax(_ArgReduction):
    """Index of the first largest element along ``axis``; a NaN is never larger, and if the first
    element is NaN its index 0 is kept (the comparison TensorFlow makes)."""

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (_first_best(arrays[0], self.axis, np.greater).astype(self.dtype.numpy),)


class Argmin(_ArgReduction):
    """Index of the first smallest element along ``axis``; NaN as in argmax."""

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (_first_best(arrays[0], self.axis, np.less).astype(self.dtype.numpy),)


def _first_best(x: np.ndarray, axis: int, better: np.ufunc) -> np.ndarray:
    moved = np.moveaxis(x, axis, 0)
    best, index = moved[0].copy(), np.zeros(moved.shape[1:], np.int64)
    for i in range(1, moved.shape[0]):
        wins = better(moved[i], best)
        best = np.where(wins, moved[i], best)
        index = np.where(wins, i, index)
    return index


@dataclass(frozen=True)
class _Cumulative(Op):
    axis: int
    exclusive: bool
    reverse: bool

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        require(0 <= self.axis < types[0].rank, f"no axis {self.axis} in {types[0]}")
        require(types[0].dtype.kind != "bool", "does not take bool")
        return types

    def shown(self, total: np.ndarray, start: int) -> np.ndarray:
        """What was folded in the order of the fold, as the result has it."""
        if self.exclusive:
            total = np.roll(total, 1, self.axis)
            first = [slice(None)] * total.ndim
            first[self.axis] = slice(0, 1)
            total[tuple(first)] = start
        return np.flip(total, self.axis).copy() if self.reverse else total


class Cumsum(_Cumulative):
    """Running sum along ``axis``; ``exclusive`` leaves the element itself out, ``reverse`` runs
    from the end."""

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        wide = x.astype(np.float64) if x.dtype.kind not in "iu" else x
        ordered = np.flip(wide, self.axis) if self.reverse else wide
        total = np.cumsum(ordered, axis=self.axis, dtype=wide.dtype) + wide.dtype.type(0)  # sums start at 0: no -0.0
        return (self.shown(total, 0).astype(x.dtype),)


class Cumprod(_Cumulative):
    """Running product along ``axis``, as ``cumsum``, but rounded after every element: what overflowed stays so."""

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        total = (np.flip(x, self.axis) if self.reverse else x).copy()
        along = np.moveaxis(total, self.axis, 0)
        for i in range(1, len(along)):
            along[i] *= along[i - 1]
        return (self.shown(total, 1),)
