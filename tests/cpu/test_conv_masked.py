"""Convolutions that leave zeros out by masks, as with AVX-512, against those that do not: the same bits."""

import numpy as np
import pytest
from cpu_harness import run_kernel
from zeros_kit import TRUE, Case, both_ways, check_bits, check_not_finite

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import correlation_masked
from afterburner.cpu.kernels.correlation_masked import MaskedCorrelator

CASES = {
    "valid": Case((2, 12, 14, 8), (3, 3, 8, 64), (1, 1), ((0, 0), (0, 0))),
    "two groups of panels": Case((2, 12, 14, 24), (3, 3, 24, 256), (1, 1), ((1, 1), (1, 1))),
    "strided": Case((1, 19, 23, 40), (3, 3, 40, 128), (2, 2), ((1, 1), (0, 1))),
    "asymmetric": Case((1, 10, 9, 16), (3, 4, 16, 64), (1, 1), ((0, 3), (2, 1))),
    "channels in parts": Case((1, 7, 21, 272), (3, 3, 272, 128), (1, 1), ((1, 1), (1, 1))),
    "two words": Case((1, 6, 9, 128), (3, 3, 128, 64), (1, 1), ((1, 1), (1, 1))),
    "whole sums in registers": Case((2, 5, 9, 64), (1, 1, 64, 256), (1, 1), ((0, 0), (0, 0))),
    "a row of taps in registers": Case((2, 5, 9, 24), (1, 3, 24, 64), (1, 1), ((0, 0), (1, 1))),
    "large enough to ask ahead": Case((4, 33, 36, 64), (1, 1, 64, 64), (1, 1), ((0, 0), (0, 0))),
    "rows beside the image": Case((1, 5, 9, 64), (1, 1, 64, 128), (1, 1), ((1, 2), (0, 1))),
    "parts of 1x1": Case((1, 5, 31, 320), (1, 1, 320, 128), (1, 1), ((0, 0), (0, 0))),
    "sums in blocks of taps": Case((1, 7, 20, 200), (3, 3, 200, 128), (1, 1), ((1, 1), (1, 1))),
    "sums in blocks of channels": Case((1, 7, 20, 576), (1, 3, 576, 128), (1, 1), ((0, 0), (1, 1))),
    "padding beyond window": Case((1, 5, 9, 16), (3, 3, 16, 128), (1, 1), ((4, 4), (4, 5))),
}


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """Whether it pays or not."""
    monkeypatch.setattr(correlation_masked, "_FEWEST_PIXELS", 1)
    monkeypatch.setattr(correlation_masked, "_FEWEST_PRODUCTS", 1)
    monkeypatch.setattr(correlation_masked, "_FEWEST_BLOCKS", 1)
    for share in ("most_nonzero", "most_of_one_tap"):
        monkeypatch.setattr(MaskedCorrelator, share, 0.8)


def arrays(case, gradient, density, seed=0):
    """Operands; so much of the image is not zero."""
    made, image = CASES[case].arrays(gradient, seed)
    image[np.random.default_rng(seed + 1).random(image.shape) >= density] = 0
    return made


@pytest.mark.parametrize(("case", "gradient"), both_ways(CASES))
def test_bits_are_those_of_the_dense_kernel(case, gradient):
    isa = isas.host("avx512")
    dense, masked = CASES[case].kernels(gradient, isa)
    assert masked.label == f"{dense.label} (zeros left out)"
    for density in (0.0, 0.3, 0.6, 1.0):
        check_bits(dense, masked, arrays(case, gradient, density), isa)


@pytest.mark.parametrize("where", ["image", "filter"])
@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_goes_where_it_goes_in_the_dense_kernel(where, what):
    isa = isas.host("avx512")
    operands = arrays("two groups of panels", False, 0.3)
    operands[0][0, 4, 5] = 0
    operands[where == "filter"].reshape(-1)[37] = what
    check_not_finite(CASES["two groups of panels"].kernels(False, isa), operands, isa)


def test_zeros_are_left_out(monkeypatch):
    """A zero that is multiplied by an infinity makes NaN: where the filter is taken for finite, none comes."""
    monkeypatch.setattr(MaskedCorrelator, "_finite", lambda self, e: TRUE)
    isa = isas.host("avx512")
    operands = arrays("valid", False, 0.3)
    operands[0][...] = np.abs(operands[0])
    operands[1][...] = np.inf
    operands[0][0, 5, 5, 1] = 0
    got, = run_kernel(CASES["valid"].kernels(False, isa)[1], operands, isa)
    assert not np.isnan(got).any()


def test_narrow_results_stay_dense():
    case = Case((2, 12, 14, 8), (3, 3, 8, 32), (1, 1), ((0, 0), (0, 0)))
    assert "(zeros left out)" not in case.kernels(False, isas.host("avx512"))[1].label
