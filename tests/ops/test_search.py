"""Places among what is sorted, against TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from .table import FLOATS, INTS, RUNNERS, UINTS, Record, check, floats, ints, raw, record


def _bounds() -> list[Record]:
    records = []
    for op in ("LowerBound", "UpperBound"):
        function = raw(op, "sorted_inputs", "values")
        for dtype in (*FLOATS, *INTS, *UINTS):
            ordered = np.sort(ints(3, 9, high=6).astype(dtype), axis=1)
            records.append(record(op, function, ordered, ints(3, 20, high=8, seed=1).astype(dtype)))
        long = np.sort(np.round(floats(2, 200), 1), axis=1)
        values = np.append(np.round(floats(2, 30, seed=1), 1), [[np.nan, np.inf, -np.inf]] * 2, 1).astype(np.float32)
        records += [
            record(op, function, long, values, note="long"),
            record(op, raw(op, "sorted_inputs", "values", out_type=np.int64), long, values, note="wide"),
            record(op, function, long[:, :5], values, note="short"),
            record(op, function, long[:, :64], values), record(op, function, long[:, :65], values),
            record(op, function, long[:, :128], values), record(op, function, long[:, :1], values),
            record(op, function, floats(2, 0), values), record(op, function, long, floats(2, 0)),
        ]
    return records


def _buckets() -> list[Record]:
    records = []
    for boundaries in ([0.1, 2, 10], [0], [], list(np.linspace(-1, 1, 100))):
        function = raw("Bucketize", "input", boundaries=boundaries)
        x = np.append(floats(41), [0, 2, 10, -0.0, np.nan, np.inf, -np.inf]).astype(np.float32)
        records += [record("Bucketize", function, x.astype(t), note=str(len(boundaries)))
                    for t in (np.float32, np.float64)]
        records += [record("Bucketize", function, ints(5, 6, dtype=t), note=str(len(boundaries)))
                    for t in (np.int32, np.int64)]
        records += [record("Bucketize", function, np.float32(0.1)), record("Bucketize", function, floats(0, 2))]
    large = raw("Bucketize", "input", boundaries=[16777216.0, 2e7])
    return [*records, record("Bucketize", large, np.array([16777217, 16777215, 20000001], np.int64))]


RECORDS = _bounds() + _buckets()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_search(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
