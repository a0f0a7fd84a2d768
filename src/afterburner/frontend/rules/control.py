"""Constants, identities, assertions and conditionals."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from ...ir import Value
from ...ir.ops.elementwise import Equal, IsFinite
from ...ir.types import BOOL
from ..flatten import LOOPS, FlatOp, flatten, nested_graphs
from ..importer import Importer, Rule
from . import conv, matmul, volume


def _const(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    if op.outputs[0].dtype == tf.string:
        return ()
    return (ctx.constant(tf.make_ndarray(op.attr("value"))),)


def _identity(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Handles pass along as well as tensors."""
    for source, result in zip(op.inputs, op.outputs, strict=True):
        if source.dtype == tf.resource:
            ctx.alias(result, source)
    return inputs


def _ensure_shape(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    if not tf.TensorShape(op.attr("shape")).is_compatible_with(inputs[0].shape):
        raise ctx.refuse(f"the shape {list(inputs[0].shape)} is not the one ensured")
    return inputs


def _placeholder_with_default(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return inputs


def _check_numerics(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.check(ctx.emit(IsFinite(), inputs[0]), "a tensor has NaN or Inf")
    return inputs


def _assert(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.check(inputs[0], "assertion failed")
    return ()


def _no_op(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return ()


def _if(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Both branches are computed; the condition selects results and new values of variables."""
    condition = ctx.cast(inputs[0], BOOL)
    if condition.shape:
        raise ctx.refuse("a condition that is no scalar")
    then, other = (flatten(graph, op.name) for graph in nested_graphs(op, NESTED[op.type]))
    return ctx.branch(condition, (lambda: ctx.import_graph(then, op.inputs[1:]),
                                  lambda: ctx.import_graph(other, op.inputs[1:])))


def _case(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """One of several branches by its number, the last one for all numbers that name none."""
    index, graphs = inputs[0], nested_graphs(op, NESTED[op.type])
    if index.shape:
        raise ctx.refuse("a number of a branch that is no scalar")
    branches = [flatten(graph, op.name) for graph in graphs]

    def from_branch(i: int) -> list[Value]:
        if i == len(branches) - 1:
            return ctx.import_graph(branches[i], op.inputs[1:])
        condition = ctx.emit(Equal(), index, ctx.like(index, i))
        return ctx.branch(condition, (lambda: ctx.import_graph(branches[i], op.inputs[1:]),
                                      lambda: from_branch(i + 1)))
    return from_branch(0)


def _refuse_expensive(op: FlatOp) -> str | None:
    """All branches are computed, so none may cost much."""
    heavy = matmul.RULES.keys() | conv.RULES.keys() | volume.RULES.keys() | set(LOOPS)
    for graph in nested_graphs(op, NESTED[op.type]):
        for inner in flatten(graph, op.name).ops:
            if inner.type in heavy:
                return f"a branch with {inner.type}"
    return None


RULES: dict[str, Rule] = {
    "Assert": _assert,
    "Case": _case,
    "CheckNumerics": _check_numerics,
    "CheckNumericsV2": _check_numerics,
    "Const": _const,
    "EnsureShape": _ensure_shape,
    "Identity": _identity,
    "IdentityN": _identity,
    "If": _if,
    "NoOp": _no_op,
    "PlaceholderWithDefault": _placeholder_with_default,
    "PreventGradient": _identity,
    "Snapshot": _identity,
    "StatelessCase": _case,
    "StatelessIf": _if,
    "StopGradient": _identity,
}

NESTED = {
    **{name: ("then_branch", "else_branch") for name in ("If", "StatelessIf")},
    **{name: ("branches",) for name in ("Case", "StatelessCase")},
}

REFUSALS = {name: _refuse_expensive for name in NESTED}

IGNORED_INPUTS = {"Assert": 1}
