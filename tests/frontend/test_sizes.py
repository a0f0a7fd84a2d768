"""Shapes and sizes that are known only as a call runs."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from tests.frontend.kit import captured, close
from tests.frontend.test_capture import _step_and_weights


def _data(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype("float32"))


def _left(taken, name):
    """Kinds of operations of a function that stay on TensorFlow."""
    return {op.type for op in taken.functions()[name].left}


def test_sizes_that_another_stage_gives():
    """A size that TensorFlow computes is a constant of what is compiled after it; where it is another one in each
    call, TensorFlow computes what needs it."""

    @tf.function(input_signature=[tf.TensorSpec([4, 60]), tf.TensorSpec([None], tf.int32)])
    def function(x, n):
        rows = tf.unique(n).y[0]  # no rule for Unique
        y = tf.reshape(tf.tanh(x * 2.0), (rows, -1)) + 1.0
        return tf.reduce_sum(tf.broadcast_to(y, (3, rows, tf.size(x) // rows)), 0) * 0.5

    x = _data(4, 60)
    calls = [tf.constant([n, n]) for n in (2, 2, 3, 3, 2)]
    expected = [function(x, n) for n in calls]
    with captured() as taken:
        close([function(x, n) for n in calls], expected)
        assert not _left(taken, "function") & {"Reshape", "BroadcastTo"}
        many = [tf.constant([n, n]) for n in (2, 3, 4, 5, 6, 8, 10, 12, 2)]
        close([function(x, n) for n in many], [function.python_function(x, n) for n in many])
        assert _left(taken, "function") & {"Reshape", "BroadcastTo"}


def test_functions_of_ever_new_sizes_are_left():
    """Where hardly a call has shapes that are compiled, TensorFlow runs the function whole."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4]), tf.TensorSpec([], tf.int32)])
    def function(x, n):
        y = tf.boolean_mask(tf.tanh(x) * 2.0, tf.range(tf.shape(x)[0]) < n)
        return tf.reduce_sum(tf.reshape(y * 3.0 - 1.0, (n, 2, 2)), 1) + tf.fill((n, 2), 0.5)

    calls = [(_data(60, 4), tf.constant(1 + i * 7 % 59)) for i in range(80)]
    expected = [function(x, n) for x, n in calls]
    with captured(compile_after=1) as taken:
        close([function(x, n) for x, n in calls], expected)
        assert taken.functions()["function"].status == "left"
    assert 0 < taken.count < 20


def test_ragged_batches_are_compiled_once_a_shape():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, activation="relu"),
                              keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(4)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x, y = np.random.default_rng(0).random((20, 8, 8, 3), np.float32), np.arange(20) % 4
    with captured() as taken:
        model.fit(x, y, batch_size=8, epochs=3, verbose=0)
    name = next(name for name in taken.functions() if "step" in name)
    assert _left(taken, name) <= {"IteratorGetNext", "OptionalFromValue", "OptionalNone"}
    assert taken.count == 2


def test_what_is_refused_in_a_loop_is_cut_once():
    """Where an operation inside a loop cannot be imported, the next calls know."""
    step, weights = _step_and_weights()

    @tf.function
    def several(iterator):
        total = tf.zeros(())
        for _ in tf.range(3):
            x, y, rows = next(iterator)
            total += step.python_function(x[rows[0]:], y[rows[0]:]) + tf.reduce_sum(tf.sqrt(tf.abs(x)))
        return total

    def train(calls=8):
        rows = tf.constant([[i % 7] for i in range(3 * calls)])
        x, y = _data(3 * calls, 10, 5), _data(3 * calls, 10, 3, seed=1)
        iterator = iter(tf.data.Dataset.from_tensor_slices((x, y, rows)))
        return [several(iterator) for _ in range(calls)]

    start = [w.numpy() for w in weights]
    expected = [t.numpy() for t in (*train(), *weights)]
    for w, value in zip(weights, start, strict=True):
        w.assign(value)
    with captured() as taken:
        ours = [t.numpy() for t in (*train(), *weights)]
        compiled = taken.count
        train()
        assert taken.count - compiled <= 2
    close(ours, expected)
    assert compiled
