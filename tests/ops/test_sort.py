"""Ranking and sorting against TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import FLOATS, INTS, RUNNERS, UINTS, Record, check, floats, ints, record


def _top_k(k: int, **attributes: object) -> Callable[[tf.Tensor], Any]:
    return lambda x: tf.raw_ops.TopKV2(input=x, k=k, **attributes)


def _records() -> list[Record]:
    records = []
    for dtype in FLOATS + INTS + UINTS:
        ties = ints(4, 30, dtype=np.int32, low=0, high=9).astype(dtype)
        records += [record("TopKV2", _top_k(k), ties, exact=True, note=f"k={k}") for k in (0, 1, 5, 29, 30)]
    signed = np.where(ints(3, 20, low=0, high=2) == 0, np.float32(-0.0), floats(3, 20).round())
    records += [record("TopKV2", _top_k(k), signed.astype(np.float32), exact=True, note=f"zeros k={k}")
                for k in (4, 20)]
    infinite = np.array([[1, np.inf, -np.inf, np.inf, 2, -np.inf]], np.float32)
    nan = np.array([[1, np.nan, 3], [0, 1, 2]], np.float32)
    for index in (tf.int16, tf.int32, tf.int64):
        records.append(record("TopKV2", _top_k(3, index_type=index), infinite, exact=True, note=index.name))
    records += [
        record("TopKV2", _top_k(2), nan, checks=False),
        record("TopKV2", _top_k(1), np.array([[np.nan], [2]], np.float32), exact=True, note="one column"),
        record("TopKV2", _top_k(3, sorted=False), floats(2, 3), exact=True, note="unsorted"),
        record("TopKV2", _top_k(2), floats(3, 0, 4), exact=True),
        record("TopKV2", lambda x: tf.sort(x, direction="DESCENDING"), floats(3, 17), exact=True),
        record("TopKV2", tf.sort, floats(3, 17), exact=True, note="ascending"),
        record("TopKV2", lambda x: tf.argsort(x, stable=True), ints(3, 17, high=5), note="argsort"),
        record("TopKV2", lambda x: tf.argsort(x, axis=0), floats(17, 3), note="argsort axis 0"),
    ]
    return records


RECORDS = _records()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_against_tensorflow(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
