"""What a taken function gives: tensors of its own, and errors as TensorFlow tells them."""

from __future__ import annotations

from contextlib import nullcontext

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


def _outside(x):
    return tf.gather(tf.math.log(x) * 2.0 + tf.sin(x), tf.cast(x, tf.int32))


def _asserts(x):
    tf.debugging.assert_less(x, 7.0, message="too large")
    return tf.math.log(x) * 2.0 + tf.sin(x)


def _asserts_deep_inside(x):
    def body(i, y):
        return i + 1, tf.cond(y[0] > 0.0, lambda: y + 0.0 * _asserts(y), lambda: y)

    return tf.while_loop(lambda i, y: i < 2, body, (0, tf.nn.relu(x) * 2.0 - x))[1]


@pytest.mark.parametrize("function", [_outside, _asserts, _asserts_deep_inside])
def test_errors_are_told_as_tensorflow_tells_them(function):
    """But for the name of the function that TensorFlow ran, which is of our piece."""

    def message():
        call = tf.function(function)
        call(tf.constant([1.0, 0.5]))
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            call(tf.constant([1.0, 7.0]))
        return caught.value.message.split("[Op:")[0].splitlines()

    def both():
        for capture in (nullcontext, captured):
            with capture() as taken:
                yield message()
        assert taken.count

    expected, found = both()
    assert found == expected
    assert found[0] == "Graph execution error:" and any(f"in {function.__name__}" in line for line in found)


def test_errors_of_a_loaded_model_are_told_so_too(tmp_path):
    class Picks(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None,))])
        def __call__(self, x):
            return _outside(x)

    tf.saved_model.save(Picks(), str(tmp_path))

    def message():
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            tf.saved_model.load(str(tmp_path))(tf.constant([1.0, 7.0]))
        return caught.value.message.split("[Op:")[0].splitlines()

    expected = message()
    with captured() as taken:
        assert message() == expected
    assert taken.count


def test_of_shapes_that_do_not_go_together_the_operation_is_told_and_not_its_gradient():
    def misfit(x, y):
        return tf.reduce_mean(tf.square(tf.reshape(tf.tanh(x), (-1, 2)) - y))

    @tf.function(input_signature=[tf.TensorSpec((None, 4)), tf.TensorSpec((None, 2))])
    def gradient(x, y):
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = misfit(x, y)
        return tape.gradient(loss, x)

    with captured() as taken:
        for _ in range(2):
            gradient(_data(8, 4), _data(16, 2))
        for _ in range(20):
            with pytest.raises(tf.errors.InvalidArgumentError, match=r"Detected at node sub[^/]*\n(.*\n)*.*in misfit"):
                gradient(_data(8, 4), _data(8, 2))
    assert taken.count


def test_errors_of_operations_whose_results_go_to_other_pieces_are_told_so_too():
    table = tf.Variable(tf.ones((7, 4)))

    @tf.function(input_signature=[tf.TensorSpec((None, 2), tf.int32)])
    def step(indices):
        with tf.GradientTape() as tape:
            rows = tf.nn.embedding_lookup(table, indices)
            rows = tf.scan(lambda a, row: a * 0.5 + row, rows)
            loss = tf.reduce_sum(rows * tf.tanh(rows))
        table.assign_sub(0.01 * tf.convert_to_tensor(tape.gradient(loss, table)))
        return loss

    with captured() as taken:
        for _ in range(3):
            step(tf.constant([[1, 2]]))
        for _ in range(2):
            with pytest.raises(tf.errors.InvalidArgumentError,
                               match=r"Detected at node embedding_lookup defined(.*\n)*.*in step\n(.*\n)*.*= 99 is"):
                step(tf.constant([[1, 99]]))
    assert taken.count
