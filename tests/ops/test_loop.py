"""Loops and lists of tensors against TensorFlow, one record an operation; test_loops.py has whole programs."""

from __future__ import annotations

import pytest
import tensorflow as tf

from .table import RUNNERS, Record, check, floats, ints, record


def _repeated(x: tf.Tensor) -> tf.Tensor:
    return tf.while_loop(lambda i, x: i < 4, lambda i, x: (i + 1, tf.sin(x) * 2), [0, x])[1]


def _checked(x: tf.Tensor) -> tf.Tensor:
    def turn(i: tf.Tensor, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.control_dependencies([tf.raw_ops.Assert(condition=tf.reduce_all(x < 100), data=["large"])]):
            return i + 1, x * 2

    return tf.while_loop(lambda i, x: i < 3, turn, [0, x])[1]


def _gradient(x: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = _repeated(x)
    return tape.gradient(y, x)


def _running_sums(x: tf.Tensor) -> tf.Tensor:
    return tf.scan(lambda total, row: total + row, x)


def _squares(x: tf.Tensor) -> tf.Tensor:
    return tf.map_fn(lambda row: row * row, x)


def _gradient_of_squares(x: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.map_fn(lambda row: row * tf.reduce_sum(row), x)
    return tape.gradient(y, x)


def _grown(x: tf.Tensor) -> tf.Tensor:
    array = tf.TensorArray(x.dtype, 0, dynamic_size=True, element_shape=x.shape[1:])
    turn = lambda i, array: (i + 1, array.write(i, x[i] * 2))  # noqa: E731
    return tf.while_loop(lambda i, _: i < 5, turn, [0, array])[1].stack()


def _resized(x: tf.Tensor) -> tf.Tensor:
    rows = tf.raw_ops.TensorListFromTensor(tensor=x, element_shape=[3])
    sizes = [tf.raw_ops.TensorListResize(input_handle=rows, size=n) for n in (3, 8)]
    return tf.concat([tf.raw_ops.TensorListStack(
        input_handle=s, element_shape=[3], element_dtype=x.dtype, num_elements=-1) for s in sizes], 0)


_X = floats(5, 3)

RECORDS = [
    record("StatelessWhile", _repeated, _X),
    record("StatelessWhile", _repeated, floats(40, 70), note="large"),
    record("While", _checked, _X, exact=True, checks=True),
    record("While", _checked, _X * 100, note="a check that fails", checks=False),
    record("EmptyTensorList", _gradient, _X),
    record("TensorListPushBack", _gradient, _X),
    record("TensorListPopBack", _gradient, floats(40, 70)),
    record("TensorListReserve", _running_sums, _X),
    record("TensorListFromTensor", _running_sums, ints(5, 3), exact=True),
    record("TensorListGetItem", _squares, _X, exact=True),
    record("TensorListSetItem", _squares, ints(6, 2), exact=True),
    record("TensorListStack", _squares, floats(6, 33), exact=True),
    record("TensorListElementShape", _gradient_of_squares, _X),
    record("TensorListLength", _gradient_of_squares, _X),
    record("TensorListSetItem", _grown, _X, exact=True, note="beyond the end"),
    record("TensorListResize", _resized, _X, exact=True),
]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_loop(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
