"""Operations on corresponding elements of tensors of one shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..op import Op, require
from ..types import BOOL, DType, TensorType

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class _Elementwise(Op):
    elementwise: ClassVar[bool] = True
    arity: ClassVar[int] = 1
    kinds: ClassVar[tuple[str, ...]] = ("float", "int", "uint")

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        """Constraints: (1) the arity; (2) one type for all operands; (3) an element kind it knows."""
        if len(types) == self.arity and types.count(types[0]) == len(types) and types[0].dtype.kind in self.kinds:
            return (self.result(types[0]),)  # before messages are made: this is asked of every node many times
        require(len(types) == self.arity, f"takes {self.arity} operands, not {len(types)}")
        require(len(set(types)) == 1, "operands differ in type")
        require(types[0].dtype.kind in self.kinds, f"does not take {types[0].dtype}")
        return (self.result(types[0]),)

    def result(self, operand: TensorType) -> TensorType:
        return operand


class _Unary(_Elementwise):
    def compute(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        (x,) = arrays
        return (np.asarray(self.compute(x)).astype(x.dtype, copy=False),)


class _FloatUnary(_Unary):
    kinds: ClassVar[tuple[str, ...]] = ("float",)

    def compute(self, x: np.ndarray) -> np.ndarray:
        """Computed one precision wider than the operand, then rounded once."""
        wide = x.astype(np.float64 if x.dtype.itemsize >= 4 else np.float32)
        return self.wide(wide)

    def wide(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError


class Neg(_Unary):
    """-x; integers wrap."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.negative(x)


class Abs(_Unary):
    """|x|; the smallest signed integer stays itself."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.abs(x)


class Sign(_Unary):
    """-1, 0 or 1; NaN for NaN; 0 for -0."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.sign(x) if x.dtype.kind in "iu" else np.sign(x.astype(np.float64))


class Exp(_FloatUnary):
    """e to the power x."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.exp(x)


class Expm1(_FloatUnary):
    """exp(x) - 1 without cancellation near 0."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.expm1(x)


class Log(_FloatUnary):
    """Natural logarithm; NaN below 0, -inf at 0."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.log(x)


class Log1p(_FloatUnary):
    """log(1 + x) without cancellation near 0."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.log1p(x)


class Sqrt(_FloatUnary):
    """Square root, correctly rounded."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.sqrt(x)


class Rsqrt(_FloatUnary):
    """1 / sqrt(x)."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return 1.0 / np.sqrt(x)


class Tanh(_FloatUnary):
    """Hyperbolic tangent."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.tanh(x)


class Sigmoid(_FloatUnary):
    """1 / (1 + exp(-x))."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return 1.0 / (1.0 + np.exp(-x))


class Erf(_FloatUnary):
    """The error function."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return _erf(x) if x.size else x


class Sin(_FloatUnary):
    """Sine; radians."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.sin(x)


class Cos(_FloatUnary):
    """Cosine; radians."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.cos(x)


class Floor(_FloatUnary):
    """Largest integer not above x."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.floor(x)


class Ceil(_FloatUnary):
    """Smallest integer not below x."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.ceil(x)


class Round(_FloatUnary):
    """Nearest integer, halves to even."""

    def wide(self, x: np.ndarray) -> np.ndarray:
        return np.rint(x)


class BitwiseNot(_Unary):
    """Complement of every bit."""

    kinds: ClassVar[tuple[str, ...]] = ("int", "uint")

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.invert(x)


class LogicalNot(_Unary):
    """not x."""

    kinds: ClassVar[tuple[str, ...]] = ("bool",)

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.logical_not(x)


class _Classify(_Elementwise):
    kinds: ClassVar[tuple[str, ...]] = ("float",)

    def result(self, operand: TensorType) -> TensorType:
        return TensorType(BOOL, operand.shape)

    def compute(self, x: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(self.compute(arrays[0]), dtype=np.bool_),)


class IsNan(_Classify):
    """Whether x is NaN."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.isnan(x)


class IsInf(_Classify):
    """Whether x is +inf or -inf."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.isinf(x)


class IsFinite(_Classify):
    """Whether x is neither NaN nor infinite."""

    def compute(self, x: np.ndarray) -> np.ndarray:
        return np.isfinite(x)


class _Binary(_Elementwise):
    arity: ClassVar[int] = 2

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        x, y = arrays
        return (np.asarray(self.compute(x, y)).astype(x.dtype, copy=False),)


class Add(_Binary):
    """x + y; integers wrap."""

    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.add(x, y)


class Sub(_Binary):
    """x - y; integers wrap."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.subtract(x, y)


class Mul(_Binary):
    """x * y; integers wrap."""

    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.multiply(x, y)


class Div(_Binary):
    """x / y for floats, IEEE 754."""

    kinds: ClassVar[tuple[str, ...]] = ("float",)

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.divide(x, y)


class FloorDiv(_Binary):
    """floor(x / y); a zero integer divisor gives 0 (importers add a check)."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind not in "iu":
            return np.floor(np.divide(x, y))
        return np.floor_divide(x, y)


class FloorMod(_Binary):
    """x - floor(x / y) * y, with the sign of y; a zero integer divisor gives 0."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind in "iu":
            return np.mod(x, y)
        remainder = np.fmod(x, y)
        return np.where((remainder != 0) & ((remainder < 0) != (y < 0)), remainder + y, remainder)


class TruncDiv(_Binary):
    """x / y rounded towards 0, integers only; a zero divisor gives 0."""

    kinds: ClassVar[tuple[str, ...]] = ("int", "uint")

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.where(y == 0, np.zeros_like(x), (x - np.fmod(x, y)) // np.where(y == 0, np.ones_like(y), y))


class TruncMod(_Binary):
    """x - trunc(x / y) * y, with the sign of x; a zero integer divisor gives 0."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.fmod(x, y)


class Pow(_Binary):
    """x to the power y; integers wrap and take exponents >= 0."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        if x.dtype.kind in "iu":
            return np.power(x, np.maximum(y, 0))
        wide = np.float64 if x.dtype.itemsize >= 4 else np.float32
        return np.power(x.astype(wide), y.astype(wide))


class Maximum(_Binary):
    """The larger; NaN where either is NaN."""

    kinds: ClassVar[tuple[str, ...]] = ("float", "int", "uint")
    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.maximum(x, y)


class Minimum(_Binary):
    """The smaller; NaN where either is NaN."""

    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.minimum(x, y)


class Atan2(_Binary):
    """Angle of the point (y, x) in radians; operands are y, then x."""

    kinds: ClassVar[tuple[str, ...]] = ("float",)

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        wide = np.float64 if x.dtype.itemsize >= 4 else np.float32
        return np.arctan2(x.astype(wide), y.astype(wide))


class _Bits(_Binary):
    kinds: ClassVar[tuple[str, ...]] = ("int", "uint")


class BitwiseAnd(_Bits):
    """Bit by bit and."""

    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.bitwise_and(x, y)


class BitwiseOr(_Bits):
    """Bit by bit or."""

    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.bitwise_or(x, y)


class BitwiseXor(_Bits):
    """Bit by bit exclusive or."""

    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.bitwise_xor(x, y)


class ShiftLeft(_Bits):
    """x * 2**y modulo the width; y is clamped to [0, width - 1], as TensorFlow does."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.left_shift(x, np.clip(y, 0, x.dtype.itemsize * 8 - 1))


class ShiftRight(_Bits):
    """Arithmetic shift for signed, logical for unsigned; y is clamped to [0, width - 1]."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.right_shift(x, np.clip(y, 0, x.dtype.itemsize * 8 - 1))


class _Logical(_Binary):
    kinds: ClassVar[tuple[str, ...]] = ("bool",)
    commutative: ClassVar[bool] = True


class LogicalAnd(_Logical):
    """x and y."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.logical_and(x, y)


class LogicalOr(_Logical):
    """x or y."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.logical_or(x, y)


class _Compare(_Binary):
    kinds: ClassVar[tuple[str, ...]] = ("float", "int", "uint")

    def result(self, operand: TensorType) -> TensorType:
        return TensorType(BOOL, operand.shape)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.asarray(self.compute(*arrays), dtype=np.bool_),)


class Equal(_Compare):
    """x == y; false for NaN."""

    kinds: ClassVar[tuple[str, ...]] = ("float", "int", "uint", "bool")
    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.equal(x, y)


class NotEqual(_Compare):
    """x != y; true for NaN."""

    kinds: ClassVar[tuple[str, ...]] = ("float", "int", "uint", "bool")
    commutative: ClassVar[bool] = True

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.not_equal(x, y)


class Less(_Compare):
    """x < y."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.less(x, y)


class LessEqual(_Compare):
    """x <= y."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.less_equal(x, y)


class Greater(_Compare):
    """x > y."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.greater(x, y)


class GreaterEqual(_Compare):
    """x >= y."""

    def compute(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.greater_equal(x, y)


@dataclass(frozen=True)
class Select(Op):
    """a where the bool condition holds, else b."""

    elementwise: ClassVar[bool] = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 3, f"takes 3 operands, not {len(types)}")
        condition, a, b = types
        require(condition.dtype == BOOL, f"the condition is {condition.dtype}, not bool")
        require(a == b, "the branches differ in type")
        require(condition.shape == a.shape, "condition and branches differ in shape")
        return (a,)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.where(*arrays),)


@dataclass(frozen=True)
class Cast(Op):
    """Convert to another element type: floats to integers round towards 0, integers wrap,
    anything to bool is ``x != 0``."""

    dtype: DType
    elementwise: ClassVar[bool] = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        return (TensorType(self.dtype, types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (arrays[0].astype(self.dtype.numpy),)


@dataclass(frozen=True)
class Bitcast(Op):
    """The same bits under another element type of the same width."""

    dtype: DType
    elementwise: ClassVar[bool] = True

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(len(types) == 1, f"takes 1 operand, not {len(types)}")
        require(types[0].dtype.bits == self.dtype.bits, "the widths differ")
        return (TensorType(self.dtype, types[0].shape),)

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return (np.ascontiguousarray(arrays[0]).view(self.dtype.numpy).reshape(arrays[0].shape),)
