"""What a step leaves behind where its dataset ends is what it leaves in TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.frontend.kit import captured

_SPEC = tf.TensorSpec([3], tf.float32)


class _Trainer:
    """A step that counts its calls, counts what it has seen, and fetches its data itself."""

    def __init__(self) -> None:
        self.count = tf.Variable(0, dtype=tf.int64)
        self.seen = tf.Variable(0.0)
        self.weight = tf.Variable([1.0, 2.0, 3.0])
        self.step = tf.function(self._step)

    def _step(self, iterator: Any) -> tf.Tensor:
        x = next(iterator)
        self.count.assign_add(1)
        self.seen.assign_add(tf.cast(tf.size(x), tf.float32) + x[0] - x[0])
        self.weight.assign_sub(x * (tf.sin(self.weight) + tf.cast(self.count, tf.float32)) * 0.1)
        return tf.reduce_sum(self.weight * tf.tanh(x) + tf.cos(x))

    def epoch(self, dataset: tf.data.Dataset) -> list[Any]:
        iterator = iter(dataset)
        try:
            while True:
                self.step(iterator)
        except tf.errors.OpError as error:
            return [type(error).__name__, self.count.numpy(), self.seen.numpy(), self.weight.numpy()]


def _batches() -> Iterator[np.ndarray]:
    for i in range(3):
        yield np.full(3, i, np.float32)


def test_updates_that_need_no_data_are_made_at_the_end() -> None:
    dataset = tf.data.Dataset.from_generator(_batches, output_signature=_SPEC)
    stock, ours = _Trainer(), _Trainer()
    expected = [stock.epoch(dataset) for _ in range(4)]
    with captured() as taken:
        told = [ours.epoch(dataset) for _ in range(4)]
    assert taken.executables
    for a, b in zip(told, expected, strict=True):
        assert a[0] == b[0]
        for mine, theirs in zip(a[1:], b[1:], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-5)
    assert told[-1][1:3] == [16, 36.0]


def test_what_waits_for_an_element_through_another_name_is_not_made() -> None:
    count = tf.Variable(0, dtype=tf.int64)

    @tf.function
    def step(iterator: Any) -> tf.Tensor:
        x, zero = next(iterator), tf.constant(0.0)
        with tf.control_dependencies([x]):
            gate = tf.identity(zero)
        with tf.control_dependencies([gate]):
            count.assign_add(1)
        return tf.reduce_sum(tf.tanh(x) + tf.cos(x) * tf.sin(x))

    _run_to_the_end(step, 4)
    assert count.numpy() == 4 * 3


def test_weights_do_not_decay_at_the_end() -> None:
    """TensorFlow may have decayed all, some or none by then."""
    weight, count = tf.Variable(1.0), tf.Variable(0, dtype=tf.int64)

    @tf.function
    def step(iterator: Any) -> tf.Tensor:
        x = next(iterator)
        count.assign_add(1)
        weight.assign_sub(weight * 0.5)
        return tf.reduce_sum(tf.tanh(x) + tf.cos(x) * tf.sin(x))

    _run_to_the_end(step, 2)
    assert count.numpy() == 2 * 4
    assert weight.numpy() == 0.5 ** (2 * 3)


def _run_to_the_end(step: Any, epochs: int) -> None:
    dataset = tf.data.Dataset.from_generator(_batches, output_signature=_SPEC)
    with captured() as taken:
        for _ in range(epochs):
            iterator = iter(dataset)
            with pytest.raises(tf.errors.OutOfRangeError):
                while True:
                    step(iterator)
    assert taken.executables
