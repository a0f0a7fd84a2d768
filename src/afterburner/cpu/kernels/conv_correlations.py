"""Convolutions and their input gradients as correlations."""

from __future__ import annotations

from math import prod

from ...ir.ops.conv import Conv2d, Conv2dInputGrad
from .correlation import Axis, Correlation, Taps


def forward_correlation(op: Conv2d, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...]) -> Correlation:
    """conv2d as a correlation: output position o reads input o * stride + tap * dilation - padding."""
    axes = [Axis(x[1 + i], y[1 + i], Taps(w[i], 0, 1, op.strides[i], -op.padding[i][0], op.dilation[i]))
            for i in (0, 1)]
    strides = (prod(y[1:]), prod(y[2:]), y[3])
    return Correlation(x[0], axes[0], axes[1], op.groups, w[2], w[3] // op.groups, strides, 0, False)


def gradient_taps(size: int, stride: int, dilation: int, before: int, phase: int) -> Taps:
    """Taps that reach the input positions ``y * stride + phase``: tap k from output y + (phase + before - k *
    dilation) / stride, where that is whole; listed by ascending output."""
    hits = [k for k in range(size) if (phase + before - k * dilation) % stride == 0][::-1]
    if not hits:
        return Taps(0, 0, 1, 1, 0, 1)
    offsets = [(phase + before - k * dilation) // stride for k in hits]
    step = hits[1] - hits[0] if len(hits) > 1 else 1
    return Taps(len(hits), hits[0], step, 1, offsets[0], offsets[1] - offsets[0] if len(hits) > 1 else 1)


def gradient_correlations(op: Conv2dInputGrad, w: tuple[int, ...], dy: tuple[int, ...]) -> list[Correlation]:
    """The input gradient: one correlation of dy for each residue of the input position by the stride."""
    n, height, width, channels = op.input_shape
    found = []
    for r in range(min(op.strides[0], height)):
        for s in range(min(op.strides[1], width)):
            rows = Axis(dy[1], -(-(height - r) // op.strides[0]),
                        gradient_taps(w[0], op.strides[0], op.dilation[0], op.padding[0][0], r))
            columns = Axis(dy[2], -(-(width - s) // op.strides[1]),
                           gradient_taps(w[1], op.strides[1], op.dilation[1], op.padding[1][0], s))
            strides = (height * width * channels, op.strides[0] * width * channels, op.strides[1] * channels)
            found.append(Correlation(n, rows, columns, op.groups, dy[3] // op.groups, w[2], strides,
                                     (r * width + s) * channels, True))
    return found
