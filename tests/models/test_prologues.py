"""A network whose convolutions make their normalized and rectified inputs, of a dense block that is joined in one
place: gradients as on stock TensorFlow."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from afterburner.cpu import isa as isas
from tests.frontend import kit
from tests.frontend.kit import captured

SHAPE = (8, 20, 20, 8)
DENSE = 4  # layers of a dense block


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(kit, "TARGET", "cpu")


def _model(dtype: str) -> keras.Model:
    keras.utils.set_random_seed(7)
    keras.config.set_dtype_policy(dtype)
    try:
        x = start = keras.Input(SHAPE[1:])
        x = layers.Conv2D(48, 3, padding="same")(x)
        for _ in range(DENSE):
            y = layers.ReLU()(layers.BatchNormalization()(x))
            y = layers.Conv2D(64, 1, use_bias=False)(y)
            y = layers.ReLU()(layers.BatchNormalization()(y))
            x = layers.Concatenate()([x, layers.Conv2D(32, 3, padding="same", use_bias=False)(y)])
        y = layers.ReLU()(layers.BatchNormalization()(x))  # of a residual one
        x = layers.Add()([x, layers.Conv2D(x.shape[-1], 1)(y)])
        return keras.Model(start, layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.ReLU()(x))))
    finally:
        keras.config.set_dtype_policy("float32")


def _gradients(dtype: str) -> list[np.ndarray]:
    model = _model(dtype)
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(dtype)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        return loss, tape.gradient(loss, model.trainable_variables)

    loss, gradients = step(tf.constant(x))
    return [loss.numpy(), *(g.numpy() for g in gradients)]


def test_every_gradient() -> None:
    reference, stock = _gradients("float64"), _gradients("float32")
    with captured() as taken:
        ours = _gradients("float32")
    report = taken.functions()["step"]
    assert report.left == []
    made = [k for part in report.parts for k in part.kernels if k.label.startswith("conv2d ")
            and " grad " not in k.label and "maximum" in k.fused[:k.fused.index("conv2d")]]
    listed = isas.host().name != "avx512"  # 1x1 filters then leave out zeros by lists
    assert len(made) == (DENSE if listed else 2 * DENSE + 1)
    labels = [k.label for part in report.parts for k in part.kernels]
    assert labels.count("more columns") == DENSE
    typical = float(np.median([np.linalg.norm(r) for r in reference]))
    for r, s, o in zip(reference, stock, ours, strict=True):
        error, stocks = (float(np.linalg.norm(v.astype(np.float64) - r)) for v in (o, s))
        assert error <= 2 * max(stocks, 1e-6 * (float(np.linalg.norm(r)) + typical))
