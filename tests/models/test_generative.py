"""CycleGAN and style transfer, made small: gradients by name, losses over steps, the same bits in every run."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from tests.frontend import kit
from tests.frontend.kit import captured
from tests.models.generative import FLOOR, GENERATIVE, SMALL, bounds, check_taken, error
from tests.models.zoo import ROUNDING

FLOORS = [("float32", FLOOR), ("mixed_bfloat16", ROUNDING["mixed_bfloat16"])]  # errors always allowed, relative


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(kit, "TARGET", "cpu")


@lru_cache(maxsize=len(GENERATIVE))
def exact_gradients(name):
    return GENERATIVE[name][0]("float64", SMALL)


@pytest.mark.parametrize("policy, floor", [FLOORS[0], pytest.param(*FLOORS[1], marks=pytest.mark.sweep)])
@pytest.mark.parametrize("name", GENERATIVE)
def test_every_gradient(name, policy, floor):
    gradients, _ = GENERATIVE[name]
    reference, stock = exact_gradients(name), gradients(policy, SMALL)
    with captured() as taken:
        ours = gradients(policy, SMALL)
    check_taken(taken)
    assert len(taken.recorder.report().functions) == 1
    for value, bound in bounds(stock, reference, floor).items():
        assert np.any(reference[value]), value
        assert error(ours, reference, value) <= bound, value


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.sweep) if name == "cyclegan" else name for name in GENERATIVE])
def test_training(name):
    _, train = GENERATIVE[name]
    reference, stock = train("float64", SMALL), train("float32", SMALL)
    with captured() as taken:
        ours = train("float32", SMALL)
        again = train("float32", SMALL)
    check_taken(taken)
    assert len(taken.recorder.report().functions) == 2
    scale = float(np.linalg.norm(reference["losses"]))
    assert error(ours, reference, "losses") <= max(2 * error(stock, reference, "losses"), 1e-6 * scale)
    for value in ours:
        np.testing.assert_array_equal(ours[value], again[value], err_msg=value)
