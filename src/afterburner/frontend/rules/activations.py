"""Activation functions, their gradients and other composite elementwise functions, in the order of
operations of TensorFlow's own CPU kernels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ml_dtypes import finfo

from ...ir import Value
from ...ir.types import F64
from ..flatten import FlatOp
from ..importer import Importer
from .formulas import Formula, in_f32, polynomial

_SELU_SCALE = 1.0507009873554804934193349852946
_SELU_SCALE_ALPHA = 1.7580993408473768599402175208123


def _square(f: Formula, x: Value) -> Value:
    return f.mul(x, x)


def _reciprocal(f: Formula, x: Value) -> Value:
    return f.div(1, x)


def _squared_difference(f: Formula, x: Value, y: Value) -> Value:
    return f.square(f.sub(x, y))


def _div_no_nan(f: Formula, x: Value, y: Value) -> Value:
    return f.select(f.eq(y, 0), 0, f.div(x, y))


def _mul_no_nan(f: Formula, x: Value, y: Value) -> Value:
    return f.select(f.eq(y, 0), 0, f.mul(x, y))


def _xlogy(f: Formula, x: Value, y: Value) -> Value:
    return f.select(f.eq(x, 0), 0, f.mul(x, f.log(y)))


def _xlog1py(f: Formula, x: Value, y: Value) -> Value:
    return f.select(f.eq(x, 0), 0, f.mul(x, f.log1p(y)))


def _xdivy(f: Formula, x: Value, y: Value) -> Value:
    return f.select(f.eq(x, 0), 0, f.div(x, y))


def _relu(f: Formula, x: Value) -> Value:
    return f.maximum(x, 0)


def _relu6(f: Formula, x: Value) -> Value:
    return f.minimum(f.maximum(x, 0), 6)


def _elu(f: Formula, x: Value) -> Value:
    return f.select(f.lt(x, 0), f.expm1(x), x)


def _selu(f: Formula, x: Value) -> Value:
    return f.select(f.lt(x, 0), f.mul(_SELU_SCALE_ALPHA, f.expm1(x)), f.mul(_SELU_SCALE, x))


def _softplus(f: Formula, x: Value) -> Value:
    """log(1 + exp(x)), with its limits where exp would over- or underflow."""
    threshold = math.log(float(finfo(x.type.dtype.numpy).eps)) + 2.0
    exp = f.exp(x)
    return f.select(f.gt(x, -threshold), x, f.select(f.lt(x, threshold), exp, f.log1p(exp)))


def _softsign(f: Formula, x: Value) -> Value:
    return f.div(x, f.add(f.abs(x), 1))


def _relu_grad(f: Formula, dy: Value, x: Value) -> Value:
    return _passed(f, dy, f.gt(x, 0))


def _passed(f: Formula, dy: Value, condition: Value) -> Value:
    """dy times 1 or 0: a product, so that signs of zeros and NaNs are TensorFlow's."""
    return f.mul(dy, f.select(condition, f.ctx.like(dy, 1), 0))


def _relu6_grad(f: Formula, dy: Value, x: Value) -> Value:
    return _passed(f, dy, f.both(f.gt(x, 0), f.lt(x, 6)))


def _elu_grad(f: Formula, dy: Value, y: Value) -> Value:
    return f.select(f.lt(y, 0), f.mul(f.add(y, 1), dy), dy)


def _selu_grad(f: Formula, dy: Value, y: Value) -> Value:
    return f.select(f.lt(y, 0), f.mul(dy, f.add(y, _SELU_SCALE_ALPHA)), f.mul(dy, _SELU_SCALE))


def _softplus_grad(f: Formula, dy: Value, x: Value) -> Value:
    return f.div(dy, f.add(f.exp(f.neg(x)), 1))


def _softsign_grad(f: Formula, dy: Value, x: Value) -> Value:
    return f.div(dy, f.square(f.add(f.abs(x), 1)))


def _tanh_grad(f: Formula, y: Value, dy: Value) -> Value:
    return f.mul(dy, f.sub(1, f.square(y)))


def _sigmoid_grad(f: Formula, y: Value, dy: Value) -> Value:
    return f.mul(f.mul(dy, y), f.sub(1, y))


def _no_nan(f: Formula, dy: Value, gradient: Value) -> Value:
    """A gradient of 0 stays 0, even where the derivative is not finite."""
    return f.select(f.eq(dy, 0), 0, gradient)


def _reciprocal_grad(f: Formula, y: Value, dy: Value) -> Value:
    return _no_nan(f, dy, f.mul(f.neg(dy), f.square(y)))


def _sqrt_grad(f: Formula, y: Value, dy: Value) -> Value:
    return _no_nan(f, dy, f.div(f.mul(0.5, dy), y))


def _rsqrt_grad(f: Formula, y: Value, dy: Value) -> Value:
    return _no_nan(f, dy, f.mul(f.mul(-0.5, dy), f.mul(y, f.square(y))))


def _tan(f: Formula, x: Value) -> Value:
    return f.div(f.sin(x), f.cos(x))


def _atan(f: Formula, x: Value) -> Value:
    return f.atan2(x, 1)


def _cosine_of_sine(f: Formula, x: Value) -> Value:
    """sqrt(1 - x²) without cancellation near 1."""
    return f.sqrt(f.mul(f.sub(1, x), f.add(1, x)))


def _asin(f: Formula, x: Value) -> Value:
    return f.atan2(x, _cosine_of_sine(f, x))


def _acos(f: Formula, x: Value) -> Value:
    return f.atan2(_cosine_of_sine(f, x), x)


def _sinh(f: Formula, x: Value) -> Value:
    """sign(x) (t + t / (t + 1)) / 2 with t = exp(|x|) - 1, made of exp(|x| / 2), so as not to overflow early."""
    u = f.expm1(f.mul(0.5, f.abs(x)))
    half = f.mul(f.mul(0.5, u), f.add(u, 2))
    t = f.mul(2, half)
    ratio = f.select(f.ge(t, 1e30), 1, f.div(t, f.add(t, 1)))
    value = f.add(half, f.mul(0.5, ratio))
    return f.select(f.lt(x, 0), f.neg(value), f.select(f.eq(x, 0), x, value))


def _cosh(f: Formula, x: Value) -> Value:
    root = f.add(f.expm1(f.mul(0.5, f.abs(x))), 1)  # exp loses more on MLX's CPU device
    half = f.mul(f.mul(0.5, root), root)
    return f.add(half, f.div(0.25, half))


def _asinh(f: Formula, x: Value) -> Value:
    a = f.abs(x)
    inner = f.log1p(f.add(a, f.div(f.square(a), f.add(1, f.sqrt(f.add(f.square(a), 1))))))
    value = f.select(f.gt(a, 1e10), f.add(f.log(a), math.log(2)), inner)
    return f.select(f.lt(x, 0), f.neg(value), f.select(f.eq(x, 0), x, value))


def _acosh(f: Formula, x: Value) -> Value:
    t = f.sub(x, 1)
    inner = f.log1p(f.add(t, f.sqrt(f.add(f.mul(2, t), f.square(t)))))
    value = f.select(f.gt(x, 1e10), f.add(f.log(x), math.log(2)), inner)
    return f.select(f.lt(x, 1), math.nan, value)


def _atanh(f: Formula, x: Value) -> Value:
    a = f.abs(x)
    value = f.mul(0.5, f.log1p(f.div(f.mul(2, a), f.sub(1, a))))
    return f.select(f.lt(x, 0), f.neg(value), f.select(f.eq(x, 0), x, value))


_ERFC = (-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806, 0.27886807, -1.13520398, 1.48851587,
         -0.82215223, 0.17087277)

# Numerators and denominators of exp(x²) erfc(x) for x in 1 to 8, and above (Moshier, Cephes), highest powers first.
_ERFC_F64 = (
    ((2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687, 4.86371970985681366614e1,
      1.96520832956077098242e2, 5.26445194995477358631e2, 9.34528527171957607540e2, 1.02755188689515710272e3,
      5.57535335369399327526e2),
     (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2, 9.75708501743205489753e2,
      1.82390916687909736289e3, 2.24633760818710981792e3, 1.65666309194161350182e3, 5.57535340817727675546e2)),
    ((5.64189583547755073984e-1, 1.27536670759978104416, 5.01905042251180477414, 6.16021097993053585195,
      7.40974269950448939160, 2.97886665372100240670),
     (1.0, 2.26052863220117276590, 9.39603524938001434673, 1.20489539808096656605e1, 1.70814450747565897222e1,
      9.60896809063285878198, 3.36907645100081516050)),
)


def _erfc(f: Formula, x: Value) -> Value:
    size = f.abs(x)
    if x.type.dtype == F64:
        tail = _erfc_tail_f64(f, size)
        return f.select(f.lt(size, 1), f.sub(1, f.erf(x)), f.select(f.lt(x, 0), f.sub(2, tail), tail))
    tail = _erfc_tail(f, size)
    return f.select(f.lt(x, 0), f.sub(2, tail), tail)


def _erfc_tail(f: Formula, size: Value) -> Value:
    """t exp(-x² + P(t)) with t = 1 / (1 + x / 2), relative error below 1.2e-7 for all x above 0
    (Press et al., Numerical Recipes, 2nd ed., 6.2)."""
    t = f.div(1, f.add(1, f.mul(0.5, size)))
    series = polynomial(f, t, _ERFC[::-1])
    return f.mul(t, f.exp(f.sub(series, f.square(size))))


def _erfc_tail_f64(f: Formula, size: Value) -> Value:
    """For x above 1, relative error below 1e-13, most of it that of the rounded x²; beyond 30 it is 0."""
    x = f.minimum(size, 30)
    near, far = (f.div(polynomial(f, x, above), polynomial(f, x, below)) for above, below in _ERFC_F64)
    return f.mul(f.exp(f.neg(f.square(x))), f.select(f.lt(x, 8), near, far))


FORMULAS: dict[str, Callable[..., Value]] = {
    "Acos": in_f32(_acos), "Acosh": in_f32(_acosh), "Asin": in_f32(_asin), "Asinh": in_f32(_asinh),
    "Atan": in_f32(_atan), "Atanh": in_f32(_atanh), "Cosh": in_f32(_cosh), "DivNoNan": _div_no_nan,
    "Elu": _elu, "EluGrad": _elu_grad, "Erfc": in_f32(_erfc), "Inv": _reciprocal,
    "InvGrad": _reciprocal_grad, "MulNoNan": _mul_no_nan, "Reciprocal": _reciprocal,
    "ReciprocalGrad": _reciprocal_grad, "Relu": _relu, "Relu6": _relu6, "Relu6Grad": _relu6_grad,
    "ReluGrad": _relu_grad, "RsqrtGrad": _rsqrt_grad, "Selu": _selu, "SeluGrad": _selu_grad,
    "SigmoidGrad": _sigmoid_grad, "Sinh": in_f32(_sinh), "Softplus": _softplus,
    "SoftplusGrad": _softplus_grad, "Softsign": _softsign, "SoftsignGrad": _softsign_grad,
    "SqrtGrad": _sqrt_grad, "Square": _square, "SquaredDifference": _squared_difference,
    "Tan": in_f32(_tan), "TanhGrad": _tanh_grad, "Xdivy": _xdivy, "Xlog1py": _xlog1py, "Xlogy": _xlogy,
}


def leaky_relu(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    f, x = Formula(ctx), inputs[0]
    return (f.select(f.gt(x, 0), x, f.mul(x, ctx.attr("alpha"))),)


def leaky_relu_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    f, (dy, x) = Formula(ctx), inputs
    return (f.select(f.gt(x, 0), dy, f.mul(dy, ctx.attr("alpha"))),)
