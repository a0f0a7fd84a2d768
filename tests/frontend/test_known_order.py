"""Pipelines of samples in a known order: their elements, and which are left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from tensorflow.python.data.ops.flat_map_op import _FlatMapDataset

import afterburner
from afterburner.frontend import known_order

SIZES = [(64, 32), (70, 32), (5, 32), (32, 32), (1, 1), (33, 1), (4, 7)]


@pytest.fixture(autouse=True)
def taken() -> Iterator[None]:
    with afterburner.enabled():
        yield


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each of Keras's pipelines whether its order was computed at once."""
    found: list[bool] = []
    original = known_order._computed

    def noted(*arguments: Any) -> Any:
        dataset = original(*arguments)
        found.append(dataset is not None)
        return dataset

    monkeypatch.setattr(known_order, "_computed", noted)
    return found


def _dataset(rows: int, batch: int, **options: Any) -> Any:
    x = np.arange(rows * 3, dtype="float32").reshape(rows, 3)
    y = np.arange(rows)
    return ArrayDataAdapter(x, y, batch_size=batch, **options).get_tf_dataset()


def _elements(dataset: Any) -> list[Any]:
    return [[part.numpy().tolist() for part in element] for element in dataset]


def _by_stock(make: Any) -> Any:
    afterburner.disable()
    try:
        return make()
    finally:
        afterburner.enable()


@pytest.mark.parametrize("rows, batch", SIZES)
def test_batches_are_those_of_tensorflow(rows: int, batch: int, computed: list[bool]) -> None:
    for _ in range(2):  # traced, then not traced any more
        dataset = _dataset(rows, batch, shuffle=False)
        expected = _by_stock(lambda: _dataset(rows, batch, shuffle=False))
        assert dataset.element_spec == expected.element_spec
        assert _elements(dataset) == _elements(dataset) == _elements(expected)
    assert computed == [True, True]


def test_a_random_order_is_left_to_the_pipeline(computed: list[bool]) -> None:
    def order() -> list[Any]:
        keras.utils.set_random_seed(5)
        return _elements(_dataset(40, 8, shuffle=True))

    found = order()
    assert computed == [False] and found == _by_stock(order)
    assert found != _elements(_dataset(40, 8, shuffle=False))


def test_shuffled_batches_are_made_of_a_known_order(computed: list[bool]) -> None:
    def order() -> list[Any]:
        keras.utils.set_random_seed(5)
        return _elements(_dataset(40, 8, shuffle="batch"))

    assert order() == _by_stock(order) and computed == [True]


def test_epochs_predictions_and_scores_are_those_of_tensorflow(computed: list[bool]) -> None:
    def run() -> list[Any]:
        keras.utils.set_random_seed(2)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        x, y = np.random.default_rng(0).random((50, 3), np.float32), np.linspace(0, 1, 50, dtype="float32")
        losses = model.fit(x, y, batch_size=16, epochs=3, shuffle=False, verbose=0,
                           validation_data=(x[:20], y[:20])).history
        return [*losses["loss"], *losses["val_loss"], model.evaluate(x, y, verbose=0),
                *model.predict(x, batch_size=7, verbose=0).ravel()]

    np.testing.assert_allclose(run(), _by_stock(run), rtol=1e-5, atol=1e-6)
    assert computed == [True] * 4  # fit, its validation, evaluate, predict


def test_a_programs_own_pipelines_are_left_alone(computed: list[bool]) -> None:
    dataset = tf.data.Dataset.range(1).map(lambda _: tf.range(6)).prefetch(1).flat_map(
        tf.data.Dataset.from_tensor_slices)
    assert isinstance(dataset, _FlatMapDataset) and not computed
    assert [int(n) for n in dataset] == list(range(6))


def test_what_is_not_understood_is_left_to_the_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dataset: Any) -> bool:
        raise AttributeError("another make")

    monkeypatch.setattr(known_order, "_is_one_number", fail)
    assert _elements(_dataset(10, 4, shuffle=False)) == _by_stock(lambda: _elements(_dataset(10, 4, shuffle=False)))


def test_help_still_teaches() -> None:
    assert "flattens the result" in str(tf.data.Dataset.flat_map.__doc__)


def test_disabled_nothing_is_touched(computed: list[bool]) -> None:
    _by_stock(lambda: _dataset(10, 4, shuffle=False))
    assert not computed
