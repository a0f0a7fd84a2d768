"""Operations on corresponding elements, with NumPy broadcasting made explicit."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...ir import Op, Value
from ...ir.ops import elementwise as ew
from ..flatten import FlatOp
from ..importer import Importer, Rule
from . import activations, special
from .fake_quant import FAKE_QUANT_RULES
from .formulas import Formula

_UNARY: dict[str, type[Op]] = {
    "Abs": ew.Abs, "Ceil": ew.Ceil, "Cos": ew.Cos, "Erf": ew.Erf, "Exp": ew.Exp, "Expm1": ew.Expm1,
    "Floor": ew.Floor, "Invert": ew.BitwiseNot, "IsFinite": ew.IsFinite, "IsInf": ew.IsInf, "IsNan": ew.IsNan,
    "Log": ew.Log, "Log1p": ew.Log1p, "LogicalNot": ew.LogicalNot, "Neg": ew.Neg, "Rint": ew.Round,
    "Rsqrt": ew.Rsqrt, "Sigmoid": ew.Sigmoid, "Sign": ew.Sign, "Sin": ew.Sin, "Sqrt": ew.Sqrt,
    "Tanh": ew.Tanh,
}

_BINARY: dict[str, type[Op]] = {
    "Add": ew.Add, "AddV2": ew.Add, "Atan2": ew.Atan2, "BitwiseAnd": ew.BitwiseAnd, "BitwiseOr": ew.BitwiseOr,
    "BitwiseXor": ew.BitwiseXor, "Equal": ew.Equal, "Greater": ew.Greater, "GreaterEqual": ew.GreaterEqual,
    "LeftShift": ew.ShiftLeft, "Less": ew.Less, "LessEqual": ew.LessEqual, "LogicalAnd": ew.LogicalAnd,
    "LogicalOr": ew.LogicalOr, "Maximum": ew.Maximum, "Minimum": ew.Minimum, "Mul": ew.Mul,
    "NotEqual": ew.NotEqual, "RightShift": ew.ShiftRight, "Sub": ew.Sub,
}

_DIVISIONS: dict[str, type[Op]] = {
    "Div": ew.TruncDiv, "FloorDiv": ew.FloorDiv, "FloorMod": ew.FloorMod, "Mod": ew.TruncMod,
    "TruncateDiv": ew.TruncDiv, "TruncateMod": ew.TruncMod,
}


def _unary(kind: type[Op]) -> Rule:
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        return (ctx.emit(kind(), inputs[0]),)
    return rule


def _binary(kind: type[Op]) -> Rule:
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        return (ctx.emit(kind(), *ctx.broadcast_together(*inputs)),)
    return rule


def _real_division(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Constants divide as TensorFlow's optimizer lets them: by their reciprocals."""
    x, divisor = inputs
    reciprocals = None if ctx.known(x) is not None else _reciprocals(ctx.known(divisor))
    if reciprocals is None:
        return (ctx.emit(ew.Div(), *ctx.broadcast_together(x, divisor)),)
    return (ctx.emit(ew.Mul(), *ctx.broadcast_together(x, ctx.constant(reciprocals, divisor.type.dtype))),)


def _reciprocals(divisors: np.ndarray | None) -> np.ndarray | None:
    """What multiplies as these divide, but for the last bit; None where a reciprocal would lose more."""
    if divisors is None or divisors.dtype not in (np.float32, np.float64):
        return None
    least, sizes = np.finfo(divisors.dtype).tiny, np.abs(divisors)
    return 1 / divisors if np.all((sizes >= least) & (sizes <= 1 / least)) else None


def _division(kind: type[Op]) -> Rule:
    """Integer division by zero is an error in TensorFlow, so it becomes a check."""
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        divisor = inputs[1]
        if divisor.type.dtype.is_float:
            if op.type == "Div":
                return _real_division(ctx, op, inputs)
            return (ctx.emit(kind(), *ctx.broadcast_together(*inputs)),)
        ctx.check(ctx.emit(ew.NotEqual(), divisor, ctx.like(divisor, 0)), "integer division by zero")
        return (ctx.emit(kind(), *ctx.broadcast_together(*inputs)),)
    return rule


def _pow(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """TensorFlow raises for a negative exponent of integers."""
    exponent = inputs[1]
    if exponent.type.dtype.kind == "int":
        legal = ctx.emit(ew.GreaterEqual(), exponent, ctx.like(exponent, 0))
        ctx.check(legal, "integers to negative integer powers")
    return (ctx.emit(ew.Pow(), *ctx.broadcast_together(*inputs)),)


def _formula(function: Callable[..., Value]) -> Rule:
    """A rule that applies ``function(formula, *operands broadcast together)``."""
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        return (function(Formula(ctx), *ctx.broadcast_together(*inputs)),)
    return rule


def _round(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return inputs if inputs[0].type.dtype.is_integer else (ctx.emit(ew.Round(), inputs[0]),)


def _add_n(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    total = inputs[0]
    for value in inputs[1:]:
        total = ctx.emit(ew.Add(), total, value)
    return (total,)


def _bias_add(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    value, bias = inputs
    axis = 1 if op.type == "BiasAdd" and ctx.attr("data_format") == "NCHW" else value.type.rank - 1
    if bias.shape != value.shape[axis:axis + 1]:
        raise ctx.refuse(f"a bias {bias.type} of axis {axis} of {value.type}")
    return (ctx.emit(ew.Add(), value, ctx.broadcast_along(bias, value.shape, (axis,))),)


def _cast(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.cast(inputs[0], ctx.dtype("DstT")),)


def _refuse_truncation(op: FlatOp) -> str | None:
    return "truncating casts" if op.attr("Truncate") else None


def _bitcast(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    dtype = ctx.dtype("type")
    if dtype.bits != inputs[0].type.dtype.bits:
        raise ctx.refuse("bitcasts between widths")
    return (ctx.emit(ew.Bitcast(dtype), inputs[0]),)


def _select_v2(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.emit(ew.Select(), *ctx.broadcast_together(*inputs)),)


def _select(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The older form: the condition is a scalar, a vector along axis 0, or of the branches' shape."""
    condition, a, b = inputs
    if condition.shape not in ((), a.shape[:1], a.shape):
        raise ctx.refuse(f"selects by {condition.type} from {a.type}")
    if condition.type.rank == 1 and a.type.rank > 1:
        condition = ctx.broadcast_along(condition, a.shape, (0,))
    return (ctx.emit(ew.Select(), ctx.broadcast_to(condition, a.shape), a, b),)


def _clip_by_value(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, low, high = (ctx.broadcast_to(v, inputs[0].shape) for v in inputs)
    return (ctx.emit(ew.Maximum(), ctx.emit(ew.Minimum(), x, high), low),)


def _approximate_equal(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    distance = ctx.emit(ew.Abs(), ctx.emit(ew.Sub(), *inputs))
    return (ctx.emit(ew.Less(), distance, ctx.like(distance, ctx.attr("tolerance"))),)


RULES: dict[str, Rule] = {
    **{name: _unary(kind) for name, kind in _UNARY.items()},
    **{name: _binary(kind) for name, kind in _BINARY.items()},
    **{name: _division(kind) for name, kind in _DIVISIONS.items()},
    **{name: _formula(function) for name, function in (activations.FORMULAS | special.FORMULAS).items()},
    **FAKE_QUANT_RULES,
    "AccumulateNV2": _add_n,
    "AddN": _add_n,
    "ApproximateEqual": _approximate_equal,
    "BiasAdd": _bias_add,
    "BiasAddV1": _bias_add,
    "Bitcast": _bitcast,
    "Cast": _cast,
    "ClipByValue": _clip_by_value,
    "LeakyRelu": activations.leaky_relu,
    "LeakyReluGrad": activations.leaky_relu_grad,
    "Pow": _pow,
    "RealDiv": _real_division,
    "Round": _round,
    "Select": _select,
    "SelectV2": _select_v2,
}

REFUSALS = {"Cast": _refuse_truncation}
