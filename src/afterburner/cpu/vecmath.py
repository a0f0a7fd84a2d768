"""Elementary functions as polynomials on scalars or vectors of f32 and f64: no library calls.

Every function takes NaN to NaN and has the limits of IEEE 754 at infinities, zeros and denormals.
The coefficients are interpolations at Chebyshev nodes of the named intervals, computed in 60 decimal
digits; the reductions are the classic ones (Cody and Waite, "Software Manual for the Elementary
Functions", 1980).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from llvmlite import ir as ll

from .angles import reduce_large
from .emitter import F32, F64, Emitter, const, like

_INF, _NAN = math.inf, math.nan


@dataclass(frozen=True)
class _Format:
    """Constants of a floating-point format.

    Attributes:
        bits: width.
        mantissa: stored bits of the significand.
        bias: of the exponent.
        exp_range: arguments of exp beyond which the result is 0 or inf.
        ln2_high: leading bits of ln 2, so that small multiples are exact.
        exp: (exp(r) - 1 - r) / r^2 for |r| <= ln 2 / 2.
    """

    bits: int
    mantissa: int
    bias: int
    exp_range: tuple[float, float]
    ln2_high: float
    ln2_low: float
    exp: tuple[float, ...]

    @property
    def magic(self) -> float:
        """Adding this leaves the nearest integer in the low bits of the significand."""
        return 1.5 * 2.0**self.mantissa


_SINGLE = _Format(
    32, 23, 127, (-104.5, 89.0), 0.693359375, -2.12194440e-4,
    (0.5, 0.1666666716337204, 0.041666459292173386, 0.00833331048488617, 0.0013934089802205563,
     0.0001989148004213348))
_DOUBLE = _Format(
    64, 52, 1023, (-746.0, 710.0), 0.6931471804855391, 7.440617110012397e-11,
    (0.5, 0.16666666666666666, 0.04166666666666668, 0.008333333333333333, 0.0013888888888878683,
     0.00019841269841263038, 2.480158733747999e-05, 2.7557319247910414e-06, 2.7557262173897823e-07,
     2.505207035766202e-08, 2.09185446071548e-09, 1.6086899142942552e-10))

# (log(1 + f) - f + f^2/2) / f^3 for sqrt(1/2) <= 1 + f <= sqrt(2)
_LOG_SINGLE = (0.3333333134651184, -0.2499999701976776, 0.20000715553760529, -0.1666780263185501,
               0.14249058067798615, -0.12425687164068222, 0.11685419827699661, -0.11479733884334564,
               0.06971611827611923)
# (log((1 + s) / (1 - s)) - 2 s) / s^3 in s^2, same interval with s = f / (2 + f)
_LOG_DOUBLE = (0.6666666666666666, 0.4000000000000094, 0.2857142857076445, 0.2222222240054776,
               0.18181794700897794, 0.15386290534659228, 0.13267418596469616, 0.13100721383550756)
# the same without its first term, 2/3, divided by s^2
_LOG_REST = (0.4000000000000003, 0.28571428571332935, 0.22222222273617623, 0.1818180783901579,
             0.1538560441176866, 0.13284977969615966, 0.12925663575151072)
# (atan(t) - t) / t^3 in t^2 for 0 <= t <= tan(pi / 8)
_ATAN = (-0.3333333333333333, 0.19999999999999785, -0.14285714285654638, 0.11111111104652255,
         -0.09090908728587459, 0.07692295658327873, -0.0666641207772526, 0.05878782469443838,
         -0.052293804737809195, 0.04546719509551444, -0.03444584442349161, 0.01614822854668593)
# (sin(r) - r) / r^3 and (cos(r) - 1 + r^2/2) / r^4 in r^2 for |r| <= pi / 4
_SIN = (-0.16666666666666666, 0.008333333333333331, -0.00019841269841264567, 2.7557319218954762e-06,
        -2.505210610025599e-08, 1.6058510875319192e-10, -7.58548648523584e-13)
_COS = (0.041666666666666664, -0.0013888888888888887, 2.4801587301584367e-05, -2.75573192211891e-07,
        2.0876755717584403e-09, -1.1470449354466772e-11, 4.745198807202822e-14)
_HALF_PI = (1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21)  # 33 bits, 33 bits, rest
_FAR_ANGLE = 1e6  # from here multiples of the parts of pi/2 are no longer exact
# erf(x) / x - 1 in x^2 for |x| <= 1
_ERF_SINGLE = (0.128379225730896, -0.37612637877464294, 0.11283782124519348, -0.026865430176258087,
               0.005221031606197357, -0.0008484080317430198, 0.00011265958892181516, -9.667044650996104e-06)
_ERF_DOUBLE = (0.1283791670955126, -0.3761263890318375, 0.11283791670954879, -0.026866170645076792,
               0.0052239776248180145, -0.000854832698083379, 0.0001205533111164271, -1.4925595266831182e-05,
               1.6461000484121368e-06, -1.6350312701054695e-07, 1.4659775274047431e-08,
               -1.1372848856791655e-09, 5.957176147748883e-11)
# -log(1 - erf(t)) in t - centre: (centre, coefficients), for 1 <= t <= 4; 1 <= t <= 2.5; 2.5 <= t <= 6
_ERFC_SINGLE = (2.5, (7.806815147399902, 5.352680683135986, 0.9438937306404114, 0.01085854135453701,
                      -0.0021653035655617714, 0.00042012252379208803, -7.729137723799795e-05,
                      1.3315014257386792e-05, -1.6371513993362896e-06))
_ERFC_DOUBLE = (1.75, (4.317863525433222, 3.9596109008134155, 0.9099401664967287, 0.020538840381638925,
                       -0.004624930498582206, 0.0009640986490205559, -0.00017452306874841296,
                       2.3741462906460314e-05, -8.274900743696604e-07, -8.908588174731797e-07,
                       4.018178789379153e-07, -1.1311191529765674e-07, 2.3308584452063565e-08,
                       -2.8543585770097863e-09, -4.913869602637349e-10, 3.394436244404655e-10))
_ERFC_FAR = (4.25, (20.107769901469986, 8.723775715521851, 0.9760845763879497, 0.003263744281879802,
                    -0.0004805287102499536, 7.237982161957682e-05, -1.0879340377465846e-05,
                    1.6067577426598895e-06, -2.3011725843078264e-07, 3.1521168341548025e-08,
                    -4.0868554765369995e-09, 4.803876014981897e-10, -3.7316470182884326e-11,
                    -1.3510676276842936e-13))


class _Arithmetic:
    """Short names for arithmetic on values of one type."""

    def __init__(self, e: Emitter, x: ll.Value) -> None:
        self.e, self.b, self.type = e, e.b, x.type
        element = x.type.element if isinstance(x.type, ll.VectorType) else x.type
        self.format = _SINGLE if element == F32 else _DOUBLE
        self.integer = like(x, ll.IntType(self.format.bits))

    def c(self, number: float) -> ll.Constant:
        return const(self.type, number)

    def n(self, number: int) -> ll.Constant:
        return const(self.integer, number)

    def fma(self, x: ll.Value, y: ll.Value, z: ll.Value) -> ll.Value:
        """x * y + z; in one rounding where the machine can."""
        if self.e.isa.fma:
            return self.e.intrinsic("llvm.fma", self.type, x, y, z)
        return self.b.fadd(self.b.fmul(x, y), z)

    def polynomial(self, x: ll.Value, coefficients: Sequence[float]) -> ll.Value:
        total: ll.Value = self.c(coefficients[-1])
        for coefficient in reversed(coefficients[:-1]):
            total = self.fma(total, x, self.c(coefficient))
        return total

    def abs(self, x: ll.Value) -> ll.Value:
        return self.e.intrinsic("llvm.fabs", self.type, x)

    def copysign(self, size: ll.Value, sign: ll.Value) -> ll.Value:
        return self.e.intrinsic("llvm.copysign", self.type, size, sign)

    def clamp(self, x: ll.Value, low: float, high: float) -> ll.Value:
        """x moved into [low, high]; NaN stays."""
        x = self.b.select(self.b.fcmp_ordered("<", x, self.c(low)), self.c(low), x)
        return self.b.select(self.b.fcmp_ordered(">", x, self.c(high)), self.c(high), x)

    def bits(self, x: ll.Value) -> ll.Value:
        return self.b.bitcast(x, self.integer)

    def real(self, bits: ll.Value) -> ll.Value:
        return self.b.bitcast(bits, self.type)

    def nearest(self, x: ll.Value) -> tuple[ll.Value, ll.Value]:
        """The nearest integer as a float and as an integer, for |x| < 2^(mantissa - 2)."""
        shifted = self.b.fadd(x, self.c(self.format.magic))
        integer = self.b.sub(self.bits(shifted), self.bits(self.c(self.format.magic)))
        return self.b.fsub(shifted, self.c(self.format.magic)), integer

    def scaled(self, x: ll.Value, k: ll.Value) -> ll.Value:
        """x * 2^n for an exponent as ``exp_parts`` gives it, in two steps, so that results may be
        denormal or inf: the shifts leave the biased halves of n in the exponent's place."""
        b, shift = self.b, self.n(self.format.mantissa)
        half = b.lshr(k, self.n(1))
        low, high = b.shl(half, shift), b.shl(b.sub(k, half), shift)
        return b.fmul(b.fmul(x, self.real(low)), self.real(high))

    def half_power(self, k: ll.Value) -> ll.Value:
        """2^(n - 1) for an exponent as ``exp_parts`` gives it."""
        biased = self.b.sub(k, self.n(self.format.bias + 1))
        return self.real(self.b.shl(biased, self.n(self.format.mantissa)))

    def exp_parts(self, x: ll.Value, low: ll.Value | None = None) -> tuple[ll.Value, ...]:
        """(r, r^2, p, k) with exp(x + low) = 2^n * (1 + r + r^2 p); ``low`` is tiny beside x.

        The low bits of the integer k are n + 2 * bias, the high ones vanish in a shift to the
        exponent's place.
        """
        magic = self.c(self.format.magic + 2 * self.format.bias)
        shifted = self.fma(x, self.c(1.0 / math.log(2.0)), magic)
        nearest = self.b.fsub(shifted, magic)
        r = self.fma(nearest, self.c(-self.format.ln2_high), x)
        r = self.fma(nearest, self.c(-self.format.ln2_low), r)
        r = self.b.fadd(r, low) if low is not None else r
        return r, self.b.fmul(r, r), self.polynomial(r, self.format.exp), self.bits(shifted)

    def split(self, x: ll.Value) -> tuple[ll.Value, ll.Value]:
        """(f, n) with x = 2^n * (1 + f), sqrt(1/2) <= 1 + f < sqrt(2), for positive finite x."""
        b, form = self.b, self.format
        tiny = b.fcmp_ordered("<", x, self.c(2.0 ** (1 - form.bias)))
        x = b.select(tiny, b.fmul(x, self.c(2.0 ** (form.mantissa + 1))), x)
        root_half = int(self._root_half_bits())
        moved = b.sub(self.bits(x), self.n(root_half))
        n = b.ashr(moved, self.n(form.mantissa))
        significand = b.sub(self.bits(x), b.shl(n, self.n(form.mantissa)))
        n = b.sub(n, b.select(tiny, self.n(form.mantissa + 1), self.n(0)))
        return b.fsub(self.real(significand), self.c(1.0)), n

    def _root_half_bits(self) -> int:
        exact = math.sqrt(0.5)
        fraction = int((exact * 2.0 - 1.0) * 2.0**self.format.mantissa)
        return ((self.format.bias - 1) << self.format.mantissa) + fraction

    def log_limits(self, x: ll.Value, result: ll.Value) -> ll.Value:
        """``result`` with log's values at 0, inf, NaN and below 0 put in."""
        b, zero = self.b, self.c(0.0)
        result = b.select(b.fcmp_ordered("==", x, self.c(_INF)), x, result)
        result = b.select(b.fcmp_ordered("==", x, zero), self.c(-_INF), result)
        return b.select(b.fcmp_unordered("<", x, zero), self.c(_NAN), result)


def _is_single(x: ll.Value) -> bool:
    return bool(like(x, F32) == x.type)


def exp(e: Emitter, x: ll.Value) -> ll.Value:
    """e to the power x."""
    m = _Arithmetic(e, x)
    r, square, p, k = m.exp_parts(m.clamp(x, *m.format.exp_range))
    return m.scaled(e.b.fadd(m.c(1.0), m.fma(square, p, r)), k)


def expm1(e: Emitter, x: ll.Value) -> ll.Value:
    """exp(x) - 1, as 2^n (exp(r) - 1) + (2^n - 1), halved so that 2^n does not overflow."""
    m, b = _Arithmetic(e, x), e.b
    lowest = -(m.format.mantissa + 2) * math.log(2.0) - 2.0
    r, square, p, k = m.exp_parts(m.clamp(x, lowest, m.format.exp_range[1]))
    half, q = m.half_power(k), b.fmul(square, p)
    rest = b.fsub(half, m.c(0.5))
    total = b.fadd(m.fma(half, r, rest), b.fmul(half, q)) if e.isa.fma else \
        b.fadd(b.fmul(half, b.fadd(r, q)), rest)
    result = b.fmul(total, m.c(2.0))
    return b.select(b.fcmp_ordered("<", m.abs(x), m.c(2.0 ** -(m.format.mantissa + 2))), x, result)


def log(e: Emitter, x: ll.Value) -> ll.Value:
    """Natural logarithm."""
    m, b = _Arithmetic(e, x), e.b
    f, n = m.split(x)
    exponent = b.sitofp(n, m.type)
    low = b.fmul(exponent, m.c(m.format.ln2_low))
    square = b.fmul(f, f)
    if m.format is _SINGLE:
        tail = m.fma(b.fmul(square, f), m.polynomial(f, _LOG_SINGLE), low)
        tail = m.fma(square, m.c(-0.5), tail)
    else:
        half = b.fmul(m.c(0.5), square)
        s = b.fdiv(f, b.fadd(f, m.c(2.0)))
        z = b.fmul(s, s)
        series = b.fmul(z, m.polynomial(z, _LOG_DOUBLE))
        tail = b.fsub(m.fma(s, b.fadd(half, series), low), half)
    result = m.fma(exponent, m.c(m.format.ln2_high), b.fadd(f, tail))
    return m.log_limits(x, result)


def log1p(e: Emitter, x: ll.Value) -> ll.Value:
    """log(1 + x): the logarithm of the rounded sum, corrected by what rounding lost."""
    m, b = _Arithmetic(e, x), e.b
    u = b.fadd(x, m.c(1.0))
    large = b.fcmp_ordered(">=", x, m.c(1.0))
    lost = b.select(large, b.fsub(m.c(1.0), b.fsub(u, x)), b.fsub(x, b.fsub(u, m.c(1.0))))
    correction = b.fdiv(lost, u)
    usual = b.and_(b.fcmp_ordered("<", u, m.c(_INF)), b.fcmp_ordered(">", u, m.c(0.0)))
    result = b.fadd(log(e, u), b.select(usual, correction, m.c(0.0)))
    return b.select(b.fcmp_ordered("<", m.abs(x), m.c(2.0 ** -(m.format.mantissa + 2))), x, result)


def tanh(e: Emitter, x: ll.Value) -> ll.Value:
    """t / (t + 2) with t = exp(2 |x|) - 1."""
    m, b = _Arithmetic(e, x), e.b
    t = expm1(e, m.clamp(b.fmul(m.abs(x), m.c(2.0)), 0.0, 50.0))
    return m.copysign(b.fdiv(t, b.fadd(t, m.c(2.0))), x)


def sigmoid(e: Emitter, x: ll.Value) -> ll.Value:
    """1 / (1 + exp(-x)), from exp(-|x|) so that nothing overflows."""
    m, b = _Arithmetic(e, x), e.b
    small = exp(e, b.fneg(m.abs(x)))
    upper = b.select(b.fcmp_ordered("<", x, m.c(0.0)), small, m.c(1.0))
    return b.fdiv(upper, b.fadd(small, m.c(1.0)))


def erf(e: Emitter, x: ll.Value) -> ll.Value:
    """The error function: x times a polynomial up to 1, 1 - exp(-polynomial) beyond."""
    m, b = _Arithmetic(e, x), e.b
    single = m.format is _SINGLE
    t = m.clamp(m.abs(x), 0.0, 4.0 if single else 6.0)
    small = m.polynomial(b.fmul(t, t), _ERF_SINGLE if single else _ERF_DOUBLE)
    inner = m.fma(t, small, t)
    outer = _log_erfc(m, t, _ERFC_SINGLE if single else _ERFC_DOUBLE)
    if not single:
        outer = b.select(b.fcmp_ordered(">", t, m.c(2.5)), _log_erfc(m, t, _ERFC_FAR), outer)
    far = b.fsub(m.c(1.0), exp(e, b.fneg(outer)))
    return m.copysign(b.select(b.fcmp_ordered(">", t, m.c(1.0)), far, inner), x)


def _log_erfc(m: _Arithmetic, t: ll.Value, fit: tuple[float, Sequence[float]]) -> ll.Value:
    centre, coefficients = fit
    return m.polynomial(m.b.fsub(t, m.c(centre)), coefficients)


def sin(e: Emitter, x: ll.Value) -> ll.Value:
    """Sine of angles of any size."""
    return _sine(e, x, 0)


def cos(e: Emitter, x: ll.Value) -> ll.Value:
    """Cosine, as sine a quarter turn on."""
    return _sine(e, x, 1)


def _sine(e: Emitter, x: ll.Value, quarter: int) -> ll.Value:
    """sin(x + quarter * pi/2); f32 is computed in f64."""
    if _is_single(x):
        return e.b.fptrunc(_sine(e, e.b.fpext(x, like(x, F64)), quarter), x.type)
    m, b = _Arithmetic(e, x), e.b
    nearest, n = m.nearest(b.fmul(x, m.c(2.0 / math.pi)))
    r = x
    for part in _HALF_PI:
        r = m.fma(nearest, m.c(-part), r)
    size = m.abs(x)
    large = b.and_(b.fcmp_ordered(">", size, m.c(_FAR_ANGLE)), b.fcmp_ordered("<", size, m.c(_INF)))
    r, n = reduce_large(e, x, large, r, n)
    z = b.fmul(r, r)
    sine = m.copysign(m.fma(b.fmul(r, z), m.polynomial(z, _SIN), r), r)  # of -0 as well
    cosine = b.fadd(m.fma(z, m.c(-0.5), m.c(1.0)), b.fmul(b.fmul(z, z), m.polynomial(z, _COS)))
    n = b.add(n, m.n(quarter)) if quarter else n
    swap = b.icmp_signed("!=", b.and_(n, m.n(1)), m.n(0))
    value = b.select(swap, cosine, sine)
    flip = b.shl(b.and_(n, m.n(2)), m.n(62))
    return m.real(b.xor(m.bits(value), flip))


def atan2(e: Emitter, y: ll.Value, x: ll.Value) -> ll.Value:
    """Angle of the point (x, y); f32 is computed in f64."""
    if _is_single(x):
        wide = [e.b.fpext(v, like(x, F64)) for v in (y, x)]
        return e.b.fptrunc(atan2(e, *wide), x.type)
    m, b = _Arithmetic(e, x), e.b
    ay, ax = m.abs(y), m.abs(x)
    steep = b.fcmp_ordered(">", ay, ax)
    top, bottom = b.select(steep, ax, ay), b.select(steep, ay, ax)
    equal = b.fcmp_ordered("==", top, bottom)  # also inf / inf; 0 / 0 is 0
    ratio = b.select(equal, m.c(1.0), b.fdiv(top, bottom))
    ratio = b.select(b.fcmp_ordered("==", ay, m.c(0.0)), b.select(steep, ratio, m.c(0.0)), ratio)
    angle = _atan(m, ratio)
    angle = b.select(steep, b.fadd(b.fsub(m.c(math.pi / 2), angle), m.c(6.123233995736766e-17)), angle)
    behind = b.icmp_signed("<", m.bits(x), m.n(0))
    angle = b.select(behind, b.fadd(b.fsub(m.c(math.pi), angle), m.c(1.2246467991473532e-16)), angle)
    unordered = b.fcmp_unordered("uno", x, y)
    return b.select(unordered, m.c(_NAN), m.copysign(angle, y))


def _atan(m: _Arithmetic, t: ll.Value) -> ll.Value:
    """atan for 0 <= t <= 1: beyond tan(pi/8) as pi/4 + atan((t - 1) / (t + 1))."""
    b = m.b
    upper = b.fcmp_ordered(">", t, m.c(math.sqrt(2.0) - 1.0))
    r = b.select(upper, b.fdiv(b.fsub(t, m.c(1.0)), b.fadd(t, m.c(1.0))), t)
    z = b.fmul(r, r)
    angle = m.fma(b.fmul(r, z), m.polynomial(z, _ATAN), r)
    return b.fadd(angle, b.select(upper, m.c(math.pi / 4), m.c(0.0)))


def power(e: Emitter, x: ll.Value, y: ll.Value) -> ll.Value:
    """x to the power y with C's special cases; f32 is computed in f64."""
    if _is_single(x):
        wide = [e.b.fpext(v, like(x, F64)) for v in (x, y)]
        m = _Arithmetic(e, wide[0])
        size = exp(e, e.b.fmul(wide[1], log(e, m.abs(wide[0]))))
        return e.b.fptrunc(_power_limits(m, size, *wide), x.type)
    m = _Arithmetic(e, x)
    return _power_limits(m, _power_double(m, m.abs(x), y), x, y)


def _power_limits(m: _Arithmetic, size: ll.Value, x: ll.Value, y: ll.Value) -> ll.Value:
    """|x|^y made x^y: the sign of odd powers, NaN for roots of negatives, 1 where C says so."""
    b, one, zero = m.b, m.c(1.0), m.c(0.0)
    half = b.fmul(y, m.c(0.5))
    whole = b.fcmp_ordered("==", m.e.intrinsic("llvm.floor", m.type, y), y)
    odd = b.and_(whole, b.fcmp_unordered("!=", m.e.intrinsic("llvm.floor", m.type, half), half))
    size = b.select(b.fcmp_ordered("==", m.abs(x), one), _one_or_nan(m, y), size)
    negative = b.icmp_signed("<", m.bits(x), m.n(0))
    result = b.select(b.and_(negative, odd), b.fneg(size), size)
    finite = b.and_(b.fcmp_ordered("<", x, zero), b.fcmp_ordered(">", x, m.c(-_INF)))
    result = b.select(b.and_(finite, b.not_(whole)), m.c(_NAN), result)
    infinite = b.fcmp_ordered("==", m.abs(y), m.c(_INF))
    result = b.select(b.and_(infinite, b.fcmp_ordered("<", x, zero)), size, result)
    always = b.or_(b.fcmp_ordered("==", x, one), b.fcmp_ordered("==", y, zero))
    return b.select(always, one, result)


def _one_or_nan(m: _Arithmetic, y: ll.Value) -> ll.Value:
    return m.b.select(m.b.fcmp_unordered("uno", y, y), y, m.c(1.0))


def _power_double(m: _Arithmetic, x: ll.Value, y: ll.Value) -> ll.Value:
    """x^y for x >= 0, with the logarithm as an unevaluated sum of two doubles."""
    b = m.b
    high, low = _log_pair(m, x)
    product, lost = _two_product(m, high, y)
    lost = m.fma(low, y, lost)
    clamped = m.clamp(product, *m.format.exp_range)
    lost = b.select(b.fcmp_ordered("==", clamped, product), lost, m.c(0.0))
    r, square, p, k = m.exp_parts(clamped, lost)
    result = m.scaled(b.fadd(m.c(1.0), m.fma(square, p, r)), k)
    simple = m.log_limits(x, high)  # 0, inf and NaN need no second part
    ordinary = b.and_(b.fcmp_ordered(">", x, m.c(0.0)), b.fcmp_ordered("<", x, m.c(_INF)))
    finite = b.fcmp_ordered("<", m.abs(y), m.c(_INF))
    plain = exp(m.e, b.fmul(y, simple))
    return b.select(b.and_(ordinary, finite), result, plain)


def _log_pair(m: _Arithmetic, x: ll.Value) -> tuple[ll.Value, ll.Value]:
    """log(x) = high + low to about 2^-64: 2 s and 2/3 s^3 are kept in pairs, s = f / (2 + f)."""
    b = m.b
    f, n = m.split(x)
    exponent = b.sitofp(n, m.type)
    bottom = b.fadd(f, m.c(2.0))
    s = b.fdiv(f, bottom)
    bottom_low = b.fsub(f, b.fsub(bottom, m.c(2.0)))
    back, back_low = _two_product(m, s, bottom)
    rest = b.fsub(b.fsub(b.fsub(b.fsub(f, back), back_low), b.fmul(s, bottom_low)), m.c(0.0))
    s_low = b.fdiv(rest, bottom)
    z, z_low = _two_product(m, s, s)
    z_low = m.fma(b.fmul(s, m.c(2.0)), s_low, z_low)
    cube, cube_low = _two_product(m, z, s)
    cube_low = b.fadd(cube_low, b.fadd(b.fmul(z, s_low), b.fmul(z_low, s)))
    third, third_low = _two_product(m, cube, m.c(2.0 / 3.0))
    two_thirds_low = b.fmul(cube, m.c(3.700743415417188e-17))
    third_low = b.fadd(third_low, b.fadd(b.fmul(cube_low, m.c(2.0 / 3.0)), two_thirds_low))
    tail = b.fmul(b.fmul(cube, z), m.polynomial(z, _LOG_REST))
    total, error = _two_sum(m, b.fmul(exponent, m.c(m.format.ln2_high)), b.fmul(s, m.c(2.0)))
    total, more = _two_sum(m, total, third)
    low = b.fadd(b.fmul(exponent, m.c(m.format.ln2_low)), b.fmul(s_low, m.c(2.0)))
    low = b.fadd(b.fadd(b.fadd(low, third_low), tail), b.fadd(error, more))
    return _two_sum(m, total, low)


def _two_sum(m: _Arithmetic, x: ll.Value, y: ll.Value) -> tuple[ll.Value, ll.Value]:
    """x + y and what its rounding lost (Knuth)."""
    b = m.b
    total = b.fadd(x, y)
    part = b.fsub(total, x)
    return total, b.fadd(b.fsub(x, b.fsub(total, part)), b.fsub(y, part))


def _two_product(m: _Arithmetic, x: ll.Value, y: ll.Value) -> tuple[ll.Value, ll.Value]:
    """x * y and what its rounding lost (by fma, or Dekker's splitting)."""
    b = m.b
    product = b.fmul(x, y)
    if m.e.isa.fma:
        return product, m.e.intrinsic("llvm.fma", m.type, x, y, b.fneg(product))
    (xh, xl), (yh, yl) = _halves(m, x), _halves(m, y)
    lost = b.fsub(b.fmul(xh, yh), product)
    lost = b.fadd(b.fadd(lost, b.fmul(xh, yl)), b.fmul(xl, yh))
    return product, b.fadd(lost, b.fmul(xl, yl))


def _halves(m: _Arithmetic, x: ll.Value) -> tuple[ll.Value, ll.Value]:
    high = m.real(m.b.and_(m.bits(x), m.n(-(1 << 27))))
    return high, m.b.fsub(x, high)


def fmod(e: Emitter, x: ll.Value, y: ll.Value) -> ll.Value:
    """x - trunc(x / y) * y exactly, with the sign of x."""
    return e.b.frem(x, y)


def floor(e: Emitter, x: ll.Value) -> ll.Value:
    """Largest integer not above x."""
    return e.intrinsic("llvm.floor", x.type, x)


def ceil(e: Emitter, x: ll.Value) -> ll.Value:
    """Smallest integer not below x."""
    return e.intrinsic("llvm.ceil", x.type, x)


def round_even(e: Emitter, x: ll.Value) -> ll.Value:
    """Nearest integer, halves to even."""
    return e.intrinsic("llvm.rint", x.type, x)


def float_to_signed(e: Emitter, x: ll.Value, width: int) -> ll.Value:
    """Rounded towards 0; the smallest integer of ``width`` bits where x does not fit or is NaN."""
    m, integer = _Arithmetic(e, x), like(x, ll.IntType(width))
    fits = e.b.fcmp_ordered("<", m.abs(x), m.c(2.0 ** (width - 1)))
    converted = e.b.fptosi(e.b.select(fits, x, m.c(0.0)), integer)
    return e.b.select(fits, converted, const(integer, -(1 << (width - 1))))
