"""float16 and bfloat16 as f32 in registers: exact widening, one rounding to nearest even back.

Written out where LLVM would call a library that the process may not have (bfloat16 everywhere,
float16 without F16C). The bfloat16 instruction of AVX-512 is left alone: it flushes denormals.
"""

from __future__ import annotations

from llvmlite import ir as ll

from ..ir import DType
from .emitter import BF16, F16, F32, I16, I32, Emitter, const, like, stored_type


def is_half(dtype: DType) -> bool:
    """A float of 16 bits: computed in f32, rounded after every operation."""
    return dtype.is_float and dtype.bytes == 2


def compute_type(dtype: DType) -> ll.Type:
    """The LLVM type in which elements of ``dtype`` are computed: f32 for 16-bit floats."""
    return F32 if is_half(dtype) else stored_type(dtype)


def load(e: Emitter, address: ll.Value, dtype: DType, lanes: int, align: int | None = None) -> ll.Value:
    """``lanes`` elements in their compute type; ``align`` in bytes, an element's unless given."""
    raw = e.load(address, e.vector(stored_type(dtype), lanes), align or dtype.bytes)
    return widen(e, raw) if is_half(dtype) else raw


def store(e: Emitter, value: ll.Value, address: ll.Value, dtype: DType, align: int | None = None) -> None:
    """Store (a vector of) the compute type as ``dtype``."""
    e.store(narrow(e, value, dtype) if is_half(dtype) else value, address, align or dtype.bytes)


def widen(e: Emitter, value: ll.Value) -> ll.Value:
    """f16 or bf16, scalar or vector, to f32."""
    if _element(value) is BF16:
        bits = e.b.zext(e.b.bitcast(value, like(value, I16)), like(value, I32))
        return e.b.bitcast(e.b.shl(bits, const(bits.type, 16)), like(value, F32))
    if _converts(e):
        return e.b.fpext(value, like(value, F32))
    return _f16_bits_to_f32(e, e.b.zext(e.b.bitcast(value, like(value, I16)), like(value, I32)))


def narrow(e: Emitter, value: ll.Value, dtype: DType) -> ll.Value:
    """f32, scalar or vector, to f16 or bf16, to nearest even."""
    return narrow_to(e, value, stored_type(dtype))


def narrow_to(e: Emitter, value: ll.Value, element: ll.Type) -> ll.Value:
    """f32, scalar or vector, to LLVM's half or bfloat, to nearest even."""
    target = like(value, element)
    if element is F16 and _converts(e):
        # Without the fence LLVM makes one conversion of f64 -> f32 -> f16, by a library call.
        return e.b.fptrunc(e.intrinsic("llvm.arithmetic.fence", value.type, value), target)
    round_ = _f32_to_bf16_bits if element is BF16 else _f32_to_f16_bits
    return e.b.bitcast(e.b.trunc(round_(e, value), like(value, I16)), target)


def _element(value: ll.Value) -> ll.Type:
    return value.type.element if isinstance(value.type, ll.VectorType) else value.type


def _converts(e: Emitter) -> bool:
    """Whether the instruction set converts float16 itself."""
    return e.isa.name != "generic"


def _f32_to_bf16_bits(e: Emitter, value: ll.Value) -> ll.Value:
    b, type_ = e.b, like(value, I32)
    bits = b.bitcast(value, type_)
    odd = b.and_(b.lshr(bits, const(type_, 16)), const(type_, 1))
    rounded = b.add(bits, b.add(odd, const(type_, 0x7FFF)))
    nan = b.or_(b.and_(bits, const(type_, 0x80000000)), const(type_, 0x7FC00000))
    return b.lshr(b.select(b.fcmp_unordered("uno", value, value), nan, rounded), const(type_, 16))


def _f16_bits_to_f32(e: Emitter, bits: ll.Value) -> ll.Value:
    """Shift into f32's fields and scale by 2^112, which is exact for denormals too."""
    b, type_ = e.b, bits.type
    sign = b.shl(b.and_(bits, const(type_, 0x8000)), const(type_, 16))
    magnitude = b.and_(bits, const(type_, 0x7FFF))
    small = b.bitcast(b.shl(magnitude, const(type_, 13)), like(bits, F32))
    scaled = b.bitcast(b.fmul(small, const(small.type, 2.0**112)), type_)
    infinite = b.or_(scaled, const(type_, 0x7F800000))
    finite = b.icmp_unsigned("<", magnitude, const(type_, 0x7C00))
    return b.bitcast(b.or_(b.select(finite, scaled, infinite), sign), small.type)


def _f32_to_f16_bits(e: Emitter, value: ll.Value) -> ll.Value:
    b, type_ = e.b, like(value, I32)
    bits = b.bitcast(value, type_)
    sign = b.and_(b.lshr(bits, const(type_, 16)), const(type_, 0x8000))
    magnitude = b.and_(bits, const(type_, 0x7FFFFFFF))
    odd = b.and_(b.lshr(magnitude, const(type_, 13)), const(type_, 1))
    rebiased = b.add(b.add(magnitude, odd), const(type_, (0xFFF - (112 << 23)) & 0xFFFFFFFF))
    normal = b.lshr(rebiased, const(type_, 13))
    # 0.5 has the weight of f16's last denormal bit in its own last bit: the addition rounds.
    shifted = b.fadd(b.bitcast(magnitude, value.type), const(value.type, 0.5))
    denormal = b.sub(b.bitcast(shifted, type_), const(type_, 0x3F000000))
    tiny = b.icmp_unsigned("<", magnitude, const(type_, 0x38800000))
    huge = b.icmp_unsigned(">=", magnitude, const(type_, 0x47800000))
    nan = b.icmp_unsigned(">", magnitude, const(type_, 0x7F800000))
    special = b.select(nan, const(type_, 0x7E00), const(type_, 0x7C00))
    return b.or_(b.select(huge, special, b.select(tiny, denormal, normal)), sign)
