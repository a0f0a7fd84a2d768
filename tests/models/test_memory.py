"""The short form of the soak: memory stays flat over repeated steps."""

import pytest

import afterburner
from tests.soak import ALLOWED_MB, growth, subjects


@pytest.mark.parametrize("name", ["train_on_batch", "predict_on_batch", "tf.function(model)(x)"])
def test_flat_memory(name):
    with afterburner.enabled():
        assert growth(subjects()[name], 1000) < ALLOWED_MB
