"""Winograd convolutions of ``precision=fast`` against the reference meaning in float64."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded
from test_conv import CASES as DIRECT_CASES
from test_conv import build
from test_epilogue import bias_relu, masked, residual_tanh
from winograd_kit import NAMES, TYPICAL, check_epilogue, check_f32, lowered
from zeros_kit import Case

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv_direct, conv_filter_grad, lower, winograd, winograd_filter_grad

# image, filter, strides, padding, dilation, groups
ONE = ((1, 1), (1, 1))
CASES = {
    "same": ((2, 7, 7, 16), (3, 3, 16, 24), (1, 1), ONE, (1, 1), 1),
    "valid": ((2, 9, 14, 8), (3, 3, 8, 20), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "whole tiles": ((1, 10, 18, 8), (3, 3, 8, 16), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "asymmetric": ((1, 8, 9, 3), (3, 3, 3, 5), (1, 1), ((0, 3), (2, 1)), (1, 1), 1),
    "wide padding": ((1, 3, 4, 4), (3, 3, 4, 8), (1, 1), ((7, 6), (5, 7)), (1, 1), 1),
    "one pixel": ((1, 1, 1, 5), (3, 3, 5, 3), (1, 1), ONE, (1, 1), 1),
    "one channel": ((3, 12, 11, 1), (3, 3, 1, 1), (1, 1), ONE, (1, 1), 1),
    "many channels": ((1, 4, 5, 130), (3, 3, 130, 197), (1, 1), ONE, (1, 1), 1),
    "many tiles": ((3, 41, 38, 19), (3, 3, 19, 33), (1, 1), ONE, (1, 1), 1),
}


@pytest.fixture
def always(monkeypatch):
    """Winograd wherever it is possible, whatever it costs."""
    monkeypatch.setattr(conv_direct, "narrow_pays", lambda *a: False)
    monkeypatch.setattr(conv_direct, "scheme_that_pays",
                        lambda c, schemes, num, isa: winograd.F4X4 if winograd.fits(c) else None)
    monkeypatch.setattr(conv_filter_grad, "filter_scheme_that_pays",
                        lambda op, *a: winograd.F4X4 if winograd_filter_grad.fits(op) else None)
    for module, name in ((conv_direct, "streamed_winograd_pays"), (conv_filter_grad, "whole_filter_grad_pays")):
        monkeypatch.setattr(module, name, lambda *a: False)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_f32(name, case, isa_name, always):
    check_f32(*build(name, CASES[case], "f32"), isa_name)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("epilogue", [bias_relu, residual_tanh, masked], ids=lambda f: f.__name__)
@pytest.mark.parametrize("root", ["conv2d", "conv2d_input_grad"])
def test_epilogues(root, epilogue, isa_name, always):
    check_epilogue(root, epilogue, isa_name)


def test_empty(always):
    node, arrays = build("conv2d", DIRECT_CASES["empty batch"], "f32")
    isa = isas.host(None, "fast")
    assert run_guarded(lower(node, isa), arrays, isa)[0].size == 0


@pytest.mark.parametrize("case", sorted(set(DIRECT_CASES) - {"valid", "same", "first layer", "many channels",
                                                            "middle tap", "empty batch"}))
def test_other_convolutions_stay_direct(case, always):
    node, _ = build("conv2d", DIRECT_CASES[case], "f32")
    assert "Winograd" not in lower(node, isas.host(None, "fast")).label


@pytest.mark.parametrize("name", NAMES)
def test_only_where_it_pays(name):
    def label(image, channels, precision, dtype="f32"):
        node, _ = build(name, (image, (3, 3, *channels), (1, 1), ONE, (1, 1), 1), dtype)
        return lower(node, isas.host("avx2", precision)).label

    assert "(Winograd)" in label((4, 28, 28, 64), (64, 64), "fast")
    assert "(Winograd)" not in label((4, 28, 28, 64), (64, 64), "fast", "f64")
    assert "(Winograd)" not in label((4, 28, 28, 64), (64, 64), "fast", "bf16")
    assert "(Winograd)" not in label((4, 28, 28, 3), (3, 4), "fast")
    assert "(Winograd)" not in label((1, 7, 7, 512), (512, 512), "fast")


@pytest.mark.parametrize(("images", "size", "channels", "chosen", "gradient"), [
    (16, 7, 512, "winograd streamed", "winograd whole"),
    (16, 14, 256, "winograd contraction", "winograd whole"),
    (16, 28, 128, "winograd contraction", "winograd contraction"),
])
def test_filters_are_transformed_where_they_are_used_by_few_tiles(images, size, channels, chosen, gradient):
    case = ((images, size, size, channels), (3, 3, channels, channels), (1, 1), ONE, (1, 1), 1)
    keys = [lower(build(name, case, "f32")[0], isas.host("avx2", "fast")).key for name in NAMES]
    assert [key.startswith(start) for key, start in zip(keys, (chosen, chosen, gradient), strict=True)] == [True] * 3


def test_factors_of_a_kept_filter_are_kept():
    case = Case((16, 7, 7, 512), (3, 3, 512, 512), padding=ONE, kept=True)
    kernel = lower(case.node(gradient=False, sparse=False), isas.host("avx2", "fast"))
    assert kernel.key.startswith("winograd contraction")
    assert kernel.kept is not None


def test_what_is_not_finite_stays_within_its_tiles(always):
    node, (x, w) = build("conv2d", CASES["many tiles"], "f32")
    kernel, isa = lowered(node, None)
    clean, = run_kernel(kernel, [x, w], isa)
    x[1, 9, 9, 3] = np.inf  # in the patches of tiles whose rows and columns begin at 4 and 8
    spoilt, = run_kernel(kernel, [x, w], isa)
    direct, = run_kernel(lower(node, isas.host()), [x, w], isas.host())
    touched = np.zeros(clean.shape, bool)
    touched[1, 4:12, 4:12] = True
    np.testing.assert_array_equal(spoilt[~touched], clean[~touched])
    assert not np.isfinite(spoilt[~np.isfinite(direct)]).any()


def test_error_on_operands_of_unequal_scale():
    node, (x, w) = build("conv2d", ((2, 28, 28, 64), (3, 3, 64, 64), (1, 1), ONE, (1, 1), 1), "f32")
    rng = np.random.default_rng(1)
    x *= (10 ** rng.uniform(0, 4, x.shape[-1:])).astype(np.float32)
    w *= (10 ** rng.uniform(0, 4, (3, 3, 1, 1))).astype(np.float32)
    kernel, isa = lowered(node, None)
    got, = run_kernel(kernel, [x, w], isa)
    exact, = node.op.evaluate(x.astype(np.float64), w.astype(np.float64))
    assert np.linalg.norm(got - exact) <= TYPICAL * np.linalg.norm(exact)
