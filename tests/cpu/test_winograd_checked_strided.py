"""F(2x2, 2x2) and F(3x3, 2x2) of default precision, of 4x4 filters, against float64 and the direct kernels."""

import numpy as np
import pytest
import test_prologue
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded
from ranges import RANGES, magnitudes
from test_conv import build
from test_epilogue import ROOTS, bias_relu, fused, masked, residual_tanh
from test_winograd_strided import CASES, ONE
from winograd_kit import NAMES, check_error_within_twice, check_not_finite, checked, computed_directly, direct

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv_direct, conv_filter_grad, lower, winograd, winograd_whole_filter_grad
from afterburner.ir import interpret
from afterburner.ir.ops.conv import Conv2d, Conv2dInputGrad

UNIT = 2.0**-24
ROUNDINGS = 12  # of an output's own sum of |x||w|, or of the largest of a filter's element; 1 to 5 were seen
GRADIENT = "conv2d_filter_grad"
BOTH = ["conv2d", "conv2d_input_grad"]
TAKEN = [case for case in CASES if case not in ("square of three", "six by two", "six by three")]
STRIDES = {1: ((2, 23, 24, 64), (4, 4, 64, 64), (1, 1), ONE, (1, 1), 1),
           2: ((2, 48, 48, 64), (4, 4, 64, 64), (2, 2), ONE, (1, 1), 1)}
MIDDLE = ((2, 24, 26, 32), (4, 4, 32, 40), (2, 2), ONE, (1, 1), 1)


@pytest.fixture(params=["streamed", "in blocks"])
def always(monkeypatch, request):
    """Winograd wherever it is possible, whatever it costs."""
    def in_blocks(parts, num, isa):
        return request.param == "in blocks" and all(
            winograd.scheme_of(c, winograd.EXACT) and c.depth % num.lanes == 0 for c in parts)

    monkeypatch.setattr(conv_direct, "narrow_pays", lambda *a: False)
    monkeypatch.setattr(conv_direct, "winograd_2x2_pays", in_blocks)
    monkeypatch.setattr(conv_direct, "streamed_winograd_pays",
                        lambda parts, schemes, *a: all(winograd.scheme_of(c, schemes) for c in parts))
    monkeypatch.setattr(conv_filter_grad, "whole_filter_grad_pays",
                        lambda op, schemes, *a: winograd_whole_filter_grad.scheme_of(op, schemes))


def operands(name, arrays):
    """The image and the filter, or what stands for it, of an operation's operands."""
    return arrays[::-1] if name == "conv2d_input_grad" else arrays


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", TAKEN)
@pytest.mark.parametrize("name", NAMES)
def test_f32(name, case, isa_name, always):
    node, arrays = build(name, CASES[case], "f32")
    kernel, isa = checked(node, isa_name)
    got, = run_guarded(kernel, arrays, isa)
    again, = run_kernel(kernel, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    exact, magnitude = magnitudes(node, arrays)
    bound = magnitude.max((0, 1)) if name == GRADIENT else magnitude
    assert (np.abs(got - exact) <= ROUNDINGS * UNIT * bound).all()


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("epilogue", [bias_relu, residual_tanh, masked], ids=lambda f: f.__name__)
@pytest.mark.parametrize("root", BOTH)
def test_epilogues(root, epilogue, isa_name, always, monkeypatch):
    attributes = dict(strides=(2, 2), padding=ONE, dilation=(1, 1), groups=1)
    monkeypatch.setitem(ROOTS, "conv2d", (Conv2d(**attributes), (2, 13, 18, 8), (4, 4, 8, 21)))
    monkeypatch.setitem(ROOTS, "conv2d_input_grad", (
        Conv2dInputGrad(**attributes, input_shape=(2, 13, 18, 11)), (4, 4, 11, 8), (2, 6, 9, 8)))
    node, arrays = fused(root, "f32", epilogue)
    kernel, isa = checked(node, isa_name)
    for actual, expected in zip(run_guarded(kernel, arrays, isa), interpret(node.op.body, arrays), strict=True):
        np.testing.assert_allclose(actual, expected, 2e-5, 2e-5)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", ["4x4 strided", "4x4"])
def test_prologues(name, isa_name, always):
    node, arrays = test_prologue.fused(name, "f32")
    kernel, isa = checked(node, isa_name)
    got, = run_guarded(kernel, arrays, isa)
    plain, operands = test_prologue.made_before(node, arrays)
    assert got.tobytes() == run_guarded(checked(plain, isa_name)[0], operands, isa)[0].tobytes()
    exact, magnitude = magnitudes(plain, operands)
    assert (np.abs(got - exact) <= ROUNDINGS * UNIT * magnitude.max((0, 1))).all()


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", RANGES)
def test_error_on_wide_ranges_is_within_twice_the_direct_kernels(kind, name, stride, always, monkeypatch):
    node, arrays = build(name, STRIDES[stride], "f32")
    RANGES[kind](*operands(name, arrays))
    check_error_within_twice(node, arrays, monkeypatch)


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("kind", "found"), [("equal", False), ("rectified", False), ("channels", False),
                                             ("few_elements", True)])
def test_a_sample_tells_what_is_computed_directly(kind, found, name, stride, always, monkeypatch):
    node, arrays = build(name, STRIDES[stride], "f32")
    RANGES[kind](*operands(name, arrays))
    assert computed_directly(node, arrays, monkeypatch) == found


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize(("ratio", "same"), [(10, False), (20, True), (np.inf, True)])
def test_filters_with_unequal_taps_are_computed_directly(ratio, same, name, always, monkeypatch):
    node, arrays = build(name, MIDDLE, "f32")
    _, filter_ = operands(name, arrays)
    filter_[...] = np.sign(filter_)
    one = (slice(None), 7) if name == "conv2d" else (7, slice(None))  # an output channel
    filter_[(1, 3, *one)] /= ratio
    assert computed_directly(node, arrays, monkeypatch) == same


def test_taps_of_different_phases_may_differ_in_size(always, monkeypatch):
    node, arrays = build("conv2d", MIDDLE, "f32")
    arrays[1][...] = np.sign(arrays[1])
    arrays[1][::2, 1::2] *= 1e3
    kernel, isa = checked(node)
    got, = run_kernel(kernel, arrays, isa)
    assert got.tobytes() != direct(node, arrays, monkeypatch).tobytes()
    exact, magnitude = magnitudes(node, arrays)
    assert (np.abs(got - exact) <= ROUNDINGS * UNIT * magnitude).all()


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
    x[:, ::4] *= -1
    kernel, isa = checked(node)
    got, expected = run_kernel(kernel, [x, w], isa)[0], direct(node, [x, w], monkeypatch)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("name", NAMES)
def test_whole_numbers_are_exact(name, always):
    node, arrays = build(name, MIDDLE, "f32")
    rng = np.random.default_rng(0)
    for array in arrays:
        array[...] = rng.integers(-9, 9, array.shape)
    kernel, isa = checked(node)
    np.testing.assert_array_equal(run_kernel(kernel, arrays, isa)[0], magnitudes(node, arrays)[0])


def test_outputs_that_see_only_zeros_are_zero(always):
    node, (x, w) = build("conv2d", MIDDLE, "f32")
    x[:, :, 12:] = 0
    kernel, isa = checked(node)
    got, = run_kernel(kernel, [x, w], isa)
    assert not got[:, :, 7:].any()
    assert got[:, :, 6].any()


def test_channels_of_zeros_have_no_gradient(always):
    node, (x, dy) = build(GRADIENT, MIDDLE, "f32")
    x[..., 3], dy[..., 7] = 0, 0
    kernel, isa = checked(node)
    got, = run_kernel(kernel, [x, dy], isa)
    assert not got[:, :, 3].any() and not got[..., 7].any()


@pytest.mark.parametrize("pixels", [32, 128])
def test_factors_of_kept_filters_are_kept_or_not_made(pixels):
    node, _ = build("conv2d", ((1, pixels, pixels, 128), (4, 4, 128, 256), (2, 2), ONE, (1, 1), 1), "f32")
    assert lower(node, isas.host()).label.endswith("(Winograd 2x2)")
    node.op = Conv2d((2, 2), ONE, (1, 1), 1, kept=True)
    kernel = lower(node, isas.host())
    assert kernel.label.endswith("(Winograd 2x2)") == (pixels == 128)
    assert kernel.kept == (1, 1)


@pytest.mark.parametrize("name", NAMES)
def test_only_where_it_pays(name):
    def taken(pixels, channels, stride=2, dtype="f32"):
        case = ((1, pixels, pixels, channels[0]), (4, 4, *channels), (stride, stride), ONE, (1, 1), 1)
        return "(Winograd" in lower(build(name, case, dtype)[0], isas.host()).label

    assert taken(64, (128, 256)) and taken(32, (256, 512)) and taken(32, (256, 512), 1)
    assert not any(taken(64, (128, 256), dtype=dtype) for dtype in ("f64", "f16", "bf16"))
    assert not taken(4, (512, 512)) and not taken(128, (3, 64))
