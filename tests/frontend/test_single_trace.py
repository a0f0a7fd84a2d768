"""Keras's own training steps are traced once, and all else is as on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow import core
from keras.src.trainers.trainer import Trainer
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from tests.frontend.kit import captured, close

ONE_TARGET = True  # what is traced is not yet computed
X = np.random.default_rng(1).random((8, 4), np.float32)
WEIGHT = keras.Variable(1.0)
Y = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def _network() -> keras.Model:
    keras.backend.clear_session()  # names are counted from the beginning
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, "relu"),
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


@pytest.fixture
def losses_traced(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """An element for each time that the loss of a model was traced."""
    traced: list[Any] = []
    compute_loss = Trainer.compute_loss

    def counted(*args: Any, **kwargs: Any) -> Any:
        traced.append(1)
        return compute_loss(*args, **kwargs)

    monkeypatch.setattr(Trainer, "compute_loss", counted)
    return traced


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_traces_once_and_makes_the_same_variables(name: str, losses_traced: list[Any]) -> None:
    def train() -> Any:
        network = _network()
        losses_traced.clear()
        network.compile(OPTIMIZERS[name](), "sparse_categorical_crossentropy", metrics=["accuracy"])
        losses = [network.train_on_batch(X, Y) for _ in range(4)]
        made = [*network.optimizer.variables, *network.metrics_variables]
        return len(losses_traced), _about(made), losses, [v.numpy() for v in (*network.weights, *made)]

    ours, stock = _both(train)
    # Until its variables are there the scaling optimizer scales by a number: that trace must not stay.
    assert (ours[0], stock[0]) == (2 if name == "scaled" else 1, 2)
    assert ours[1] == stock[1]
    close(ours[2:], stock[2:], 1e-4)


def test_a_step_written_by_hand_is_traced_as_often_as_by_tensorflow() -> None:
    def train() -> Any:
        network, optimizer, traces = _network(), keras.optimizers.Adam(0.01), []

        @tf.function
        def step(x: Any, y: Any) -> Any:
            traces.append(1)
            with tf.GradientTape() as tape:
                losses = keras.losses.sparse_categorical_crossentropy(y, network(x, training=False))
                loss = tf.reduce_mean(losses) * len(traces)
            optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
            return loss

        return [step(X, Y) for _ in range(3)], len(traces)

    ours, stock = _both(train)
    close(ours[0], stock[0])
    assert ours[1] == stock[1] == 2


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


class _Layer(keras.layers.Layer):
    """A program's own."""

    def call(self, x: Any) -> Any:
        return x


class _Schedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step: Any) -> Any:
        return 0.1


class OwnStep(keras.Sequential):
    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


def _compiled(kind: type[keras.Sequential] = keras.Sequential, layers: tuple[Any, ...] = (), optimizer: Any = "adam",
              loss: Any = "mse", metrics: Any = None) -> keras.Model:
    network = kind([keras.Input((4,)), *layers, keras.layers.Dense(1)])
    network.compile(optimizer, loss, metrics=metrics)
    return network


def _in_strategy() -> keras.Model:
    with tf.distribute.OneDeviceStrategy("cpu").scope():
        return _compiled()


def _variable_kinds(make: Callable[[], keras.Model]) -> tuple[type, type]:
    """The class of the optimizer's variables after a step taken by us, and on TensorFlow."""
    def train() -> type:
        network = make()
        network.train_on_batch(X, Y[:, None].astype(np.float32))
        return type(network.optimizer.variables[-1].value)

    return _both(train)


@pytest.mark.parametrize("make", [
    _compiled,
    lambda: _compiled(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.1, 10), momentum=0.9)),
    lambda: _compiled(loss=keras.losses.Huber(), metrics=["mae", keras.metrics.MeanSquaredError()]),
], ids=["plain", "schedule", "loss and metrics"])
def test_variables_of_kerass_own_steps_are_made_at_once(make: Callable[[], keras.Model]) -> None:
    ours, stock = _variable_kinds(make)
    assert stock is polymorphic_function.UnliftedInitializerVariable
    assert ours is not stock


@pytest.mark.parametrize("make", [
    lambda: _compiled(kind=OwnStep),
    lambda: _compiled(layers=(_Layer(),)),
    lambda: _compiled(layers=(keras.layers.Lambda(lambda x: x + 1),)),
    lambda: _compiled(layers=(keras.layers.Dense(2, lambda x: x + 1),)),
    lambda: _compiled(loss=lambda y, z: (y - z) ** 2),
    lambda: _compiled(metrics=[lambda y, z: y - z]),
    lambda: _compiled(optimizer=keras.optimizers.SGD(_Schedule(), momentum=0.9)),
    lambda: _compiled(optimizer=keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())),
    _in_strategy,
], ids=["step", "layer", "lambda", "activation", "loss", "metric", "schedule", "scaled", "strategy"])
def test_with_code_of_the_program_they_are_made_as_by_tensorflow(make: Callable[[], keras.Model]) -> None:
    ours, stock = _variable_kinds(make)
    assert ours is stock


def test_whoever_makes_variables_in_another_way_still_does() -> None:
    seen: list[str] = []

    def creator(following: Callable[..., Any], **arguments: Any) -> Any:
        seen.append(arguments["name"])
        return following(**arguments)

    network = _compiled()
    with captured(strict=False), tf.variable_creator_scope(creator):
        network.train_on_batch(X, Y[:, None].astype(np.float32))
    assert any("momentum" in name for name in seen)


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
