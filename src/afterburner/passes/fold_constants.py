"""Evaluates what depends on constants only.

Importing folds TensorFlow's shape arithmetic, but gradients, optimizers and the other passes leave
arithmetic on constants behind. It is done here rather than in LLVM because a constant known to the
IR lets simplify, fuse and the memory plan act on it, and because it is evaluated by the oracle.
"""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, Value
from ..ir.op import registered_ops
from .rewriter import Rewriter

MAX_ELEMENTS = 4096  # results larger than this, and than their operands, stay computed
MAX_FLOPS = 4_000_000  # the interpreter is slow: leave large contractions to the kernels
_NEVER = ("constant", "broadcast", "iota", "fusion", "scan")


def _fold(rewriter: Rewriter, node: Node) -> Value | None:
    """The constant a node's single result is, if all it reads is constant."""
    if len(node.results) != 1 or not node.operands:
        return None
    arrays = [v.constant for v in node.operands]
    if any(a is None for a in arrays):
        return None
    operands = [a for a in arrays if a is not None]
    result = node.results[0].type
    if result.size > max(MAX_ELEMENTS, sum(a.size for a in operands)):
        return None
    if node.op.flops(tuple(v.type for v in node.operands), (result,)) > MAX_FLOPS:
        return None
    with np.errstate(all="ignore"):
        return rewriter.constant(np.asarray(node.op.evaluate(*operands)[0]))


def _narrow(rewriter: Rewriter, node: Node) -> Value | None:
    """A constant with one value everywhere is a broadcast scalar: no memory, and rules see it."""
    array, type_ = node.op.value, node.results[0].type  # type: ignore[attr-defined]
    if array.size <= 1:
        return None
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1)
    return rewriter.full(type_, array.reshape(-1)[0]) if (flat == flat[0]).all() else None


def fold_constants(graph: Graph) -> Graph:
    """Replace nodes that read constants only by constants.

        %0: f32[2] = constant() {value=[1.0,2.0]}
        %1: f32[2] = neg(%0)                        ->    %0: f32[2] = constant() {value=[-1.0,-2.0]}

    Results above ``MAX_ELEMENTS`` that are larger than their operands stay computed, so folding
    never blows up memory. A constant with equal elements becomes a broadcast scalar.
    """
    rules = {name: (_fold,) for name in registered_ops() if name not in _NEVER}
    return Rewriter(graph, {**rules, "constant": (_narrow,)}).run()
