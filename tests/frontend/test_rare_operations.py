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
_PICTURES = _RNG.normal(size=(2, 5, 6, 3)).astype(np.float32)
_SEGMENTS = np.array([0, 3, 1, 1, 0, 3, 2, 2, 3], np.int32)


def _segments(fold: Callable[..., Any]) -> Callable[[Any], Any]:
    """A layer of a graph network: messages of edges folded by their targets."""
    return lambda x: tf.tanh(tf.gather(fold(x, _SEGMENTS, 4), _SEGMENTS) * x)


def _boxes(method: str) -> Callable[[Any], Any]:
    """Of two pictures, where the gradient for the boxes is asked for as well."""
    def cut(x: Any) -> Any:
        boxes = 0.2 + 0.05 * x[:, 0, 0, :1] * tf.constant([[-1.0, -0.5, 12.0, 9.0]])
        return tf.image.crop_and_resize(x, boxes, [1, 0], (3, 4), method=method)
    return cut


def _counted(x: Any) -> Any:
    """Values by the bucket that they lie in, and how many lie there."""
    bucket = tf.searchsorted(tf.constant([-1.0, 0.0, 0.5]), tf.reshape(x, [-1]), side="right")
    counts = tf.math.bincount(bucket, minlength=4, maxlength=4, dtype=tf.float32)
    return tf.reshape(x, [-1]) * tf.gather(counts, bucket)


def _normalized(x: Any) -> Any:
    return tf.nn.local_response_normalization(tf.nn.relu(x), depth_radius=2, bias=1.0, alpha=0.1, beta=0.75)


def _pooled(x: Any) -> Any:
    y, at = tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")
    return y * tf.cast(at % 3, tf.float32)


_CASES: dict[str, tuple[np.ndarray, Callable[[Any], Any]]] = {
    "segments' maxima": (_NODES, _segments(tf.math.unsorted_segment_max)),
    "segments' minima": (_NODES, _segments(tf.math.unsorted_segment_min)),
    "segments' products": (_NODES, _segments(tf.math.unsorted_segment_prod)),
    "local response": (_PICTURES, _normalized),
    "hue": (_PICTURES, lambda x: tf.stop_gradient(tf.image.adjust_hue(tf.sigmoid(x), 0.2)) * x),
    "saturation": (_PICTURES, lambda x: tf.stop_gradient(tf.image.adjust_saturation(tf.sigmoid(x), 0.6)) * x),
    "buckets": (_NODES, _counted),
    "sequences": (_NODES, lambda x: tf.reverse_sequence(x, [4, 0, 2, 3, 1, 1, 4, 2, 3], seq_axis=1) * x),
    "running products": (_NODES, lambda x: tf.math.cumprod(x, axis=1, exclusive=True) * x),
    "running sums of exponentials": (_NODES, lambda x: tf.math.cumulative_logsumexp(x, axis=0, reverse=True)),
    "few bits": (_NODES, lambda x: tf.quantization.fake_quant_with_min_max_vars(x, tf.reduce_min(x), tf.reduce_max(x))),
    "few bits of attributes": (_NODES, lambda x: tf.quantization.fake_quant_with_min_max_args(x, -1, 1, num_bits=4)),
    "cubic curves": (_PICTURES, lambda x: tf.image.resize(x, (8, 4), "bicubic")),
    "smooth shrinking": (_PICTURES, lambda x: tf.image.resize(x, (3, 4), "lanczos3", antialias=True)),
    "areas": (_PICTURES, lambda x: tf.stop_gradient(tf.image.resize(x, (2, 4), "area")) * x[:, :2, :4]),
    "boxes": (_PICTURES, _boxes("bilinear")),
    "boxes of the nearest": (_PICTURES, lambda x: tf.image.crop_and_resize(
        x, [[0.1, 0.2, 0.9, 0.7]], [1], (3, 4), method="nearest")),
    "positions of maxima": (_PICTURES, _pooled),
    "gamma": (_NODES, lambda x: tf.math.lgamma(tf.nn.softplus(x)) + tf.math.lgamma(x - 0.3)),
    "inverses": (_NODES, lambda x: tf.math.erfinv(tf.tanh(x)) + tf.math.ndtri(tf.sigmoid(x))),
}


def test_cases_that_assign() -> None:
    """Each branch may write a variable."""
    def step(index: Any, x: Any, total: Any, count: Any) -> Any:
        def add() -> Any:
            total.assign_add(tf.reduce_sum(x))
            return x * 2.0

        def reset() -> Any:
            total.assign(0.0)
            count.assign_add(1.0)
            return x - total

        return tf.tanh(tf.switch_case(index, [add, reset, lambda: x + count])) * 2.0 + 1.0

    def run() -> list[Any]:
        variables, function = [tf.Variable(1.5), tf.Variable(0.0)], tf.function(step)
        results = [function(tf.constant(i), tf.constant(_NODES), *variables) for i in (0, 1, 2, 0, -1, 9)]
        return [*results, *variables]

    expected = run()
    with captured() as taken:
        close(run(), expected)
    assert taken.count


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


_ERRORS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "segments": ([0, 9], lambda ids: tf.math.unsorted_segment_max(tf.ones((2, 3)), ids, 2)),
    "lengths": ([7, 0], lambda lengths: tf.reverse_sequence(tf.ones((2, 3)), lengths, seq_axis=1)),
    "numbers": ([1, -2], lambda numbers: tf.math.bincount(numbers, minlength=4, maxlength=4, dtype=tf.float32)),
    "pictures": ([0, 3], lambda which: tf.image.crop_and_resize(tf.ones((2, 4, 4, 1)), tf.ones((2, 4)), which, (2, 2))),
}


@pytest.mark.parametrize("name", _ERRORS)
def test_errors(name: str) -> None:
    """TensorFlow raises them when the function runs; so it does here."""
    wrong, function = _ERRORS[name]

    def step(given: Any) -> Any:
        return tf.tanh(function(given)) * 2.0 + 1.0

    with captured() as taken:
        ours = tf.function(step)
        close(ours(tf.constant([0, 1])), step(tf.constant([0, 1])))
        with pytest.raises((tf.errors.InvalidArgumentError, tf.errors.OutOfRangeError)):
            ours(tf.constant(wrong))
    assert taken.count
