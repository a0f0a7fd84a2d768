"""F(2x2, 3x3) of default precision against float64 and the direct kernel."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded
from ranges import RANGES, magnitudes
from test_conv import build
from test_epilogue import bias_relu, fused, masked, residual_tanh
from test_winograd import CASES, ONE
from winograd_kit import (
    check_error_within_twice,
    check_not_finite,
    check_where_it_pays,
    checked,
    computed_directly,
    direct,
)

from afterburner.cpu.kernels import conv_direct, winograd
from afterburner.ir import interpret
from afterburner.ir.ops.conv import Conv2d

UNIT = 2.0**-24
ROUNDINGS = 12  # of an output's own sum of |x||w|; 1 to 6 were seen, as with direct sums
NAMES = ["conv2d", "conv2d_input_grad"]
MIDDLE = ((2, 12, 13, 32), (3, 3, 32, 40), (1, 1), ONE, (1, 1), 1)


@pytest.fixture
def always(monkeypatch):
    """Winograd wherever it is possible, whatever it costs."""
    monkeypatch.setattr(conv_direct, "narrow_pays", lambda *a: False)
    monkeypatch.setattr(conv_direct, "scheme_that_pays",
                        lambda c, schemes, num, isa: winograd.F2X2 if winograd.fits(c) else None)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_f32(name, case, isa_name, always):
    node, arrays = build(name, CASES[case], "f32")
    kernel, isa = checked(node, isa_name)
    got, = run_guarded(kernel, arrays, isa)
    again, = run_kernel(kernel, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    exact, magnitude = magnitudes(node, arrays)
    assert (np.abs(got - exact) <= ROUNDINGS * UNIT * magnitude).all()


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("epilogue", [bias_relu, residual_tanh, masked], ids=lambda f: f.__name__)
@pytest.mark.parametrize("root", NAMES)
def test_epilogues(root, epilogue, isa_name, always):
    node, arrays = fused(root, "f32", epilogue)
    kernel, isa = checked(node, isa_name)
    for actual, expected in zip(run_guarded(kernel, arrays, isa), interpret(node.op.body, arrays), strict=True):
        np.testing.assert_allclose(actual, expected, 2e-5, 2e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", RANGES)
def test_error_on_wide_ranges_is_within_twice_the_direct_kernels(kind, name, always, monkeypatch):
    node, arrays = build(name, ((2, 24, 24, 64), (3, 3, 64, 64), (1, 1), ONE, (1, 1), 1), "f32")
    image, filter_ = (0, 1) if name == "conv2d" else (1, 0)
    RANGES[kind](arrays[image], arrays[filter_])
    check_error_within_twice(node, arrays, monkeypatch)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "found"), [("equal", False), ("rectified", False), ("channels", False),
                                             ("pixels", False), ("few_elements", True)])
def test_a_sample_tells_what_is_computed_directly(kind, found, name, always, monkeypatch):
    node, arrays = build(name, ((2, 24, 24, 64), (3, 3, 64, 64), (1, 1), ONE, (1, 1), 1), "f32")
    image, filter_ = (0, 1) if name == "conv2d" else (1, 0)
    RANGES[kind](arrays[image], arrays[filter_])
    assert computed_directly(node, arrays, monkeypatch) == found


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("ratio", "same"), [(10, False), (20, True), (np.inf, True)])
def test_filters_with_unequal_taps_are_computed_directly(ratio, same, name, always, monkeypatch):
    node, arrays = build(name, MIDDLE, "f32")
    filter_ = arrays[1 if name == "conv2d" else 0]
    filter_[...] = np.sign(filter_)
    one = (slice(None), 7) if name == "conv2d" else (7, slice(None))  # an output channel
    filter_[(0, 2, *one)] /= ratio
    assert computed_directly(node, arrays, monkeypatch) == same


def test_filters_of_zeros_are_equal(always):
    node, (x, w) = build("conv2d", MIDDLE, "f32")
    w[..., 5] = 0
    kernel, isa = checked(node)
    got, = run_kernel(kernel, [x, w], isa)
    assert not got[..., 5].any()
    exact, magnitude = magnitudes(node, [x, w])
    assert (np.abs(got - exact) <= ROUNDINGS * UNIT * magnitude).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_is_as_in_the_direct_kernel(value, which, name, always, monkeypatch):
    node, arrays = build(name, MIDDLE, "f32")
    arrays[which][1, 2, 2, 3] = value
    check_not_finite(node, arrays, monkeypatch)


def test_what_overflows_on_the_way_is_computed_directly(always, monkeypatch):
    node, (x, w) = build("conv2d", MIDDLE, "f32")
    x[...], w[...] = 3e38, w * 1e-4
    kernel, isa = checked(node)
    got, expected = run_kernel(kernel, [x, w], isa)[0], direct(node, [x, w], monkeypatch)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(got, expected)


def test_epilogues_see_direct_sums_where_there_are_doubts(always):
    node, arrays = fused("conv2d", "f32", residual_tanh)
    arrays[0][0, 1, 1, 1] = np.inf
    kernel, isa = checked(node)
    for actual, expected in zip(run_guarded(kernel, arrays, isa), interpret(node.op.body, arrays), strict=True):
        np.testing.assert_allclose(actual, expected, 2e-5, 2e-5)


def test_whole_numbers_are_exact(always):
    node, (x, w) = build("conv2d", MIDDLE, "f32")
    rng = np.random.default_rng(0)
    x[...], w[...] = rng.integers(-9, 9, x.shape), rng.integers(-9, 9, w.shape)
    kernel, isa = checked(node)
    np.testing.assert_array_equal(run_kernel(kernel, [x, w], isa)[0], magnitudes(node, [x, w])[0])


def test_outputs_that_see_only_zeros_are_zero(always):
    node, (x, w) = build("conv2d", MIDDLE, "f32")
    x[:, :, 6:] = 0
    kernel, isa = checked(node)
    got, = run_kernel(kernel, [x, w], isa)
    assert not got[:, :, 7:].any()
    assert got[:, :, 6].any()


def test_factors_of_a_kept_filter_and_its_doubts_are_kept(always):
    attributes = dict(strides=(1, 1), padding=ONE, dilation=(1, 1), groups=1)
    node, arrays = build("conv2d", MIDDLE, "f32")
    node.op = Conv2d(**attributes, kept=True)
    kernel, isa = checked(node)
    assert kernel.kept == (1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_only_where_it_pays(name):
    check_where_it_pays(name)
