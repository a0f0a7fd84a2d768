"""Convolutions and their gradients against TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import FLOATS, RUNNERS, Record, check, floats, record


@dataclass(frozen=True)
class _Setting:
    """A convolution: NHWC input shape, filter shape and attributes."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    strides: tuple[int, int] = (1, 1)
    padding: str = "SAME"
    dilation: tuple[int, int] = (1, 1)
    explicit: list[int] = field(default_factory=list)

    def attributes(self) -> dict[str, Any]:
        """Attributes of the raw operation."""
        return {
            "strides": [1, *self.strides, 1],
            "padding": self.padding,
            "dilations": [1, *self.dilation, 1],
            "explicit_paddings": self.explicit,
        }

    def __str__(self) -> str:
        return f"{list(self.w)}s{list(self.strides)}{self.padding}d{list(self.dilation)}".replace(" ", "")


_SETTINGS = (
    _Setting((2, 7, 8, 3), (3, 3, 3, 4)),
    _Setting((2, 7, 8, 3), (3, 3, 3, 4), padding="VALID"),
    _Setting((1, 9, 7, 2), (3, 2, 2, 5), (2, 2)),
    _Setting((1, 9, 8, 2), (5, 5, 2, 3), (2, 3), "VALID"),
    _Setting((2, 6, 6, 4), (1, 1, 4, 8)),
    _Setting((2, 6, 6, 4), (1, 1, 4, 8), (2, 2)),
    _Setting((1, 10, 9, 2), (3, 3, 2, 3), dilation=(2, 2)),
    _Setting((1, 10, 9, 2), (3, 3, 2, 3), padding="VALID", dilation=(2, 3)),
    _Setting((2, 6, 5, 6), (3, 3, 2, 6)),
    _Setting((1, 6, 5, 2), (3, 3, 2, 4), (1, 1), "EXPLICIT", explicit=[0, 0, 2, 1, 0, 3, 0, 0]),
    _Setting((1, 1, 1, 3), (1, 1, 3, 2)),
    _Setting((1, 4, 4, 1), (4, 4, 1, 1), padding="VALID"),
)
_DEPTHWISE = (
    _Setting((2, 7, 8, 3), (3, 3, 3, 1)),
    _Setting((2, 7, 8, 3), (3, 3, 3, 2), (2, 2)),
    _Setting((1, 7, 8, 4), (5, 5, 4, 1), (1, 1), "VALID"),
    _Setting((1, 6, 6, 2), (3, 3, 2, 1), (1, 1), "EXPLICIT", explicit=[0, 0, 1, 1, 2, 0, 0, 0]),
)


def _records(op: str, setting: _Setting, dtype: Any = np.float32) -> list[Record]:
    """The operation and, through its gradient, both backward operations."""
    attributes = setting.attributes()
    ops = tf.raw_ops
    plain = op == "Conv2D"
    x, w = floats(*setting.x, dtype=dtype), floats(*setting.w, dtype=dtype, seed=1)
    forward = ops.Conv2D if plain else ops.DepthwiseConv2dNative
    input_grad = ops.Conv2DBackpropInput if plain else ops.DepthwiseConv2dNativeBackpropInput
    filter_grad = ops.Conv2DBackpropFilter if plain else ops.DepthwiseConv2dNativeBackpropFilter
    shape = forward(input=tf.zeros(setting.x), filter=tf.zeros(setting.w), **attributes).shape
    dy = floats(*shape, dtype=dtype, seed=2)
    note = str(setting)

    def dx(w: Any, dy: Any) -> Any:
        return input_grad(input_sizes=setting.x, filter=w, out_backprop=dy, **attributes)

    def dw(x: Any, dy: Any) -> Any:
        return filter_grad(input=x, filter_sizes=setting.w, out_backprop=dy, **attributes)

    found = [record(op, lambda x, w: forward(input=x, filter=w, **attributes), x, w, note=note)]
    if setting.dilation != (1, 1) or (plain and setting.w[2] != setting.x[3]):
        return found  # TensorFlow has no kernel for these gradients on CPUs
    name = "Conv2DBackprop" if plain else "DepthwiseConv2dNativeBackprop"
    return [
        *found,
        record(f"{name}Input", dx, w, dy, note=note),
        record(f"{name}Filter", dw, x, dy, note=note),
    ]


RECORDS = [r for s in _SETTINGS for r in _records("Conv2D", s)]
RECORDS += [r for s in _DEPTHWISE for r in _records("DepthwiseConv2dNative", s)]
RECORDS += [r for d in FLOATS for r in _records("Conv2D", _Setting((1, 5, 6, 3), (3, 3, 3, 2)), d)]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_conv(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
