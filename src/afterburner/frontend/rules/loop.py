"""Loops of a known number of turns, and the lists of tensors that they fill and read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import numpy as np
import tensorflow as tf

from ...ir import Value
from ..dtypes import has_ir_dtype
from ..flatten import FlatOp, branch_graph, flatten
from ..importer import Importer, Rule
from ..loops import import_loop, may_be_counted, writes
from ..tensor_lists import Rows, element_shape


def _while(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    import_loop(ctx, op, flatten(branch_graph(op, "cond"), op.name), flatten(branch_graph(op, "body"), op.name))
    return [ctx.values[t] for t in op.outputs if t in ctx.values]


def _refuse_uncounted(op: FlatOp) -> str | None:
    body = flatten(branch_graph(op, "body"), op.name)
    writer = writes(body)
    if writer is not None:
        return f"a loop with {writer}"
    if not may_be_counted(flatten(branch_graph(op, "cond"), op.name), body):
        return "a loop whose number of turns depends on data"
    return None


def _reserve(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    shape, length = element_shape(ctx, inputs[0]), int(ctx.static(inputs[1], "the length of a list"))
    if length < 0:
        raise ctx.refuse("a list of negative length")
    ctx.lists[op.outputs[0]] = Rows(length, ctx.dtype("element_dtype"), shape)
    return ()


def _empty(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.lists[op.outputs[0]] = Rows(0, ctx.dtype("element_dtype"), element_shape(ctx, inputs[0]))
    return ()


def _from_tensor(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    rows = inputs[0]
    if not rows.shape:
        raise ctx.refuse("a list of the rows of a scalar")
    ctx.lists[op.outputs[0]] = Rows(rows.shape[0], rows.type.dtype, rows.shape[1:], rows)
    return ()


def _stack(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    list_ = ctx.list_of(op.inputs[0])
    count = int(ctx.attr("num_elements"))
    if count >= 0 and count != list_.count(ctx):
        raise ctx.refuse(f"a list of {list_.count(ctx)} elements that should have {count}")
    return (list_.stacked(ctx, element_shape(ctx, inputs[0])),)


def _item(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.list_of(op.inputs[0]).item(ctx, inputs[0], element_shape(ctx, inputs[1])),)


def _set_item(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.lists[op.outputs[0]] = ctx.list_of(op.inputs[0]).with_item(
        ctx, inputs[0], inputs[1], bool(ctx.attr("resize_if_index_out_of_bounds")))
    return ()


def _resize(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    length = int(ctx.static(inputs[0], "the length of a list"))
    if length < 0:
        raise ctx.refuse("a list of negative length")
    ctx.lists[op.outputs[0]] = ctx.list_of(op.inputs[0]).resized(ctx, length)
    return ()


def _push(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.lists[op.outputs[0]] = ctx.list_of(op.inputs[0]).pushed(ctx, inputs[0])
    return ()


def _pop(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.lists[op.outputs[0]], element = ctx.list_of(op.inputs[0]).popped(ctx, element_shape(ctx, inputs[0]))
    return (element,)


def _length(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.constant(np.int32(ctx.list_of(op.inputs[0]).count(ctx))),)


def _item_shape(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    shape = ctx.list_of(op.inputs[0]).item_shape(ctx)
    return (ctx.constant(-1 if shape is None else shape, ctx.dtype("shape_type")),)


def _zeros(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.lists[op.outputs[0]] = ctx.list_of(op.inputs[0]).zeros(ctx)
    return ()


def _sum(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    ctx.lists[op.outputs[0]] = reduce(lambda a, b: a.plus(ctx, b), (ctx.list_of(t) for t in op.inputs))
    return ()


RULES: dict[str, Rule] = {
    "EmptyTensorList": _empty,
    "StatelessWhile": _while,
    "TensorListElementShape": _item_shape,
    "TensorListFromTensor": _from_tensor,
    "TensorListGetItem": _item,
    "TensorListLength": _length,
    "TensorListPopBack": _pop,
    "TensorListPushBack": _push,
    "TensorListReserve": _reserve,
    "TensorListResize": _resize,
    "TensorListSetItem": _set_item,
    "TensorListStack": _stack,
    "While": _while,
}

# What operations that others have rules for do with lists.
OF_LISTS: dict[str, Rule] = {"AddN": _sum, "ZerosLike": _zeros}

NESTED = {name: ("cond", "body") for name in ("StatelessWhile", "While")}

def _refuse_elements(op: FlatOp) -> str | None:
    dtype = tf.as_dtype(op.attr("element_dtype"))
    return None if has_ir_dtype(dtype) else f"lists of {dtype.name}"


REFUSALS: dict[str, Callable[[FlatOp], str | None]] = {
    name: _refuse_uncounted if name in NESTED else _refuse_elements
    for name in RULES if name not in ("TensorListElementShape", "TensorListLength", "TensorListResize")}
