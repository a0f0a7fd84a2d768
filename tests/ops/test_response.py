"""Normalization by neighbouring channels, against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import RUNNERS, Record, check, floats, raw, record


def _responses() -> list[Record]:
    records = []
    for shape, radius in (((2, 3, 5, 9), 5), ((2, 3, 5, 9), 2), ((1, 2, 2, 40), 5), ((1, 2, 3, 7), 0),
                          ((2, 2, 2, 1), 3), ((0, 2, 2, 3), 1), ((1, 2, 2, 3), 20)):
        for beta in (0.5, 0.75, 1.0):
            options = {"depth_radius": radius, "bias": 1.5, "alpha": 0.3, "beta": beta}
            note = f"{radius} {beta}"
            forward = raw("LRN", "input", **options)
            backward = raw("LRNGrad", "input_grads", "input_image", "output_image", **options)
            x, dy = floats(*shape), floats(*shape, seed=1)
            y = np.asarray(forward(x))
            records += [record("LRN", forward, x, note=note), record("LRNGrad", backward, dy, x, y, note=note)]
    return records


def _half(x: Any) -> Any:
    """There is none of float64, by which errors are measured."""
    return tf.raw_ops.LRN(input=tf.cast(x, tf.float32) if x.dtype == tf.float64 else x)


RECORDS = [*_responses(), record("LRN", _half, floats(2, 3, 3, 8, dtype=np.float16))]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_response(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
