"""Winograd's F(4, 3) along one axis: four outputs of a three-tap filter from six inputs by six products.

The transforms interpolate at 0, ±5/8, ±3/2 and infinity (Barabasz et al., "Error analysis and improving the
accuracy of Winograd convolution", 2020, on why not at 0, ±1, ±2): products of these points are short binary
fractions, and rounding errors grow to a third of those of whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir as ll

from ..emitter import Emitter, const
from .gemm import Numeric

OUTPUTS, TAPS = 4, 3
POINTS = OUTPUTS + TAPS - 1
_P, _Q = 0.625, 1.5
_PP, _QQ = _P * _P, _Q * _Q


def _add_scaled(e: Emitter, num: Numeric, factor: float, a: ll.Value, b: ll.Value) -> ll.Value:
    """``factor * a + b``."""
    return num.multiply_add(e, const(num.vector, factor), a, b)


def _scaled(e: Emitter, num: Numeric, factor: float, a: ll.Value) -> ll.Value:
    return e.b.fmul(const(num.vector, factor), a)


def input_line(e: Emitter, num: Numeric, d: Sequence[ll.Value]) -> list[ll.Value]:
    """Six inputs to six factors (B^T d)."""
    even_p, odd_p = _add_scaled(e, num, -_QQ, d[2], d[4]), _add_scaled(e, num, -_QQ, d[1], d[3])
    even_q, odd_q = _add_scaled(e, num, -_PP, d[2], d[4]), _add_scaled(e, num, -_PP, d[1], d[3])
    ends = [_add_scaled(e, num, _PP * _QQ, d[i], _add_scaled(e, num, -(_PP + _QQ), d[i + 2], d[i + 4]))
            for i in (0, 1)]
    return [ends[0], _add_scaled(e, num, _P, odd_p, even_p), _add_scaled(e, num, -_P, odd_p, even_p),
            _add_scaled(e, num, _Q, odd_q, even_q), _add_scaled(e, num, -_Q, odd_q, even_q), ends[1]]


def filter_line(e: Emitter, num: Numeric, g: Sequence[ll.Value]) -> list[ll.Value]:
    """Three taps to six factors (G g)."""
    factors = [_scaled(e, num, 1 / (_PP * _QQ), g[0])]
    for point, square, other in ((_P, _PP, _QQ), (_Q, _QQ, _PP)):
        norm = 1 / (2 * square * (square - other))
        even = _add_scaled(e, num, square * norm, g[2], _scaled(e, num, norm, g[0]))
        factors += [_add_scaled(e, num, sign * point * norm, g[1], even) for sign in (1, -1)]
    return [*factors, g[2]]


def output_line(e: Emitter, num: Numeric, m: Sequence[ll.Value]) -> list[ll.Value]:
    """Six products to four outputs (A^T m)."""
    sum_p, sum_q = e.b.fadd(m[1], m[2]), e.b.fadd(m[3], m[4])
    difference_p, difference_q = e.b.fsub(m[1], m[2]), e.b.fsub(m[3], m[4])
    last = _add_scaled(e, num, _P * _PP, difference_p, m[5])
    return [e.b.fadd(m[0], e.b.fadd(sum_p, sum_q)),
            _add_scaled(e, num, _P, difference_p, _scaled(e, num, _Q, difference_q)),
            _add_scaled(e, num, _PP, sum_p, _scaled(e, num, _QQ, sum_q)),
            _add_scaled(e, num, _Q * _QQ, difference_q, last)]


def gradient_line(e: Emitter, num: Numeric, y: Sequence[ll.Value]) -> list[ll.Value]:
    """Four gradients of outputs to six factors (A y): the transpose of ``output_line``."""
    factors = [y[0]]
    for point, square in ((_P, _PP), (_Q, _QQ)):
        even, odd = _add_scaled(e, num, square, y[2], y[0]), _add_scaled(e, num, square, y[3], y[1])
        factors += [_add_scaled(e, num, sign * point, odd, even) for sign in (1, -1)]
    return [*factors, y[3]]


def filter_gradient_line(e: Emitter, num: Numeric, u: Sequence[ll.Value]) -> list[ll.Value]:
    """Six gradients of a filter's factors to those of its three taps (G^T u): the transpose of ``filter_line``."""
    norm_p, norm_q = 1 / (2 * _PP * (_PP - _QQ)), 1 / (2 * _QQ * (_QQ - _PP))
    sum_p, sum_q = e.b.fadd(u[1], u[2]), e.b.fadd(u[3], u[4])
    difference_p, difference_q = e.b.fsub(u[1], u[2]), e.b.fsub(u[3], u[4])
    first = _add_scaled(e, num, norm_p, sum_p, _scaled(e, num, 1 / (_PP * _QQ), u[0]))
    return [_add_scaled(e, num, norm_q, sum_q, first),
            _add_scaled(e, num, _P * norm_p, difference_p, _scaled(e, num, _Q * norm_q, difference_q)),
            _add_scaled(e, num, _PP * norm_p, sum_p, _add_scaled(e, num, _QQ * norm_q, sum_q, u[5]))]
