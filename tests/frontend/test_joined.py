"""Batches of ``predict`` joined by their known shapes, as Keras joins them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.backend.tensorflow import trainer

import afterburner
from afterburner.frontend import joined


def _ones(*shapes: tuple[int, ...]) -> list[tf.Tensor]:
    return [tf.fill(shape, float(number)) for number, shape in enumerate(shapes)]


BATCHES = {
    "lengths": (_ones((2, 3), (2, 3), (1, 3)), True),
    "empty": (_ones((0, 3), (2, 3)), True),
    "vectors": (_ones((2,), (3,)), True),
    "one": (_ones((2, 3)), False),
    "scalars": (_ones((), ()), False),
    "ragged": (_ones((2, 3), (2, 4)), False),
    "ragged tensors": ([tf.ragged.constant([[1.0], [2.0, 3.0]])] * 2, False),
    "sparse": ([tf.sparse.from_dense([[0.0, 1.0]])] * 2, False),
}


def _dense(value: Any) -> np.ndarray:
    if isinstance(value, tf.RaggedTensor):
        return value.to_tensor(-1.0).numpy()
    return tf.sparse.to_dense(value).numpy() if isinstance(value, tf.SparseTensor) else value.numpy()


@pytest.mark.parametrize("name", BATCHES)
def test_batches_are_joined_as_keras_joins_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, known = BATCHES[name]
    original = trainer.potentially_ragged_concat
    expected = original(batches)
    asked = []
    with afterburner.enabled():
        monkeypatch.setitem(joined._originals, joined._NAME, lambda t: (asked.append(t), original(t))[1])
        result = trainer.potentially_ragged_concat(batches)
        monkeypatch.undo()
    assert type(result) is type(expected)
    np.testing.assert_array_equal(_dense(result), _dense(expected))
    assert not asked == known


def test_predict_asks_no_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    x = np.ones((10, 3), np.float32)
    expected = model.predict(x, batch_size=4, verbose=0)
    monkeypatch.setattr(trainer.tf, "shape", None)
    with afterburner.enabled():
        np.testing.assert_allclose(model.predict(x, batch_size=4, verbose=0), expected, rtol=1e-5, atol=1e-6)


def test_keras_is_left_as_it_was() -> None:
    original = trainer.potentially_ragged_concat
    with afterburner.enabled():
        assert trainer.potentially_ragged_concat is not original
    assert trainer.potentially_ragged_concat is original


def test_keras_may_be_imported_after_tensorflow() -> None:
    with afterburner.enabled():
        joined.uninstall()  # as where Keras was not there yet
        tf.function(lambda x: x + 1)(tf.constant(1.0))
        assert trainer.potentially_ragged_concat is joined._joined
