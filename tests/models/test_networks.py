"""The first blocks of the image networks against stock TensorFlow (``networks.py`` has the whole ones)."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tests.frontend import kit
from tests.models.networks import NETWORKS, check_bits, check_saved, train, train_taken, wrong_gradients
from tests.models.zoo import ROUNDING

SIZE, BATCH, STEPS = 40, 4, 4  # at 32 a value of the DenseNet is so near a kink that rounding decides (``smooth``)

_SWEPT = [pytest.param(name, marks=pytest.mark.sweep) if name == "densenet121" else name for name in NETWORKS]


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(kit, "TARGET", "cpu")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_gradient(name):
    assert wrong_gradients(NETWORKS[name].cut, SIZE, BATCH) == {}


@pytest.mark.parametrize("name", NETWORKS)
def test_training(name, tmp_path):
    network = NETWORKS[name]
    stock = train(network, network.cut, SIZE, BATCH, STEPS)
    ours = train_taken(network, network.cut, SIZE, BATCH, STEPS)
    np.testing.assert_allclose(ours.losses, stock.losses, rtol=1e-3)
    check_saved(ours, network.cut, SIZE, tmp_path)


@pytest.mark.parametrize("name", _SWEPT)
def test_every_gradient_under_mixed_precision(name):
    assert wrong_gradients(NETWORKS[name].cut, SIZE, BATCH, "mixed_bfloat16") == {}


@pytest.mark.parametrize("name, policy", [
    ("resnet50v2", "mixed_bfloat16"), ("resnet50v2", "mixed_float16"),
    *(pytest.param(name, policy, marks=pytest.mark.sweep) for name, policy in (
        ("mobilenetv3", "mixed_bfloat16"), ("densenet121", "mixed_bfloat16"), ("densenet121", "mixed_float16")))])
def test_training_under_mixed_precision(name, policy):
    network = NETWORKS[name]
    stock = train(network, network.cut, SIZE, BATCH, STEPS, policy)
    ours = train_taken(network, network.cut, SIZE, BATCH, STEPS, policy)
    optimizer = ours.model.optimizer
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == (policy == "mixed_float16")
    np.testing.assert_allclose(ours.losses, stock.losses, rtol=2 * ROUNDING[policy])


def test_bit_identical_from_run_to_run():
    network = NETWORKS["mobilenetv3"]
    check_bits(*(train_taken(network, network.cut, SIZE, BATCH, STEPS) for _ in range(2)))
