"""Softmax, cross-entropies and top-k membership."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Value
from ...ir.ops import elementwise as ew
from ...ir.ops.shape import Iota
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula


def _rows(x: Value) -> tuple[int, ...]:
    """All axes but the last."""
    return tuple(range(x.type.rank - 1))


def _shifted(f: Formula, x: Value) -> Value:
    """x minus the largest element of its last axis."""
    return f.sub(x, f.along(f.max(x, (x.type.rank - 1,)), x, _rows(x)))


def _softmax(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """exp(x - max) / sum of the same, in f32 for half-width floats."""
    f, x = Formula(ctx), inputs[0]
    if x.shape[-1] == 0:
        return inputs
    exp = f.exp(_shifted(f, f.widened(x)))
    total = f.along(f.sum(exp, (x.type.rank - 1,)), exp, _rows(x))
    return (f.cast(f.div(exp, total), x.type.dtype),)


def _log_softmax(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    f, x = Formula(ctx), inputs[0]
    if x.shape[-1] == 0:
        return inputs
    shifted = _shifted(f, f.widened(x))
    total = f.log(f.sum(f.exp(shifted), (x.type.rank - 1,)))
    return (f.cast(f.sub(shifted, f.along(total, shifted, _rows(x))), x.type.dtype),)


def _softmax_cross_entropy(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Loss sum(labels * (log(sum(exp(z))) - z)) and gradient exp(z) / sum(exp(z)) - labels, z = x - max."""
    f, dtype = Formula(ctx), inputs[0].type.dtype
    logits, labels = ctx.broadcast_together(*(f.widened(v) for v in inputs))
    if logits.type.rank != 2 or logits.shape[1] == 0:
        raise ctx.refuse("logits that are no matrix with at least one class")
    z = _shifted(f, logits)
    exp = f.exp(z)
    total = f.sum(exp, (1,))
    terms = f.mul(labels, f.sub(f.along(f.log(total), z, (0,)), z))
    # A label of 0 contributes nothing, whatever the logit is.
    loss = f.sum(f.select(f.eq(labels, 0), 0, terms), (1,))
    gradient = f.sub(f.div(exp, f.along(total, exp, (0,))), labels)
    return f.cast(loss, dtype), f.cast(gradient, dtype)


def _sparse_softmax_cross_entropy(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The same for labels given as class numbers, which must be in range."""
    f, dtype = Formula(ctx), inputs[0].type.dtype
    logits, labels = f.widened(inputs[0]), inputs[1]
    if logits.type.rank != 2 or logits.shape[1] == 0:
        raise ctx.refuse("logits that are no matrix with at least one class")
    if labels.shape != logits.shape[:1]:
        raise ctx.refuse(f"labels {labels.type} of logits {logits.type}")
    legal = f.both(f.ge(labels, 0), f.lt(labels, logits.shape[1]))
    ctx.check(legal, "a label is outside the valid range")
    z = _shifted(f, logits)
    exp = f.exp(z)
    total = f.sum(exp, (1,))
    classes = ctx.emit(Iota(labels.type.dtype, logits.shape, 1))
    is_label = f.eq(classes, f.along(labels, logits, (0,)))
    terms = f.sub(f.along(f.log(total), z, (0,)), z)
    loss = f.sum(f.select(is_label, terms, 0), (1,))
    hit = ctx.emit(ew.Cast(logits.type.dtype), is_label)
    gradient = f.sub(f.div(exp, f.along(total, exp, (0,))), hit)
    return f.cast(loss, dtype), f.cast(gradient, dtype)


RULES: dict[str, Rule] = {
    "LogSoftmax": _log_softmax,
    "Softmax": _softmax,
    "SoftmaxCrossEntropyWithLogits": _softmax_cross_entropy,
    "SparseSoftmaxCrossEntropyWithLogits": _sparse_softmax_cross_entropy,
}
