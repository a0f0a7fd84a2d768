"""Gradients of functions with operations that few programs have: each is taken whole, and agrees with TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.frontend.kit import captured, close

_RNG = np.random.default_rng(0)
_NODES = _RNG.normal(size=(9, 4)).astype(np.float32)
_SEGMENTS = np.array([0, 3, 1, 1, 0, 3, 2, 2, 3], np.int32)


def _segments(fold: Callable[..., Any]) -> Callable[[Any], Any]:
    """A layer of a graph network: messages of edges folded by their targets."""
    return lambda x: tf.tanh(tf.gather(fold(x, _SEGMENTS, 4), _SEGMENTS) * x)


_CASES: dict[str, tuple[np.ndarray, Callable[[Any], Any]]] = {
    "segments' maxima": (_NODES, _segments(tf.math.unsorted_segment_max)),
    "segments' minima": (_NODES, _segments(tf.math.unsorted_segment_min)),
    "segments' products": (_NODES, _segments(tf.math.unsorted_segment_prod)),
}


@pytest.mark.parametrize("name", _CASES)
def test_steps(name: str) -> None:
    start, function = _CASES[name]

    def step(x: Any, weights: Any) -> Any:
        with tf.GradientTape() as tape:
            value = function(x * weights)
            loss = tf.reduce_sum(tf.cast(value, tf.float32) ** 2)
        return value, tape.gradient(loss, weights)

    x, weights = tf.constant(start), tf.Variable(np.full_like(start, 1.25))
    expected = tf.function(step)(x, weights)
    with captured() as taken:
        ours = tf.function(step)
        for _ in range(2):
            close(ours(x, weights), expected)
    (report,) = taken.functions().values()
    assert not report.left, report.left
    assert taken.count == 1
