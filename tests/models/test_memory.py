"""The short form of the soak: memory stays flat over repeated steps."""

import pytest

import afterburner
from tests.soak import ALLOWED_MB, curve, subjects


@pytest.mark.parametrize("name", ["train_on_batch", "predict_on_batch", "tf.function(model)(x)"])
def test_flat_memory(name):
    with afterburner.enabled():
        sizes = curve(name, subjects()[name], 1000)
    assert sizes[-1] - sizes[0] < ALLOWED_MB
