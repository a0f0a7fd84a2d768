"""CycleGAN and style transfer, made small: gradients by name, losses over steps, the same bits in every run."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from afterburner.workloads import cyclegan, style_transfer
from tests.frontend import kit
from tests.frontend.kit import Taken, captured
from tests.models.zoo import ROUNDING, floats, variable_type

STEPS = 4
FLOORS = [("float32", 1e-6), ("mixed_bfloat16", ROUNDING["mixed_bfloat16"])]  # errors that are always allowed, relative
Values = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(kit, "TARGET", "cpu")


def _networks(dtype: str) -> list[keras.Model]:
    """All four networks, with the same weights for every dtype and offsets that are not zero."""
    with floats(dtype):
        models = cyclegan.networks(down=(4, 8), patch=(4, 8), dropout=0.0)
    rng = np.random.default_rng(3)
    for model in models:
        for variable in model.trainable_variables:
            mean = 1.0 if variable.name == "scale" else 0.0
            variable.assign(rng.normal(mean, 0.05, variable.shape))
    return models


def _images(dtype: str) -> list[tf.Tensor]:
    rng = np.random.default_rng(4)
    return [tf.constant(rng.uniform(-1, 1, (1, 16, 16, 3)), variable_type(dtype)) for _ in range(2)]


def _cyclegan_gradients(dtype: str) -> Values:
    models, images = _networks(dtype), _images(dtype)
    step = tf.function(lambda x, y: cyclegan.gradients_of(models, x, y))
    with floats(dtype):  # while tracing
        losses, gradients = step(*images)
    found = {f"loss {i}": loss.numpy() for i, loss in enumerate(losses)}
    for i, (model, values) in enumerate(zip(models, gradients, strict=True)):
        for j, (variable, value) in enumerate(zip(model.trainable_variables, values, strict=True)):
            found[f"{i} {j} {variable.name}"] = value.numpy()
    return found


def _cyclegan_training(dtype: str) -> Values:
    models, images = _networks(dtype), _images(dtype)
    with floats(dtype):
        step = cyclegan.step_of(models)
        losses = np.stack([step(*images).numpy() for _ in range(STEPS)])
    return {"losses": losses, **{f"{i} {j}": w for i, m in enumerate(models) for j, w in enumerate(m.get_weights())}}


def _style(dtype: str) -> tuple[keras.Model, tf.Variable, list[tf.Tensor], list[tf.Tensor]]:
    """The extractor with the same weights for every dtype, the image and what is wanted."""
    keras.utils.set_random_seed(7)
    network = style_transfer.extractor()
    if dtype != "float32":
        weights = network.get_weights()
        with floats(dtype):
            network = style_transfer.extractor()
        network.set_weights(weights)
    content, style = (tf.cast(image, variable_type(dtype)) for image in style_transfer.photographs(32))
    wanted = style_transfer.features_of(network, style)[0], style_transfer.features_of(network, content)[1]
    return network, tf.Variable(content), *wanted


def _style_gradients(dtype: str) -> Values:
    network, image, style, content = _style(dtype)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loss = style_transfer.loss_of(network, image, style, content)
        return loss, tape.gradient(loss, image)

    loss, gradient = step()
    return {"loss": loss.numpy(), "image": gradient.numpy()}


def _style_training(dtype: str) -> Values:
    network, image, style, content = _style(dtype)
    with floats(dtype):
        step = style_transfer.step_of(network, image, style, content)
        losses = np.stack([step().numpy() for _ in range(STEPS)])
    return {"losses": losses, "image": image.numpy()}


def _error(values: Values, reference: Values, name: str) -> float:
    return float(np.linalg.norm(values[name].astype(np.float64) - reference[name]))


def _check_taken(taken: Taken) -> None:
    """One function, compiled, with nothing left to TensorFlow."""
    report, = taken.recorder.report().functions
    assert report.status == "compiled"
    assert report.left == []


@pytest.mark.parametrize("policy, floor", FLOORS)
@pytest.mark.parametrize("gradients", [_cyclegan_gradients, _style_gradients])
def test_every_gradient(gradients, policy, floor):
    reference, stock = gradients("float64"), gradients(policy)
    with captured() as taken:
        ours = gradients(policy)
    _check_taken(taken)
    norms = {name: float(np.linalg.norm(value)) for name, value in reference.items()}
    typical = float(np.median(list(norms.values())))
    for name in reference:
        assert norms[name] > 0, name
        bound = 2 * max(_error(stock, reference, name), floor * (norms[name] + typical))
        assert _error(ours, reference, name) <= bound, name


@pytest.mark.parametrize("train", [_cyclegan_training, _style_training])
def test_training(train):
    reference, stock = train("float64"), train("float32")
    with captured() as taken:
        ours = train("float32")
        again = train("float32")
    assert [f.left for f in taken.recorder.report().functions] == [[], []]
    scale = float(np.linalg.norm(reference["losses"]))
    assert _error(ours, reference, "losses") <= max(2 * _error(stock, reference, "losses"), 1e-6 * scale)
    for name in ours:
        np.testing.assert_array_equal(ours[name], again[name], err_msg=name)
