"""Loops of a known number of turns as programs write them, against TensorFlow: as imported, and cleaned up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from afterburner.ir import Graph, interpret
from afterburner.passes.eliminate_dead_code import eliminate_dead_code
from afterburner.passes.pipeline import optimize

from .steps import assert_close, import_concrete, run_both

_ROWS = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def _cleaned_up(graph: Graph, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    return interpret(optimize(graph, lower=False), arrays)


def _gradient(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        loss = tf.reduce_sum(tf.sin(y))
    return y, tape.gradient(loss, x)


def _from_the_end(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    def total(x: tf.Tensor) -> tf.Tensor:
        state = tf.zeros(4)
        for i in tf.range(4):
            state = tf.tanh(state * 0.5 + x[-1 - i])
        return state

    return _gradient(total, x)


def _past_zero(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Indices -2, -1, 0, 1: they jump from the last row to the first one."""
    def total(x: tf.Tensor) -> tf.Tensor:
        state = tf.zeros(4)
        for i in tf.range(4):
            state = tf.tanh(state * 0.5 + x[i - 2])
        return state

    return _gradient(total, x)


def _by_a_number(x: tf.Tensor) -> tf.Tensor:
    """An index that is computed from a number with a point, and one that takes long to look through twice."""
    state = x[0]
    for i in tf.range(5):
        half = i
        for _ in range(40):
            half = half * half
        state = state * 0.5 + x[tf.cast(tf.cast(i, tf.float32) * 0.5, tf.int32)] + x[half % 5]
    return state


def _every_second(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    def total(x: tf.Tensor) -> tf.Tensor:
        state = tf.zeros(4)
        for i in tf.range(4, -1, -2):
            state = tf.tanh(state * 0.5 + x[i])
        return state

    return _gradient(total, x)


def _every_second_element(x: tf.Tensor) -> tf.Tensor:
    made = tf.TensorArray(tf.float32, 12, element_shape=(4,))
    for i in tf.range(5):
        made = made.write(2 * i + 1, x[i])
    return made.stack()


def _wraps(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Integers that grow beyond what their types can hold."""
    small, large, byte = tf.constant(-2**63, tf.int64), tf.constant(2**64 - 3, tf.uint64), tf.constant(254, tf.uint8)
    _, small, large, byte, state = tf.while_loop(
        lambda i, *_: i < 5,
        lambda i, small, large, byte, state: (
            i + 1, small - 2**62, large + tf.constant(2**63 + 1, tf.uint64), byte + tf.constant(1, tf.uint8),
            state * 0.5 + tf.repeat(x, 60, 0)[tf.cast(byte, tf.int32)]),
        [0, small, large, byte, x[0]])
    return small, large, byte, state


def _other_list(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The second turn reads another list than the first one."""
    first = tf.TensorArray(tf.float32, 5, clear_after_read=False).unstack(x)
    second = tf.TensorArray(tf.float32, 5, clear_after_read=False).unstack(x * 2)
    state = tf.zeros(4)
    for i in tf.range(5):
        state = state * 0.5 + first.read(i)
        first = second
    return state, first.stack()


def _growing(x: tf.Tensor) -> tf.Tensor:
    made = tf.TensorArray(tf.float32, 0, dynamic_size=True)
    for i in tf.range(5):
        made = made.write(i, x[i] * tf.cast(i, tf.float32))
    return made.stack()


def _growing_by_its_size(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    made = tf.TensorArray(tf.float32, 1, dynamic_size=True, element_shape=(4,))
    sizes = 0
    for i in tf.range(5):
        sizes += made.size()
        made = made.write(made.size(), x[i])
    return made.stack(), sizes


def _gradient_of_growing(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _gradient(_growing, x)


def _read_before(x: tf.Tensor) -> tf.Tensor:
    made = tf.TensorArray(tf.float32, 6, clear_after_read=False).write(0, x[0])
    for i in tf.range(5):
        made = made.write(i + 1, made.read(i) * 0.5 + x[i])
    return made.stack()


def _two_elements(x: tf.Tensor) -> tf.Tensor:
    made = tf.TensorArray(tf.float32, 10)
    for i in tf.range(5):
        made = made.write(2 * i, x[i])
        made = made.write(2 * i + 1, x[i] * 2)
    return made.stack()


def _table(x: tf.Tensor) -> tf.Tensor:
    """Inner loops over the same rows, of which each makes something else of them."""
    made = tf.TensorArray(tf.float32, 20)
    for i in tf.range(5):
        for j in tf.range(4):
            made = made.write(i * 4 + j, x[i, j] * 2)
    return made.stack()


def _triangle(x: tf.Tensor) -> tf.Tensor:
    state = tf.zeros(())
    for i in tf.range(5):
        for _ in tf.range(i):
            state = state * 0.9 + x[i, 0]
    return state


def _inner_by_outer(x: tf.Tensor) -> tf.Tensor:
    rows = tf.TensorArray(tf.float32, 5, clear_after_read=False).unstack(x)
    state = tf.zeros(4)
    for i in tf.range(5):
        for j in tf.range(3):
            state = state * 0.9 + rows.read(i) * tf.cast(j, tf.float32)
    return state


def _one_turn(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return _gradient(lambda x: tf.scan(lambda state, row: tf.tanh(state * row), x[:1], tf.ones(4)), x)


def _longer(x: tf.Tensor) -> tf.Tensor:
    shapes = [tf.TensorShape([]), tf.TensorShape([None, 4])]
    return tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, tf.concat([x, x], 0)), [0, x], shapes)[1]


def _number_to_vector(x: tf.Tensor) -> tf.Tensor:
    shapes = [tf.TensorShape([]), tf.TensorShape(None)]
    return tf.while_loop(lambda i, n: i < 2, lambda i, n: (i + 1, n + tf.constant([1, 2])), [0, tf.constant(3)],
                         shapes)[1]


def _curvature(x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    with tf.GradientTape() as tape:
        tape.watch(x)
        _, slope = _gradient(lambda x: tf.foldl(lambda state, row: tf.tanh(state * row), x), x)
        loss = tf.reduce_sum(slope * slope)
    return slope, tape.gradient(loss, x)


_SPLIT = np.array([[0.0, -0.0]] * 3, np.float32).T


def _signs_of_zero(x: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda row: 1 / row[0] > 0, tf.constant(_SPLIT), fn_output_signature=tf.bool)


@pytest.mark.parametrize("function,loops", [
    (_from_the_end, 2), (_past_zero, 1), (_by_a_number, 0), (_every_second, 2), (_every_second_element, 1),
    (_wraps, 0), (_other_list, 0), (_growing, 1), (_growing_by_its_size, 0), (_gradient_of_growing, 0),
    (_read_before, 0), (_two_elements, 0), (_table, 5), (_triangle, 3), (_inner_by_outer, 1), (_one_turn, 0),
    (_longer, 0), (_number_to_vector, 0), (_curvature, 3), (_signs_of_zero, 1)])
def test_agrees(function: Callable[..., Any], loops: int) -> None:
    """With so many operations for loops; what else they are is written out."""
    concrete = tf.function(function).get_concrete_function(tf.TensorSpec(_ROWS.shape))
    step = import_concrete(concrete, [_ROWS])
    assert_close(run_both(step))
    assert_close(run_both(step, _cleaned_up))
    assert sum(node.op.name == "scan" for node in eliminate_dead_code(step.imported.graph).nodes) == loops
