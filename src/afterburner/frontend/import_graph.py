"""TensorFlow operations to the IR, with the concrete shapes of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ..errors import NotTaken
from ..ir import Graph, IRError, TensorType, Value, verify
from ..options import options
from .dtypes import has_ir_dtype
from .flatten import LOOPS, FlatOp, FlatTensor, flatten, nested_graphs
from .importer import Importer, Refused
from .rules import IGNORED_INPUTS, NESTED, REFUSALS, RULES, list_rule


@dataclass(frozen=True)
class Imported:
    """A graph and the variables its state inputs stand for.

    Attributes:
        graph: its inputs are the data inputs in the order given, then one state input per variable
            read or written, in order of first use; its outputs are the results asked for, then one
            per updated variable, then the checks.
        variables: the resource tensor of every state input.
    """

    graph: Graph
    variables: tuple[FlatTensor, ...]


def supported(op: FlatOp) -> str | None:
    """None if the operation can be imported as far as its type and attributes tell; else why not."""
    if op.refusal is None:
        op.refusal = _refusal(op) or ""
    return op.refusal or None


def _refusal(op: FlatOp) -> str | None:
    rule = list_rule(op)
    if op.type not in RULES:
        return f"no rule for {op.type}"
    for tensor in (*read_inputs(op), *op.outputs):
        dtype = tensor.dtype
        if has_ir_dtype(dtype) or dtype == tf.resource or (dtype == tf.variant and rule is not None):
            continue
        if dtype.is_complex:
            return "complex numbers"
        if dtype != tf.string:
            return f"{dtype.name} tensors"
        if op.type != "Const":
            return "strings"
    for graph in nested_graphs(op, NESTED.get(op.type, ())):
        for inner in flatten(graph, op.name).ops:
            reason = supported(inner)
            if reason is not None:
                return f"{reason} inside a {'loop' if op.type in LOOPS else 'branch'}"
    refusal = REFUSALS.get(op.type)
    return refusal(op) if refusal else None


def read_inputs(op: FlatOp) -> tuple[FlatTensor, ...]:
    """The inputs an import reads; others (an Assert's data) need not be available."""
    limit = IGNORED_INPUTS.get(op.type)
    return op.inputs[:limit]


def variable_dtypes(ops: Sequence[FlatOp]) -> dict[FlatTensor, tf.DType]:
    """Element types of the variables that operations, or those in their branches, read or write."""
    found: dict[FlatTensor, tf.DType] = {}
    for op in ops:
        handles = [(i, t) for i, t in enumerate(op.inputs) if t.dtype == tf.resource]
        if handles and op.type in NESTED:
            for graph in nested_graphs(op, NESTED[op.type]):
                flat = flatten(graph, op.name)
                inside = variable_dtypes(flat.ops)
                first = 0 if op.type in LOOPS else 1  # that of a conditional is the condition
                found.update({t: inside[flat.arguments[i - first]] for i, t in handles
                              if flat.arguments[i - first] in inside})
        elif handles and op.type not in ("Identity", "IdentityN"):
            dtype = _element_type(op)
            found.update({t: dtype for _, t in handles if dtype is not None})
    return found


def _element_type(op: FlatOp) -> tf.DType | None:
    names = {attribute.name for attribute in op.source.op_def.attr}
    name = next((n for n in ("dtype", "T") if n in names), None)
    return tf.as_dtype(op.attr(name)) if name else None


def import_ops(
    ops: Sequence[FlatOp], inputs: Sequence[FlatTensor], input_types: Sequence[TensorType],
    outputs: Sequence[FlatTensor], variable_types: Mapping[FlatTensor, TensorType],
    constants: Mapping[FlatTensor, np.ndarray] | None = None, name: str = "part",
) -> Imported:
    """Import operations given in program order.

    Args:
        ops: the operations; control edges are not looked at.
        inputs: tensors made outside that become graph inputs.
        input_types: their concrete types.
        outputs: tensors that become graph outputs.
        variable_types: type of every variable, by its resource tensor.
        constants: tensors made outside whose values are compile-time constants.
        name: of the graph.

    Raises:
        NotTaken: an operation cannot be imported; a ``Refused`` names it.
    """
    context = Importer(name, variable_types, _import_op)
    for i, (tensor, type_) in enumerate(zip(inputs, input_types, strict=True)):
        value = context.values[tensor] = context.builder.input(type_, f"x{i}")
        context.inputs[value] = tensor
    for tensor, array in (constants or {}).items():
        context.values[tensor] = context.constant(array)
    for op in ops:
        _import_op(context, op)
    results = [_result(context, tensor) for tensor in outputs]
    return _finish(context, results)


def _import_op(context: Importer, op: FlatOp) -> None:
    reason = supported(op)
    if reason is not None:
        raise Refused(op, reason)
    if options().fault == "rule":
        raise RuntimeError(f"planted failure of the rule for {op.type}")
    context.op = op
    context.builder.loc = op.location
    operands = [_operand(context, op, t) for t in read_inputs(op) if has_ir_dtype(t.dtype)]
    try:
        results = (list_rule(op) or RULES[op.type])(context, op, operands)
    except IRError as error:
        raise Refused(op, str(error)) from error
    produced = [t for t in op.outputs if has_ir_dtype(t.dtype)]
    for tensor, value in zip(produced, results, strict=True):
        context.values[tensor] = value


def _operand(context: Importer, op: FlatOp, tensor: FlatTensor) -> Value:
    if tensor not in context.values:
        raise Refused(op, "an input is made by an operation that was not imported")
    return context.values[tensor]


def _result(context: Importer, tensor: FlatTensor) -> Value:
    if tensor not in context.values:
        raise NotTaken(f"{context.builder.name}: output {tensor.index} of {tensor.op} was not imported")
    return context.values[tensor]


def _finish(context: Importer, results: Sequence[Value]) -> Imported:
    builder = context.builder
    first_state = len(builder.inputs) - len(context.variables)
    for value in results:
        builder.output(value)
    for index, value in context.updates():
        builder.output(value, updates=first_state + index)
    for value, message in context.checks.items():
        builder.output(value, check=message)
    return Imported(verify(builder.build()), tuple(context.variables))
