"""Special functions: the logarithm of the gamma function, its derivative, and inverses of error functions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ...ir import Value
from .formulas import Formula, in_f32, polynomial

_HALF_WIDTH = 7.0  # g of Lanczos's approximation
_LANCZOS = (676.520368121885098567009190444019, -1259.13921672240287047156078755283, 771.3234287776530788486528258894,
            -176.61502916214059906584551354, 12.507343278686904814458936853, -0.13857109526572011689554707,
            9.984369578019570859563e-6, 1.50563273514931155834e-7)
_LANCZOS_FIRST = 0.99999999999980993227684700473478

# Of log(gamma(2 + z)) / z, highest powers first: (-1)^k (zeta(k) - 1) / k, and 1 - Euler's constant.
_NEAR_TWO = (
    5.731367241678862e-10, -1.1921401405860912e-09, 2.4836745438024785e-09, -5.183475041970047e-09,
    1.0838659214896955e-08, -2.2711094608943164e-08, 4.769810169363981e-08, -1.00432248239681e-07,
    2.1207184805554667e-07, -4.492469198764566e-07, 9.55141213040742e-07, -2.039215753801366e-06,
    4.374866789907487e-06, -9.439488275268395e-06, 2.0507212775670694e-05, -4.492623673813314e-05,
    9.945751278180853e-05, -0.00022315475845357936, 0.0005096695247430425, -0.001192753911703261,
    0.0028905103307415234, -0.007385551028673986, 0.020580808427784546, -0.0673523010531981,
    0.3224670334241132, 0.42278433509846713)

# Numerators and denominators of the inverse of the normal distribution (Moshier, Cephes), highest powers first: in the
# middle, and in the tails where sqrt(-2 log p) is below 8, and above.
_MIDDLE = (
    (-5.99633501014107895267e1, 9.80010754185999661536e1, -5.66762857469070293439e1, 1.39312609387279679503e1,
     -1.23916583867381258016),
    (1.0, 1.95448858338141759834, 4.67627912898881538453, 8.63602421390890590575e1, -2.25462687854119370527e2,
     2.00260212380060660359e2, -8.20372256168333339912e1, 1.59056225126211695515e1, -1.18331621121330003142),
)
_NEAR = (
    (4.05544892305962419923, 3.15251094599893866154e1, 5.71628192246421288162e1, 4.40805073893200834700e1,
     1.46849561928858024014e1, 2.18663306850790267539, -1.40256079171354495875e-1, -3.50424626827848203418e-2,
     -8.57456785154685413611e-4),
    (1.0, 1.57799883256466749731e1, 4.53907635128879210584e1, 4.13172038254672030440e1, 1.50425385692907503408e1,
     2.50464946208309415979, -1.42182922854787788574e-1, -3.80806407691578277194e-2, -9.33259480895457427372e-4),
)
_FAR = (
    (3.23774891776946035970, 6.91522889068984211695, 3.93881025292474443415, 1.33303460815807542389,
     2.01485389549179081538e-1, 1.23716634817820021358e-2, 3.01581553508235416007e-4, 2.65806974686737550832e-6,
     6.23974539184983293730e-9),
    (1.0, 6.02427039364742014255, 3.67983563856160859403, 1.37702099489081330271, 2.16236993594496635890e-1,
     1.34204006088543189037e-2, 3.28014464682127739104e-4, 2.89247864745380683936e-6, 6.79019408009981274425e-9),
)
_TAIL = math.exp(-2)


def _quotient(f: Formula, x: Value, of: tuple[Sequence[float], Sequence[float]]) -> Value:
    return f.div(polynomial(f, x, of[0]), polynomial(f, x, of[1]))


def _lanczos(f: Formula, z: Value) -> tuple[Value, Value, Value]:
    """Of gamma(z + 1), z at least -0.5: the series, its derivative's negative, and the logarithm of z + g + 0.5."""
    series, slope = f.ctx.like(z, _LANCZOS_FIRST), f.ctx.like(z, 0)
    for i, coefficient in enumerate(_LANCZOS):
        place = f.add(z, i + 1)
        series = f.add(series, f.div(coefficient, place))
        slope = f.add(slope, f.div(coefficient, f.square(place)))
    base = _HALF_WIDTH + 0.5
    return series, slope, f.add(f.log1p(f.div(z, base)), math.log(base))


def _fraction(f: Formula, size: Value) -> Value:
    """The distance of a number that is not negative to the nearest whole one below, at most 0.5 by symmetry."""
    rest = f.sub(size, f.floor(size))
    return f.select(f.gt(rest, 0.5), f.sub(1, rest), rest)


def _lgamma(f: Formula, x: Value) -> Value:
    """log|gamma(x)|; below 0.5 by Euler's reflection."""
    low, size = f.lt(x, 0.5), f.abs(x)
    value = _lgamma_above(f, f.select(low, f.neg(x), f.sub(x, 1)))
    sine = f.log(f.sin(f.mul(_fraction(f, size), math.pi)))
    reflected = f.sub(f.sub(math.log(math.pi), sine), value)
    value = f.select(low, f.select(f.eq(f.floor(x), x), math.inf, reflected), value)
    return f.select(f.eq(size, math.inf), math.inf, value)


def _lgamma_above(f: Formula, z: Value) -> Value:
    """log(gamma(1 + z)) for z from -0.5; by its series up to 1.5, where it has its zeros."""
    series, _, log = _lanczos(f, z)
    powers = f.mul(f.sub(f.add(z, 0.5), f.div(f.add(z, _HALF_WIDTH + 0.5), log)), log)
    value = f.add(f.add(powers, 0.5 * math.log(2 * math.pi)), f.log(series))
    first = f.lt(z, 0.5)
    near = f.select(first, z, f.sub(z, 1))
    above_two = f.mul(near, polynomial(f, near, _NEAR_TWO))
    return f.select(f.lt(z, 1.5), f.select(first, f.sub(above_two, f.log1p(near)), above_two), value)


def _digamma(f: Formula, x: Value) -> Value:
    """The derivative of log(gamma(x)); NaN at its poles, as in TensorFlow."""
    low = f.lt(x, 0.5)
    z = f.select(low, f.neg(x), f.sub(x, 1))
    series, slope, log = _lanczos(f, z)
    value = f.sub(f.sub(log, f.div(slope, series)), f.div(_HALF_WIDTH, f.add(z, _HALF_WIDTH + 0.5)))
    value = f.select(f.eq(x, math.inf), math.inf, value)
    whole = f.floor(x)
    rest = f.sub(x, whole)
    rest = f.select(f.gt(rest, 0.5), f.sub(rest, 1), rest)
    angle = f.mul(rest, math.pi)
    reflected = f.sub(value, f.div(f.mul(math.pi, f.cos(angle)), f.sin(angle)))
    return f.select(low, f.select(f.eq(whole, x), math.nan, reflected), value)


def _normal_middle(f: Formula, distance: Value) -> Value:
    """Where the normal distribution is 0.5 + ``distance``."""
    square = f.square(distance)
    series = f.mul(square, _quotient(f, square, _MIDDLE))
    return f.mul(f.add(distance, f.mul(distance, series)), math.sqrt(2 * math.pi))


def _normal_tail(f: Formula, share: Value) -> Value:
    """Where the normal distribution has yet ``share``, which is small, to come."""
    x = f.sqrt(f.mul(-2, f.log(share)))
    inverse = f.div(1, x)
    series = f.select(f.lt(x, 8), _quotient(f, inverse, _NEAR), _quotient(f, inverse, _FAR))
    value = f.sub(f.sub(x, f.mul(f.log(x), inverse)), f.mul(inverse, series))
    return f.select(f.eq(share, 0), math.inf, f.select(f.lt(share, 0), math.nan, value))


def _ndtri(f: Formula, p: Value) -> Value:
    """The inverse of the normal distribution; NaN outside of [0, 1]."""
    upper = f.gt(p, 0.5)
    share = f.select(upper, f.sub(1, p), p)
    tail = _normal_tail(f, share)
    tail = f.select(upper, tail, f.neg(tail))
    return f.select(f.gt(share, _TAIL), _normal_middle(f, f.sub(p, 0.5)), tail)


def _erfinv(f: Formula, x: Value) -> Value:
    """The normal distribution's inverse at (1 + x) / 2, by sqrt(1 / 2)."""
    share = f.mul(f.sub(1, f.abs(x)), 0.5)
    tail = _normal_tail(f, share)
    tail = f.select(f.lt(x, 0), f.neg(tail), tail)
    return f.mul(f.select(f.gt(share, _TAIL), _normal_middle(f, f.mul(x, 0.5)), tail), math.sqrt(0.5))


FORMULAS: dict[str, Callable[..., Value]] = {
    "Digamma": in_f32(_digamma), "Erfinv": in_f32(_erfinv), "Lgamma": in_f32(_lgamma), "Ndtri": in_f32(_ndtri),
}
