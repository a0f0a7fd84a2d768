"""Tells convolutions that their filter outlasts the run, so that a target may keep it in the order it reads it in.

A function that only answers reads the same variables in every call. Where a filter meets few pixels, putting it in
order takes a good part of the time. So it is with the matrix by which a loop multiplies its state in every turn.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from ..ir import Graph, Node, Value
from ..ir.ops.control import Scan
from ..ir.ops.conv import Conv2d, Conv2dInputGrad
from ..ir.ops.matmul import Matmul
from .everywhere import with_bodies
from .lasting import lasting_values
from .marks import marked

MOST_PIXELS = 3200  # 56 x 56: a copy of the filter takes as long as multiplying some 50 pixels


def mark_kept(graph: Graph) -> Graph:
    """Set ``kept`` where the filter of conv2d or conv2d_input_grad is made of variables that the graph does not write.

        graph g(%x: …, %w: … state) {            graph g(%x: …, %w: … state) {
          %1: … = conv2d(%x, %w) {…}        ->     %1: … = conv2d(%x, %w) {…, kept=True}

    In the body of a scan what is the same in every turn lasts; there a matmul's second operand is marked as well.
    """
    return with_bodies(_marked(graph, lasting_values(graph)), _marked_body)


def _marked(graph: Graph, lasting: Container[Value]) -> Graph:
    found = {node for node in graph.nodes if _is_unmarked(node) and _filter(node) in lasting}
    return marked(graph, found, kept=True)


def _marked_body(scan: Scan) -> Graph:
    lasting = set(scan.captured)
    for node in scan.body.nodes:
        if node.op.view and node.operands[0] in lasting:
            lasting.update(node.results)
    products = {node for node in scan.body.nodes if isinstance(node.op, Matmul) and not node.op.kept
                and node.operands[1] in lasting}
    if products:  # another graph, in which the views are others
        return _marked_body(replace(scan, body=marked(scan.body, products, kept=True)))
    return _marked(scan.body, lasting)


def _is_unmarked(node: Node) -> bool:
    if not isinstance(node.op, (Conv2d, Conv2dInputGrad)) or node.op.kept:
        return False
    pixels = node.results[0] if isinstance(node.op, Conv2d) else node.operands[1]
    return pixels.type.size <= MOST_PIXELS * pixels.shape[3]


def _filter(node: Node) -> Value:
    return node.operands[1 if isinstance(node.op, Conv2d) else 0]
