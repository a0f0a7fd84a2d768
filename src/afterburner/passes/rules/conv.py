"""Convolutions: explicit zero padding becomes part of the window's padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ...ir import Node, Value
from ...ir.ops.conv import Conv2dInputGrad, Pads
from ...ir.ops.shape import Pad
from ..rewriter import Rewriter, is_number, made_by
from .shape import empty


def _attributes(node: Node) -> Any:
    return node.op


def _zero_border(value: Value) -> tuple[Value, Pads] | None:
    """What is surrounded by zeros along the two spatial axes, and by how many."""
    pad = made_by(value, Pad)
    if pad is None or value.type.rank != 4 or not is_number(pad.operands[1], 0.0):
        return None
    op = _attributes(pad)
    inside = any(op.interior) or min(*op.low, *op.high) < 0
    if inside or op.low[0] or op.high[0] or op.low[3] or op.high[3]:
        return None
    return pad.operands[0], ((op.low[1], op.high[1]), (op.low[2], op.high[2]))


def _added(a: Pads, b: Pads) -> Pads:
    return ((a[0][0] + b[0][0], a[0][1] + b[0][1]), (a[1][0] + b[1][0], a[1][1] + b[1][1]))


def _of_padded(r: Rewriter, n: Node) -> Value | None:
    """conv2d(pad(x)) and conv2d_filter_grad(pad(x), dy): the window's padding grows instead."""
    border = _zero_border(n.operands[0])
    if border is None:
        return None
    op = _attributes(n)
    return r.emit(replace(op, padding=_added(op.padding, border[1])), border[0], n.operands[1])


def inside_of_input_grad(r: Rewriter, n: Node) -> Value | None:
    """slice(conv2d_input_grad(w, dy)), the gradient of a padded convolution: only the inside."""
    gradient, op = made_by(n.operands[0], Conv2dInputGrad), _attributes(n)
    if gradient is None or not r.read_once(n.operands[0]) or any(s != 1 for s in op.strides):
        return None
    shape, whole = n.results[0].shape, n.operands[0].shape
    if shape[0] != whole[0] or shape[3] != whole[3] or n.results[0].type.size == 0:
        return None
    cut = tuple((op.starts[i], whole[i] - op.limits[i]) for i in (1, 2))
    inner = _attributes(gradient)
    padding = _added(inner.padding, (cut[0], cut[1]))
    return r.emit(replace(inner, padding=padding, input_shape=shape), *gradient.operands)


RULES = {
    "conv2d": (empty, _of_padded),
    "conv2d_filter_grad": (empty, _of_padded),
    "conv2d_input_grad": (empty,),
    "slice": (inside_of_input_grad,),
}
