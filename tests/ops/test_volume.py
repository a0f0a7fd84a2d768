"""Convolutions and pooling over three axes against TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from afterburner.errors import NotTaken
from afterburner.frontend.stock import uses_onednn

from .steps import import_concrete
from .table import BF16, FLOATS, RUNNERS, Record, check, floats, ints, record

_ONE = (1, 1, 1)
_POOLED: tuple[Any, ...] = (np.dtype(np.float32), BF16)  # TensorFlow has no kernels for other types


@dataclass(frozen=True)
class _Setting:
    """A convolution: NDHWC input shape, filter shape and attributes."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    strides: tuple[int, int, int] = _ONE
    padding: str = "SAME"
    dilation: tuple[int, int, int] = _ONE

    def attributes(self) -> dict[str, Any]:
        """Attributes of the raw operation."""
        return {"strides": [1, *self.strides, 1], "padding": self.padding,
                "dilations": [1, *self.dilation, 1]}

    def __str__(self) -> str:
        return f"{list(self.w)}s{list(self.strides)}{self.padding}d{list(self.dilation)}".replace(" ", "")


_SETTINGS = (
    _Setting((2, 5, 6, 7, 3), (3, 3, 3, 3, 4)),
    _Setting((2, 5, 6, 7, 3), (3, 3, 3, 3, 4), padding="VALID"),
    _Setting((1, 5, 6, 7, 1), (3, 3, 3, 1, 8)),
    _Setting((2, 4, 5, 3, 8), (3, 3, 3, 8, 2)),
    _Setting((1, 7, 6, 5, 8), (2, 3, 1, 8, 2), padding="VALID"),
    _Setting((2, 7, 6, 9, 2), (3, 3, 3, 2, 3), (2, 2, 2)),
    _Setting((1, 8, 7, 5, 2), (2, 2, 2, 2, 3), (2, 2, 2), "VALID"),
    _Setting((1, 9, 4, 5, 3), (5, 2, 3, 3, 2), (3, 1, 2), "VALID"),
    _Setting((1, 6, 4, 5, 3), (1, 3, 3, 3, 2), (2, 1, 1)),
    _Setting((1, 4, 9, 5, 2), (1, 2, 2, 2, 3), (3, 3, 3)),
    _Setting((2, 4, 3, 3, 5), (1, 1, 1, 5, 2)),
    _Setting((1, 2, 4, 4, 6), (5, 3, 3, 6, 1)),
    _Setting((1, 1, 1, 1, 3), (3, 3, 3, 3, 2)),
    _Setting((1, 4, 3, 3, 1), (4, 3, 3, 1, 1), padding="VALID"),
    _Setting((0, 3, 3, 3, 2), (3, 3, 3, 2, 2)),
    _Setting((1, 0, 3, 3, 2), (3, 3, 3, 2, 2)),
    _Setting((1, 3, 0, 3, 2), (3, 3, 3, 2, 2)),
)
_DILATED = (
    _Setting((1, 7, 8, 6, 3), (3, 3, 3, 3, 4), dilation=(2, 2, 2)),
    _Setting((1, 9, 5, 6, 5), (3, 2, 2, 5, 2), (1, 1, 1), "VALID", (3, 2, 2)),
)


def _shape(op: Any, *arguments: Any) -> tuple[int, ...]:
    """The shape of an operation's result."""
    specs = [tf.TensorSpec(a, tf.float32) for a in arguments]
    return tuple(tf.function(op).get_concrete_function(*specs).output_shapes)


def _convolutions(setting: _Setting, dtype: Any = np.float32) -> list[Record]:
    """The operation and both backward operations."""
    attributes, ops, note = setting.attributes(), tf.raw_ops, str(setting)

    def y(x: Any, w: Any) -> Any:
        return ops.Conv3D(input=x, filter=w, **attributes)

    def dx(w: Any, dy: Any) -> Any:
        return ops.Conv3DBackpropInputV2(input_sizes=setting.x, filter=w, out_backprop=dy, **attributes)

    def dw(x: Any, dy: Any) -> Any:
        return ops.Conv3DBackpropFilterV2(input=x, filter_sizes=setting.w, out_backprop=dy, **attributes)

    x, w = floats(*setting.x, dtype=dtype), floats(*setting.w, dtype=dtype, seed=1)
    dy = floats(*_shape(y, setting.x, setting.w), dtype=dtype, seed=2)
    return [
        record("Conv3D", y, x, w, note=note),
        record("Conv3DBackpropInputV2", dx, w, dy, note=note),
        record("Conv3DBackpropFilterV2", dw, x, dy, note=note),
    ]


_POOLS: tuple[tuple[Any, ...], ...] = (
    ((2, 4, 6, 8, 3), (2, 2, 2), (2, 2, 2), "VALID"),
    ((1, 5, 7, 9, 2), (2, 2, 2), (2, 2, 2), "VALID"),
    ((1, 5, 7, 9, 2), (2, 2, 2), (2, 2, 2), "SAME"),
    ((1, 5, 5, 6, 17), (3, 3, 3), (2, 2, 2), "SAME"),
    ((2, 4, 5, 3, 2), (3, 2, 3), (1, 1, 1), "SAME"),
    ((1, 7, 6, 5, 2), (2, 3, 1), (1, 2, 3), "VALID"),
    ((1, 4, 5, 6, 3), (1, 2, 2), (1, 2, 2), "VALID"),
    ((1, 6, 4, 4, 3), (3, 1, 1), (3, 1, 1), "SAME"),
    ((1, 5, 4, 7, 2), (1, 1, 1), (2, 2, 3), "SAME"),
    ((2, 3, 4, 2, 1), (3, 4, 2), (3, 4, 2), "VALID"),
    ((1, 1, 1, 1, 1), (2, 2, 2), (2, 2, 2), "SAME"),
)
_EMPTY: tuple[tuple[Any, ...], ...] = (
    ((0, 4, 4, 4, 2), (2, 2, 2), (2, 2, 2), "VALID"),
    ((1, 4, 4, 4, 0), (2, 2, 2), (2, 2, 2), "SAME"),
)


def _pools(x: np.ndarray, window: Any, strides: Any, padding: str, note: str = "") -> list[Record]:
    """The operations and their gradients; that of the maximum also where it does not see the pooling."""
    attributes = {"ksize": [1, *window, 1], "strides": [1, *strides, 1], "padding": padding}
    ops, shape = tf.raw_ops, x.shape
    note = f"{window}{strides}{padding}{note}".replace(" ", "")

    def maxima(x: Any) -> Any:
        return ops.MaxPool3D(input=x, **attributes)

    def grad(x: Any, y: Any, dy: Any) -> Any:
        return ops.MaxPool3DGrad(orig_input=x, orig_output=y, grad=dy, **attributes)

    def both(x: Any, dy: Any) -> Any:
        return grad(x, maxima(x), dy)

    def avg_grad(dy: Any) -> Any:
        return ops.AvgPool3DGrad(orig_input_shape=shape, grad=dy, **attributes)

    y = maxima(x).numpy()
    dy = floats(*y.shape, dtype=x.dtype, seed=3)
    return [
        record("MaxPool3D", maxima, x, exact=True, note=note, zero_sign=False),
        record("AvgPool3D", lambda x: ops.AvgPool3D(input=x, **attributes), x, note=note),
        record("MaxPool3DGrad", grad, x, y, dy, note=note),
        record("MaxPool3DGrad", both, x, dy, note=f"{note}-joined"),
        record("AvgPool3DGrad", avg_grad, dy, note=note),
    ]


def _close(*shape: int) -> np.ndarray:
    """Numbers of which many are as good as equal to TensorFlow's gradient of maxima."""
    return (ints(*shape, high=2) + floats(*shape, scale=4e-6)).astype(np.float32)


RECORDS = [r for s in _SETTINGS for r in _convolutions(s)]
RECORDS += [r for s in _DILATED for r in _convolutions(s) if uses_onednn()]  # without, TensorFlow raises an error
RECORDS += [r for d in FLOATS for s in _SETTINGS[:6] for r in _convolutions(s, d)]
RECORDS += [r for d in _POOLED for shape, *rest in _POOLS for r in _pools(floats(*shape, dtype=d), *rest)]
RECORDS += [r for shape, *rest in _EMPTY if not uses_onednn()
            for r in _pools(floats(*shape), *rest)]  # which aborts
RECORDS += _pools(ints(2, 6, 5, 4, 3, high=2).astype(np.float32), (2, 2, 2), (2, 2, 2), "SAME", "ties")
RECORDS += _pools(ints(2, 6, 5, 4, 3, high=2).astype(BF16), (2, 2, 2), (2, 2, 2), "SAME", "ties")
RECORDS += _pools(ints(1, 6, 5, 4, 3, high=2).astype(np.float32), (3, 3, 3), (2, 2, 2), "SAME", "ties")
RECORDS += _pools(np.zeros((1, 4, 4, 4, 2), np.float32), (2, 2, 2), (2, 2, 2), "VALID", "zeros")
RECORDS += _pools(_close(1, 4, 6, 4, 3), (2, 2, 2), (2, 2, 2), "VALID", "close")
RECORDS += _pools(_close(1, 4, 6, 4, 3), (2, 3, 2), (1, 2, 2), "VALID", "close")


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_volume(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])


_VOLUME, _FILTER = (1, 9, 9, 9, 4), (1, 1, 1, 4, 4)


def _conv(strides: int = 1, dilation: int = 1, layout: str = "NDHWC") -> Any:
    spatial = slice(1, 4) if layout == "NDHWC" else slice(2, 5)
    attributes = {"strides": [1] * 5, "dilations": [1] * 5}
    attributes["strides"][spatial], attributes["dilations"][spatial] = [strides] * 3, [dilation] * 3
    return lambda x, w: tf.raw_ops.Conv3D(input=x, filter=w, padding="SAME", data_format=layout, **attributes)


_REFUSED: dict[str, tuple[Any, np.ndarray, np.ndarray]] = {
    "the layout NCDHW": (_conv(layout="NCDHW"), floats(1, 4, 3, 3, 3), floats(*_FILTER)),
    "input of shape .* and filter of shape": (_conv(), floats(*_VOLUME), floats(1, 1, 1, 2, 4)),
    "leave out two elements": (_conv(strides=3), floats(*_VOLUME), floats(*_FILTER)),
    "dilated convolution of float64": (_conv(dilation=2), floats(*_VOLUME, dtype=np.float64),
                                       floats(*_FILTER, dtype=np.float64)),
}


@pytest.mark.parametrize("reason", _REFUSED)
def test_is_left_to_tensorflow(reason: str) -> None:
    function, *arguments = _REFUSED[reason]
    specs = [tf.TensorSpec(None, a.dtype) for a in arguments]
    concrete = tf.function(function).get_concrete_function(*specs)
    with pytest.raises((NotTaken, AssertionError), match=reason):
        import_concrete(concrete, arguments)
