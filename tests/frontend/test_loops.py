"""Loops in functions that are captured: which are compiled whole, and which stay on TensorFlow."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from afterburner.frontend import capture
from tests.frontend.kit import captured, close


def data(*shape: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(0).normal(size=shape).astype("float32"))


def test_loops_with_small_bodies_stay_on_tensorflow():
    @tf.function
    def f(x):
        while tf.reduce_sum(x * x) < 100:
            x = x * 2
        return x + 1, x * 3, x - 2

    expected = f(data(2, 2))
    with captured() as taken:
        close(f(data(2, 2)), expected)
    assert any(op.type.endswith("While") for op in taken.functions()["f"].left)


def test_a_loop_of_as_many_turns_as_an_argument_says():
    @tf.function
    def f(x, n):
        for _ in tf.range(n):
            x = x * 2
        return x + 1

    x = data(2, 2)
    with captured(compile_after=1) as taken:
        for n in (3, 3, 4, 4, 4, 0, 0, 0, 3):
            close(f(x, tf.constant(n)), x * 2 ** n + 1)
    step = taken.functions()["f"]
    assert step.status == "compiled" and not any("While" in op.type for op in step.left)


def _train_recurrent():
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.layers.Input((7, 3)), keras.layers.LSTM(5), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    x, y = data(24, 7, 3).numpy(), data(24, 2).numpy()
    return model.fit(x, y, batch_size=8, epochs=2, verbose=0).history["loss"], model.get_weights()


def test_a_recurrent_network_trains_whole():
    expected = _train_recurrent()
    with captured() as taken:
        close(_train_recurrent(), expected)
    step = taken.functions()["multi_step_on_iterator"]
    assert step.status == "compiled" and not any("While" in op.type or "List" in op.type for op in step.left)


@pytest.mark.parametrize("enough", [None, 20], ids=["few operations", "enough operations"])
def test_a_recurrent_network_trains_around_its_loop(monkeypatch, enough):
    if enough is not None:  # with masks and dropout the gradient of a cell has more than a step of a small network
        monkeypatch.setattr(capture, "_MIN_LOOP_OPS", enough)
    expected = _train_recurrent()
    with captured(skip_ops=("While",)) as taken:
        close(_train_recurrent(), expected)
    step = taken.functions()["multi_step_on_iterator"]
    assert step.status == "left" or sum(op.type in ("While", "StatelessWhile") for op in step.left) == 2


def test_a_loop_that_looks_up_a_variable_trains_whole():
    """Its gradient asks for the shape of the variable that the loop gives on."""
    table = tf.Variable(np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4))

    @tf.function
    def gradients(words):
        with tf.GradientTape() as tape:
            state = tf.zeros((3, 4))
            for t in tf.range(5):
                state = tf.tanh(state + tf.gather(table, words[:, t]))
            loss = tf.reduce_sum(state ** 2)
        return loss, tf.convert_to_tensor(tape.gradient(loss, table))

    words = tf.constant(np.arange(15).reshape(3, 5) % 10)
    expected = gradients(words)
    with captured() as taken:
        close(gradients(words), expected)
    step = taken.functions()["gradients"]
    assert step.status == "compiled" and not any("While" in op.type for op in step.left)


def test_a_gradient_from_outside_leaves_a_loop_to_tensorflow():
    """Its lists go from one function to another."""
    kernel = tf.Variable(np.eye(3, dtype=np.float32) / 2)

    @tf.function
    def f(x):
        state = tf.zeros_like(x[0])
        for row in x:
            state = tf.tanh(row + state @ kernel)
        return state

    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(f(data(4, 2, 3)) ** 2)
        return loss, tape.gradient(loss, kernel)

    expected = gradients()
    with captured():
        for _ in range(3):
            close(gradients(), expected)


def test_a_loop_with_a_conditional_that_a_gradient_goes_through_stays_on_tensorflow():
    """The conditional hands optionals to its gradient, which are no elements of a dataset."""
    kernel = tf.Variable(np.eye(3, dtype=np.float32) / 2)

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            state = tf.zeros((2, 3))
            for row in x:
                if tf.reduce_sum(row) > 0:
                    for _ in range(8):
                        state = tf.tanh(row + state @ kernel)
                else:
                    state = state * 0.5 - row
            loss = tf.reduce_sum(state**2)
        return loss, tape.gradient(loss, kernel)

    expected = gradients(data(5, 2, 3))
    with captured() as taken:
        close(gradients(data(5, 2, 3)), expected)
    assert sum(op.type.endswith("While") for op in taken.functions()["gradients"].left) == 2


def test_keras_steps_over_several_batches_are_compiled():
    """Conditionals around whole steps, which ask whether there is another batch."""
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", steps_per_execution=3)
    with captured() as taken:
        model.fit(data(12, 4), data(12, 1), batch_size=2, epochs=2, verbose=0)
    step = taken.functions()["multi_step_on_iterator"]
    assert step.taken_ops > 20 and not any(op.type.endswith(("If", "While")) for op in step.left)
