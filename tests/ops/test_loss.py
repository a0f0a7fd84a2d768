"""Softmax and cross-entropies against TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from .table import FLOATS, RUNNERS, Record, check, floats, ints, raw, record


def _softmaxes() -> list[Record]:
    records = []
    for op in ("Softmax", "LogSoftmax"):
        function = raw(op, "logits")
        records += [record(op, function, floats(5, 9, dtype=d, scale=3)) for d in FLOATS]
        records += [record(op, function, floats(*s)) for s in ((7,), (2, 3, 4), (3, 1), (0, 5), (2, 129))]
        records.append(record(op, function, floats(4, 6, scale=200), note="wide"))
    hidden = floats(3, 5)
    hidden[:, 2] = -np.inf
    records.append(record("Softmax", raw("Softmax", "logits"), hidden, note="masked"))
    return records


def _entropies() -> list[Record]:
    dense = raw("SoftmaxCrossEntropyWithLogits", "features", "labels")
    sparse = raw("SparseSoftmaxCrossEntropyWithLogits", "features", "labels")
    dense_op, sparse_op = "SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"
    records = []
    for dtype in FLOATS:
        logits = floats(6, 10, dtype=dtype, scale=2)
        labels = np.eye(10)[ints(6, low=0, high=10)].astype(dtype)
        records.append(record(dense_op, dense, logits, labels))
        for kind in (np.int32, np.int64):
            records.append(
                record(sparse_op, sparse, logits, ints(6, low=0, high=10, dtype=kind), checks=True)
            )
    smooth = tf.nn.softmax(floats(6, 10, seed=4)).numpy()
    return [
        *records,
        record(dense_op, dense, floats(6, 10), smooth, note="soft"),
        record(dense_op, dense, floats(6, 10), smooth[:1], note="broadcast"),
        record(sparse_op, sparse, floats(3, 4, scale=80), ints(3, low=0, high=4), checks=True, note="wide"),
        record(sparse_op, sparse, floats(3, 1), ints(3, low=0, high=1), checks=True),
        record(sparse_op, sparse, floats(3, 4), np.array([0, 4, 1], np.int32), checks=False),
        record(sparse_op, sparse, floats(3, 4), np.array([0, -1, 1], np.int64), checks=False),
    ]


RECORDS = _softmaxes() + _entropies()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_loss(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
