"""Whole models against stock TensorFlow: gradients by name, losses over steps, final weights."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.frontend import kit
from tests.frontend.kit import captured, close
from tests.models.zoo import CASES, VOLUMES, Case, floats

PIPELINE = {"IteratorGetNext", "OptionalFromValue"}


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(kit, "TARGET", "cpu")


def _gradients(case: Case, dtype: str) -> dict[str, np.ndarray]:
    model = case.model(dtype=dtype)
    x, y = case.data(16, dtype)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.add_n([case.loss(y, model(x, training=True)), *model.losses])
        return loss, tape.gradient(loss, model.trainable_variables)

    with floats(dtype):  # while tracing: losses compute in Keras's element type, not in their operands'
        loss, gradients = step(tf.constant(x), tf.constant(y))
    assert loss.dtype == dtype
    named = {v.path: g.numpy() for v, g in zip(model.trainable_variables, gradients, strict=True)}
    return {"loss": loss.numpy(), **named}


def _error(values: dict, reference: dict, name: str) -> float:
    return float(np.linalg.norm(values[name].astype(np.float64) - reference[name]))


@pytest.mark.parametrize("name", CASES)
def test_every_gradient(name):
    case = CASES[name]
    reference = _renamed(_gradients(case, "float64"))
    stock = _renamed(_gradients(case, "float32"))
    with captured() as taken:
        ours = _renamed(_gradients(case, "float32"))
    assert taken.functions()["step"].left == []
    norms = {n: float(np.linalg.norm(v)) for n, v in reference.items()}
    typical = float(np.median(list(norms.values())))
    for variable in reference:
        bound = 2 * max(_error(stock, reference, variable), 1e-6 * (norms[variable] + typical))
        assert _error(ours, reference, variable) <= bound, variable


def _renamed(values: dict) -> dict:
    """Keras numbers the layers of each new model: names by position."""
    return {f"{i} {n.rsplit('/')[-1]}": v for i, (n, v) in enumerate(values.items())}


def _train(case: Case, optimizer: str, dropout: float, **fit: object):
    model = case.model(dropout)
    metrics = ["accuracy"] if case.classes else ["mae"]
    model.compile(_optimizer(optimizer), case.loss, metrics=metrics)
    x, y = case.data(16 * 20)
    losses: list[float] = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    history = model.fit(x, y, batch_size=16, epochs=1, verbose=0, shuffle=False, callbacks=[record], **fit)
    return losses, history.history, model.evaluate(x, y, batch_size=16, verbose=0), model.get_weights()


def _optimizer(name: str) -> keras.optimizers.Optimizer:
    o = keras.optimizers
    return {
        "sgd": lambda: o.SGD(0.05), "momentum": lambda: o.SGD(0.02, momentum=0.9),
        "nesterov": lambda: o.SGD(0.02, momentum=0.9, nesterov=True, weight_decay=1e-3),
        "rmsprop": lambda: o.RMSprop(0.002, momentum=0.5, centered=True), "adam": lambda: o.Adam(0.003),
        "adamw": lambda: o.AdamW(0.003, clipnorm=1.0), "amsgrad": lambda: o.Adam(0.003, amsgrad=True),
    }[name]()


@pytest.mark.parametrize("name", [*CASES, *VOLUMES])
def test_training(name):
    check_training(name)


def check_training(name):
    """Losses, scores and weights as on stock TensorFlow; the compiled functions."""
    case = {**CASES, **VOLUMES}[name]
    expected = _train(case, "adam", 0.25)
    with captured() as taken:
        losses, history, scores, weights = _train(case, "adam", 0.25)
    close(losses, expected[0], 1e-4)
    close(scores, expected[2], 1e-3)
    close(weights, expected[3], 2e-3)
    compiled = [f for f in taken.recorder.report().functions if f.status == "compiled"]
    assert compiled
    for function in compiled:
        assert {op.type for op in function.left} <= PIPELINE, function
    return compiled


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "rmsprop", "adamw", "amsgrad"])
def test_optimizers(optimizer):
    case = CASES["mlp"]
    expected = _train(case, optimizer, 0.2)
    with captured() as taken:
        close(_train(case, optimizer, 0.2), expected, 1e-3)
    step = taken.functions()["multi_step_on_iterator"]
    assert {op.type for op in step.left} <= PIPELINE


def test_sample_weights():
    case = CASES["mlp"]
    weights = np.random.default_rng(0).random(320).astype("float32")
    expected = _train(case, "sgd", 0.0, sample_weight=weights)
    with captured():
        close(_train(case, "sgd", 0.0, sample_weight=weights), expected, 1e-4)


def test_bit_identical_from_run_to_run():
    def weights():
        with captured():
            return _train(CASES["residual"], "adam", 0.25)[3]

    for first, second in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_saved_weights_predict_the_same_in_tensorflow(tmp_path):
    case = CASES["lenet"]
    with captured():
        model = case.model(0.25)
        model.compile("adam", case.loss)
        x, y = case.data(64)
        model.fit(x, y, batch_size=16, verbose=0)
        predicted = model.predict(x, verbose=0)
        model.save(tmp_path / "m.keras")
    close(keras.models.load_model(tmp_path / "m.keras").predict(x, verbose=0), predicted)


def _augmented():
    """Losses of training behind layers that change pictures at random."""
    keras.utils.set_random_seed(1)
    L, colors = keras.layers, {"value_range": (0, 1)}
    model = keras.Sequential([
        L.Input((24, 24, 3)), L.RandomFlip(seed=1), L.RandomRotation(0.1, seed=2),
        L.RandomZoom(0.2, fill_mode="nearest", seed=3),
        L.RandomShear(0.1, 0.1, fill_mode="wrap", seed=4), L.RandomTranslation(0.1, 0.1, "constant", "nearest", seed=5),
        L.RandomHue(0.1, **colors, seed=6), L.RandomSaturation(0.5, **colors, seed=7),
        L.RandomContrast(0.1, **colors, seed=8), L.Conv2D(8, 3, activation="relu"),
        L.GlobalAveragePooling2D(), L.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    rng = np.random.default_rng(0)
    x, y = rng.random((24, 24, 24, 3), np.float32), rng.random((24, 1), np.float32)
    return model.fit(x, y, batch_size=8, epochs=3, verbose=0, shuffle=False).history["loss"]


def test_augmenting_layers():
    expected = _augmented()
    with captured() as taken:
        close(_augmented(), expected, 1e-4)
    assert {op.type for op in taken.functions()["multi_step_on_iterator"].left} <= PIPELINE
