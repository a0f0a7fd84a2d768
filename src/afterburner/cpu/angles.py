"""Angles of any size reduced to a quadrant and a rest (Payne and Hanek, "Radian Reduction for
Trigonometric Functions", 1983): the product with as many bits of 2/pi as matter."""

from __future__ import annotations

from functools import lru_cache, partial

from llvmlite import ir as ll

from .emitter import F64, I32, I64, Emitter, i64

_I128 = ll.IntType(128)
_LEAD = 64  # zero bits in the table before those of 2/pi: for angles whose product needs none of them
_WORDS = 22  # the largest f64 begins at bit 1033 and takes 4 words
_HALF_PI = 1.5707963267948966


@lru_cache(maxsize=1)
def _two_over_pi() -> tuple[int, ...]:
    """The table's words: the bits of 2/pi after ``_LEAD`` zeros, most significant first."""
    bits = 64 * _WORDS - _LEAD
    unit = 1 << (bits + 64)
    # Machin: pi/4 = 4 atan(1/5) - atan(1/239)
    pi = 4 * (4 * _inverse_tangent(5, unit) - _inverse_tangent(239, unit))
    value = (2 * unit << bits) // pi
    return tuple(value >> (64 * (_WORDS - 1 - i)) & (2**64 - 1) for i in range(_WORDS))


def _inverse_tangent(n: int, unit: int) -> int:
    """unit * atan(1/n)."""
    power = total = unit // n
    k = 1
    while power:
        power //= -n * n
        total += power // (2 * k + 1)
        k += 1
    return total


def reduce_large(e: Emitter, x: ll.Value, large: ll.Value, rest: ll.Value, quadrant: ll.Value,
                 ) -> tuple[ll.Value, ll.Value]:
    """``rest`` and ``quadrant`` of f64 angles (x = quadrant * pi/2 + rest, quadrant i64 modulo 4) with
    the lanes in which ``large`` holds computed anew, for finite |x| >= 1; without such a lane, a jump."""
    b = e.b
    lanes = x.type.count if isinstance(x.type, ll.VectorType) else 1
    some = b.icmp_unsigned("!=", b.bitcast(large, ll.IntType(lanes)), ll.Constant(ll.IntType(lanes), 0))
    before = b.block
    with b.if_then(some, likely=False):
        slow = e.call_apart(f"reduce_angles_{lanes}", (x, large, rest, quadrant), (rest.type, quadrant.type),
                            partial(_reduce_lanes, e) if lanes > 1 else lambda angle, *_: _reduce(e, angle))
        end = b.block
    results = []
    for fast, value in zip((rest, quadrant), slow, strict=True):
        phi = b.phi(fast.type)
        phi.add_incoming(fast, before)
        phi.add_incoming(value, end)
        results.append(phi)
    return results[0], results[1]


def _reduce_lanes(e: Emitter, x: ll.Value, large: ll.Value, rest: ll.Value, quadrant: ll.Value) -> list[ll.Value]:
    b, lanes = e.b, x.type.count
    with e.loop_carried(0, lanes, 1, [rest, quadrant], "lane") as (lane, current, following):
        index = b.trunc(lane, I32)
        mine = b.extract_element(large, index)
        values = _reduce(e, b.select(mine, b.extract_element(x, index), ll.Constant(F64, 1.0)))
        for i, value in enumerate(values):
            kept = b.select(mine, value, b.extract_element(current[i], index))
            following[i] = b.insert_element(current[i], kept, index)
    return following


def _reduce(e: Emitter, x: ll.Value) -> list[ll.Value]:
    """Rest and quadrant of one angle. x is m * 2^(p - 64) with 53 bits m and table position p; all bits
    of 2/pi before p give whole turns, of those from p on 192 are multiplied."""
    b = e.b
    bits = b.bitcast(x, I64)
    exponent = b.and_(b.lshr(bits, i64(52)), i64(0x7FF))
    m = b.zext(b.or_(b.and_(bits, i64(2**52 - 1)), i64(2**52)), _I128)
    position = b.add(exponent, i64(_LEAD - 1077))
    words = _words(e, position)
    word64 = ll.Constant(_I128, 64)
    product = b.add(b.shl(b.mul(m, words[0]), word64), b.mul(m, words[1]))
    product = b.add(product, b.lshr(b.mul(m, words[2]), word64))
    # Two bits of quadrant, then the fraction: rounded to nearest it is the signed rest below.
    rounded = b.add(product, ll.Constant(_I128, 1 << 125))
    quadrant = b.trunc(b.lshr(rounded, ll.Constant(_I128, 126)), I64)
    fraction = b.shl(product, ll.Constant(_I128, 2))
    high = b.sitofp(b.trunc(b.lshr(fraction, word64), I64), F64)
    low = b.uitofp(b.trunc(fraction, I64), F64)
    turn = b.fadd(b.fmul(high, ll.Constant(F64, 2.0**-64)), b.fmul(low, ll.Constant(F64, 2.0**-128)))
    rest = b.fmul(turn, ll.Constant(F64, _HALF_PI))
    negative = b.icmp_signed("<", bits, i64(0))
    return [b.select(negative, b.fneg(rest), rest), b.select(negative, b.neg(quadrant), quadrant)]


def _words(e: Emitter, position: ll.Value) -> list[ll.Value]:
    """192 bits of the table from a bit position on, as three i128 below 2^64."""
    b = e.b
    shift = b.and_(position, i64(63))
    base = e.at(_table(e), b.lshr(position, i64(6)), I64)
    found = [e.load(e.at(base, i, I64), I64, 8) for i in range(4)]
    return [b.zext(e.intrinsic("llvm.fshl", I64, found[i], found[i + 1], shift), _I128) for i in range(3)]


def _table(e: Emitter) -> ll.Value:
    name = "two_over_pi"
    if name not in e.module.globals:
        type_ = ll.ArrayType(I64, _WORDS)
        table = ll.GlobalVariable(e.module, type_, name)
        table.initializer = ll.Constant(type_, list(_two_over_pi()))
        table.global_constant, table.linkage = True, "private"
    return e.module.globals[name]
