"""What counts as the same result of two devices."""

from __future__ import annotations

import numpy as np
import pytest

from afterburner.ir.types import BF16, BOOL, F32, F64, I32, TensorType
from afterburner.runtime.agreement import NOTHING, disagreement, distance, grain_of, is_float, shaken
from afterburner.runtime.views import array_at


def differs(found, expected, noisy=None, dtype=F32, others=()) -> str:
    a, b = (np.asarray(x, dtype.numpy) for x in (found, expected))
    type_ = TensorType(dtype, b.shape)
    noise = NOTHING if noisy is None else distance(np.asarray(noisy, dtype.numpy), b, type_).largest(NOTHING)
    return disagreement(a, b, noise, type_, grain_of([type_, *others]))


def test_rounding_is_allowed_and_nothing_else() -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    assert not differs(x * (1 + 1e-5), x)
    assert "error of" in differs(x * 1.01, x)
    assert not differs(x * 1.01, x, dtype=BF16)
    assert not differs(x * 1.01, x, others=[TensorType(BF16, ())])  # float32 that is computed from halves
    one = x.copy()
    one[3] += 1.0
    assert "error of" in differs(one, x)
    assert "error of" in differs(x * 0, x)


def test_fast_precision_is_coarser() -> None:
    types = [TensorType(F32, ()), TensorType(I32, ())]
    assert grain_of(types, fast=True) == grain_of([TensorType(BF16, ())])
    assert grain_of([TensorType(F64, ())], fast=True) == grain_of([TensorType(F64, ())])


def test_what_moves_with_the_last_bits_of_the_inputs_is_not_judged() -> None:
    sign = np.array([1e-3, -1e-3, 1e-3, -1e-3])  # an optimizer's first step along gradients that are rounding alone
    assert differs(-sign, sign)
    assert not differs(-sign, sign, noisy=np.abs(sign))
    assert not differs([1, 2], [1, 3], noisy=[1, 2], dtype=I32)


def test_integers_are_exact() -> None:
    assert differs([7, 8], [7, 9], dtype=I32) == "1 of 2 elements differ"
    assert differs([True], [False], dtype=BOOL) and not differs([True], [True], dtype=BOOL)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_to_be_so_on_both_sides(odd: float) -> None:
    assert not differs([odd, 1], [odd, 1])
    assert "on one side alone" in differs([0, 1], [odd, 1])
    assert "on one side alone" in differs([odd, 1], [0, 1])
    assert "on one side alone" in differs([odd], [np.inf if np.isnan(odd) else -odd])


def test_tiny_numbers_may_be_zero() -> None:
    assert not differs([0, 0], [1e-39, 1e-40])


def test_shaking_changes_last_bits() -> None:
    x = np.array([1.0, -3.0, 0.0, np.inf], np.float32)
    y = shaken(x, grain_of([TensorType(F32, ())]), 0)
    assert y.dtype == x.dtype and y[2] == 0 and np.isinf(y[3])
    assert np.any(shaken(np.ones(64, np.float32), grain_of([]), 1) != shaken(np.ones(64, np.float32), grain_of([]), 2))
    assert np.all(y[:2] != x[:2]) and np.allclose(x[:2], y[:2], rtol=1e-5)
    half = shaken(x.astype(BF16.numpy), grain_of([TensorType(F32, ()), TensorType(BF16, ())]), 0)
    assert half.dtype == BF16.numpy and half[0] != 1 and is_float(TensorType(BF16, ()))
    assert not is_float(TensorType(I32, ())) and grain_of([TensorType(I32, ())]) == grain_of([TensorType(F32, ())])


def test_an_array_lies_where_the_memory_is() -> None:
    x = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert np.shares_memory(array_at(x.ctypes.data, TensorType(I32, (2, 3))), x)
    assert array_at(0, TensorType(I32, (2, 0))).shape == (2, 0)
