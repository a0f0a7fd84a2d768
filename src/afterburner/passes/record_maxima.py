"""Lets a maximum over windows note where it was found, for the gradient that comes later.

The gradient of max pooling looks for the winner of every window again: it reads the whole input, which
is often the largest tensor of a network and lives until then for that alone. A byte a window replaces it.
No compiler of loops could do this: the two kernels run far apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..ir import Builder, Graph, Node, Value, rewrite
from ..ir.ops.elementwise import Add
from ..ir.ops.pool import TAP_BITS, MaxPool, MaxPoolGrad, MaxPoolScatter, MaxPoolTaps
from ..ir.ops.shape import Broadcast, Constant


def record_maxima(graph: Graph) -> Graph:
    """Let max_pool store the taps that gradients of the same pooling scatter to.

        %y: … = max_pool(%x) {…}                      %y: …, %t: u8[…] = max_pool_taps(%x) {…}
        %0: … = max_pool_grad(%x, %y, %dy) {…}  ->    %1: … = add(%dy, 0.0)
                                                      %0: … = max_pool_scatter(%t, %1) {…}

    The sum that max_pool_grad makes starts at 0, so that it never gives -0.0: where windows do not
    overlap, an addition keeps that.
    """
    pools = {_key(node.op, node.operands[0]): node for node in graph.nodes if isinstance(node.op, MaxPool)}
    recorded: dict[Node, Node] = {}
    for node in graph.nodes:
        if isinstance(node.op, MaxPoolGrad) and node.op.window[0] * node.op.window[1] <= TAP_BITS:
            pool = pools.get(_key(node.op, node.operands[0]))
            if pool is not None and pool.results[0] is node.operands[1]:
                recorded[node] = pool
    if not recorded:
        return graph
    taps: dict[Node, Value] = {}
    wanted = set(recorded.values())

    def replace(builder: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        op = node.op
        if isinstance(op, MaxPool) and node in wanted:
            y, taps[node] = builder.add(MaxPoolTaps(op.window, op.strides, op.padding), *operands)
            return (y,)
        if not isinstance(op, MaxPoolGrad) or node not in recorded:
            return None
        scatter = MaxPoolScatter(op.window, op.strides, op.padding, node.operands[0].shape)
        dy = _without_minus_zero(builder, operands[2]) if scatter.disjoint else operands[2]
        return builder.add(scatter, taps[recorded[node]], dy)

    return rewrite(graph, replace)


def _key(op: MaxPool | MaxPoolGrad, x: Value) -> tuple[object, ...]:
    return op.window, op.strides, op.padding, x


def _without_minus_zero(builder: Builder, x: Value) -> Value:
    zero = builder.emit(Constant(np.zeros((), x.type.dtype.numpy)))
    return builder.emit(Add(), x, builder.emit(Broadcast(x.shape, ()), zero))
