"""Stateless random numbers against TensorFlow: bits exactly, normal numbers within 4 ulp."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from afterburner.ir import interpret

from .steps import import_concrete
from .table import BF16, RUNNERS, Record, check, raw, record

_SEEDS = (
    np.array([1, 2], np.int32),
    np.array([-7, 123456789], np.int64),
    np.array([2**40 + 3, -(2**50)], np.int64),
)
_SHAPES = ((), (1,), (7,), (33, 5), (0, 3), (4, 4, 4))


def _uniform(shape: Any, dtype: Any) -> Any:
    return lambda seed: tf.random.stateless_uniform(shape, seed, dtype=dtype)


def _range(shape: Any, dtype: Any, low: int, high: int) -> Any:
    return lambda seed: tf.random.stateless_uniform(shape, seed, minval=low, maxval=high, dtype=dtype)


def _records() -> list[Record]:
    records = []
    for seed in _SEEDS:
        records.append(
            record(
                "StatelessRandomGetKeyCounter",
                lambda s: tuple(tf.raw_ops.StatelessRandomGetKeyCounter(seed=s)),
                seed,
            )
        )
        for dtype in (tf.float32, tf.float64, tf.float16, tf.bfloat16):
            records += [
                record(
                    "StatelessRandomUniformV2",
                    _uniform(shape, dtype),
                    seed,
                    exact=True,
                    note=f"{dtype.name}{shape}",
                )
                for shape in _SHAPES
            ]
        for dtype in (tf.int32, tf.int64, tf.uint32, tf.uint64):
            full = raw("StatelessRandomUniformFullInt", "seed", shape=[13], dtype=dtype)
            records.append(record("StatelessRandomUniformFullInt", full, seed, note=dtype.name))
        for dtype in (tf.int32, tf.int64):
            records.append(record("StatelessRandomUniformIntV2", _range([31], dtype, -5, 12), seed))
            records.append(record("StatelessRandomUniformIntV2", _range([5, 3], dtype, 0, 2**31 - 1), seed))
    old = raw("StatelessRandomUniform", "seed", shape=[5])
    records.append(record("StatelessRandomUniform", old, _SEEDS[0], exact=True))
    integers = raw("StatelessRandomUniformInt", "seed", shape=[9], minval=3, maxval=40)
    records.append(record("StatelessRandomUniformInt", integers, _SEEDS[0]))
    counters = raw("StatelessRandomGetKeyCounterAlg", "seed")
    records.append(record("StatelessRandomGetKeyCounterAlg", lambda s: tuple(counters(s)), _SEEDS[1]))
    full = tf.random.stateless_uniform
    records.append(record("StatelessRandomUniformFullIntV2", lambda s: full([7], s, None, None, tf.int32), _SEEDS[1]))
    mask = record(
        "StatelessRandomUniformV2",
        lambda x, s: tf.nn.experimental.stateless_dropout(x, 0.4, s),
        np.ones((9, 11), np.float32),
        _SEEDS[0],
        exact=True,
        note="dropout",
    )
    return [*records, mask, record("StatelessRandomGetAlg", _algorithm, _SEEDS[0])]


def _algorithm(seed: tf.Tensor) -> tf.Tensor:
    return tf.raw_ops.StatelessRandomGetAlg()


RECORDS = _records()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_random(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])


@pytest.mark.parametrize("shape", _SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [tf.float32, tf.float64, tf.float16, tf.bfloat16], ids=lambda d: d.name)
def test_normal(shape: tuple[int, ...], dtype: tf.DType) -> None:
    seed = _SEEDS[1]
    function = tf.function(lambda s: tf.random.stateless_normal(shape, s, dtype=dtype))
    concrete = function.get_concrete_function(tf.TensorSpec(seed.shape, seed.dtype))
    step = import_concrete(concrete, [seed])
    (ours,) = interpret(step.imported.graph, step.data)
    stock = np.asarray(concrete(tf.constant(seed)).numpy())
    assert (ours.dtype, ours.shape) == (stock.dtype, stock.shape)
    wide, expected = ours.astype(np.float64), stock.astype(np.float64)
    ulp = np.spacing(np.abs(stock)).astype(np.float64) if stock.dtype != BF16 else np.abs(expected) * 2.0**-7
    assert np.all(np.abs(wide - expected) <= 4 * ulp)
