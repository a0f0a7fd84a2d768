"""Reductions against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import (
    FLOATS,
    INTS,
    RUNNERS,
    UINTS,
    Record,
    bools,
    check,
    floats,
    ints,
    moderate,
    raw,
    record,
    special,
)

_AXES: tuple[list[int], ...] = ([0], [1], [2], [0, 2], [1, 2], [-1], [0, 1, 2], [])


def _over(op: str, axes: list[int], keep: bool = False) -> Any:
    listed = np.array(axes, np.int32)
    return lambda x: getattr(tf.raw_ops, op)(input=x, axis=listed, keep_dims=keep)


def _reductions() -> list[Record]:
    records = []
    for op in ("Sum", "Mean", "Prod", "Max", "Min", "EuclideanNorm"):
        exact = op in ("Max", "Min")
        for axes in _AXES:
            records.append(record(op, _over(op, axes), floats(5, 7, 3), exact=exact, note=str(axes)))
        for dtype in FLOATS:
            records.append(record(op, _over(op, [1], True), floats(3, 33, dtype=dtype), exact=exact))
        records.append(record(op, _over(op, [0, 1]), floats(37, 41), exact=exact))
        records.append(record(op, _over(op, [1]), floats(4, 1, 2), exact=exact, note="size1"))
        records.append(record(op, _over(op, [0]), floats(0, 3), exact=exact, note="empty"))
        records.append(record(op, _over(op, [1]), floats(0, 3), exact=exact, note="none"))
        records.append(record(op, _over(op, []), np.float32(3), exact=exact))
    for op in ("Sum", "Prod", "Max", "Min", "Mean"):
        for dtype in INTS + UINTS:
            records.append(record(op, _over(op, [1]), ints(4, 9, dtype=dtype)))
    for op in ("Max", "Min"):
        values = np.stack([moderate(), np.zeros_like(moderate()), np.full_like(moderate(), -np.inf)])
        records.append(record(op, _over(op, [0]), values, note="nan", zero_sign=False))
        records.append(record(op, _over(op, [0]), ints(0, 3)))
    for op in ("All", "Any"):
        records += [record(op, _over(op, axes), bools(2, 3, 4, seed=5), note=str(axes)) for axes in _AXES]
        records += [record(op, _over(op, [0]), bools(0, 3)), record(op, _over(op, [0], True), bools(9))]
    return records


def _arguments() -> list[Record]:
    records = []
    for op in ("ArgMax", "ArgMin"):
        for axis in (0, 1, -1):
            for target in (tf.int32, tf.int64):
                function = raw(op, "input", dimension=axis, output_type=target)
                records.append(record(op, function, floats(5, 4, 6), note=f"{axis}{target.name}"))
        last = raw(op, "input", dimension=-1)
        records.append(record(op, last, ints(20, 7, high=2), note="ties"))
        records += [record(op, last, floats(9, 5, dtype=d)) for d in FLOATS]
        records.append(record(op, last, np.random.default_rng(1).choice(special(), (60, 6)), note="special"))
        records.append(record(op, last, floats(3, 1)))
        records.append(record(op, last, bools(9, 4)))
    return records


_INFINITE = np.array([[np.inf, 1, np.inf, 2], [-np.inf, -np.inf, 3, 1], [1, -5, 2, 0]], np.float32)


def _others() -> list[Record]:
    records = []
    for exclusive in (False, True):
        for reverse in (False, True):
            for axis in (0, 1):
                function = raw("Cumsum", "x", axis=axis, exclusive=exclusive, reverse=reverse)
                note = f"{axis}{exclusive}{reverse}"
                records.append(record("Cumsum", function, floats(6, 5), note=note))
                records.append(record("Cumsum", function, ints(6, 5), note=note))
                records.append(record("Cumsum", function, np.full((3, 2), -0.0, np.float32), note=note + "zeros"))
                function = raw("Cumprod", "x", axis=axis, exclusive=exclusive, reverse=reverse)
                records += [record("Cumprod", function, floats(6, 5, dtype=d), note=note) for d in FLOATS]
                records += [record("Cumprod", function, ints(6, 5, dtype=d), note=note) for d in INTS + UINTS]
                function = raw("CumulativeLogsumexp", "x", axis=axis, exclusive=exclusive, reverse=reverse)
                records += [record("CumulativeLogsumexp", function, floats(6, 5, dtype=d, scale=3), note=note)
                            for d in FLOATS]
                records.append(record("CumulativeLogsumexp", function, _INFINITE, note=note))
    large = np.array([1e30, 1e30, 1e-30, 0, 1, -2], np.float32)
    product, logs = (raw(op, "x", axis=0) for op in ("Cumprod", "CumulativeLogsumexp"))
    records += [record("Cumprod", product, large, exact=True), record("Cumprod", product, floats(0, 3)),
                record("Cumprod", product, np.array([300, 300, 0.01], np.float16), exact=True),
                record("CumulativeLogsumexp", logs, floats(1000, scale=30)),
                record("CumulativeLogsumexp", logs, np.array([1, np.nan], np.float32), checks=False),
                record("CumulativeLogsumexp", logs, floats(0, 3)), record("CumulativeLogsumexp", logs, floats(1, 3))]
    nchw = raw("BiasAddGrad", "out_backprop", data_format="NCHW")
    records += [
        record("L2Loss", raw("L2Loss", "t"), floats(7, 9)),
        record("L2Loss", raw("L2Loss", "t"), floats(7, 9, dtype=np.float16)),
        record("BiasAddGrad", raw("BiasAddGrad", "out_backprop"), floats(5, 6, 7, 3)),
        record("BiasAddGrad", raw("BiasAddGrad", "out_backprop"), floats(1, 3)),
        record("BiasAddGrad", nchw, floats(5, 3, 6, 7), note="NCHW"),
    ]
    for a, b in (
        ((2, 3), (3,)),
        ((2, 1), (1, 3)),
        ((1, 1), (1, 1)),
        ((4, 1, 3), (1,)),
        ((), (2, 2)),
        ((3,), (3,)),
    ):
        s0, s1 = np.array(a, np.int32), np.array(b, np.int32)
        records.append(record("BroadcastGradientArgs", _gradient_args(s0, s1), floats(2), note=f"{a}{b}"))
    return records


def _gradient_args(a: np.ndarray, b: np.ndarray) -> Any:
    return lambda x: tuple(tf.raw_ops.BroadcastGradientArgs(s0=a, s1=b))


RECORDS = _reductions() + _arguments() + _others()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_reduce(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
