"""What a program's own errors look like."""

from __future__ import annotations

import traceback

import keras
import numpy as np
import pytest

from afterburner.frontend import flatten, tracebacks
from tests.frontend.kit import captured


def _innermost_file_of_a_bad_fit() -> str:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4)])
    model.compile("sgd", "categorical_crossentropy")
    with pytest.raises(ValueError, match="same") as caught:
        model.fit(np.zeros((4, 3)), np.zeros((4, 5)), verbose=0)
    return traceback.extract_tb(caught.value.__traceback__)[-1].filename


def test_an_error_in_a_trace_ends_where_it_was_raised():
    stock = _innermost_file_of_a_bad_fit()
    with captured():
        assert _innermost_file_of_a_bad_fit() == stock


def test_only_while_installed():
    with captured():
        assert all(tracebacks._OURS in module._EXCLUDED_PATHS for module in tracebacks._modules())
    assert not any(tracebacks._OURS in module._EXCLUDED_PATHS for module in tracebacks._modules())


@pytest.mark.parametrize(("file", "is_users"), [
    ("/venv/lib/python3.11/site-packages/tf_keras/src/engine/training.py", False),
    ("/usr/lib/python3/dist-packages/tensorflow/python/ops/math_ops.py", False),
    ("/home/somebody/keras/train.py", True),
    ("/venv/lib/python3.11/site-packages/somebodys_layers/blocks.py", True),
])
def test_whose_a_frame_is(file: str, is_users: bool):
    assert flatten._is_library(file) != is_users
