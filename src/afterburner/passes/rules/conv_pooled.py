"""Gradients of a convolution behind which a max pooling stands: without the zeros that the pooling scatters."""

from __future__ import annotations

from ...ir import Node, Shape, Value
from ...ir.ops.conv import Conv2dFilterGrad, Conv2dInputGrad
from ...ir.ops.conv_pooled import Conv2dFilterGradPooled
from ...ir.ops.pool import MaxPoolScatter
from ...ir.types import F32
from ..rewriter import Rewriter, made_by

_GAIN = 1.4  # the estimate is rough
_LANES = 8  # elements of a register, for the estimates: wider ones help both sides alike
_LARGEST_FILTER = 4 << 20  # bytes of sums, which pass by for every few windows: from a cache near enough


def _filter_grad(r: Rewriter, n: Node) -> Value | None:
    """conv2d_filter_grad(x, max_pool_scatter(taps, dy)) = conv2d_filter_grad_pooled(x, taps, dy), where that pays."""
    op, scatter = n.op, _scatter(n.operands[1])
    assert isinstance(op, Conv2dFilterGrad)
    if scatter is None or not _plain(op) or 4 * n.results[0].type.size > _LARGEST_FILTER:
        return None
    taps, dy = scatter.operands
    if not _pays(scatter, op.filter_shape):
        return None
    pool = scatter.op
    assert isinstance(pool, MaxPoolScatter)
    return r.emit(Conv2dFilterGradPooled(op.padding, pool.window, pool.strides, op.filter_shape),
                  n.operands[0], taps, dy)


def _scatter(value: Value) -> Node | None:
    """What scatters ``value`` to windows that do not overlap, one element of each and no padding."""
    scatter = made_by(value, MaxPoolScatter)
    if scatter is None or value.type.dtype != F32 or not scatter.operands[1].type.size:
        return None
    op = scatter.op
    assert isinstance(op, MaxPoolScatter)
    return scatter if op.disjoint and op.padding == ((0, 0), (0, 0)) else None


def _plain(op: Conv2dInputGrad | Conv2dFilterGrad) -> bool:
    return op.strides == (1, 1) and op.dilation == (1, 1) and op.groups == 1


def _pays(scatter: Node, filter_: Shape) -> bool:
    """Whether the estimated cycles of a window's products for one output channel are clearly fewer without zeros.

    Two multiply-adds start in a cycle. Lists of what is not zero cost about four cycles an entry, and two for each
    row of the filter that is gone through; 12 registers of sums, 44 to add them up once for the windows whose input
    stays in a first-level cache."""
    kh, kw, depth, _ = filter_
    (_, height, width, _), (_, down, across, _) = scatter.results[0].shape, scatter.operands[1].shape
    dense = height * width / (down * across) * kh * kw * depth / _LANES / 2
    registers = -(-kw * depth // _LANES)
    panels = -(-registers // 12)
    together = max(1, min(down * across, 1280 // min(depth, 96)))
    added = panels * (2 + 44 / together)
    return dense >= _GAIN * (4 + kh * (0.6 * registers + added))


RULES = {
    "conv2d_filter_grad": (_filter_grad,),
}
