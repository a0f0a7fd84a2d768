"""The image networks' first blocks answering: the distance to float64, and variables that change between calls."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.frontend import kit
from tests.frontend.kit import captured
from tests.models.networks import NETWORKS
from tests.models.zoo import floats

SIZE, BATCH = 32, 3


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(kit, "TARGET", "cpu")


def trained_like(model: keras.Model, seed: int) -> list[np.ndarray]:
    """Weights of the model with batch-norm statistics that are not those of a new one."""
    rng = np.random.default_rng(seed)
    scales = ("gamma", "moving_variance")
    return [rng.uniform(0.5, 1.5, v.shape) if v.name in scales else rng.normal(0, 0.1, v.shape) for v in model.weights]


def answers(model: keras.Model, data: np.ndarray) -> list[np.ndarray]:
    """Of ``predict``, and of one image under ``tf.function``; for two sets of weights."""
    single = tf.function(lambda image: model(image, training=False))
    found = []
    for seed in (1, 2):
        model.set_weights(trained_like(model, seed))
        found += [model.predict(data, verbose=0), single(tf.constant(data[:1])).numpy()]
    return found


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.sweep) if name == "densenet121" else name for name in NETWORKS])
def test_answers(name):
    data = np.random.default_rng(3).random((BATCH, SIZE, SIZE, 3))
    with floats("float64"):
        exact = answers(NETWORKS[name].cut(SIZE, 0.0), data)
    stock = answers(NETWORKS[name].cut(SIZE, 0.0), data.astype(np.float32))
    with captured() as taken:
        ours = answers(NETWORKS[name].cut(SIZE, 0.0), data.astype(np.float32))
    assert taken.count == 2
    assert all(f.taken_ops == f.seen_ops for f in taken.functions().values())
    for got, theirs, true in zip(ours, stock, exact, strict=True):
        allowed = 2 * max(np.linalg.norm(theirs - true), 1e-6 * np.linalg.norm(true))
        assert np.linalg.norm(got - true) <= allowed


def test_batch_norm_and_joins_of_a_dense_block_are_no_kernels_of_their_own():
    with captured() as taken:
        answers(NETWORKS["densenet121"].cut(SIZE, 0.0), np.zeros((1, SIZE, SIZE, 3), np.float32))
    labels = [kernel.label for kernel in taken.executables[0].kernels]
    assert labels.count("loop: concat") == 1, "only the last one, which a mean reads"
    after_convolutions = [label for label in labels if label.startswith("conv2d 1x1") and "mul add maximum" in label]
    assert len(after_convolutions) == 4
