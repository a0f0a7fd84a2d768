"""Fused batch normalization against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import BF16, RUNNERS, Record, check, floats, record

_CHANNELS = 3
_VECTORS = tuple(floats(_CHANNELS, seed=i) for i in (1, 2, 3)) + (np.abs(floats(_CHANNELS, seed=4)) + 0.1,)


def _forward(op: str, **attributes: Any) -> Any:
    """The results but for the reserved spaces, which the kernels leave undefined in inference."""
    kept = 5 if attributes.get("is_training", True) else 3

    def apply(x: Any, scale: Any, offset: Any, mean: Any, variance: Any) -> Any:
        function = getattr(tf.raw_ops, op)
        return tuple(function(x=x, scale=scale, offset=offset, mean=mean, variance=variance, **attributes))[:kept]

    return apply


def _backward(op: str, **attributes: Any) -> Any:
    def apply(dy: Any, x: Any, scale: Any, mean: Any, variance: Any) -> Any:
        reserved = {"reserve_space_1": mean, "reserve_space_2": variance}
        if op.endswith("V3"):
            reserved["reserve_space_3"] = tf.zeros([])
        function = getattr(tf.raw_ops, op)
        return tuple(function(y_backprop=dy, x=x, scale=scale, **reserved, **attributes))[:3]

    return apply


def _records() -> list[Record]:
    x, dy = floats(2, 4, 5, _CHANNELS), floats(2, 4, 5, _CHANNELS, seed=9)
    scale, offset, mean, variance = _VECTORS
    records = []
    for training in (True, False):
        for version in ("", "V2", "V3"):
            attributes: dict[str, Any] = {"is_training": training, "epsilon": 1e-3}
            op = f"FusedBatchNorm{version}"
            note = "training" if training else "inference"
            records.append(record(op, _forward(op, **attributes), x, scale, offset, mean, variance, note=note))
            op = f"FusedBatchNormGrad{version}"
            records.append(record(op, _backward(op, **attributes), dy, x, scale, mean, variance, note=note))
    op, grad = "FusedBatchNormV3", "FusedBatchNormGradV3"
    averaged = _forward(op, exponential_avg_factor=0.75)
    half, half_dy = x.astype(BF16), dy.astype(BF16)
    return [
        *records,
        record(op, averaged, x, scale, offset, mean, variance, note="averaged"),
        record(op, _forward(op), half, scale, offset, mean, variance),
        record(grad, _backward(grad), half_dy, half, scale, mean, variance),
        record(op, _forward(op), x.astype(np.float16), scale, offset, mean, variance),
        record(op, _forward(op), floats(1, 1, 1, _CHANNELS), scale, offset, mean, variance, note="one"),
    ]


RECORDS = _records()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_normalize(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
