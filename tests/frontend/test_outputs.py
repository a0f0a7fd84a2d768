"""What a taken function gives: tensors of its own, and errors as TensorFlow tells them."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tests.frontend.kit import captured, close


def _data(*shape: int, seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).normal(size=shape).astype("float32"))


_GIVEN_ON = {
    "input": lambda x, w: (tf.nn.relu(x @ w) * 2.0 + 1.0, x),
    "twice": lambda x, w: [tf.tanh(x @ w) * 2.0 + 1.0] * 2,
    "constant": lambda x, w: (tf.tanh(x @ w) * 2.0 + 1.0, tf.constant([1.0, 2.0])),
    "through a branch": lambda x, w: (tf.cond(tf.reduce_sum(x) > 1e9, lambda: x + 1.0, lambda: x),
                                      tf.tanh(x @ w) * 2.0 + 1.0),
}


@pytest.mark.parametrize("made", _GIVEN_ON)
def test_outputs_are_tensors_of_their_own(made):
    w, x = tf.Variable(_data(3, 4)), _data(5, 3, seed=1)
    stock, function = (tf.function(_GIVEN_ON[made]) for _ in range(2))
    expected = stock(x, w)
    with captured() as taken:
        for _ in range(3):
            outputs = tf.nest.flatten(function(x, w))
            assert len({id(t) for t in (x, *outputs)}) == len(outputs) + 1
            close(outputs, expected)
    assert taken.count


@pytest.mark.parametrize("made", _GIVEN_ON)
def test_tapes_around_functions(made):
    w, x = tf.Variable(_data(3, 4)), _data(5, 3, seed=1)

    def gradients(function, persistent):
        with tf.GradientTape(persistent=persistent) as outer, tf.GradientTape(persistent=True) as inner:
            outer.watch(x)
            inner.watch(x)
            loss = sum(tf.reduce_sum(t * t) for t in tf.nest.flatten(function(x, w)))
        return [inner.gradient(loss, x), inner.gradient(loss, w.handle), outer.gradient(loss, [x, w])]

    stock, function = (tf.function(_GIVEN_ON[made]) for _ in range(2))
    with captured():
        ours = [gradients(function, persistent) for persistent in (False, True, False)]
    for found in ours:
        close(found, gradients(stock, False))


def test_errors_name_the_users_lines():
    """As TensorFlow's own do, but for the name of the function."""

    def function(x):
        return tf.gather(tf.math.log(x) * 2.0 + tf.sin(x), tf.cast(x, tf.int32))

    def message(call):
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            call(tf.constant([1.0, 7.0]))
        return caught.value.message.split("[Op:")[0].splitlines()

    stock, ours = tf.function(function), tf.function(function)
    with captured():
        ours(tf.constant([1.0, 0.5]))
        found = message(ours)
    expected = message(stock)
    assert found[0] == expected[0] == "Graph execution error:"
    assert [line for line in found if ", in function" in line] == [line for line in expected if ", in function" in line]
    assert found[-2:] == expected[-2:] and any("Detected at node GatherV2" in line for line in found)
