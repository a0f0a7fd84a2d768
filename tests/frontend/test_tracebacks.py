"""What a program's own errors look like."""

from __future__ import annotations

import traceback
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.util import tf_stack

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


def _stack_of_an_operation() -> list[str]:
    function = tf.function(lambda x: tf.sin(x) + 1.0)
    function(1.0)
    return [frame.filename for frame in function.get_concrete_function(1.0).graph.get_operations()[-1].traceback]


def test_stacks_of_operations_are_stocks():
    stock = _stack_of_an_operation()
    with captured(), ThreadPoolExecutor(1) as another:
        assert _stack_of_an_operation() == stock
        assert not any(file.startswith(tracebacks._OURS) for file in another.submit(_stack_of_an_operation).result())
    assert tf_stack.SentinelFilter is tracebacks._TENSORFLOWS
    assert not any(isinstance(stack[0], tracebacks._Filter) for stack in tf_stack._source_filter_stacks.values())


def test_what_ran_the_program_is_no_part_of_its_stacks(monkeypatch):
    around = ["here.py", f"{tracebacks._COMMANDS}/run.py", f"{tracebacks._OURS}/__main__.py", "<frozen runpy>"]
    monkeypatch.setattr(tracebacks, "_files_around", lambda: iter(around))
    assert tracebacks._launchers() == around[1:]
    monkeypatch.setattr(tracebacks, "_files_around", lambda: iter(["train.py", "<frozen runpy>"]))
    assert tracebacks._launchers() == []


@pytest.mark.parametrize(("file", "is_users"), [
    ("/venv/lib/python3.11/site-packages/tf_keras/src/engine/training.py", False),
    ("/usr/lib/python3/dist-packages/tensorflow/python/ops/math_ops.py", False),
    ("/home/somebody/keras/train.py", True),
    ("/venv/lib/python3.11/site-packages/somebodys_layers/blocks.py", True),
])
def test_whose_a_frame_is(file: str, is_users: bool):
    assert flatten._is_library(file) != is_users
