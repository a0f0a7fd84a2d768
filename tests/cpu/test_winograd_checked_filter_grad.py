"""Filter gradients by F(2x2, 3x3) in default precision against float64 and the direct kernel."""

from dataclasses import replace

import numpy as np
import pytest
import test_prologue
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded
from ranges import RANGES, magnitudes
from test_conv import build
from test_winograd import CASES, ONE
from winograd_kit import (
    check_error_within_twice,
    check_not_finite,
    check_where_it_pays,
    checked,
    computed_directly,
    direct,
)

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv_filter_grad, lower, winograd, winograd_filter_grad

UNIT = 2.0**-24
ROUNDINGS = 12  # of the largest sum of |x||dy| over the taps of an element; 1 to 4 were seen
NAME = "conv2d_filter_grad"
MIDDLE = ((3, 12, 13, 32), (3, 3, 32, 40), (1, 1), ONE, (1, 1), 1)


@pytest.fixture
def always(monkeypatch):
    """Winograd wherever it is possible, whatever it costs."""
    monkeypatch.setattr(conv_filter_grad, "filter_scheme_that_pays",
                        lambda op, *a: winograd.F2X2 if winograd_filter_grad.fits(op) else None)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CASES)
def test_f32(case, isa_name, always):
    node, arrays = build(NAME, CASES[case], "f32")
    kernel, isa = checked(node, isa_name)
    got, = run_guarded(kernel, arrays, isa)
    again, = run_kernel(kernel, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    exact, magnitude = magnitudes(node, arrays)
    assert (np.abs(got - exact) <= ROUNDINGS * UNIT * magnitude.max((0, 1))).all()


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", ["3x3", "3x3 wide", "3x3 often zero", "few channels"])
def test_prologues(name, isa_name, always):
    node, arrays = test_prologue.fused(name, "f32")
    kernel, isa = checked(node, isa_name)
    got, = run_guarded(kernel, arrays, isa)
    plain, operands = test_prologue.made_before(node, arrays)
    assert got.tobytes() == run_guarded(checked(plain, isa_name)[0], operands, isa)[0].tobytes()
    exact, magnitude = magnitudes(plain, operands)
    assert (np.abs(got - exact) <= ROUNDINGS * UNIT * magnitude.max((0, 1))).all()


@pytest.mark.parametrize("rectified", [False, True])
@pytest.mark.parametrize("kind", RANGES)
def test_error_on_wide_ranges_is_within_twice_the_direct_kernels(kind, rectified, always, monkeypatch):
    node, arrays = build(NAME, ((2, 28, 28, 48), (3, 3, 48, 48), (1, 1), ONE, (1, 1), 1), "f32")
    RANGES[kind](*arrays)
    if rectified:
        arrays[0] = np.maximum(arrays[0], 0)
    check_error_within_twice(node, arrays, monkeypatch)


@pytest.mark.parametrize(("kind", "found"), [("equal", False), ("rectified", False), ("channels", False),
                                             ("aligned", True), ("few_elements", True)])
def test_a_sample_tells_what_is_computed_directly(kind, found, always, monkeypatch):
    node, arrays = build(NAME, ((2, 28, 28, 48), (3, 3, 48, 48), (1, 1), ONE, (1, 1), 1), "f32")
    RANGES[kind](*arrays)
    assert computed_directly(node, arrays, monkeypatch) == found


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_as_in_the_direct_kernel(value, which, always, monkeypatch):
    node, arrays = build(NAME, MIDDLE, "f32")
    arrays[which][1, 2, 2, 3] = value
    check_not_finite(node, arrays, monkeypatch)


def test_prologues_are_made_for_the_direct_kernel_too(always, monkeypatch):
    node, arrays = test_prologue.fused("3x3", "f32")
    arrays[0][0, 1, 1, 2] = np.inf
    kernel, isa = checked(node)
    np.testing.assert_array_equal(run_guarded(kernel, arrays, isa)[0], direct(node, arrays, monkeypatch))


def test_whole_numbers_are_exact(always):
    node, (x, dy) = build(NAME, MIDDLE, "f32")
    rng = np.random.default_rng(0)
    x[...], dy[...] = rng.integers(-9, 9, x.shape), rng.integers(-9, 9, dy.shape)
    kernel, isa = checked(node)
    np.testing.assert_array_equal(run_kernel(kernel, [x, dy], isa)[0], magnitudes(node, [x, dy])[0])


def test_channels_of_zeros_have_no_gradient(always):
    node, (x, dy) = build(NAME, MIDDLE, "f32")
    x[..., 3], dy[..., 7] = 0, 0
    kernel, isa = checked(node)
    got, = run_kernel(kernel, [x, dy], isa)
    assert not got[:, :, 3].any() and not got[..., 7].any()


def test_only_where_dy_is_not_known_to_have_many_zeros():
    node, _ = build(NAME, ((4, 28, 28, 64), (3, 3, 64, 64), (1, 1), ONE, (1, 1), 1), "f32")
    assert "(Winograd 2x2)" in lower(node, isas.host()).label
    node.op = replace(node.op, sparse_dy=True)
    assert "(Winograd 2x2)" not in lower(node, isas.host()).label


def test_only_where_it_pays():
    check_where_it_pays(NAME)
