"""Reads and additions at computed positions, against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.compiler.tf2xla.ops import gen_xla_ops

from .table import FLOATS, INTS, RUNNERS, UINTS, Record, bools, check, floats, ints, raw, record


def _take(axis: int, batch: int = 0) -> Any:
    return lambda x, i: tf.raw_ops.GatherV2(params=x, indices=i, axis=axis, batch_dims=batch)


def _gathers() -> list[Record]:
    x = floats(5, 6, 4)
    records = []
    for axis in (0, 1, 2, -1):
        indices = ints(2, 3, low=0, high=4)
        records.append(record("GatherV2", _take(axis), x, indices, exact=True, checks=True, note=str(axis)))
    for axis, batch in ((1, 1), (2, 1), (2, 2)):
        shape = x.shape[:batch]
        indices = ints(*shape, 3, low=0, high=4, dtype=np.int64)
        records.append(
            record(
                "GatherV2",
                _take(axis, batch),
                x,
                indices,
                exact=True,
                checks=True,
                note=f"{axis}batch{batch}",
            )
        )
    records += [
        record("GatherV2", _take(0), floats(7, 2, dtype=d), ints(9, low=0, high=7), exact=True, checks=True)
        for d in FLOATS
    ]
    return [
        *records,
        record("GatherV2", _take(0), x, np.int32(3), exact=True, checks=True),
        record("GatherV2", _take(0), x, ints(0), exact=True),
        record("GatherV2", _take(0), x, np.array([0, 5], np.int32), checks=False),
        record("GatherV2", _take(0), x, np.array([-1, 0], np.int32), checks=False),
        record(
            "Gather", raw("Gather", "params", "indices"), x, ints(4, low=0, high=5), exact=True, checks=True
        ),
        record(
            "GatherNd",
            raw("GatherNd", "params", "indices"),
            x,
            ints(3, 2, low=0, high=5),
            exact=True,
            checks=True,
        ),
        record(
            "GatherNd",
            raw("GatherNd", "params", "indices"),
            x,
            ints(2, 2, 3, low=0, high=4),
            exact=True,
            checks=True,
        ),
        record(
            "GatherNd", raw("GatherNd", "params", "indices"), x, np.array([[0, 6]], np.int32), checks=False
        ),
    ]


def _scatters() -> list[Record]:
    segment = raw("UnsortedSegmentSum", "data", "segment_ids", num_segments=5)
    scatter = raw("ScatterNd", "indices", "updates", shape=[5, 3])
    add = raw("TensorScatterAdd", "tensor", "indices", "updates")
    subtract = raw("TensorScatterSub", "tensor", "indices", "updates")
    rows = ints(7, 1, low=0, high=5)
    return [
        record("UnsortedSegmentSum", segment, floats(9, 3), ints(9, low=-1, high=5), checks=True),
        record("UnsortedSegmentSum", segment, floats(4, 3, 2), ints(4, 3, low=0, high=5), checks=True),
        record("UnsortedSegmentSum", segment, ints(9, 3), ints(9, low=0, high=5), checks=True),
        record("UnsortedSegmentSum", segment, floats(2), np.array([0, 5], np.int32), checks=False),
        record("ScatterNd", scatter, rows, floats(7, 3), checks=True),
        record("TensorScatterAdd", add, floats(5, 3, seed=2), rows, floats(7, 3), checks=True),
        record("TensorScatterSub", subtract, floats(5, 3, seed=2), rows, floats(7, 3), checks=True),
    ]


def _segments() -> list[Record]:
    """Extremes and products: of segments 0 to 4 the last is empty."""
    records = []
    ids = np.array([0, 3, -1, 2, 0, 1, 3, 3, 2], np.int32)
    for op in ("UnsortedSegmentMax", "UnsortedSegmentMin", "UnsortedSegmentProd"):
        exact = op != "UnsortedSegmentProd"
        segment = raw(op, "data", "segment_ids", num_segments=5)
        records += [record(op, segment, floats(9, 3, dtype=d), ids, exact=exact, checks=True) for d in FLOATS]
        records += [record(op, segment, ints(9, 7, dtype=d, high=4), ids, checks=True) for d in INTS + UINTS]
        odd = np.array([np.nan, 1, 2, np.inf, -np.inf, np.nan, -3, np.nan, -np.inf], np.float32)
        records += [
            record(op, segment, odd, ids, exact=exact, checks=True, note="odd"),
            record(op, segment, floats(9, 0), ids, checks=True),
            record(op, segment, floats(0, 3), ints(0)),
            record(op, segment, floats(), np.int64(2), exact=exact, checks=True),
            record(op, segment, floats(2), np.array([0, 5], np.int32), checks=False),
            record(op, segment, floats(4, 3, 19), ints(4, 3, low=0, high=5), exact=exact, checks=True),
        ]
    return records


def _counts() -> list[Record]:
    numbers, matrix = np.array([1, 2, 2, 7, 0], np.int32), ints(3, 9, low=0, high=8)
    none = np.zeros(0, np.float32)
    count = raw("DenseBincount", "input", "weights", size=5)
    binary = raw("DenseBincount", "input", "weights", size=5, binary_output=True)
    older = raw("Bincount", "arr", "weights", size=5)
    records = [record("DenseBincount", count, x, none.astype(t), checks=True)
               for x in (numbers, matrix, matrix.astype(np.int64), matrix[:1], np.int32(3))
               for t in (np.float32, np.float64, np.int32, np.int64) if x.dtype == np.int32 or t != np.int64]
    records += [record("DenseBincount", count, x, floats(*x.shape), checks=True) for x in (numbers, matrix)]
    records += [record("DenseBincount", binary, x, none, checks=True, note="binary") for x in (numbers, matrix)]
    records += [record("DenseBincount", binary, matrix, floats(3, 9), checks=True, note="binary"),
                record("DenseBincount", count, ints(0), none), record("DenseBincount", count, ints(2, 0), none),
                record("DenseBincount", count, numbers - 1, none, checks=False)]
    return [*records, record("Bincount", older, matrix, floats(3, 9), checks=True),
            record("Bincount", older, numbers, np.zeros(0, np.int32), checks=True),
            record("Bincount", older, numbers - 1, none, checks=False)]


def _sequences() -> list[Record]:
    lengths = np.array([3, 0, 4, 1], np.int64)
    records = []
    for batch, along, shape in ((0, 1, (4, 4)), (1, 0, (5, 4, 3)), (2, 0, (4, 2, 4)), (0, 2, (4, 3, 6, 2))):
        function = raw("ReverseSequence", "input", "seq_lengths", batch_dim=batch, seq_dim=along)
        records += [record("ReverseSequence", function, x, lengths.astype(t), exact=True, checks=True,
                           note=f"{batch}{along}")
                    for x in (floats(*shape), ints(*shape, dtype=np.int8)) for t in (np.int32, np.int64)]
    function = raw("ReverseSequence", "input", "seq_lengths", batch_dim=0, seq_dim=1)
    illegal = (record("ReverseSequence", function, floats(4, 3), lengths - less, checks=False) for less in (0, 1))
    return [*records, *illegal,
            record("ReverseSequence", function, floats(4, 4, 0), lengths, checks=True),
            record("ReverseSequence", function, bools(4, 5), lengths, checks=True)]


def _one_hots() -> list[Record]:
    indices = np.array([[0, 2, -1], [5, 1, 4]], np.int64)
    records = [
        record("OneHot", lambda i, a=axis: tf.one_hot(i, 5, axis=a), indices, exact=True, note=str(axis))
        for axis in (-1, 0, 1)
    ]
    values = raw("OneHot", "indices", "on_value", "off_value", depth=4)
    records.append(
        record(
            "OneHot",
            values,
            ints(5, low=0, high=4, dtype=np.uint8),
            np.float32(2),
            np.float32(-3),
            exact=True,
        )
    )
    records.append(record("OneHot", lambda i: tf.one_hot(i, 3, dtype=tf.int32), ints(4, low=0, high=3)))
    for dtype in (np.uint8, np.int8):  # which count no further than 255 or 127
        few = np.array([0, 5, -1], np.int64).astype(dtype)
        records.append(record("OneHot", lambda i: tf.one_hot(i, 300), few, exact=True, note="deep"))
    return records


def _top() -> list[Record]:
    predictions = np.round(floats(9, 5), 1)
    predictions[2, 1], predictions[4, 3] = np.nan, np.inf
    targets = np.array([0, 1, 2, 3, 4, 5, -1, 2, 0], np.int32)
    records = [
        record("InTopKV2", raw("InTopKV2", "predictions", "targets", k=k), predictions, targets, note=str(k))
        for k in (1, 2, 5, 7)
    ]
    records.append(record("InTopK", raw("InTopK", "predictions", "targets", k=2), predictions, targets))
    return records


def _slice(*size: int) -> Any:
    return lambda x, begin: tf.slice(x, begin, size)


def _windows() -> list[Record]:
    x, part = floats(6, 5, 4), floats(2, 5, 1, seed=1)
    update = gen_xla_ops.xla_dynamic_update_slice
    places = [np.array(p, np.int32) for p in ([3, 0, 2], [0, 0, 0], [4, 0, 3], [9, 2, 7], [-3, -1, -8])]
    return [
        *(record("Slice", _slice(2, 5, 1), x, p, exact=True, checks=True) for p in places[:3]),
        *(record("Slice", _slice(2, 5, 1), x, p, checks=False) for p in places[3:]),
        record("Slice", _slice(1, 5, 4), x, np.array([0, 1, 0], np.int64), checks=False),
        record("Slice", _slice(0, 5, 4), x, np.array([6, 0, 0], np.int64), exact=True, checks=True),
        record("Slice", _slice(3), ints(7), np.array([4], np.int64), exact=True, checks=True),
        *(record("XlaDynamicUpdateSlice", update, x, part, p, exact=True, note=str(p)) for p in places),
        record("XlaDynamicUpdateSlice", update, x, floats(6, 5, 4, seed=1), places[0], exact=True),
        record("XlaDynamicUpdateSlice", update, x, floats(2, 0, 4), places[0], exact=True),
        record("XlaDynamicUpdateSlice", update, ints(5), ints(2, seed=1), np.array([2], np.int64), exact=True),
    ]


RECORDS = _windows() + _gathers() + _scatters() + _segments() + _counts() + _sequences() + _one_hots() + _top()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_gather(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
