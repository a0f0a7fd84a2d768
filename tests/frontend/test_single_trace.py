"""Functions that make optimizers' and metrics' variables are traced once, and all else is as on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow import core
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from tests.frontend.kit import captured, close

X = np.random.default_rng(1).random((8, 4), np.float32)
WEIGHT = keras.Variable(1.0)
Y = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def _network() -> keras.Model:
    keras.backend.clear_session()  # names are counted from the beginning
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, "relu"), keras.layers.BatchNormalization(),
                             keras.layers.Dropout(0.5), keras.layers.Dense(3, "softmax")])


def _both(program: Callable[[], Any]) -> tuple[Any, Any]:
    """The results of a program on TensorFlow and with functions taken."""
    stock = program()
    with captured(compile_after=1, strict=False):
        ours = program()
    return ours, stock


def _about(variables: list[Any]) -> list[Any]:
    """All that tells variables apart but their values."""
    return [(v.path, v.value.name, v.value.shape, v.value.dtype, v.value.trainable, v.value.device,
             v.value.aggregation, v.value.synchronization) for v in variables]


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "adam": lambda: keras.optimizers.Adam(0.01, use_ema=True, gradient_accumulation_steps=2),
    "sgd": lambda: keras.optimizers.SGD(0.01, momentum=0.9),
    "ftrl": lambda: keras.optimizers.Ftrl(0.01, initial_accumulator_value=0.2),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.RMSprop(0.01)),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_traces_once_and_makes_the_same_variables(name: str) -> None:
    def train() -> Any:
        traces = []

        class Counted(keras.Sequential):
            def call(self, *args: Any, **kwargs: Any) -> Any:
                traces.append(1)
                return super().call(*args, **kwargs)

        network = Counted(_network().layers)
        network.build((None, 4))
        traces.clear()
        network.compile(OPTIMIZERS[name](), "sparse_categorical_crossentropy", metrics=["accuracy"])
        losses = [network.train_on_batch(X, Y) for _ in range(4)]
        made = [*network.optimizer.variables, *network.metrics_variables]
        return len(traces), _about(made), losses, [v.numpy() for v in (*network.weights, *made)]

    ours, stock = _both(train)
    assert (ours[0], stock[0]) == (1, 2)
    assert ours[1] == stock[1]
    close(ours[2:], stock[2:], 1e-4)


def test_a_step_written_by_hand_is_traced_once() -> None:
    def train() -> Any:
        network, optimizer, traces = _network(), keras.optimizers.Adam(0.01), []

        @tf.function
        def step(x: Any, y: Any) -> Any:
            traces.append(1)
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, network(x, training=False)))
            optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
            return loss

        return [step(X, Y) for _ in range(3)], len(traces)

    ours, stock = _both(train)
    close(ours[0], stock[0])
    assert (ours[1], stock[1]) == (1, 2)


def test_random_weights_made_in_a_call_are_those_of_tensorflow() -> None:
    def train() -> Any:
        keras.utils.set_random_seed(3)
        network = keras.Sequential([keras.layers.Dense(4, "relu"), keras.layers.Dense(3)])
        call = tf.function(lambda x: network(x))
        return call(X), call(X), [w.numpy() for w in network.weights]

    ours, stock = _both(train)
    close(ours[:2], stock[:2])
    for a, b in zip(ours[2], stock[2], strict=True):
        np.testing.assert_array_equal(a, b)


def _kinds(around: Callable[[], Any], initializer: Any = "zeros") -> type:
    """The class of a variable that an optimizer makes when it is built in a function's first trace."""

    class Maker(keras.optimizers.SGD):
        made: Any = None

        @tf.autograph.experimental.do_not_convert
        def build(self, variables: list[Any]) -> None:
            with around():
                first = initializer(variables[0]) if callable(initializer) else initializer
                self.made = keras.Variable(first, shape=(4,))

    optimizer = Maker()

    @tf.function
    def function(x: Any) -> Any:
        if optimizer.made is None:
            optimizer.build([x])
        return x + optimizer.made

    with captured(strict=False):
        function(X)
    return type(optimizer.made.value)


@pytest.mark.parametrize(("around", "initializer", "lifted"), [
    (nullcontext, "zeros", True),
    (nullcontext, "glorot_uniform", False),
    (nullcontext, lambda x: x[0] * 0, False),
    (lambda: tf.variable_creator_scope(lambda following, **arguments: following(**arguments)), "zeros", False),
    (lambda: tf.distribute.OneDeviceStrategy("cpu").scope(), "zeros", False),
])
def test_what_is_made_outside(around: Callable[[], Any], initializer: Any, lifted: bool) -> None:
    assert (_kinds(around, initializer) is polymorphic_function.UnliftedInitializerVariable) != lifted


def _variable(x: Any) -> Any:
    variable = keras.Variable(1.0)
    variable.assign_add(1.0)
    return x + variable


def _metric(x: Any) -> Any:
    metric = keras.metrics.Mean()
    metric.update_state(x)
    return metric.result()


def _optimizer(x: Any) -> Any:
    optimizer = keras.optimizers.Adam()
    optimizer.build([WEIGHT])
    return x + WEIGHT


@pytest.mark.parametrize("make", [_variable, _metric, _optimizer])
def test_what_a_function_makes_anew_in_every_trace_is_refused_as_by_tensorflow(make: Callable[[Any], Any]) -> None:
    def program() -> list[str]:
        function, errors = tf.function(make), []
        for rows in (8, 8, 4):
            with pytest.raises(ValueError, match="[Cc]reat") as error:
                function(tf.constant(X[:rows, 0]))
            errors.append(str(error.value).splitlines()[-1])
        return errors

    ours, stock = _both(program)
    assert ours == stock


def test_nothing_stays_when_functions_are_no_longer_taken() -> None:
    initialize, constructor = polymorphic_function.Function._initialize, core.Variable.__init__
    with captured():
        tf.function(lambda x: x + 1)(X)
        assert core.Variable.__init__ is not constructor
    assert polymorphic_function.Function._initialize is initialize
    assert core.Variable.__init__ is constructor
