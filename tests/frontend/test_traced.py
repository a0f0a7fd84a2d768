"""Functions of Keras's pipelines that are traced once, and what makes them be traced anew."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter
from tensorflow.python.eager import context
from tensorflow.python.framework import config

import afterburner
from afterburner.frontend import traced


def _array(rows: int, columns: int = 3) -> np.ndarray:
    return np.random.default_rng(rows).random((rows, columns), np.float32)


@pytest.fixture
def model() -> keras.Model:
    network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    network.compile("sgd", "mse")
    return network


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The functions that are traced."""
    found: list[Any] = []
    init = traced._init

    def noted(self: Any, func: Any, *rest: Any, **named: Any) -> None:
        found.append(func)
        init(self, func, *rest, **named)

    monkeypatch.setattr(traced, "_init", noted)
    with afterburner.enabled():
        yield found


def test_a_second_predict_traces_nothing(model: keras.Model, count: list[Any]) -> None:
    for _ in range(2):
        model.predict(_array(10), batch_size=4, verbose=0)
    assert [f.__name__ for f in count] == ["permutation", "slice_batch_indices", "grab_batch"]


def test_other_sizes_are_told_apart(model: keras.Model, count: list[Any]) -> None:
    traces = []
    for _ in range(2):
        for rows in (10, 11, 12, 13):
            for batch in (4, 5, 12):
                x = _array(rows)
                answer = model.predict(x, batch_size=batch, verbose=0)
                np.testing.assert_allclose(answer, x @ model.weights[0].numpy(), rtol=1e-5, atol=1e-6)
        traces.append(len(count))
    assert traces[0] == traces[1]


def test_structures_of_data_are_told_apart(count: list[Any]) -> None:
    first, second = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    model = keras.Model({"a": first, "b": second}, keras.layers.Concatenate()([first, second]))
    for _ in range(2):
        data = {"a": _array(10), "b": _array(10, 2)}
        np.testing.assert_array_equal(model.predict(data, verbose=0), np.concatenate([*data.values()], 1))
    assert len(count) == 3


def test_a_random_order_is_drawn_by_a_function_traced_anew_for_another_seed(
        model: keras.Model, count: list[Any]) -> None:
    for seed, traces in ((1, 1), (1, 1), (2, 2), (1, 2)):
        keras.utils.set_random_seed(seed)
        model.fit(_array(10), _array(10, 2), batch_size=4, verbose=0, shuffle=True)
        assert [f.__name__ for f in count].count("permutation") == traces
    assert [f.__name__ for f in count].count("slice_batch_indices") == 2


def _orders(rows: int = 64) -> list[list[int]]:
    """Orders of two iterators each over two of Keras's pipelines; the second iterator is asked first."""
    found = []
    for _ in range(2):
        adapter = ArrayDataAdapter(np.arange(rows), np.arange(rows), batch_size=8, shuffle=True)
        dataset = adapter.get_tf_dataset()
        iterators = [iter(dataset), iter(dataset)]
        for iterator in reversed(iterators):
            found.append([int(i) for x, _ in iterator for i in x])
    return found


def test_seeded_orders_are_stocks() -> None:
    def seeded() -> list[list[list[int]]]:
        found = []
        for seed in (1, 2, 1):
            tf.random.set_seed(seed)
            found.append(_orders())
        return found

    expected = seeded()
    with afterburner.enabled():
        assert seeded() == expected


def test_an_order_without_a_seed_is_refused_under_determinism(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context.context(), "_seed", None)
    with afterburner.enabled():
        _orders()
        tf.config.experimental.enable_op_determinism()
        try:
            with pytest.raises(RuntimeError, match="seed"):
                _orders()
        finally:
            config.disable_op_determinism()
        _orders()


def test_orders_without_a_seed_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context.context(), "_seed", None)
    with afterburner.enabled():
        orders = _orders()
    assert len(set(map(tuple, orders))) == len(orders)
    assert all(sorted(order) == list(range(64)) for order in orders)


def test_orders_of_a_seeded_program_stay_the_same(model: keras.Model) -> None:
    def weights() -> list[np.ndarray]:
        keras.utils.set_random_seed(1)
        model.set_weights([np.ones((3, 2), np.float32)])
        for _ in range(2):
            model.fit(_array(12), _array(12, 2), batch_size=1, epochs=2, verbose=0)
        return model.get_weights()

    expected = weights()
    with afterburner.enabled():
        for _ in range(2):
            np.testing.assert_allclose(weights()[0], expected[0], rtol=1e-5, atol=1e-6)


def test_functions_of_programs_are_always_traced(count: list[Any]) -> None:
    seen = []

    def told(x: tf.Tensor) -> tf.Tensor:
        seen.append(x)
        return x + 1

    for _ in range(2):
        list(tf.data.Dataset.range(3).map(told))
    assert len(seen) == len(count) == 2


class _Adapter:
    __module__ = "keras.src.trainers.data_adapters.of_a_later_release"

    def __init__(self, step: Any) -> None:
        self.step = step
        self.data = [1]

    @property
    def doubled(self) -> Any:
        return 2 * self.step

    def function(self, use: str) -> Any:
        functions = {"step": lambda x: x + self.step, "data": lambda x: x + len(self.data),
                     "doubled": lambda x: x + self.doubled}
        chosen = functions[use]
        chosen.__module__ = self.__module__
        return chosen


@pytest.mark.parametrize(("use", "traces"), [("step", 2), ("data", 3), ("doubled", 3)])
def test_what_a_function_uses_of_an_object_tells(use: str, traces: int, count: list[Any]) -> None:
    """Plain attributes by value; with any other, or a property, it is traced."""
    results = [int(next(iter(tf.data.Dataset.range(1).map(_Adapter(step).function(use))))) for step in (1, 1, 2)]
    assert results == {"step": [1, 1, 2], "data": [1, 1, 1], "doubled": [2, 2, 4]}[use]
    assert len(count) == traces


def test_a_tensor_that_is_held_tells(count: list[Any]) -> None:
    results = [int(next(iter(tf.data.Dataset.range(1).map(_Adapter(tf.constant(k, tf.int64)).function("step")))))
               for k in (1, 1, 2)]
    assert results == [1, 1, 2]
    assert len(count) == 3


def test_data_does_not_outlive_its_pipeline(model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    adapters: list[Any] = []
    init = ArrayDataAdapter.__init__

    def noted(self: Any, *all_: Any, **named: Any) -> None:
        adapters.append(weakref.ref(self))
        init(self, *all_, **named)

    monkeypatch.setattr(ArrayDataAdapter, "__init__", noted)
    with afterburner.enabled():
        model.predict(_array(10), verbose=0)
        gc.collect()
        assert traced._traced
        assert [a() for a in adapters] == [None]


def test_few_functions_are_kept(model: keras.Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traced, "_KEPT", 4)
    with afterburner.enabled():
        for rows in range(5, 10):
            model.predict(_array(rows), batch_size=4, verbose=0)
        assert len(traced._traced) == 4
    assert not traced._traced
