"""Short notation for composite formulas: each method emits one operation of the IR."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...ir import Op, Value
from ...ir.ops import elementwise as ew
from ...ir.ops.reduce import ReduceMax, ReduceSum
from ...ir.types import F32, DType
from ..importer import Importer

Number = float | int | bool


class Formula:
    """Emits operations; a number takes the shape and element type of the other operand."""

    def __init__(self, ctx: Importer) -> None:
        self.ctx = ctx

    def _binary(self, kind: type[Op], a: Value | Number, b: Value | Number) -> Value:
        if not isinstance(a, Value):
            assert isinstance(b, Value)
            a = self.ctx.like(b, a)
        if not isinstance(b, Value):
            b = self.ctx.like(a, b)
        return self.ctx.emit(kind(), a, b)

    def add(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Add, a, b)

    def sub(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Sub, a, b)

    def mul(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Mul, a, b)

    def div(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Div, a, b)

    def maximum(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Maximum, a, b)

    def minimum(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Minimum, a, b)

    def atan2(self, y: Value | Number, x: Value | Number) -> Value:
        return self._binary(ew.Atan2, y, x)

    def eq(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Equal, a, b)

    def lt(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Less, a, b)

    def gt(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.Greater, a, b)

    def ge(self, a: Value | Number, b: Value | Number) -> Value:
        return self._binary(ew.GreaterEqual, a, b)

    def both(self, a: Value, b: Value) -> Value:
        return self.ctx.emit(ew.LogicalAnd(), a, b)

    def either(self, a: Value, b: Value) -> Value:
        return self.ctx.emit(ew.LogicalOr(), a, b)

    def select(self, condition: Value, a: Value | Number, b: Value | Number) -> Value:
        if not isinstance(a, Value):
            assert isinstance(b, Value)
            a = self.ctx.like(b, a)
        if not isinstance(b, Value):
            b = self.ctx.like(a, b)
        return self.ctx.emit(ew.Select(), condition, a, b)

    def neg(self, x: Value) -> Value:
        return self.ctx.emit(ew.Neg(), x)

    def abs(self, x: Value) -> Value:
        return self.ctx.emit(ew.Abs(), x)

    def sign(self, x: Value) -> Value:
        return self.ctx.emit(ew.Sign(), x)

    def exp(self, x: Value) -> Value:
        return self.ctx.emit(ew.Exp(), x)

    def expm1(self, x: Value) -> Value:
        return self.ctx.emit(ew.Expm1(), x)

    def log(self, x: Value) -> Value:
        return self.ctx.emit(ew.Log(), x)

    def log1p(self, x: Value) -> Value:
        return self.ctx.emit(ew.Log1p(), x)

    def erf(self, x: Value) -> Value:
        return self.ctx.emit(ew.Erf(), x)

    def sqrt(self, x: Value) -> Value:
        return self.ctx.emit(ew.Sqrt(), x)

    def rsqrt(self, x: Value) -> Value:
        return self.ctx.emit(ew.Rsqrt(), x)

    def floor(self, x: Value) -> Value:
        return self.ctx.emit(ew.Floor(), x)

    def sin(self, x: Value) -> Value:
        return self.ctx.emit(ew.Sin(), x)

    def cos(self, x: Value) -> Value:
        return self.ctx.emit(ew.Cos(), x)

    def square(self, x: Value) -> Value:
        return self.mul(x, x)

    def sum(self, x: Value, axes: tuple[int, ...]) -> Value:
        """Sum over increasing ``axes``, which are dropped."""
        return self.ctx.emit(ReduceSum(axes), x)

    def max(self, x: Value, axes: tuple[int, ...]) -> Value:
        return self.ctx.emit(ReduceMax(axes), x)

    def along(self, x: Value, like: Value, axes: tuple[int, ...]) -> Value:
        """``x``, whose axes are ``axes`` of ``like``, repeated to the shape of ``like``."""
        return self.ctx.broadcast_along(x, like.shape, axes)

    def cast(self, x: Value, dtype: DType) -> Value:
        return self.ctx.cast(x, dtype)

    def widened(self, x: Value) -> Value:
        """Half-width floats as f32; others as they are."""
        return self.cast(x, F32) if x.type.dtype.is_float and x.type.dtype.bits < 32 else x


def polynomial(f: Formula, x: Value, coefficients: Sequence[float]) -> Value:
    """By Horner's rule, the coefficient of the highest power first."""
    value = f.ctx.like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = f.add(f.mul(value, x), coefficient)
    return value


def in_f32(function: Callable[[Formula, Value], Value]) -> Callable[[Formula, Value], Value]:
    """The function with its intermediate results in f32 where the operand is narrower."""
    def widened(f: Formula, x: Value) -> Value:
        return f.cast(function(f, f.widened(x)), x.type.dtype)
    return widened
