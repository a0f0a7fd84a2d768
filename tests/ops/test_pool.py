"""Pooling and its gradients against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import BF16, RUNNERS, Record, check, floats, ints, record

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


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_pool(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
