"""Graphs for which TensorFlow may be faster than the code that we generate.

Where nothing is said against it a graph is compiled without asking: trying TensorFlow would cost some steps, and make
the first of them depend on measured time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..ir import Graph, Node
from ..ir.ops.control import Scan
from ..ir.ops.sort import TopK
from .isa import Isa
from .schedule import cost

_COMPARED = ("avx512", "avx2")  # instruction sets on which every kind of kernel was timed against TensorFlow's
_SHARE = 0.1  # of a graph's estimated time, from which a kind of kernel in doubt decides
_SHORT_LIST = 32  # elements kept of a row: up to here 3 times as fast as TensorFlow, beyond, and of all, half as fast
_PER_COMPARISON = 2e-9  # seconds of one core; sorting merges, log2 n times
_HALVES = ("bf16", "f16")
_MATRIX_FEATURES = ("+amx-bf16", "+amx-fp16", "+avx512fp16")  # which we have no code for
_PRODUCTS = ("matmul", "conv2d", "conv2d_input_grad", "conv2d_filter_grad")


def doubt(graph: Graph, isa: Isa) -> str | None:
    """Why TensorFlow may be faster for an imported graph; None where it is known not to be."""
    if isa.name not in _COMPARED:
        return f"code for {isa.name} was not compared with TensorFlow"
    total = 0.0
    doubtful: dict[str, float] = {}
    for node, times in _computed(graph):
        reason = _reason(node, isa)
        seconds = times * (_sorting_seconds(node) if isinstance(node.op, TopK) else cost(node))
        total += seconds
        if reason is not None:
            doubtful[reason] = doubtful.get(reason, 0.0) + seconds
    worst = max(doubtful, key=lambda reason: doubtful[reason], default=None)
    return worst if sum(doubtful.values()) > _SHARE * total else None


def _computed(graph: Graph, times: int = 1) -> Iterator[tuple[Node, int]]:
    """All nodes, those of loops as well, and how often each is computed."""
    for node in graph.nodes:
        if isinstance(node.op, Scan):
            yield from _computed(node.op.body, times * node.op.runs)
        else:
            yield node, times


def _reason(node: Node, isa: Isa) -> str | None:
    if isinstance(node.op, TopK) and (node.op.k > _SHORT_LIST or node.op.k == node.operands[0].type.shape[-1]):
        return "TensorFlow sorts whole rows and long lists faster"
    halves = node.op.name in _PRODUCTS and node.operands[0].type.dtype.name in _HALVES
    if halves and not set(isa.features.split(",")).isdisjoint(_MATRIX_FEATURES):
        return "our products of halves were never timed on a processor with instructions for matrices or for float16"
    return None


def _sorting_seconds(node: Node) -> float:
    x = node.operands[0].type
    return x.size * math.log2(max(x.shape[-1], 2)) * _PER_COMPARISON if x.size else 0.0
