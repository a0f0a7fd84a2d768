"""Elementwise operations on LLVM values: scalars, or vectors with one element in each lane.

In registers a bool is an i1, and f16 and bf16 are f32 rounded to their precision after every
operation; everything else is what memory holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir as ll

from ..ir import DTYPES, DType, Op
from . import halves, vecmath
from .emitter import F32, F64, I1, I8, I16, Emitter, const, like, stored_type

BOOL = DTYPES["bool"]


def register_type(dtype: DType) -> ll.Type:
    """The type of one element in a register."""
    if dtype == BOOL:
        return I1
    return halves.compute_type(dtype)


def memory_type(dtype: DType) -> ll.Type:
    """The type of one element as these loops load, move and store it: half floats go as their bits."""
    return I16 if halves.is_half(dtype) else stored_type(dtype)


def lanes_of(value: ll.Value) -> int:
    """Number of lanes; 1 for a scalar."""
    return value.type.count if isinstance(value.type, ll.VectorType) else 1


def from_memory(e: Emitter, raw: ll.Value, dtype: DType) -> ll.Value:
    """A loaded value in its register form."""
    if dtype == BOOL:
        return e.b.icmp_unsigned("!=", raw, const(raw.type, 0))
    return halves.widen(e, e.b.bitcast(raw, like(raw, stored_type(dtype)))) if halves.is_half(dtype) else raw


def to_memory(e: Emitter, value: ll.Value, dtype: DType) -> ll.Value:
    """A register value in the form that is stored; f16 and bf16 are already rounded."""
    if dtype == BOOL:
        return e.b.zext(value, like(value, I8))
    return e.b.bitcast(halves.narrow(e, value, dtype), like(value, I16)) if halves.is_half(dtype) else value


def rounded(e: Emitter, value: ll.Value, dtype: DType) -> ll.Value:
    """An f32 register value rounded to ``dtype`` where that is narrower."""
    return halves.widen(e, halves.narrow(e, value, dtype)) if halves.is_half(dtype) else value


def literal(dtype: DType, value: Any, lanes: int) -> ll.Constant:
    """A constant in register form."""
    type_ = register_type(dtype)
    number = float(value) if dtype.is_float else int(value)
    if dtype.kind == "uint" and number >= 1 << (dtype.bits - 1):
        number -= 1 << dtype.bits
    return const(ll.VectorType(type_, lanes) if lanes > 1 else type_, number)


def apply(e: Emitter, op: Op, operand: DType, result: DType, args: list[ll.Value]) -> ll.Value:
    """Emit one elementwise operation.

    Args:
        op: the operation.
        operand: element type of the operands (of the branches, for ``select``).
        result: element type of the result.
        args: operands in register form, all with the same lanes.

    Raises:
        KeyError: no such elementwise operation.
    """
    if op.name == "cast":
        return cast(e, args[0], operand, result)
    if op.name == "bitcast":
        return bitcast(e, args[0], operand, result)
    if op.name == "select":
        return e.b.select(args[0], args[1], args[2])
    if op.name in _COMPARE:
        return compare(e, _COMPARE[op.name], operand, *args)
    if op.name in _LOGICAL:
        return _LOGICAL[op.name](e, *args)
    table = _FLOAT if operand.is_float else _INTEGER
    if op.name == "floor_div" and halves.is_half(operand):
        return vecmath.floor(e, rounded(e, e.b.fdiv(*args), result))
    if operand.is_float:
        value = table[op.name](e, *args)
        return rounded(e, value, result) if result.is_float else value
    return table[op.name](e, operand, *args)  # type: ignore[arg-type]


_COMPARE = {"equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">",
            "greater_equal": ">="}


def compare(e: Emitter, sign: str, dtype: DType, x: ll.Value, y: ll.Value) -> ll.Value:
    """An i1 for each lane; every comparison with NaN but ``!=`` is false."""
    if dtype.is_float:
        return e.b.fcmp_unordered("!=", x, y) if sign == "!=" else e.b.fcmp_ordered(sign, x, y)
    return e.b.icmp_signed(sign, x, y) if dtype.kind == "int" else e.b.icmp_unsigned(sign, x, y)


_LOGICAL: dict[str, Callable[..., ll.Value]] = {
    "logical_and": lambda e, x, y: e.b.and_(x, y),
    "logical_or": lambda e, x, y: e.b.or_(x, y),
    "logical_not": lambda e, x: e.b.not_(x),
}


# --- floats -------------------------------------------------------------------------------------

def _float_sign(e: Emitter, x: ll.Value) -> ll.Value:
    one, minus, zero = const(x.type, 1.0), const(x.type, -1.0), const(x.type, 0.0)
    negative = e.b.select(e.b.fcmp_ordered("<", x, zero), minus, e.b.fadd(x, zero))
    return e.b.select(e.b.fcmp_ordered(">", x, zero), one, negative)


def maximum(e: Emitter, x: ll.Value, y: ll.Value) -> ll.Value:
    """The larger float, NaN where either is."""
    larger = e.b.select(e.b.fcmp_ordered(">", x, y), x, y)
    return e.b.select(e.b.fcmp_unordered("uno", x, x), x, larger)


def minimum(e: Emitter, x: ll.Value, y: ll.Value) -> ll.Value:
    """The smaller float, NaN where either is."""
    smaller = e.b.select(e.b.fcmp_ordered("<", x, y), x, y)
    return e.b.select(e.b.fcmp_unordered("uno", x, x), x, smaller)


def _float_floor_mod(e: Emitter, x: ll.Value, y: ll.Value) -> ll.Value:
    rest = vecmath.fmod(e, x, y)
    zero = const(x.type, 0.0)
    other_sign = e.b.xor(e.b.fcmp_ordered("<", rest, zero), e.b.fcmp_ordered("<", y, zero))
    wrong = e.b.and_(e.b.fcmp_unordered("!=", rest, zero), other_sign)
    return e.b.select(wrong, e.b.fadd(rest, y), rest)


def _is_inf(e: Emitter, x: ll.Value) -> ll.Value:
    return e.b.fcmp_ordered("==", _fabs(e, x), const(x.type, float("inf")))


def _is_finite(e: Emitter, x: ll.Value) -> ll.Value:
    return e.b.fcmp_ordered("<", _fabs(e, x), const(x.type, float("inf")))


def _fabs(e: Emitter, x: ll.Value) -> ll.Value:
    return e.intrinsic("llvm.fabs", x.type, x)


def _sqrt(e: Emitter, x: ll.Value) -> ll.Value:
    return e.intrinsic("llvm.sqrt", x.type, x)


_FLOAT: dict[str, Callable[..., ll.Value]] = {
    "neg": lambda e, x: e.b.fneg(x),
    "abs": _fabs,
    "sign": _float_sign,
    "exp": vecmath.exp, "expm1": vecmath.expm1, "log": vecmath.log, "log1p": vecmath.log1p,
    "tanh": vecmath.tanh, "sigmoid": vecmath.sigmoid, "erf": vecmath.erf,
    "sin": vecmath.sin, "cos": vecmath.cos, "pow": vecmath.power, "atan2": vecmath.atan2,
    "sqrt": _sqrt,
    "rsqrt": lambda e, x: e.b.fdiv(const(x.type, 1.0), _sqrt(e, x)),
    "floor": vecmath.floor, "ceil": vecmath.ceil, "round": vecmath.round_even,
    "is_nan": lambda e, x: e.b.fcmp_unordered("uno", x, x),
    "is_inf": _is_inf, "is_finite": _is_finite,
    "add": lambda e, x, y: e.b.fadd(x, y),
    "sub": lambda e, x, y: e.b.fsub(x, y),
    "mul": lambda e, x, y: e.b.fmul(x, y),
    "div": lambda e, x, y: e.b.fdiv(x, y),
    "floor_div": lambda e, x, y: vecmath.floor(e, e.b.fdiv(x, y)),
    "floor_mod": _float_floor_mod,
    "trunc_mod": vecmath.fmod,
    "maximum": maximum, "minimum": minimum,
}


# --- integers -----------------------------------------------------------------------------------

def _signed(dtype: DType) -> bool:
    return dtype.kind == "int"


def _select_order(sign: str) -> Callable[..., ll.Value]:
    return lambda e, d, x, y: e.b.select(compare(e, sign, d, x, y), x, y)


def _integer_abs(e: Emitter, dtype: DType, x: ll.Value) -> ll.Value:
    if not _signed(dtype):
        return x
    return e.b.select(e.b.icmp_signed("<", x, const(x.type, 0)), e.b.neg(x), x)


def _integer_sign(e: Emitter, dtype: DType, x: ll.Value) -> ll.Value:
    positive = e.b.zext(compare(e, ">", dtype, x, const(x.type, 0)), x.type)
    if not _signed(dtype):
        return positive
    return e.b.or_(positive, e.b.ashr(x, const(x.type, dtype.bits - 1)))


def _safe_divisor(e: Emitter, dtype: DType, x: ll.Value, y: ll.Value) -> tuple[ll.Value, ll.Value]:
    """A divisor that cannot trap, and where it was put in: 0 and the overflowing min / -1.

    Dividing min by 1 gives min, which is what min / -1 wraps to.
    """
    zero = e.b.icmp_signed("==", y, const(y.type, 0))
    replaced = zero
    if _signed(dtype):
        lowest = e.b.icmp_signed("==", x, const(x.type, -(1 << (dtype.bits - 1))))
        replaced = e.b.or_(zero, e.b.and_(lowest, e.b.icmp_signed("==", y, const(y.type, -1))))
    return e.b.select(replaced, const(y.type, 1), y), zero


def _divided(e: Emitter, dtype: DType, x: ll.Value, y: ll.Value) -> tuple[ll.Value, ll.Value, ll.Value]:
    """Quotient towards 0, remainder, and where the divisor is 0."""
    safe, zero = _safe_divisor(e, dtype, x, y)
    if _signed(dtype):
        return e.b.sdiv(x, safe), e.b.srem(x, safe), zero
    return e.b.udiv(x, safe), e.b.urem(x, safe), zero


def _trunc_div(e: Emitter, dtype: DType, x: ll.Value, y: ll.Value) -> ll.Value:
    quotient, _, zero = _divided(e, dtype, x, y)
    return e.b.select(zero, const(x.type, 0), quotient)


def _trunc_mod(e: Emitter, dtype: DType, x: ll.Value, y: ll.Value) -> ll.Value:
    return _divided(e, dtype, x, y)[1]  # a divisor of 0 became 1: remainder 0


def _crosses(e: Emitter, dtype: DType, rest: ll.Value, y: ll.Value) -> ll.Value:
    zero = const(y.type, 0)
    opposite = e.b.icmp_signed("<", e.b.xor(rest, y), zero)
    return e.b.and_(e.b.icmp_signed("!=", rest, zero), opposite)


def _floor_div(e: Emitter, dtype: DType, x: ll.Value, y: ll.Value) -> ll.Value:
    quotient, rest, zero = _divided(e, dtype, x, y)
    if _signed(dtype):
        quotient = e.b.sub(quotient, e.b.zext(_crosses(e, dtype, rest, y), x.type))
    return e.b.select(zero, const(x.type, 0), quotient)


def _floor_mod(e: Emitter, dtype: DType, x: ll.Value, y: ll.Value) -> ll.Value:
    _, rest, _ = _divided(e, dtype, x, y)
    if not _signed(dtype):
        return rest
    return e.b.select(_crosses(e, dtype, rest, y), e.b.add(rest, y), rest)


def _integer_pow(e: Emitter, dtype: DType, x: ll.Value, y: ll.Value) -> ll.Value:
    """Repeated squaring modulo the width; exponents below 0 count as 0."""
    one, zero = const(x.type, 1), const(x.type, 0)
    if _signed(dtype):
        y = e.b.select(e.b.icmp_signed("<", y, zero), zero, y)
    with e.loop_carried(0, dtype.bits, 1, [one, x, y], "pow") as (_, current, following):
        power, base, rest = current
        odd = e.b.icmp_signed("!=", e.b.and_(rest, one), zero)
        following[0] = e.b.select(odd, e.b.mul(power, base), power)
        following[1] = e.b.mul(base, base)
        following[2] = e.b.lshr(rest, one)
    return following[0]


def _clamped_shift(e: Emitter, dtype: DType, y: ll.Value) -> ll.Value:
    last = const(y.type, dtype.bits - 1)
    if _signed(dtype):
        y = e.b.select(e.b.icmp_signed("<", y, const(y.type, 0)), const(y.type, 0), y)
    return e.b.select(e.b.icmp_unsigned(">", y, last), last, y)


def _shift_right(e: Emitter, dtype: DType, x: ll.Value, y: ll.Value) -> ll.Value:
    shift = _clamped_shift(e, dtype, y)
    return e.b.ashr(x, shift) if _signed(dtype) else e.b.lshr(x, shift)


_INTEGER: dict[str, Callable[..., ll.Value]] = {
    "neg": lambda e, d, x: e.b.neg(x),
    "abs": _integer_abs,
    "sign": _integer_sign,
    "bitwise_not": lambda e, d, x: e.b.not_(x),
    "add": lambda e, d, x, y: e.b.add(x, y),
    "sub": lambda e, d, x, y: e.b.sub(x, y),
    "mul": lambda e, d, x, y: e.b.mul(x, y),
    "floor_div": _floor_div, "floor_mod": _floor_mod, "trunc_div": _trunc_div, "trunc_mod": _trunc_mod,
    "pow": _integer_pow,
    "maximum": _select_order(">"), "minimum": _select_order("<"),
    "bitwise_and": lambda e, d, x, y: e.b.and_(x, y),
    "bitwise_or": lambda e, d, x, y: e.b.or_(x, y),
    "bitwise_xor": lambda e, d, x, y: e.b.xor(x, y),
    "shift_left": lambda e, d, x, y: e.b.shl(x, _clamped_shift(e, d, y)),
    "shift_right": _shift_right,
}


# --- conversions --------------------------------------------------------------------------------

def bitcast(e: Emitter, x: ll.Value, source: DType, target: DType) -> ll.Value:
    """The same bits under another type of the same width."""
    bits = to_memory(e, x, source)
    if target == BOOL:
        return e.b.icmp_unsigned("!=", bits, const(bits.type, 0))
    return from_memory(e, e.b.bitcast(bits, like(x, memory_type(target))), target)


def cast(e: Emitter, x: ll.Value, source: DType, target: DType) -> ll.Value:
    """Convert an element: see the IR's ``cast``. Floats outside an integer's range become what
    x86 gives: the smallest 32- or 64-bit integer, cut to the width."""
    if source == target:
        return x
    if target == BOOL:
        zero = const(x.type, 0.0 if source.is_float else 0)
        return e.b.fcmp_unordered("!=", x, zero) if source.is_float else e.b.icmp_signed("!=", x, zero)
    if source.is_float and target.is_float:
        return _float_to_float(e, x, source, target)
    if source.is_float:
        return _float_to_integer(e, x, target)
    if target.is_float:
        return _integer_to_float(e, x, source, target)
    type_ = like(x, register_type(target))
    if source.bits >= target.bits and source != BOOL:
        return x if x.type == type_ else e.b.trunc(x, type_)
    return e.b.sext(x, type_) if _signed(source) else e.b.zext(x, type_)


def _float_to_float(e: Emitter, x: ll.Value, source: DType, target: DType) -> ll.Value:
    if target.name == "f64":
        return e.b.fpext(x, like(x, F64))
    if source.name != "f64":
        return rounded(e, x, target)
    return rounded(e, e.b.fptrunc(x, like(x, F32)), target)


def _integer_to_float(e: Emitter, x: ll.Value, source: DType, target: DType) -> ll.Value:
    wide = F64 if target.name == "f64" else F32
    value = e.b.sitofp(x, like(x, wide)) if _signed(source) else e.b.uitofp(x, like(x, wide))
    return rounded(e, value, target)


def _float_to_integer(e: Emitter, x: ll.Value, target: DType) -> ll.Value:
    if target.name == "u64":
        return _float_to_u64(e, x)
    width = 64 if target.bits == 64 or target.name == "u32" else 32
    wide = vecmath.float_to_signed(e, x, width)
    type_ = like(x, register_type(target))
    return wide if wide.type == type_ else e.b.trunc(wide, type_)


def _float_to_u64(e: Emitter, x: ll.Value) -> ll.Value:
    """Values of 2^63 and more are converted less 2^63, which is then put back as the top bit."""
    half = const(x.type, 2.0**63)
    large = e.b.fcmp_ordered(">=", x, half)
    low = vecmath.float_to_signed(e, e.b.select(large, e.b.fsub(x, half), x), 64)
    return e.b.select(large, e.b.xor(low, const(low.type, -(1 << 63))), low)
