"""Readers that can make a value themselves from what it is made of, at no cost in memory traffic.

A filter's gradient copies its input into the order in which it is multiplied: elementwise work on the way is
nearly free. An epilogue computes one thing more on its tile.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Builder, Graph, Node, Op, Value
from ..ir.ops.control import Fusion
from ..ir.ops.conv import Conv2dFilterGrad
from .fuse_epilogues import MAX_EPILOGUE_NODES, TRANSCENDENTALS
from .fusion_groups import CONTRACTIONS

MIN_CHANNELS = 8  # of a filter's gradient: with fewer the input is not copied channel by channel
TAPS = (2, 3, 4)  # of a filter to a stride: where Winograd's largest algorithms may take its gradient


def is_simple(body: Graph) -> bool:
    """Whether a loop is elementwise work on one tensor of its result's type, rows and scalars."""
    result = body.outputs[0].value.type
    full = [i for i in body.inputs if i.value.shape == result.shape]
    if len(full) != 1 or full[0].value.type != result:
        return False
    for node in body.nodes:
        name = node.op.name
        if name == "constant" and node.results[0].type.size == 1:
            continue
        if node.results[0].shape != result.shape or name in TRANSCENDENTALS:
            return False
        if name == "broadcast":
            (source,) = node.operands
            row = node.op.axes == (result.rank - 1,)  # type: ignore[attr-defined]
            if source.type.size != 1 and not (row and source.type.rank == 1):
                return False
        elif not node.op.elementwise:
            return False
    return all(i is full[0] or i.value.type.rank <= 1 for i in body.inputs)


def can_make(node: Node, value: Value, body: Graph, fast: bool = False) -> bool:
    """Whether ``node`` can compute its operand ``value`` by the simple loop ``body`` where it reads it; with ``fast``
    not where Winograd's largest algorithms may take it, which make nothing as they read patches."""
    if isinstance(node.op, Conv2dFilterGrad):
        if fast and _may_be_transformed(node.op):
            return False
        return node.operands[0] is value and node.operands[1] is not value and node.op.groups == 1 \
            and node.op.filter_shape[2] >= MIN_CHANNELS and value.type.dtype == node.results[0].type.dtype
    if not isinstance(node.op, Fusion) or node.op.kind not in CONTRACTIONS:
        return False
    inner = node.op.body
    (root,) = (n for n in inner.nodes if n.op.name in CONTRACTIONS)
    inputs = [i.value for i, v in zip(inner.inputs, node.operands, strict=True) if v is value]
    return bool(inputs) and root.results[0].shape == value.shape and not any(v in root.operands for v in inputs) \
        and len(inner.nodes) + len(body.nodes) <= MAX_EPILOGUE_NODES


def _may_be_transformed(op: Conv2dFilterGrad) -> bool:
    (height, width), stride = op.filter_shape[:2], op.strides[0]
    return height == width and height / stride in TAPS and op.strides == (stride, stride) and op.dilation == (1, 1) \
        and op.groups == 1


def make_inside(op: Op, read: Sequence[Value], value: Value, body: Graph,
                operands: Sequence[Value]) -> tuple[Fusion, tuple[Value, ...]]:
    """``op`` on ``read`` with ``value`` computed by ``body`` from ``operands``: the fusion and what it reads."""
    builder = Builder(op.kind if isinstance(op, Fusion) else op.name)
    given: dict[Value, Value] = {}
    for v in dict.fromkeys((*(v for v in read if v is not value), *operands)):
        given[v] = builder.input(v.type, f"p{len(given)}")
    made = _inline(builder, body, [given[v] for v in operands])
    arguments = [made[0] if v is value else given[v] for v in read]
    if isinstance(op, Fusion):
        results = _inline(builder, op.body, arguments)
    else:
        results = list(builder.add(op, *arguments))
    for result in results:
        builder.output(result)
    return Fusion(builder.name, builder.build()), tuple(given)


def _inline(builder: Builder, body: Graph, arguments: Sequence[Value]) -> list[Value]:
    new = dict(zip((i.value for i in body.inputs), arguments, strict=True))
    for node in body.nodes:
        new.update(zip(node.results, builder.add(node.op, *(new[v] for v in node.operands), loc=node.loc), strict=True))
    return [new[o.value] for o in body.outputs]
