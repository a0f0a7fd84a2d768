"""One node for all turns of a loop: its operands are given as tensors with a row for each turn."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ..ir import Builder, Node, Op, Shape, Value
from ..ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad
from ..ir.ops.matmul import Matmul
from ..ir.ops.reduce import Argmax, Argmin, Cumprod, Cumsum
from ..ir.ops.shape import Broadcast, Concat, Pad, Reshape, Reverse, Slice, Transpose

_OF_ROWS = (Broadcast, Reshape, Transpose, Slice, Reverse, Argmax, Argmin, Cumprod, Cumsum)


def is_contraction(op: Op) -> bool:
    """Whether the work of an operation is multiplications and additions that are faster all at once."""
    return isinstance(op, Matmul | Conv2d | Conv2dInputGrad | Conv2dFilterGrad)


def takes_all_rows(op: Op) -> bool:
    """Whether ``batch`` wants rows of all operands, repeated where they are the same in every turn."""
    return op.elementwise or isinstance(op, Concat)


def batches(node: Node, rows: tuple[bool, ...]) -> bool:
    """Whether ``batch`` knows a node of which these operands, one at least, differ from turn to turn."""
    op = node.op
    if takes_all_rows(op) or op.reduction or isinstance(op, _OF_ROWS):
        return True
    if isinstance(op, Pad | Conv2d):
        return rows == (True, False)
    if isinstance(op, Conv2dInputGrad):
        return rows == (False, True)
    if isinstance(op, Matmul):  # rows of a left operand may follow each other, if they are not columns
        return rows == (True, False) and node.results[0].type.rank == 2 and not op.transpose_a
    return False


def batch(builder: Builder, node: Node, operands: list[Value], steps: int) -> Value:
    """The results of a node in all turns, from its operands in all turns where it ``batches``."""
    shape = (steps, *node.results[0].shape)
    op = _with_a_further_axis(node.op, steps)
    if isinstance(op, Matmul | Conv2d):
        flat = builder.emit(op, flattened(builder, operands[0]), operands[1])
    elif isinstance(op, Conv2dInputGrad):
        wide = replace(op, input_shape=(steps * op.input_shape[0], *op.input_shape[1:]))
        flat = builder.emit(wide, operands[0], flattened(builder, operands[1]))
    else:
        return builder.emit(op, *operands)
    return builder.emit(Reshape(shape), flat)


def flattened(builder: Builder, rows: Value) -> Value:
    """The rows of all turns one after another along what is their first axis."""
    return builder.emit(Reshape((prod(rows.shape[:2]), *rows.shape[2:])), rows)


def shifted(axes: Shape) -> Shape:
    """Where axes are when another one comes first."""
    return tuple(a + 1 for a in axes)


def _with_a_further_axis(op: Op, steps: int) -> Op:
    """An operation that moves or reduces elements, for operands with an axis more in front."""
    match op:
        case Broadcast():
            return Broadcast((steps, *op.shape), (0, *shifted(op.axes)))
        case Reshape():
            return Reshape((steps, *op.shape))
        case Transpose():
            return Transpose((0, *shifted(op.perm)))
        case Slice():
            return Slice((0, *op.starts), (steps, *op.limits), (1, *op.strides))
        case Pad():
            return Pad((0, *op.low), (0, *op.high), (0, *op.interior))
        case Reverse():
            return Reverse(shifted(op.axes))
        case Concat() | Argmax() | Argmin() | Cumprod() | Cumsum():
            return replace(op, axis=op.axis + 1)
    return replace(op, axes=shifted(op.axes)) if op.reduction else op  # type: ignore[attr-defined,call-arg]
