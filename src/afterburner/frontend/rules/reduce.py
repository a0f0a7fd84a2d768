"""Reductions, arg-reductions and running sums."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import tensorflow as tf
from ml_dtypes import finfo

from ...ir import Op, Value
from ...ir.ops import elementwise as ew
from ...ir.ops import reduce as red
from ...ir.ops.shape import Pad
from ...ir.types import BOOL
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula
from .normalize import NORMALIZE_REFUSALS, NORMALIZE_RULES
from .response import RESPONSE_RULES

_REDUCTIONS: dict[str, type[Op]] = {
    "All": red.ReduceAnd, "Any": red.ReduceOr, "Max": red.ReduceMax, "Min": red.ReduceMin,
    "Prod": red.ReduceProd, "Sum": red.ReduceSum,
}


def axes_of(ctx: Importer, value: Value, operand: Value) -> tuple[int, ...]:
    """A static operand that lists axes of ``value``, as increasing non-negative numbers."""
    rank = value.type.rank
    listed = ctx.ints(operand, "the list of axes")
    if any(not -rank <= a < rank for a in listed):
        raise ctx.refuse(f"axes {list(listed)} of rank {rank}")
    if len({a % rank for a in listed}) < len(listed):
        raise ctx.refuse("an axis is named twice")
    return tuple(sorted(a % rank for a in listed))


def keep_dims(ctx: Importer, original: Value, reduced: Value, axes: tuple[int, ...]) -> Value:
    """``reduced`` with the dropped axes back as size 1 where the operation says so."""
    if not ctx.attr("keep_dims"):
        return reduced
    return ctx.reshape(reduced, [1 if i in axes else s for i, s in enumerate(original.shape)])


def _reduction(kind: type[Op]) -> Rule:
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        x = inputs[0]
        axes = axes_of(ctx, x, inputs[1])
        reduced = reduce(ctx, kind, x, axes)
        return (keep_dims(ctx, x, reduced, axes),)
    return rule


def reduce(ctx: Importer, kind: type[Op], x: Value, axes: tuple[int, ...]) -> Value:
    """Reduce; axes of size 1 are only dropped."""
    long = tuple(a for a in axes if x.shape[a] != 1)
    if not long:
        return ctx.reshape(x, [s for i, s in enumerate(x.shape) if i not in axes])
    reduced = ctx.emit(kind(long), x)  # type: ignore[call-arg]
    return ctx.reshape(reduced, [s for i, s in enumerate(x.shape) if i not in axes])


def _mean(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Half-width floats are summed and divided in f32, as TensorFlow does; integers divide towards 0."""
    x = inputs[0]
    axes = axes_of(ctx, x, inputs[1])
    return (keep_dims(ctx, x, mean(ctx, x, axes), axes),)


def mean(ctx: Importer, x: Value, axes: tuple[int, ...]) -> Value:
    """Mean over ``axes``, which are dropped."""
    f, count = Formula(ctx), prod(x.shape[a] for a in axes)
    if x.type.dtype.is_float:
        total = reduce(ctx, red.ReduceSum, f.widened(x), axes)
        return f.cast(f.div(total, count), x.type.dtype)
    if count == 0:
        raise ctx.refuse("the mean of no integers")
    total = reduce(ctx, red.ReduceSum, x, axes)
    return ctx.emit(ew.TruncDiv(), total, ctx.like(total, count))


def _euclidean_norm(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    f, x = Formula(ctx), inputs[0]
    axes = axes_of(ctx, x, inputs[1])
    norm = f.cast(f.sqrt(f.sum(f.square(f.widened(x)), axes)), x.type.dtype)
    return (keep_dims(ctx, x, norm, axes),)


def _l2_loss(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """sum(x²) / 2."""
    f, x = Formula(ctx), inputs[0]
    total = f.sum(f.square(f.widened(x)), tuple(range(x.type.rank)))
    return (f.cast(f.mul(total, 0.5), x.type.dtype),)


def _bias_add_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    axis = 1 if ctx.attr("data_format") == "NCHW" else x.type.rank - 1
    return (reduce(ctx, red.ReduceSum, x, tuple(a for a in range(x.type.rank) if a != axis)),)


def _arg(kind: type[Op]) -> Rule:
    """TensorFlow starts at index 0 with the worst finite number, so neither NaN nor the worse
    infinity ever wins."""
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        x = inputs[0]
        (axis,) = axes_of(ctx, x, inputs[1])
        dtype = ctx.dtype("output_type")
        if x.type.dtype == BOOL:
            x = ctx.cast(x, ctx.ir_type(tf.uint8))
        if x.type.dtype.is_float:
            f, largest = Formula(ctx), float(finfo(x.type.dtype.numpy).max)
            better, worst = (f.gt, -largest) if kind is red.Argmax else (f.lt, largest)
            x = f.select(better(x, worst), x, worst)
        return (ctx.emit(kind(axis, dtype), x),)  # type: ignore[call-arg]
    return rule


def _cumulative(kind: type[red.Cumsum | red.Cumprod]) -> Rule:
    def rule(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
        (axis,) = axes_of(ctx, inputs[0], inputs[1])
        return (ctx.emit(kind(axis, bool(ctx.attr("exclusive")), bool(ctx.attr("reverse"))), inputs[0]),)
    return rule


def _cumulative_logsumexp(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """In steps over which twice as many elements are combined each time. What TensorFlow makes of a NaN depends on the
    order in which it combines: where one turns up, stock TensorFlow runs."""
    f, x = Formula(ctx), Formula(ctx).widened(inputs[0])
    ctx.check(ctx.emit(ew.LogicalNot(), ctx.emit(ew.IsNan(), x)), "sums exponentials of a NaN")
    (axis,) = axes_of(ctx, x, inputs[1])
    backwards = bool(ctx.attr("reverse"))
    if not x.type.size:
        return inputs[:1]
    total = _moved(ctx, x, axis, 1, backwards) if ctx.attr("exclusive") else x
    for step in (1 << i for i in range((x.shape[axis] - 1).bit_length())):
        total = _log_of_sum(f, total, _moved(ctx, total, axis, step, backwards))
    return (f.cast(total, inputs[0].type.dtype),)


def _moved(ctx: Importer, x: Value, axis: int, step: int, backwards: bool) -> Value:
    """Moved along an axis, what comes in being the logarithm of 0."""
    low, high = ((-step, step) if backwards else (step, -step))
    pads = [tuple(n if i == axis else 0 for i in range(x.type.rank)) for n in (low, high, 0)]
    return ctx.emit(Pad(*pads), x, ctx.constant(-np.inf, x.type.dtype))


def _log_of_sum(f: Formula, x: Value, y: Value) -> Value:
    """log(exp(x) + exp(y))."""
    least, most = f.minimum(x, y), f.maximum(x, y)
    return f.select(f.eq(least, -np.inf), most, f.add(f.log1p(f.exp(f.sub(least, most))), most))


def _broadcast_gradient_args(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The axes over which the gradients of two operands broadcast together are summed."""
    a, b = (ctx.ints(v, "a shape") for v in inputs)
    if a == b:
        first, second = [], []
    else:
        rank = max(len(a), len(b))
        a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
        if any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
            raise ctx.refuse(f"shapes {list(a)} and {list(b)} do not broadcast")
        first = [i for i in range(rank) if a[i] == 1]
        second = [i for i in range(rank) if b[i] == 1]
    return tuple(ctx.constant(np.array(axes), inputs[0].type.dtype) for axes in (first, second))


RULES: dict[str, Rule] = {
    **NORMALIZE_RULES,
    **RESPONSE_RULES,
    **{name: _reduction(kind) for name, kind in _REDUCTIONS.items()},
    "ArgMax": _arg(red.Argmax),
    "ArgMin": _arg(red.Argmin),
    "BiasAddGrad": _bias_add_grad,
    "BroadcastGradientArgs": _broadcast_gradient_args,
    "Cumprod": _cumulative(red.Cumprod),
    "Cumsum": _cumulative(red.Cumsum),
    "CumulativeLogsumexp": _cumulative_logsumexp,
    "EuclideanNorm": _euclidean_norm,
    "L2Loss": _l2_loss,
    "Mean": _mean,
}

REFUSALS = NORMALIZE_REFUSALS
