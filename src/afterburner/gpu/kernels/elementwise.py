"""Operations on corresponding elements. Written so that they do not depend on what backends do differently:
NaN in a maximum, the rounding of integer division, floats outside an integer's range."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np

from ...ir import Op
from ...ir.ops import elementwise as ew
from ..backend import is_half, mx, mx_dtype
from . import Lowering

_ERF_TERMS = tuple(2 / math.sqrt(math.pi) * (-1) ** n / (math.factorial(n) * (2 * n + 1)) for n in range(8))
_TOP_BIT = mx.array(np.asarray(1 << 63, np.uint64))  # MLX takes no Python integer as large
_ERF_SMALL = 0.5  # below, the series' next term is less than 2**-24 of the sum


def _is_float(x: mx.array) -> bool:
    return mx.issubdtype(x.dtype, mx.floating)


def _is_signed(x: mx.array) -> bool:
    return mx.issubdtype(x.dtype, mx.signedinteger)


def _width(x: mx.array) -> int:
    return x.dtype.size * 8


# One operand.

def _neg(x: mx.array) -> mx.array:
    return mx.negative(x) if _is_float(x) or _is_signed(x) else mx.zeros_like(x) - x


def _abs(x: mx.array) -> mx.array:
    return mx.abs(x) if _is_float(x) or _is_signed(x) else x


def _sign(x: mx.array) -> mx.array:
    if not _is_float(x):
        return mx.sign(x)
    return mx.where(mx.isnan(x), x, mx.where(x == 0, mx.zeros_like(x), mx.sign(x)))


def _erf(x: mx.array) -> mx.array:
    """Near 0 by the series: MLX's own keeps the absolute error small, not the relative."""
    square = x * x
    series = mx.zeros_like(x)
    for term in reversed(_ERF_TERMS):
        series = series * square + term
    return mx.where(mx.abs(x) < _ERF_SMALL, x * series, mx.erf(x))


def _odd(function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """Keeps -0.0."""
    return mx.where(x == 0, x, function(x))


def _wide(function: Callable[[mx.array], mx.array], x: mx.array) -> mx.array:
    """16-bit floats in float32: what lies between may exceed their range."""
    return function(x.astype(mx.float32)).astype(x.dtype) if is_half(x) else function(x)


# Two operands.

def _extreme(choose: Callable[[mx.array, mx.array], mx.array], x: mx.array, y: mx.array) -> mx.array:
    """NaN where either is NaN; Metal's instructions drop it."""
    if not _is_float(x):
        return choose(x, y)
    return mx.where(mx.isnan(x) | mx.isnan(y), x + y, choose(x, y))


def _quotient(x: mx.array, y: mx.array) -> tuple[mx.array, mx.array]:
    """An integer quotient rounded down or towards 0, as the backend likes, and its remainder. A divisor 0 or -1
    is replaced by 1: the one has no quotient, the other overflows."""
    safe = mx.where(y == 0, mx.ones_like(y), y)
    if _is_signed(y):
        safe = mx.where(y == -1, mx.ones_like(y), safe)
    quotient = mx.floor_divide(x, safe)
    return quotient, x - quotient * safe


def _opposite(rest: mx.array, y: mx.array) -> mx.array:
    return mx.logical_and(rest != 0, (rest < 0) != (y < 0))


def _corrected(x: mx.array, y: mx.array, like: mx.array) -> tuple[mx.array, mx.array]:
    """Quotient and remainder where the remainder has the sign of ``like``; 0 and 0 where y is 0."""
    quotient, rest = _quotient(x, y)
    zero = mx.zeros_like(x)
    if _is_signed(x):
        wrong = _opposite(rest, like)
        # The rest is of one sign or the other: from the floor it has y's, else x's.
        towards = mx.where(_opposite(rest, y), -mx.ones_like(x), mx.ones_like(x))
        quotient = mx.where(wrong, quotient + towards, quotient)
        rest = mx.where(wrong, rest - towards * y, rest)
        quotient = mx.where(y == -1, zero - x, quotient)
        rest = mx.where(y == -1, zero, rest)
    return mx.where(y == 0, zero, quotient), mx.where(y == 0, zero, rest)


def _floor_div(x: mx.array, y: mx.array) -> mx.array:
    return mx.floor(x / y) if _is_float(x) else _corrected(x, y, y)[0]


def _floor_mod(x: mx.array, y: mx.array) -> mx.array:
    return mx.remainder(x, y) if _is_float(x) else _corrected(x, y, y)[1]


def _trunc_div(x: mx.array, y: mx.array) -> mx.array:
    return _corrected(x, y, x)[0]


def _trunc_mod(x: mx.array, y: mx.array) -> mx.array:
    if not _is_float(x):
        return _corrected(x, y, x)[1]
    rest = mx.remainder(mx.abs(x), mx.abs(y))
    return mx.where(_negative(x), -rest, rest)


def _negative(x: mx.array) -> mx.array:
    """Whether the sign bit is set, of zeros too."""
    return mx.logical_or(x < 0, mx.logical_and(x == 0, mx.divide(mx.ones_like(x), x) < 0))


def _pow(x: mx.array, y: mx.array) -> mx.array:
    if _is_float(x):
        return mx.power(x.astype(mx.float32), y.astype(mx.float32)).astype(x.dtype)
    return mx.power(x, mx.maximum(y, mx.zeros_like(y)))


def _shift(function: Callable[[mx.array, mx.array], mx.array], x: mx.array, y: mx.array) -> mx.array:
    return function(x, mx.clip(y, mx.zeros_like(y), mx.full(y.shape, _width(x) - 1, y.dtype)))


def _atan2(x: mx.array, y: mx.array) -> mx.array:
    return mx.arctan2(x.astype(mx.float32), y.astype(mx.float32)).astype(x.dtype)


# Conversions.

def _cast(op: ew.Cast, x: mx.array) -> tuple[mx.array, ...]:
    target = mx_dtype(op.dtype)
    if target == mx.bool_:
        return (x != 0,)
    if _is_float(x) and op.dtype.is_integer:
        return (_to_integer(x.astype(mx.float32), target),)
    if not _is_float(x) and op.dtype.is_float:
        x = x.astype(mx.float32)
    return (x.astype(target),)


def _to_integer(x: mx.array, target: mx.Dtype) -> mx.array:
    """Floats outside the range become what x86 gives: the smallest 32- or 64-bit integer, cut to the width."""
    if target == mx.uint64:
        half = 2.0**63
        large = x >= half
        low = _to_signed(mx.where(large, x - half, x), 64).view(mx.uint64)
        return mx.where(large, low ^ _TOP_BIT, low)
    return _to_signed(x, 64 if target in (mx.int64, mx.uint32) else 32).astype(target)


def _to_signed(x: mx.array, width: int) -> mx.array:
    type_ = mx.int64 if width == 64 else mx.int32
    bound = 2.0 ** (width - 1)
    legal = mx.logical_and(x >= -bound, x < bound)
    exact = mx.where(legal, x, mx.zeros_like(x)).astype(type_)
    return mx.where(legal, exact, mx.array(-(1 << (width - 1)), type_))


def _bitcast(op: ew.Bitcast, x: mx.array) -> tuple[mx.array, ...]:
    target = mx_dtype(op.dtype)
    if target == mx.bool_:
        return (x.view(mx.uint8) != 0,)
    return (x.view(target),) if x.ndim else (x.reshape(1).view(target).reshape(()),)


_CURVES: dict[type[Op], Callable[..., mx.array]] = {
    ew.Exp: mx.exp, ew.Expm1: mx.expm1, ew.Log: mx.log, ew.Log1p: mx.log1p, ew.Rsqrt: mx.rsqrt, ew.Tanh: mx.tanh,
    ew.Sigmoid: mx.sigmoid, ew.Erf: _erf, ew.Sin: partial(_odd, mx.sin), ew.Cos: mx.cos,
}
_FUNCTIONS: dict[type[Op], Callable[..., mx.array]] = {
    **{op: partial(_wide, function) for op, function in _CURVES.items()},
    ew.Neg: _neg, ew.Abs: _abs, ew.Sign: _sign, ew.Sqrt: mx.sqrt, ew.Floor: mx.floor, ew.Ceil: mx.ceil,
    ew.Round: mx.round, ew.BitwiseNot: mx.bitwise_invert, ew.LogicalNot: mx.logical_not,
    ew.IsNan: mx.isnan, ew.IsInf: mx.isinf, ew.IsFinite: mx.isfinite,
    ew.Add: mx.add, ew.Sub: mx.subtract, ew.Mul: mx.multiply, ew.Div: mx.divide, ew.FloorDiv: _floor_div,
    ew.FloorMod: _floor_mod, ew.TruncDiv: _trunc_div, ew.TruncMod: _trunc_mod, ew.Pow: _pow,
    ew.Maximum: partial(_extreme, mx.maximum), ew.Minimum: partial(_extreme, mx.minimum), ew.Atan2: _atan2,
    ew.BitwiseAnd: mx.bitwise_and, ew.BitwiseOr: mx.bitwise_or, ew.BitwiseXor: mx.bitwise_xor,
    ew.ShiftLeft: partial(_shift, mx.left_shift), ew.ShiftRight: partial(_shift, mx.right_shift),
    ew.LogicalAnd: mx.logical_and, ew.LogicalOr: mx.logical_or, ew.Equal: mx.equal, ew.NotEqual: mx.not_equal,
    ew.Less: mx.less, ew.LessEqual: mx.less_equal, ew.Greater: mx.greater, ew.GreaterEqual: mx.greater_equal,
    ew.Select: mx.where,
}


def _plain(function: Callable[..., mx.array]) -> Lowering:
    """A lowering of an operation without attributes."""
    return lambda op, *operands: (function(*operands),)


LOWERINGS: dict[type[Op], Lowering] = {
    **{op: _plain(function) for op, function in _FUNCTIONS.items()},
    ew.Cast: _cast,
    ew.Bitcast: _bitcast,
}
