"""Optionals that functions return: opened without TensorFlow, and TensorFlow's own to whoever looks closer."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from afterburner.frontend.optionals import OpenOptional
from tests.frontend.kit import captured

X = np.arange(6, dtype=np.float32).reshape(2, 3)


def _step(x: tf.Tensor) -> Any:
    y = tf.sin(x) * 2.0 + tf.cos(x) - 1.0
    return tf.experimental.Optional.from_value({"loss": tf.reduce_sum(y), "all": (y, y + 1.0)})


def _flat_step(x: tf.Tensor) -> Any:
    y = tf.sin(x) * 2.0 + tf.cos(x) - 1.0
    return tf.experimental.Optional.from_value({"loss": tf.reduce_sum(y), "accuracy": tf.reduce_mean(y)})


@pytest.fixture(params=[_step, _flat_step], ids=["nested", "flat"])
def pair(request: pytest.FixtureRequest) -> Any:
    """An open optional beside TensorFlow's."""
    stock = request.param(tf.constant(X))
    step = tf.function(request.param)
    with captured():
        for _ in range(5):
            ours = step(tf.constant(X))
    assert type(ours) is OpenOptional
    return ours, stock


def _equal(ours: Any, stock: Any) -> None:
    tf.nest.assert_same_structure(ours, stock)
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(stock), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_gives_its_value_without_a_call_of_tensorflow(pair: Any) -> None:
    ours, stock = pair
    assert bool(ours.has_value())
    assert ours.has_value().dtype == tf.bool
    _equal(ours.get_value(), stock.get_value())
    assert list(ours.get_value()) == list(stock.get_value())
    assert ours._sealed is None


def test_is_described_like_tensorflows(pair: Any) -> None:
    ours, stock = pair
    assert isinstance(ours, tf.experimental.Optional)
    assert ours.element_spec == stock.element_spec
    assert tf.type_spec_from_value(ours) == tf.type_spec_from_value(stock)


def test_its_variant_tensor_holds_the_value(pair: Any) -> None:
    ours, stock = pair
    variant = ours._variant_tensor
    assert variant.dtype == tf.variant
    assert ours._variant_tensor is variant
    remade = tf.OptionalSpec(stock.element_spec)._from_components([variant])
    _equal(remade.get_value(), stock.get_value())


def test_passes_into_a_function(pair: Any) -> None:
    ours, stock = pair

    @tf.function
    def outside(optional: Any) -> Any:
        return optional.has_value(), optional.get_value()

    @tf.function
    def captures() -> Any:
        return ours.has_value(), ours.get_value()

    for has_value, value in (outside(ours), captures()):
        assert bool(has_value)
        _equal(value, stock.get_value())


def test_passes_through_a_dataset(pair: Any) -> None:
    ours, stock = pair
    (element,) = tf.data.Dataset.from_tensors(ours)
    _equal(element.get_value(), stock.get_value())


def test_an_optional_that_may_be_empty_stays_tensorflows() -> None:
    @tf.function
    def step(iterator: Any) -> Any:
        optional = iterator.get_next_as_optional()
        return optional, tf.sin(tf.constant(X)) * 2.0 + tf.cos(tf.constant(X))

    with captured():
        iterator = iter(tf.data.Dataset.range(3))
        found = [bool(step(iterator)[0].has_value()) for _ in range(5)]
    assert found == [True, True, True, False, False]


def test_values_of_one_step_outlive_the_next() -> None:
    step = tf.function(_flat_step)
    with captured():
        for _ in range(4):
            step(tf.constant(X))
        first, second = step(tf.constant(X)), step(tf.constant(X + 1))
    _equal(first.get_value(), _flat_step(tf.constant(X)).get_value())
    _equal(second.get_value(), _flat_step(tf.constant(X + 1)).get_value())
