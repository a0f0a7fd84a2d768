"""The first blocks of the image networks against stock TensorFlow (``networks.py`` has the whole ones)."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frontend import kit
from tests.models.networks import NETWORKS, check_bits, check_saved, train, train_taken, wrong_gradients

SIZE, BATCH, STEPS = 32, 4, 4


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


def test_bit_identical_from_run_to_run():
    network = NETWORKS["mobilenetv3"]
    check_bits(*(train_taken(network, network.cut, SIZE, BATCH, STEPS) for _ in range(2)))
