"""Convolutions that leave zeros out, against those that do not: the same bits."""

import numpy as np
import pytest
from cpu_harness import run_kernel
from zeros_kit import FIRST, OTHERS, TRUE, Case, both_ways, check_bits, check_not_finite

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv_direct, correlation_sparse

CASES = {
    "valid": Case((2, 12, 14, 8), (3, 3, 8, 64), (1, 1), ((0, 0), (0, 0))),
    "same": Case((1, 9, 11, 20), (3, 3, 20, 128), (1, 1), ((1, 1), (1, 1))),
    "two groups of panels": Case((1, 9, 9, 6), (3, 3, 6, 256), (1, 1), ((1, 1), (1, 1))),
    "strided": Case((1, 19, 23, 8), (3, 3, 8, 128), (2, 2), ((1, 1), (0, 1))),
    "asymmetric": Case((1, 10, 9, 24), (3, 4, 24, 64), (1, 1), ((0, 3), (2, 1))),
    "channels in parts": Case((1, 7, 50, 272), (3, 3, 272, 128), (1, 1), ((1, 1), (1, 1))),
    "1x1": Case((2, 9, 8, 24), (1, 1, 24, 192), (1, 1), ((0, 0), (0, 0))),
    "sums in blocks of taps": Case((1, 7, 50, 200), (3, 3, 200, 128), (1, 1), ((1, 1), (1, 1))),
    "sums in blocks of channels": Case((1, 7, 50, 576), (1, 3, 576, 128), (1, 1), ((0, 0), (1, 1))),
    "taps never read": Case((1, 1, 70, 16), (3, 3, 16, 128), (1, 1), ((1, 1), (1, 1))),
    "padding beyond window": Case((1, 5, 9, 16), (3, 3, 16, 128), (1, 1), ((4, 4), (4, 5))),
}


def arrays(case, gradient, density, seed=0):
    """Operands; so much of the image is not zero."""
    made, image = CASES[case].arrays(gradient, seed)
    image[np.random.default_rng(seed + 1).random(image.shape) >= density] = 0
    return made


def all_sparse(monkeypatch):
    """Everywhere, on every instruction set, whether it pays or not."""
    monkeypatch.setattr(conv_direct, "scheme_that_pays", lambda *a: None)
    monkeypatch.setattr(correlation_sparse, "_FEWEST", 1)
    monkeypatch.setattr(correlation_sparse, "_FEWEST_PIXELS", 1)
    monkeypatch.setattr(correlation_sparse, "_FEWEST_PRODUCTS", 1)


@pytest.mark.parametrize(("case", "gradient", "isa_name"), [
    *((*both, FIRST) for both in both_ways(CASES)),
    *(("asymmetric", gradient, name) for name in OTHERS for gradient in (False, True))])
def test_bits_are_those_of_the_dense_kernel(case, gradient, isa_name, monkeypatch):
    all_sparse(monkeypatch)
    isa = isas.host(isa_name)
    dense, sparse = CASES[case].kernels(gradient, isa)
    assert sparse.label == f"{dense.label} (zeros left out)"
    for density in (0.0, 0.3, 0.5, 1.0):
        check_bits(dense, sparse, arrays(case, gradient, density), isa)


@pytest.mark.parametrize("where", ["image", "filter"])
@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_goes_where_it_goes_in_the_dense_kernel(where, what, monkeypatch):
    all_sparse(monkeypatch)
    isa = isas.host(FIRST)
    operands = arrays("same", False, 0.3)
    operands[0][0, 4, 5] = 0
    operands[where == "filter"].reshape(-1)[37] = what
    check_not_finite(CASES["same"].kernels(False, isa), operands, isa)


def test_the_whole_filter_is_looked_at_where_some_taps_are_never_read(monkeypatch):
    """Of the filter's three rows of taps only the one in the middle is read."""
    all_sparse(monkeypatch)
    isa = isas.host(FIRST)
    operands = arrays("taps never read", False, 0.3)
    operands[0][..., 5] = 0
    operands[1][1, 2, 5, 127] = np.inf
    check_not_finite(CASES["taps never read"].kernels(False, isa), operands, isa)


def test_zeros_are_left_out(monkeypatch):
    """A zero that is multiplied by an infinity makes NaN: where the filter is taken for finite, none comes."""
    all_sparse(monkeypatch)
    monkeypatch.setattr(correlation_sparse.SparseCorrelator, "_finite", lambda self, e: TRUE)
    isa = isas.host(FIRST)
    operands = arrays("valid", False, 0.3)
    operands[1][...] = np.inf
    for density, finds in ((0.3, False), (1.0, True)):
        operands[0][...] = np.abs(arrays("valid", False, density)[0])
        operands[0][..., 0] = density == 1.0
        got, = run_kernel(CASES["valid"].kernels(False, isa)[1], operands, isa)
        assert not np.isnan(got).any()
        operands[0][0, 5, 5, 1] = 0
        got, = run_kernel(CASES["valid"].kernels(False, isa)[1], operands, isa)
        assert np.isnan(got).any() == finds


@pytest.mark.parametrize(("density", "left_out"), [(0.35, True), (0.5, False)])
def test_1x1_filters_need_more_zeros(density, left_out, monkeypatch):
    """Zeros times infinity make NaN only where all products are computed, here though half of the elements are zero."""
    all_sparse(monkeypatch)
    monkeypatch.setattr(correlation_sparse.SparseCorrelator, "_finite", lambda self, e: TRUE)
    isa = isas.host(FIRST)
    operands = arrays("1x1", False, density)
    operands[0][...] = np.abs(operands[0])
    operands[1][...] = np.inf
    got, = run_kernel(CASES["1x1"].kernels(False, isa)[1], operands, isa)
    assert np.isnan(got).any() != left_out


@pytest.mark.parametrize("case", [
    Case((2, 12, 14, 8), (3, 3, 8, 32)), Case((2, 7, 7, 8), (3, 3, 8, 64)),
    Case((2, 12, 14, 8), (1, 1, 8, 64))], ids=str)
def test_narrow_results_and_small_images_stay_dense(case):
    assert "(zeros left out)" not in case.kernels(False, isas.host("avx2"))[1].label
