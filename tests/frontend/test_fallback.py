"""What happens when something goes wrong: TensorFlow finishes the part, once, with the right numbers."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from afterburner.errors import StrictError
from afterburner.ir import parse_graph, verify
from tests.frontend.kit import captured


class Breaks:
    """An executable that fails from its n-th run on, after writing rubbish to its outputs."""

    def __init__(self, real, runs):
        self._real, self._left = real, runs

    def __getattr__(self, name):
        return getattr(self._real, name)

    def run(self, inputs, outputs, version=None):
        self._real.run(inputs, outputs, version)
        self._left -= 1
        if self._left < 0:
            raise RuntimeError("planted")


def _training():
    v = tf.Variable(1.0)
    dataset = tf.data.Dataset.range(10).map(lambda i: tf.cast(i, tf.float32))

    @tf.function
    def step(iterator):
        x = next(iterator)
        v.assign(v * 1.5 + x)
        return v * 2 + tf.random.stateless_uniform((), (1, 2))

    return v, step, iter(dataset)


def test_a_failing_run_is_finished_by_tensorflow():
    v, step, iterator = _training()
    expected = [step(iterator).numpy() for _ in range(8)]
    final = v.numpy()
    v, step, iterator = _training()
    with captured(lambda e: Breaks(e, 3), strict=False, verbosity="silent") as taken:
        results = [step(iterator).numpy() for _ in range(8)]
    np.testing.assert_allclose(results, expected, rtol=1e-6)
    np.testing.assert_allclose(v.numpy(), final, rtol=1e-6)
    (failure,) = taken.functions()["step"].failures
    assert "planted" in failure


def test_the_failure_file_repeats_the_graph(tmp_path):
    _, step, iterator = _training()
    with captured(lambda e: Breaks(e, 0), strict=False, verbosity="silent", dump=tmp_path):
        step(iterator)
    (path,) = tmp_path.glob("*.run.txt")
    assert len(verify(parse_graph(path.read_text())).inputs) == 2


def test_strict_raises_instead():
    _, step, iterator = _training()
    with captured(lambda e: Breaks(e, 0)), pytest.raises(StrictError, match="planted"):
        step(iterator)


def test_a_failing_compilation_is_told_and_repeatable(tmp_path):
    def refuse(executable):
        raise ValueError("no such luck")

    v, step, iterator = _training()
    with captured(refuse, strict=False, verbosity="silent", dump=tmp_path) as taken:
        for _ in range(3):
            step(iterator)
    assert v.numpy() == ((1.0 * 1.5 + 0) * 1.5 + 1) * 1.5 + 2
    (failure,) = taken.functions()["step"].failures
    assert "no such luck" in failure
    (path,) = tmp_path.glob("*.txt")
    assert "no such luck" in path.read_text()


def test_gather_out_of_bounds_is_tensorflows_error():
    table = tf.constant([[1.0], [2.0]])

    @tf.function
    def f(i):
        return tf.gather(table, i) * 2 + 1

    with captured() as taken:
        np.testing.assert_array_equal(f(tf.constant([1, 0])).numpy(), [[5.0], [3.0]])
        with pytest.raises(tf.errors.InvalidArgumentError, match="not in"):
            f(tf.constant([1, 7]))
        assert taken.executables
        np.testing.assert_array_equal(f(tf.constant([0, 0])).numpy(), [[3.0], [3.0]])


def test_an_element_out_of_a_variables_bounds_is_tensorflows_error():
    """What TensorFlow runs instead knows the variable's shape, which the operation demands."""
    table = tf.Variable([[1.0, 2.0], [3.0, 4.0]])

    @tf.function
    def f(i):
        return tf.gather_nd(table, i) * 2 + 1

    with captured() as taken:
        np.testing.assert_array_equal(f(tf.constant([[1, 0]])).numpy(), [7.0])
        with pytest.raises(tf.errors.InvalidArgumentError, match="does not index into param shape"):
            f(tf.constant([[1, 7]]))
        assert taken.executables
        np.testing.assert_array_equal(f(tf.constant([[0, 1]])).numpy(), [5.0])


def test_integer_division_by_zero_is_tensorflows_error():
    @tf.function
    def f(a, b):
        return a // b + a * 2

    with captured():
        assert f(tf.constant(7), tf.constant(2)).numpy() == 17
        with pytest.raises(tf.errors.InvalidArgumentError, match="division by zero"):
            f(tf.constant(7), tf.constant(0))


@pytest.mark.parametrize("dtype", [tf.int32, tf.float64, tf.uint8])
def test_arguments_of_another_type_than_was_traced_are_tensorflows_error(dtype):
    total = tf.Variable(0.0)

    @tf.function
    def f(x):
        total.assign_add(tf.reduce_sum(x * 2 + 1))
        return x * total

    traced = f.get_concrete_function(tf.TensorSpec([None], tf.float32))
    with captured() as taken:
        traced(tf.ones(3))
        assert taken.executables
        message = f"{traced.name.decode()} as input #0.*expected to be a float tensor"
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            traced(tf.ones(3, dtype))
        assert total.numpy() == 9
        np.testing.assert_array_equal(traced(tf.ones(3)).numpy(), [18.0] * 3)


def test_a_symbol_of_another_function_is_tensorflows_error():
    leaked = []

    @tf.function
    def g(x):
        leaked.append(x * 2)
        return x

    @tf.function
    def f(x):
        return tf.reduce_sum(x * 2 + 1)

    with captured() as taken:
        for _ in range(3):
            g(tf.ones(3))
            f(tf.ones(3))
        assert taken.executables
        with pytest.raises(TypeError, match="out of scope"):
            f(leaked[0])
        assert f(tf.ones(3)).numpy() == 9


def test_a_failed_assertion_leaves_what_tensorflow_leaves():
    def program():
        v = tf.Variable(1.0)

        @tf.function
        def f(x):
            tf.debugging.assert_positive(x, message="x must be positive")
            v.assign_add(x * 2 - 1)
            return v * 1.0

        assert f(tf.constant(2.0)).numpy() == 4.0
        with pytest.raises(tf.errors.InvalidArgumentError, match="x must be positive"):
            f(tf.constant(-2.0))
        return v.numpy()

    expected = program()
    with captured():
        assert program() == expected


def test_a_stream_that_begins_while_the_program_watches_stays_on_tensorflow():
    def numbers() -> list[float]:
        tf.random.set_seed(3)
        draw = tf.function(lambda x: tf.reduce_sum(x * 2.0 + tf.random.uniform((3,), seed=5)))
        tf.debugging.enable_check_numerics()
        first = draw(tf.ones(3)).numpy()
        tf.debugging.disable_check_numerics()
        return [first, *(draw(tf.ones(3)).numpy() for _ in range(3))]

    expected = numbers()
    with captured():
        assert numbers() == expected


def test_functions_that_the_program_watches_run_on_tensorflow():
    function = tf.function(lambda x: tf.reduce_sum(tf.math.log(x) * 2.0))
    with captured() as taken:
        assert function(tf.ones(2)).numpy() == 0
        tf.debugging.enable_check_numerics()
        try:
            with pytest.raises(tf.errors.InvalidArgumentError, match='output 0 of eagerly-executing op "__inference_'):
                function(tf.zeros(2))
        finally:
            tf.debugging.disable_check_numerics()
        assert function(tf.zeros(2)).numpy() == -np.inf
    (report,) = taken.functions().values()
    assert report.status == "compiled"
    (moved,) = report.moved
    assert "tf.debugging" in moved


def test_a_device_that_is_not_here_is_an_error_without_soft_placement():
    @tf.function
    def step(x):
        with tf.device("/GPU:0"):
            return tf.exp(tf.tanh(x) * 2.0)

    before = tf.config.get_soft_device_placement()
    tf.config.set_soft_device_placement(False)
    try:
        with captured():
            for _ in range(3):
                with pytest.raises(tf.errors.InvalidArgumentError, match="device"):
                    step(tf.ones([2]))
    finally:
        tf.config.set_soft_device_placement(before)
