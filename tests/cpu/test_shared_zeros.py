"""Convolutions that leave out zeros which all pixels of a tile share, against those that do not: the same bits."""

import numpy as np
import pytest
from cpu_harness import run_kernel
from zeros_kit import FIRST, OTHERS, TRUE, Case, both_ways, check_bits, check_not_finite

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import shared_zeros

LABEL = "(shared zeros left out)"
CASES = {
    "same": Case((1, 9, 11, 20), (3, 3, 20, 32), (1, 1), ((1, 1), (1, 1)), (1, 1), True),
    "valid": Case((2, 8, 15, 8), (3, 3, 8, 24), (1, 1), ((0, 0), (0, 0)), (1, 1), True),
    "strided": Case((1, 19, 23, 13), (3, 3, 13, 40), (2, 2), ((1, 1), (0, 1)), (1, 1), True),
    "asymmetric": Case((1, 10, 9, 24), (3, 4, 24, 32), (1, 1), ((0, 3), (2, 1)), (1, 1), True),
    "rows apart": Case((1, 13, 9, 16), (3, 3, 16, 32), (1, 1), ((2, 2), (1, 1)), (2, 1), True),
    "1x1": Case((2, 9, 40, 24), (1, 1, 24, 64), (1, 1), ((0, 0), (0, 0)), (1, 1), True),
    "padding beyond window": Case((1, 5, 9, 16), (3, 3, 16, 30), (1, 1), ((4, 4), (4, 5)), (1, 1), True),
    "sums in blocks of taps": Case((1, 5, 9, 200), (3, 3, 200, 32), (1, 1), ((1, 1), (1, 1)), (1, 1), True),
    "sums in blocks of channels": Case((1, 5, 8, 576), (1, 3, 576, 32), (1, 1), ((0, 0), (1, 1)), (1, 1), True),
    "blocks streamed": Case((1, 5, 6, 520), (3, 3, 520, 256), (1, 1), ((1, 1), (1, 1)), (1, 1), True),
    "taps never read": Case((1, 1, 70, 24), (3, 3, 24, 32), (1, 1), ((1, 1), (1, 1)), (1, 1), True),
    "1x1 streamed": Case((1, 7, 7, 200), (1, 1, 200, 512), (1, 1), ((0, 0), (0, 0)), (1, 1), True),
    "3x3 streamed": Case((2, 5, 6, 40), (3, 3, 40, 512), (1, 1), ((1, 1), (1, 1)), (1, 1), True),
}
STREAMED = ("1x1 streamed", "3x3 streamed")


@pytest.fixture
def always_worth_it(monkeypatch):
    """The wider the registers, the fewer there are for a filter, and the sooner zeros are not worth listing."""
    monkeypatch.setattr(shared_zeros, "_FEWEST_VECTORS", 1)


def arrays(case, gradient, share):
    """Operands; of the image a share of the channels, others in each quarter of a row, is mostly not zero."""
    made, image = CASES[case].arrays(gradient)
    rng = np.random.default_rng(1)
    for columns in np.array_split(np.arange(image.shape[2]), 4):
        image[:, :, columns] *= rng.random((*image.shape[:2], 1, image.shape[3])) < share
    image[rng.random(image.shape) < 0.1] = -0.0
    return made


@pytest.mark.parametrize(("case", "gradient", "isa_name"), [
    *((*both, FIRST) for both in both_ways(CASES)),
    *((case, gradient, name) for case in ("asymmetric", *STREAMED) for name in OTHERS for gradient in (False, True))])
def test_bits_are_those_of_the_dense_kernel(case, gradient, isa_name, always_worth_it):
    isa = isas.host(isa_name)
    dense, shared = CASES[case].kernels(gradient, isa)
    assert shared.label == f"{dense.label} {LABEL}"
    assert (len(shared.phases), shared.kept[1]) == (3, 2)
    for share in (0.0, 0.4, 1.0):
        check_bits(dense, shared, arrays(case, gradient, share), isa)


@pytest.mark.parametrize("case", ["same", "1x1 streamed"])
@pytest.mark.parametrize("where", ["image", "filter"])
@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_goes_where_it_goes_in_the_dense_kernel(case, where, what, always_worth_it):
    isa = isas.host(FIRST)
    operands = arrays(case, False, 0.3)
    operands[where == "filter"].reshape(-1)[37] = what
    check_not_finite(CASES[case].kernels(False, isa), operands, isa)


def test_the_whole_filter_is_looked_at_where_some_taps_are_never_read(always_worth_it):
    """Of the filter's three rows of taps only the one in the middle is read."""
    isa = isas.host(FIRST)
    operands = arrays("taps never read", False, 0.3)
    operands[0][..., 5] = 0
    operands[1][1, 2, 5, 31] = np.inf
    check_not_finite(CASES["taps never read"].kernels(False, isa), operands, isa)


@pytest.mark.parametrize("case", ["same", "1x1", "1x1 streamed", "3x3 streamed"])
def test_shared_zeros_are_left_out(case, always_worth_it, monkeypatch):
    """A zero that is multiplied by an infinity makes NaN: where the filter is taken for finite, none comes."""
    monkeypatch.setattr(shared_zeros, "noted_finite", lambda e, notes, packs: TRUE)
    isa = isas.host(FIRST)
    operands = arrays(case, False, 1.0)
    operands[0][...] = 1
    operands[0][..., 3] = 0
    operands[1][...] = np.inf
    got, = run_kernel(CASES[case].kernels(False, isa)[1], operands, isa)
    assert not np.isnan(got).any()
    operands[0][0, 2, 2, 3] = 1  # now the tile's other pixels are multiplied
    got, = run_kernel(CASES[case].kernels(False, isa)[1], operands, isa)
    assert np.isnan(got).any()


@pytest.mark.parametrize("case", [
    Case((2, 12, 14, 8), (1, 1, 8, 32), kept=True), Case((32, 56, 56, 128), (3, 3, 128, 32), kept=True),
    Case((1, 7, 7, 200), (1, 1, 200, 512))], ids=str)
def test_few_products_many_pixels_and_filters_that_change_stay_dense(case):
    assert "zeros" not in case.kernels(False, isas.host("avx2"))[1].label
