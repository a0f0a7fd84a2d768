"""Constants and operations that move elements without computing."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import ClassVar

import numpy as np

from ..op import IRError, Op, require
from ..types import DType, Shape, TensorType, dtype_of


@dataclass(frozen=True, eq=False)
class Constant(Op):
    """A tensor known at compile time."""

    value: np.ndarray = field(repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "value", np.asarray(self.value, order="C"))  # others read it as dense memory

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(not types, "takes no operands")
        return (TensorType(dtype_of(self.value.dtype), self.value.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (self.value,)


@dataclass(frozen=True)
class Iota(Op):
    """The index along one axis, as an element of ``dtype``."""

    dtype: DType
    shape: Shape
    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(not types, "takes no operands")
        require(0 <= self.axis < len(self.shape), f"no axis {self.axis} in {self.shape}")
        return (TensorType(self.dtype, self.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        steps = np.arange(self.shape[self.axis]).astype(self.dtype.numpy)
        along = [1] * len(self.shape)
        along[self.axis] = -1
        return (np.broadcast_to(steps.reshape(along), self.shape).copy(),)


@dataclass(frozen=True)
class Broadcast(Op):
    """Repeat along new axes: operand axis i becomes output axis ``axes[i]``; axes not named, and
    operand axes of size 1, are repeated."""

    shape: Shape
    axes: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        operand = types[0]
        require(len(self.axes) == operand.rank, f"{len(self.axes)} axes for rank {operand.rank}")
        require(list(self.axes) == sorted(set(self.axes)), f"axes {self.axes} do not increase")
        for size, axis in zip(operand.shape, self.axes, strict=True):
            if not 0 <= axis < len(self.shape):
                raise IRError(f"no axis {axis} in {self.shape}")
            if size not in (1, self.shape[axis]):
                raise IRError(f"{size} does not stretch to {self.shape[axis]}")
        return (TensorType(operand.dtype, self.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        aligned = [1] * len(self.shape)
        for size, axis in zip(arrays[0].shape, self.axes, strict=True):
            aligned[axis] = size
        return (np.broadcast_to(arrays[0].reshape(aligned), self.shape).copy(),)


@dataclass(frozen=True)
class Reshape(Op):
    """The same elements in row-major order under another shape."""

    shape: Shape
    view: ClassVar[bool] = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        if prod(self.shape) != types[0].size:
            raise IRError(f"{types[0]} has no shape {self.shape}")
        return (TensorType(types[0].dtype, self.shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (arrays[0].reshape(self.shape),)


@dataclass(frozen=True)
class Transpose(Op):
    """Output axis i is operand axis ``perm[i]``."""

    perm: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        require(sorted(self.perm) == list(range(types[0].rank)), f"{self.perm} permutes no {types[0]}")
        return (TensorType(types[0].dtype, tuple(types[0].shape[p] for p in self.perm)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.ascontiguousarray(np.transpose(arrays[0], self.perm)).reshape(
            tuple(arrays[0].shape[p] for p in self.perm)),)


@dataclass(frozen=True)
class Slice(Op):
    """Elements ``starts[i], starts[i] + strides[i], …`` below ``limits[i]`` of every axis."""

    starts: Shape
    limits: Shape
    strides: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        operand = types[0]
        lengths = {len(self.starts), len(self.limits), len(self.strides), operand.rank}
        require(len(lengths) == 1, f"starts, limits and strides do not fit rank {operand.rank}")
        shape = []
        for size, start, limit, stride in zip(operand.shape, self.starts, self.limits, self.strides, strict=True):
            require(0 <= start <= limit <= size, f"[{start}:{limit}] is outside [0:{size}]")
            require(stride > 0, f"stride {stride} is not positive")
            shape.append(-(-(limit - start) // stride))
        return (TensorType(operand.dtype, tuple(shape)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        index = tuple(slice(*s) for s in zip(self.starts, self.limits, self.strides, strict=True))
        return (arrays[0][index].copy(),)

    def columns(self, wide: Shape) -> tuple[int, int] | None:
        """The first column and that behind the last one, where these are all it takes of each row of a tensor of shape
        ``wide``; None for other slices."""
        if set(self.strides) != {1} or any(self.starts[:-1]) or self.limits[:-1] != wide[:-1]:
            return None
        return self.starts[-1], self.limits[-1]


@dataclass(frozen=True)
class Pad(Op):
    """Surround by the second operand, a scalar; ``interior`` elements go between neighbours.
    ``low`` and ``high`` may be negative: that many elements are cut off."""

    low: Shape
    high: Shape
    interior: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2, f"takes 2 operands, not {len(types)}")
        operand, value = types
        require(value == TensorType(operand.dtype, ()), f"pads {operand} with {value}")
        lengths = {len(self.low), len(self.high), len(self.interior), operand.rank}
        require(len(lengths) == 1, f"low, high and interior do not fit rank {operand.rank}")
        shape = []
        for size, low, high, inner in zip(operand.shape, self.low, self.high, self.interior, strict=True):
            require(inner >= 0, f"interior padding {inner} is negative")
            padded = low + high + size + max(size - 1, 0) * inner
            require(padded >= 0, f"padding makes an axis of size {padded}")
            shape.append(padded)
        return (TensorType(operand.dtype, tuple(shape)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, value = arrays
        spread = tuple(s + max(s - 1, 0) * i for s, i in zip(x.shape, self.interior, strict=True))
        stretched = np.full(spread, value, dtype=x.dtype)
        stretched[tuple(slice(None, None, i + 1) for i in self.interior)] = x
        padded = np.pad(stretched, [(max(a, 0), max(b, 0)) for a, b in zip(self.low, self.high, strict=True)],
                        constant_values=value[()])
        cut = tuple(slice(max(-a, 0), n - max(-b, 0))
                    for a, b, n in zip(self.low, self.high, padded.shape, strict=True))
        return (padded[cut].astype(x.dtype, copy=True),)


@dataclass(frozen=True)
class Concat(Op):
    """Operands one after another along ``axis``."""

    axis: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) >= 1, "takes at least 1 operand")
        first = types[0]
        require(0 <= self.axis < first.rank, f"no axis {self.axis} in {first}")
        for other in types[1:]:
            same = other.dtype == first.dtype and other.rank == first.rank
            same = same and all(a == b for i, (a, b) in enumerate(zip(first.shape, other.shape, strict=False))
                                if i != self.axis)
            require(same, f"{other} does not join {first} along axis {self.axis}")
        shape = list(first.shape)
        shape[self.axis] = sum(t.shape[self.axis] for t in types)
        return (TensorType(first.dtype, tuple(shape)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.concatenate(arrays, axis=self.axis),)


@dataclass(frozen=True)
class FirstColumns(Op):
    """A tensor with ``width`` elements along its last axis, whose first are the operand's; the others are not written
    yet, and nobody may read them."""

    width: int

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        require(types[0].rank > 0 and types[0].shape[-1] <= self.width, f"{types[0]} has no {self.width} columns")
        return (TensorType(types[0].dtype, (*types[0].shape[:-1], self.width)),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        unknown = np.nan if np.issubdtype(arrays[0].dtype, np.inexact) else 1
        wide = np.full((*arrays[0].shape[:-1], self.width), unknown, arrays[0].dtype)
        wide[..., :arrays[0].shape[-1]] = arrays[0]
        return (wide,)


@dataclass(frozen=True)
class MoreColumns(Op):
    """The first operand with the second as its columns from ``start`` on, which have not been written before."""

    start: int
    in_place: ClassVar[bool] = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 2, f"takes 2 operands, not {len(types)}")
        wide, part = types
        same = wide.dtype == part.dtype and wide.rank == part.rank > 0 and wide.shape[:-1] == part.shape[:-1]
        require(same and 0 < self.start <= wide.shape[-1] - part.shape[-1],
                f"{part} is no columns of {wide} from {self.start} on")
        return (wide,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        wide, part = arrays[0].copy(), arrays[1]
        wide[..., self.start: self.start + part.shape[-1]] = part
        return (wide,)


@dataclass(frozen=True)
class Reverse(Op):
    """Elements in opposite order along ``axes``."""

    axes: Shape

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        require(all(0 <= a < types[0].rank for a in self.axes), f"axes {self.axes} of {types[0]}")
        return types

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.flip(arrays[0], self.axes).copy(),)
