"""Tells convolutions that what they read is often zero, so that a target may leave zeros out.

Behind a ReLU about half of all elements are zero in a new network and often more in a trained one, and behind its
gradient as many. A kernel sees only its own operation, not what made its operands.
"""

from __future__ import annotations

from ..ir import Graph, Node, Value
from ..ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad
from .marks import marked
from .rewriter import uniform

_MOVED = frozenset(("reshape", "pad", "slice", "cast", "transpose"))  # by these, zeros stay zeros
_SEARCHED = 8  # operations back


def mark_sparse(graph: Graph) -> Graph:
    """Set ``sparse`` where the image of conv2d or conv2d_filter_grad, or the dy of conv2d_input_grad, is often zero;
    and ``sparse_dy`` where the dy of conv2d_filter_grad is.

        %0: … = maximum(%x, 0.0)                 %0: … = maximum(%x, 0.0)
        %1: … = conv2d(%0, %w) {…}          ->   %1: … = conv2d(%0, %w) {…, sparse=True}
    """
    found = {node for node in graph.nodes if _is_unmarked(node) and _often_zero(_read(node), _SEARCHED)}
    graph = marked(graph, found, sparse=True)
    found = {node for node in graph.nodes if isinstance(node.op, Conv2dFilterGrad) and not node.op.sparse_dy
             and _often_zero(node.operands[1], _SEARCHED)}
    return marked(graph, found, sparse_dy=True)


def _is_unmarked(node: Node) -> bool:
    return isinstance(node.op, (Conv2d, Conv2dFilterGrad, Conv2dInputGrad)) and not node.op.sparse


def _read(node: Node) -> Value:
    return node.operands[1 if isinstance(node.op, Conv2dInputGrad) else 0]


def _often_zero(value: Value, steps: int) -> bool:
    node = value.node
    if node is None or steps == 0:
        return False
    name, operands = node.op.name, node.operands
    if name == "maximum":
        return any(map(_is_zero, operands))
    if name == "select":
        return any(map(_is_zero, operands[1:]))
    if name in _MOVED:
        return _often_zero(operands[0], steps - 1)
    if name == "max_pool_scatter":
        return True
    if name in ("mul", "minimum"):  # a ReLU's gradient, dropout; ReLU6
        return any(_often_zero(v, steps - 1) for v in operands)
    if name == "concat":
        return all(_often_zero(v, steps - 1) for v in operands)
    return False


def _is_zero(value: Value) -> bool:
    number = uniform(value)
    return number is not None and not number.any()
