"""Stateless random numbers, bit for bit those of TensorFlow's CPU kernels (Philox 4x32-10)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import tensorflow as tf

from ...ir import Shape, Value
from ...ir.ops import elementwise as ew
from ...ir.ops.random import RandomBits, RandomKey
from ...ir.ops.shape import Concat, Slice
from ...ir.types import BF16, F16, F32, F64, I32, U16, U32, U64, DType
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula

_PHILOX, _AUTO = 1, 3  # TensorFlow's numbers of the algorithms; "auto" is Philox on a CPU

# Mantissa bits and the bit pattern of 1.0, into which random mantissa bits are put.
_ONE: dict[DType, tuple[int, int]] = {F16: (10, 0x3C00), BF16: (7, 0x3F80), F32: (23, 0x3F800000)}


def _key_counter(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return ctx.add(RandomKey(), inputs[0])


def _key_counter_alg(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (*ctx.add(RandomKey(), inputs[0]), ctx.constant(_PHILOX, I32))


def _algorithm(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.constant(_PHILOX, I32),)


def _stream(ctx: Importer, op: FlatOp, inputs: list[Value]) -> tuple[Shape, Value, Value]:
    """Shape, key and counter of either form: (shape, seed) or (shape, key, counter, alg, ...)."""
    shape = ctx.ints(inputs[0], "the shape")
    if "V2" not in op.type:
        key, counter = ctx.add(RandomKey(), inputs[1])
        return shape, key, counter
    key, counter, algorithm = inputs[1:4]
    if ctx.ints(algorithm, "the algorithm")[0] not in (_PHILOX, _AUTO):
        raise ctx.refuse("a random number algorithm other than Philox")
    return shape, key, counter


def _uniform(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """In [0, 1): random bits become the mantissa of a number in [1, 2), less 1."""
    shape, key, counter = _stream(ctx, op, inputs)
    dtype = ctx.dtype("dtype")
    if dtype == F64:
        return (_uniform_f64(ctx, _pairs(ctx, key, counter, shape)),)
    return (_uniform_of(ctx, ctx.emit(RandomBits(shape), key, counter), dtype),)


def _uniform_of(ctx: Importer, bits: Value, dtype: DType) -> Value:
    mantissa, one = _ONE[dtype]
    word = U32 if dtype == F32 else U16
    kept = ctx.emit(ew.BitwiseAnd(), bits, ctx.like(bits, (1 << mantissa) - 1))
    pattern = ctx.cast(ctx.emit(ew.BitwiseOr(), kept, ctx.like(kept, one)), word)
    number = ctx.emit(ew.Bitcast(dtype), pattern)
    return ctx.emit(ew.Sub(), number, ctx.like(number, 1))


def _pairs(ctx: Importer, key: Value, counter: Value, shape: Shape) -> tuple[Value, Value]:
    """Per element, two successive words of the stream, the first in front."""
    bits = ctx.emit(RandomBits((*shape, 2)), key, counter)
    return _column(ctx, bits, 0), _column(ctx, bits, 1)


def _column(ctx: Importer, x: Value, index: int) -> Value:
    """Element ``index`` of the last axis, which is dropped."""
    lead = x.shape[:-1]
    taken = ctx.emit(Slice((*(0,) * len(lead), index), (*lead, index + 1), (1,) * (len(lead) + 1)), x)
    return ctx.reshape(taken, lead)


def _uniform_f64(ctx: Importer, words: tuple[Value, Value]) -> Value:
    """The first word gives the upper 20 mantissa bits, the second the lower 32."""
    first, second = (ctx.cast(w, U64) for w in words)
    upper = ctx.emit(ew.BitwiseAnd(), first, ctx.like(first, 0xFFFFF))
    upper = ctx.emit(ew.ShiftLeft(), upper, ctx.like(upper, 32))
    mantissa = ctx.emit(ew.BitwiseOr(), upper, second)
    pattern = ctx.emit(ew.BitwiseOr(), mantissa, ctx.like(mantissa, 1023 << 52))
    number = ctx.emit(ew.Bitcast(F64), pattern)
    return ctx.emit(ew.Sub(), number, ctx.like(number, 1))


def _normal(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Box-Muller on pairs of uniform numbers: sin, then cos, of 2πv scaled by sqrt(-2 log(u))."""
    shape, key, counter = _stream(ctx, op, inputs)
    dtype, size = ctx.dtype("dtype"), prod(shape)
    half = -(-size // 2)
    if dtype == F64:
        words = ctx.emit(RandomBits((half, 4)), key, counter)
        columns = [_column(ctx, words, i) for i in range(4)]
        u, v = (_uniform_f64(ctx, (columns[i], columns[i + 1])) for i in (0, 2))
    else:
        words = ctx.emit(RandomBits((half, 2)), key, counter)
        u, v = (_uniform_of(ctx, _column(ctx, words, i), F32) for i in (0, 1))
    f = Formula(ctx)
    radius = f.sqrt(f.mul(-2, f.log(f.maximum(u, 1e-7))))
    angle = f.cast(f.mul(2 * math.pi, f.cast(v, F64)), v.type.dtype)  # 2π is a double in TensorFlow
    both = [ctx.reshape(f.mul(g(angle), radius), (half, 1)) for g in (f.sin, f.cos)]
    flat = ctx.reshape(ctx.emit(Concat(1), *both), (2 * half,))
    flat = flat if 2 * half == size else ctx.emit(Slice((0,), (size,), (1,)), flat)
    return (ctx.reshape(ctx.cast(flat, dtype), shape),)


def _uniform_int(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """low + bits modulo (high - low), in unsigned arithmetic."""
    shape, key, counter = _stream(ctx, op, inputs)
    low, high = inputs[-2:]
    dtype = low.type.dtype
    ctx.check(ctx.emit(ew.Less(), low, high), "an empty range of random integers")
    bits, word = _int_bits(ctx, key, counter, shape, dtype)
    width = ctx.emit(ew.Bitcast(word), ctx.emit(ew.Sub(), high, low)) if word != dtype else \
        ctx.emit(ew.Sub(), high, low)
    offset = ctx.emit(ew.TruncMod(), bits, ctx.broadcast_to(width, shape))
    offset = offset if word == dtype else ctx.emit(ew.Bitcast(dtype), offset)
    return (ctx.emit(ew.Add(), ctx.broadcast_to(low, shape), offset),)


def _int_bits(ctx: Importer, key: Value, counter: Value, shape: Shape, dtype: DType) -> tuple[Value, DType]:
    """Random unsigned words of the width of ``dtype``."""
    if dtype.bits == 32:
        return ctx.emit(RandomBits(shape), key, counter), U32
    low, high = (ctx.cast(w, U64) for w in _pairs(ctx, key, counter, shape))
    high = ctx.emit(ew.ShiftLeft(), high, ctx.like(high, 32))
    return ctx.emit(ew.BitwiseOr(), low, high), U64


def _full_int(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    shape, key, counter = _stream(ctx, op, inputs)
    dtype = ctx.dtype("dtype")
    bits, word = _int_bits(ctx, key, counter, shape, dtype)
    return (bits if word == dtype else ctx.emit(ew.Bitcast(dtype), bits),)


def _refuse_seed(op: FlatOp) -> str | None:
    """Seeds are two i32 or i64."""
    seed = op.inputs[0 if "Key" in op.type else 1]
    return None if seed.dtype in (tf.int32, tf.int64) else f"{seed.dtype.name} seeds"


def _refuse_old(op: FlatOp) -> str | None:
    return _refuse_seed(op) if "V2" not in op.type else None


RULES: dict[str, Rule] = {
    "StatelessRandomGetAlg": _algorithm,
    "StatelessRandomGetKeyCounter": _key_counter,
    "StatelessRandomGetKeyCounterAlg": _key_counter_alg,
    "StatelessRandomNormal": _normal,
    "StatelessRandomNormalV2": _normal,
    "StatelessRandomUniform": _uniform,
    "StatelessRandomUniformFullInt": _full_int,
    "StatelessRandomUniformFullIntV2": _full_int,
    "StatelessRandomUniformInt": _uniform_int,
    "StatelessRandomUniformIntV2": _uniform_int,
    "StatelessRandomUniformV2": _uniform,
}

REFUSALS = {name: _refuse_old for name in RULES if name != "StatelessRandomGetAlg"}
