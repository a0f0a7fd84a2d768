"""Seeded random operations go on in TensorFlow's streams of numbers."""

from __future__ import annotations

import pytest
import tensorflow as tf

from tests.frontend.kit import captured, close


def _random_functions():
    w = tf.ones((2, 2))
    return {
        "normal": lambda n: tf.tanh(tf.random.normal((n, 2))) @ w * 2.0 + 1.0,
        "two": lambda n: tf.exp(tf.random.uniform((n, 2))) @ (w + tf.random.truncated_normal((2, 2))) * 2.0,
        "dropout": lambda n: tf.nn.dropout(tf.exp(tf.ones((n, 2))) @ w + 1.0, 0.5),
        "own seed": lambda n: tf.exp(tf.random.normal((n, 2), seed=7)) @ w + 1.0,
        "in a branch": lambda n: tf.cond(n > 2, lambda: tf.random.normal((2, 2)), lambda: w) @ w * 2.0 + 1.0,
        "in a case": lambda n: tf.switch_case(n - 3, [lambda: tf.random.normal((2, 2)), lambda: w]) @ w * 2.0 + 1.0,
        "a drawn axis": lambda n: tf.reduce_sum(tf.random.normal((n, 3)) @ tf.ones((3, 3)) * 2.0,
                                                axis=tf.cast(tf.random.uniform(()) * 0.0, tf.int32)) + 1.0,
    }


@pytest.mark.parametrize("name", _random_functions())
@pytest.mark.parametrize("compile_after", (0, 1))
def test_streams_of_random_numbers_go_on(name, compile_after):
    def draw():
        tf.random.set_seed(3)
        function = tf.function(_random_functions()[name])
        return [function(tf.constant(n)) for n in (3, 3, 4, 3, 3)]

    stock = draw()
    with captured(compile_after=compile_after) as taken:
        ours = draw()
    close(ours, stock)
    assert taken.count
