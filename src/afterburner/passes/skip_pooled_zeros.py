"""Lets the gradients of a convolution behind which a max pooling stands skip the zeros that the pooling scatters.

In each window one element of each channel is not zero, and the dense kernels run near the processor's peak: three
quarters of that are products with zeros. No compiler of loops knows where they are. It is the first step of lowering,
when all that simplifies convolutions and scatters is done.
"""

from __future__ import annotations

from math import prod

from ..ir import Builder, Graph, Node, Op, Shape, Value, rewrite
from ..ir.ops.conv import Conv2dFilterGrad, Conv2dInputGrad
from ..ir.ops.conv_pooled import Conv2dFilterGradPooled, Conv2dInputGradPooled
from ..ir.ops.pool import MaxPoolScatter
from ..ir.types import F32

_GAIN = 1.3  # the estimates are rough
_LANES = 8  # elements of a register, for the estimates: wider ones help both sides alike
_SUMS = 12  # registers of sums
_FIRST_LEVEL = 32 << 10  # bytes of a first-level cache
_LARGEST_FILTER = 4 << 20  # bytes of a filter's gradient, which passes by for every few windows
_WINOGRAD_DEPTH = 64  # input channels from which Winograd's algorithm gains as much as skipping zeros


def skip_pooled_zeros(graph: Graph, fast: bool = False) -> Graph:
    """Let gradients of a convolution read what a pooling scatters, where the estimate says that it pays.

        %d: f32[…] = max_pool_scatter(%t, %dy) {…}
        %g: f32[…] = conv2d_filter_grad(%x, %d) {…}     ->   %g: f32[…] = conv2d_filter_grad_pooled(%x, %t, %dy) {…}
        %h: f32[…] = conv2d_input_grad(%w, %d) {…}      ->   %h: f32[…] = conv2d_input_grad_pooled(%w, %t, %dy) {…}

    The same products without zeros, added up in another order; the scatter stays for whoever else reads it.

    Args:
        graph: simplified.
        fast: the target may compute dense input gradients by Winograd's algorithm.
    """
    found: dict[Node, Op] = {}
    for node in graph.nodes:
        if isinstance(node.op, Conv2dInputGrad | Conv2dFilterGrad):
            op = _pooled(node, fast)
            if op is not None:
                found[node] = op
    if not found:
        return graph

    def replace(builder: Builder, node: Node, operands: tuple[Value, ...]) -> tuple[Value, ...] | None:
        if node not in found:
            return None
        scatter = operands[1].node
        assert scatter is not None
        return builder.add(found[node], operands[0], *scatter.operands)

    return rewrite(graph, replace)


def _pooled(node: Node, fast: bool) -> Op | None:
    """The operation that computes a gradient without zeros, None where there is none or it does not pay."""
    op, scatter = node.op, node.operands[1].node
    assert isinstance(op, Conv2dInputGrad | Conv2dFilterGrad)
    if scatter is None or not isinstance(scatter.op, MaxPoolScatter) or node.results[0].type.dtype != F32:
        return None
    pool, sizes = scatter.op, (*node.operands[0].shape, *scatter.operands[1].shape)
    if not pool.disjoint or pool.padding != ((0, 0), (0, 0)) or not prod(sizes):
        return None
    if op.strides != (1, 1) or op.dilation != (1, 1) or op.groups != 1:
        return None
    if isinstance(op, Conv2dFilterGrad):
        pays = _filter_gradient_pays(scatter, op.filter_shape)
        return Conv2dFilterGradPooled(op.padding, pool.window, pool.strides, op.filter_shape) if pays else None
    filter_ = node.operands[0].shape
    if fast and filter_[2] >= _WINOGRAD_DEPTH or not _input_gradient_pays(scatter, filter_):
        return None
    return Conv2dInputGradPooled(op.padding, pool.window, pool.strides, op.input_shape)


def _dense(scatter: Node, filter_: Shape) -> float:
    """Estimated cycles of the dense products that one window has for one output channel; two multiply-adds start
    in a cycle."""
    (_, height, width, _), (_, down, across, _) = scatter.results[0].shape, scatter.operands[1].shape
    return height * width / (down * across) * prod(filter_[:3]) / _LANES / 2


def _filter_gradient_pays(scatter: Node, filter_: Shape) -> bool:
    """Lists of what is not zero cost about four cycles an entry, and two whenever they are gone through; adding up
    registers costs 44, once for the windows whose input stays in a first-level cache."""
    if 4 * prod(filter_) > _LARGEST_FILTER:
        return False
    kh, kw, depth, _ = filter_
    _, down, across, _ = scatter.operands[1].shape
    registers = -(-kw * depth // _LANES)
    together = max(1, min(down * across, 1280 // min(depth, _SUMS * _LANES)))
    added = -(-registers // _SUMS) * (2 + 44 / together)
    return _dense(scatter, filter_) >= _GAIN * (4 + kh * (0.6 * registers + added))


def _input_gradient_pays(scatter: Node, filter_: Shape) -> bool:
    """Lists cost about six cycles an entry; adding up registers costs 45 for each list and row of the filter. A
    multiply-add takes the longer the less of the packed filter is in the first-level cache."""
    op = scatter.op
    assert isinstance(op, MaxPoolScatter)
    kh, kw, depth, outputs = filter_
    taps = prod(op.window)
    if outputs >= 1 << 64 // taps:  # the kernel counts the entries of a window's lists in one integer
        return False
    registers = -(-kw * depth // _LANES)
    panels = -(-registers // _SUMS)
    near = _FIRST_LEVEL / (outputs * min(registers, _SUMS) * _LANES * 4)
    each = 0.7 * max(1.0, 1 / near) ** 0.63  # as measured with 64 to 512 channels
    return _dense(scatter, filter_) >= _GAIN * (6 + kh * (each * registers + panels * 45 * taps / outputs))
