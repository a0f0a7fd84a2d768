"""Loops of a known number of turns against TensorFlow: recurrent layers in training, and functions with loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from afterburner.errors import NotTaken
from afterburner.frontend.flatten import flatten
from afterburner.frontend.import_graph import supported

from .steps import assert_close, import_concrete, run_both, train_step

_RNG = np.random.default_rng(0)
_SERIES = _RNG.standard_normal((4, 6, 3)).astype(np.float32)
_IDS = _RNG.integers(1, 20, (4, 6)).astype(np.int32)
_CLIPS = _RNG.random((2, 3, 6, 6, 2)).astype(np.float32)
_LABELS = _RNG.integers(0, 5, 4)


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    keras.utils.set_random_seed(1)
    yield
    keras.backend.clear_session()


def _loops(step: Any) -> int:
    return sum(node.op.name == "scan" for node in step.imported.graph.nodes)


def _compare(inner: list[Any], data: np.ndarray, loops: int, last: Any = None, tolerance: float = 1e-5) -> None:
    first = keras.Input(batch_shape=data.shape, dtype=data.dtype.name)
    model = keras.Sequential([first, *inner, last or layers.Dense(5)])
    labels = _LABELS[:len(data)]
    if last is not None:
        labels = _RNG.integers(0, 5, (len(data), data.shape[1]))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    step = train_step(model, (data, labels))
    assert _loops(step) == loops
    run_both(step)
    assert_close(run_both(step), tolerance)


_LAYERS: dict[str, tuple[Callable[[], list[Any]], np.ndarray, int]] = {
    "lstm": (lambda: [layers.LSTM(5)], _SERIES, 2),
    "gru": (lambda: [layers.GRU(5)], _SERIES, 2),
    "gru-before": (lambda: [layers.GRU(5, reset_after=False)], _SERIES, 2),
    "simple": (lambda: [layers.SimpleRNN(5)], _SERIES, 2),
    "two": (lambda: [layers.LSTM(5, return_sequences=True), layers.GRU(4)], _SERIES, 4),
    "bidirectional": (lambda: [layers.Bidirectional(layers.LSTM(4))], _SERIES, 4),
    "backwards": (lambda: [layers.LSTM(4, go_backwards=True)], _SERIES, 2),
    "dropout": (lambda: [layers.LSTM(4, dropout=0.4, recurrent_dropout=0.3)], _SERIES, 2),
    "embedding": (lambda: [layers.Embedding(20, 6), layers.LSTM(5)], _IDS, 2),
    "masked": (lambda: [layers.Embedding(20, 6, mask_zero=True), layers.LSTM(5)], _IDS * (_IDS > 6), 2),
    "cells": (lambda: [layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)])], _SERIES, 2),
    "convolutional": (lambda: [layers.ConvLSTM2D(3, 3), layers.GlobalAveragePooling2D()], _CLIPS, 2),
    "stateful": (lambda: [layers.LSTM(5, stateful=True)], _SERIES, 2),
}


@pytest.mark.parametrize("name", _LAYERS)
def test_recurrent_layers_train(name: str) -> None:
    make, data, loops = _LAYERS[name]
    _compare(make(), data, loops)


def test_sequences_train() -> None:
    _compare([layers.LSTM(5, return_sequences=True)], _SERIES, 2, layers.TimeDistributed(layers.Dense(5)))


def _import(function: Callable[..., Any], *arrays: np.ndarray) -> Any:
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arrays]
    return import_concrete(tf.function(function).get_concrete_function(*specs), arrays)


_ROWS = _RNG.standard_normal((5, 4)).astype(np.float32)


def _powers(x: tf.Tensor) -> tf.Tensor:
    for _ in tf.range(4):
        x = x * x + 0.5
    return x


def _running(x: tf.Tensor) -> tf.Tensor:
    return tf.scan(lambda total, row: 0.5 * total + row, x)


def _mapped(x: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda row: tf.tensordot(row, row, 1), x)


def _gradient_of_map(x: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.reduce_sum(tf.map_fn(lambda row: tf.sin(row) * tf.reduce_sum(row), x) ** 2)
    return tape.gradient(y, x)


def _arrays(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    forward, backward = tf.TensorArray(tf.float32, 5), tf.TensorArray(tf.float32, 5)
    for i in tf.range(5):
        forward = forward.write(i, x[i] * tf.cast(i, tf.float32))
        backward = backward.write(4 - i, x[i])
    return forward.stack(), backward.stack()


def _part_of_array(x: tf.Tensor) -> tf.Tensor:
    made = tf.TensorArray(tf.float32, 5, element_shape=(4,))
    for i in tf.range(1, 4):
        made = made.write(i, x[i])
    return made.stack()


def _nested(x: tf.Tensor) -> tf.Tensor:
    total = tf.zeros_like(x)
    for i in tf.range(3):
        inner = x
        for _ in tf.range(2):
            inner = tf.sin(inner) + tf.cast(i, tf.float32)
        total += inner
    return total


_KERNEL = _RNG.standard_normal((4, 4)).astype(np.float32) / 2


def _by_hand(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A recurrence over the columns of x, and its gradient."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        state = tf.zeros((5,))
        for t in tf.range(tf.shape(x)[1]):
            state = tf.tanh(x[:, t] + 0.5 * state + x[t, 0])
        loss = tf.reduce_sum(state * state)
    return loss, tape.gradient(loss, x)


def _backwards(x: tf.Tensor) -> tf.Tensor:
    kernel, state = tf.constant(_KERNEL), tf.zeros((1, 4))
    for t in tf.range(4, -1, -1):
        state = tf.tanh(state @ kernel + x[t])
    return state


def _never(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda i, x: i < 0, lambda i, x: (i + 1, x * 2), [0, x])[1]


def _down(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.while_loop(lambda i, x: i > 0, lambda i, x: (i - 2, x + tf.cast(i, tf.float32)), [9, x])


def _swapped(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    _, a, b = tf.while_loop(lambda i, a, b: i < 3, lambda i, a, b: (i + 1, b, a + b), [0, x, x * 2])
    return a, b


def _with_branch(x: tf.Tensor) -> tf.Tensor:
    for i in tf.range(4):
        if i % 2 == 0:
            x += 1.0
        else:
            x *= 2.0
    return x


@pytest.mark.parametrize("function,loops", [
    (_powers, 1), (_running, 1), (_mapped, 1), (_gradient_of_map, 2), (_arrays, 1), (_part_of_array, 1),
    (_nested, 1), (_by_hand, 2), (_backwards, 1), (_never, 0), (_down, 1), (_swapped, 1), (_with_branch, 1)])
def test_functions_with_loops(function: Callable[..., Any], loops: int) -> None:
    step = _import(function, _ROWS)
    assert _loops(step) == loops
    assert_close(run_both(step))


def _until_small(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda x: tf.reduce_max(x) > 0.1, lambda x: (x / 2,), [x])[0]


def _writing(x: tf.Tensor) -> tf.Tensor:
    for i in tf.range(3):
        _COUNT.assign_add(i)
    return x


_COUNT = tf.Variable(0)


@pytest.mark.parametrize("function,reason", [
    (_until_small, "depends on data"), (_writing, "a loop with AssignAddVariableOp")])
def test_other_loops_are_left(function: Callable[..., Any], reason: str) -> None:
    graph = tf.function(function).get_concrete_function(tf.TensorSpec((5, 4))).graph
    reasons = [supported(op) for op in flatten(graph, "f").ops if "While" in op.type]
    assert [r for r in reasons if r and reason in r], reasons


def _by_data(x: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
    for _ in tf.range(n):
        x = x * 2
    return x


def test_what_decides_on_the_turns_is_named() -> None:
    with pytest.raises(NotTaken, match="computed from data") as error:
        _import(_by_data, _ROWS, np.int32(3))
    assert len(error.value.unknown) == 1


def _long(x: tf.Tensor) -> tf.Tensor:
    for _ in tf.range(150):
        for _ in tf.range(150):
            for _ in tf.range(10):
                x = tf.sin(x)
    return x


def test_loops_that_would_fill_the_tables_are_refused() -> None:
    with pytest.raises(NotTaken, match="a loop of .* operations in all turns"):
        _import(_long, _ROWS)
