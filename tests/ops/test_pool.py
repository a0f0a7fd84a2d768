"""Pooling and its gradients against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import BF16, RUNNERS, Record, check, floats, ints, raw, record, special

_SETTINGS: tuple[tuple[Any, ...], ...] = (
    ((2, 8, 6, 3), (2, 2), (2, 2), "VALID"),
    ((2, 7, 9, 3), (2, 2), (2, 2), "VALID"),
    ((1, 7, 7, 2), (3, 3), (2, 2), "SAME"),
    ((1, 7, 7, 2), (3, 3), (1, 1), "SAME"),
    ((1, 8, 5, 4), (3, 2), (1, 2), "VALID"),
    ((2, 4, 4, 1), (4, 4), (4, 4), "VALID"),
    ((1, 5, 5, 2), (1, 1), (2, 2), "SAME"),
)


def _records(x: np.ndarray, window: Any, strides: Any, padding: str, note: str = "") -> list[Record]:
    attributes = {"ksize": [1, *window, 1], "strides": [1, *strides, 1], "padding": padding}
    ops = tf.raw_ops
    wide = tf.constant(x.astype(np.float32))
    y = ops.MaxPool(input=wide, **attributes).numpy().astype(x.dtype)
    dy = floats(*y.shape, dtype=x.dtype, seed=3)
    shape = x.shape
    note = f"{window}{strides}{padding}{note}".replace(" ", "")

    def max_grad(x: Any, y: Any, dy: Any) -> Any:
        return ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=dy, **attributes)

    def avg_grad(dy: Any) -> Any:
        return ops.AvgPoolGrad(orig_input_shape=shape, grad=dy, **attributes)

    return [
        record(
            "MaxPool", lambda x: ops.MaxPool(input=x, **attributes), x, exact=True, note=note, zero_sign=False
        ),
        record("AvgPool", lambda x: ops.AvgPool(value=x, **attributes), x, note=note),
        record("MaxPoolGrad", max_grad, x, y, dy, note=note),
        record("AvgPoolGrad", avg_grad, dy, note=note),
    ]


RECORDS = [r for shape, *rest in _SETTINGS for r in _records(floats(*shape), *rest)]
RECORDS += _records(floats(1, 6, 6, 3, dtype=np.float64), (2, 2), (2, 2), "VALID")
RECORDS += _records(floats(1, 6, 6, 3, dtype=BF16), (2, 2), (2, 2), "VALID")
RECORDS += _records(ints(2, 8, 8, 3, high=2).astype(np.float32), (3, 3), (2, 2), "SAME", "ties")
RECORDS += _records(np.zeros((1, 6, 6, 2), np.float32), (2, 2), (2, 2), "VALID", "zeros")




def _rectified(window: Any, strides: Any, padding: str, note: str, exact: bool) -> Record:
    """Forward and backward of a rectifier and a maximum over windows. Exact: gradients have zeros of both
    signs and infinities, of which a mask makes NaN. Otherwise with the sum that is a bias's gradient."""
    attributes = {"ksize": [1, *window, 1], "strides": [1, *strides, 1], "padding": padding}

    def function(x: Any, dy: Any) -> Any:
        y = tf.raw_ops.MaxPool(input=x, **attributes)
        dx = tf.raw_ops.MaxPoolGrad(orig_input=x, orig_output=y, grad=dy, **attributes)
        masked = tf.raw_ops.ReluGrad(gradients=dx, features=x)
        return (y, masked) if exact else (y, masked, tf.reduce_sum(masked, axis=[0, 1, 2]))

    x = ints(2, 9, 8, 3, high=3).astype(np.float32)
    dy = floats(*tf.raw_ops.MaxPool(input=x, **attributes).shape, seed=3)
    if exact:
        for seed, value in enumerate((0.0, -0.0, np.inf, -np.inf)):
            dy[np.random.default_rng(seed).random(dy.shape) < 0.1] = value
    return record("MaxPoolGrad", function, x, dy, note=note, exact=exact)


RECORDS += [_rectified((3, 2), (3, 2), "SAME", "rectified-padded", True),
            _rectified((3, 3), (2, 2), "SAME", "rectified-overlapping", False),
            _rectified((2, 2), (2, 2), "VALID", "rectified", True),
            _rectified((2, 2), (2, 2), "VALID", "rectified", False)]


def _positions(x: np.ndarray, window: Any, strides: Any, padding: str, batch: bool) -> list[Record]:
    """Maxima with their positions, and the gradient that goes there."""
    attributes = {"ksize": [1, *window, 1], "strides": [1, *strides, 1], "padding": padding,
                  "include_batch_in_index": batch}
    forward = raw("MaxPoolWithArgmax", "input", **attributes)
    backward = raw("MaxPoolGradWithArgmax", "input", "grad", "argmax", **attributes)
    y, at = (r.numpy() for r in forward(tf.constant(x)))
    return [record("MaxPoolWithArgmax", forward, x, exact=True, note=f"{window}{strides}{padding}{batch}"),
            record("MaxPoolGradWithArgmax", backward, x, floats(*y.shape, dtype=x.dtype, seed=3), at, checks=True,
                   note=f"{window}{strides}{padding}{batch}")]


_ODD = np.random.default_rng(0).choice(special()[:22], (2, 6, 6, 3)).astype(np.float32)

RECORDS += [r for x in (floats(2, 7, 9, 3), ints(2, 8, 8, 3, high=2).astype(np.float32), _ODD)
            for window, strides, padding in (((2, 2), (2, 2), "VALID"), ((3, 2), (1, 3), "SAME"),
                                             ((3, 3), (2, 2), "SAME"))
            for batch in (False, True) for r in _positions(x, window, strides, padding, batch)]
RECORDS += _positions(floats(1, 4, 4, 1, dtype=np.float64), (2, 2), (2, 2), "SAME", False)


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_pool(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
