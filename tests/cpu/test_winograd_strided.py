"""Winograd convolutions with strides and other filters than 3x3 against the reference meaning in float64."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from cpu_harness import INSTRUCTION_SETS, run_kernel
from ranges import magnitudes
from test_conv import build
from test_epilogue import bias_relu, masked, residual_tanh
from winograd_kit import NAMES, TYPICAL, check_epilogue, check_f32, lowered

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import (
    conv_direct,
    conv_filter_grad,
    lower,
    winograd,
    winograd_whole_filter_grad,
)

ONE, TWO = (((n, n), (n, n)) for n in (1, 2))
NONE = ((0, 0), (0, 0))
CASES = {  # image, filter, strides, padding, dilation, groups
    "halved": ((2, 16, 16, 16), (4, 4, 16, 24), (2, 2), ONE, (1, 1), 1),
    "halved odd": ((1, 17, 13, 8), (4, 4, 8, 20), (2, 2), ((1, 2), (1, 2)), (1, 1), 1),
    "halved valid": ((2, 19, 12, 8), (4, 4, 8, 9), (2, 2), NONE, (1, 1), 1),
    "halved asymmetric": ((1, 9, 14, 3), (4, 4, 3, 5), (2, 2), ((0, 3), (2, 1)), (1, 1), 1),
    "halved wide padding": ((1, 3, 4, 4), (4, 4, 4, 8), (2, 2), ((7, 6), (5, 8)), (1, 1), 1),
    "halved one pixel": ((1, 2, 2, 5), (4, 4, 5, 3), (2, 2), ONE, (1, 1), 1),
    "halved many channels": ((1, 8, 6, 139), (4, 4, 139, 197), (2, 2), ONE, (1, 1), 1),
    "halved many tiles": ((2, 83, 78, 19), (4, 4, 19, 33), (2, 2), ONE, (1, 1), 1),
    "square of four": ((2, 11, 10, 16), (4, 4, 16, 24), (1, 1), ONE, (1, 1), 1),
    "four, many channels": ((1, 5, 7, 130), (4, 4, 130, 35), (1, 1), ((1, 2), (1, 2)), (1, 1), 1),
    "four, many tiles": ((1, 61, 40, 7), (4, 4, 7, 12), (1, 1), NONE, (1, 1), 1),
    "square of two": ((1, 9, 10, 12), (2, 2, 12, 16), (1, 1), ((0, 1), (0, 1)), (1, 1), 1),
    "square of three": ((1, 9, 10, 12), (3, 3, 12, 16), (1, 1), ONE, (1, 1), 1),
    "six by two": ((1, 18, 15, 9), (6, 6, 9, 11), (2, 2), TWO, (1, 1), 1),
    "six by three": ((1, 20, 16, 9), (6, 6, 9, 11), (3, 3), TWO, (1, 1), 1),
    "one channel": ((3, 12, 11, 1), (4, 4, 1, 1), (2, 2), ONE, (1, 1), 1),
}
OTHERS = {
    "uneven stride": ((1, 12, 12, 16), (4, 4, 16, 16), (2, 1), ONE, (1, 1), 1),
    "uneven filter": ((1, 12, 12, 16), (4, 2, 16, 16), (2, 2), ONE, (1, 1), 1),
    "uneven phases": ((1, 12, 12, 16), (3, 3, 16, 16), (2, 2), ONE, (1, 1), 1),
    "dilated": ((1, 16, 16, 16), (4, 4, 16, 16), (1, 1), ONE, (2, 2), 1),
    "grouped": ((1, 12, 12, 16), (4, 4, 8, 16), (2, 2), ONE, (1, 1), 2),
    "stride beyond window": ((1, 13, 14, 4), (2, 2, 4, 8), (3, 3), NONE, (1, 1), 1),
    "eight taps": ((1, 16, 16, 8), (8, 8, 8, 8), (1, 1), ONE, (1, 1), 1),
}


@pytest.fixture
def always(monkeypatch):
    """These kernels wherever they are possible, whatever they cost."""
    monkeypatch.setattr(conv_direct, "narrow_pays", lambda *a: False)
    monkeypatch.setattr(conv_direct, "scheme_that_pays", lambda *a: None)
    monkeypatch.setattr(conv_filter_grad, "filter_scheme_that_pays", lambda *a: None)
    monkeypatch.setattr(conv_direct, "streamed_winograd_pays",
                        lambda parts, schemes, *a: all(winograd.scheme_of(c, schemes) for c in parts))
    monkeypatch.setattr(conv_filter_grad, "whole_filter_grad_pays",
                        lambda op, schemes, *a: winograd_whole_filter_grad.scheme_of(op, schemes))


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_f32(name, case, isa_name, always):
    check_f32(*build(name, CASES[case], "f32"), isa_name)


@pytest.mark.parametrize("case", OTHERS)
@pytest.mark.parametrize("name", NAMES)
def test_others_stay_direct(name, case, always):
    node, _ = build(name, OTHERS[case], "f32")
    for precision in ("fast", "default"):
        assert "Winograd" not in lower(node, isas.host(None, precision)).label


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("epilogue", [bias_relu, residual_tanh, masked], ids=lambda f: f.__name__)
@pytest.mark.parametrize("root", ["conv2d", "conv2d_input_grad"])
def test_epilogues(root, epilogue, isa_name, always):
    check_epilogue(root, epilogue, isa_name)


@pytest.mark.parametrize("name", NAMES)
def test_only_where_it_pays(name):
    def label(pixels, channels, precision, dtype="f32", stride=2):
        case = ((1, pixels, pixels, channels[0]), (4, 4, *channels), (stride, stride), ONE, (1, 1), 1)
        return lower(build(name, case, dtype)[0], replace(isas.host(None, precision), bf16_dot=False)).label

    assert "(Winograd)" in label(128, (64, 128), "fast")
    assert "(Winograd)" in label(32, (256, 512), "fast")
    assert "(Winograd)" in label(32, (64, 128), "fast", stride=1)
    assert "(Winograd" not in label(16, (128, 256), "default")
    assert "(Winograd)" not in label(128, (64, 128), "fast", "f64")
    assert "(Winograd)" not in label(128, (64, 128), "fast", "bf16")
    assert "(Winograd)" not in label(4, (256, 256), "fast")
    assert "(Winograd)" not in label(64, (1, 16), "fast")


def test_factors_of_large_batches_are_not_kept():
    node, _ = build("conv2d", ((64, 128, 128, 64), (4, 4, 64, 64), (2, 2), ONE, (1, 1), 1), "f32")
    assert "Winograd" not in lower(node, replace(isas.host(None, "fast"), bf16_dot=False)).label


@pytest.mark.parametrize("size", [32, 45])
def test_tensorflow(size):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((1, size, size, 48)).astype(np.float32)
    w = rng.standard_normal((4, 4, 48, 40)).astype(np.float32)
    before = max(0, (-(-size // 2) - 1) * 2 + 4 - size)
    padding = ((before // 2, before - before // 2),) * 2
    case = (x.shape, w.shape, (2, 2), padding, (1, 1), 1)
    dy = tf.constant(rng.standard_normal((1, -(-size // 2), -(-size // 2), 40)).astype(np.float32))
    with tf.GradientTape() as tape:
        image, filter_ = tf.Variable(x), tf.Variable(w)
        y = tf.nn.conv2d(image, filter_, 2, "SAME")
    dx, dw = tape.gradient(y, [image, filter_], dy)
    operands = {"conv2d": (x, w, y), "conv2d_input_grad": (w, dy.numpy(), dx),
                "conv2d_filter_grad": (x, dy.numpy(), dw)}
    for name, (a, b, expected) in operands.items():
        node, _ = build(name, case, "f32")
        kernel, isa = lowered(node, None)
        got, = run_kernel(kernel, [a, b], isa)
        assert np.linalg.norm(got - expected) <= TYPICAL * np.linalg.norm(expected)


def test_what_is_not_finite_stays_within_its_tiles(always):
    node, (x, w) = build("conv2d", CASES["halved many tiles"], "f32")
    kernel, isa = lowered(node, None)
    clean, = run_kernel(kernel, [x, w], isa)
    x[1, 19, 19, 3] = np.inf  # read by outputs 9 and 10: of the tile from 8 on
    spoilt, = run_kernel(kernel, [x, w], isa)
    exact, _ = magnitudes(node, [x, w])
    touched = np.zeros(clean.shape, bool)
    touched[1, 8:12, 8:12] = True
    np.testing.assert_array_equal(spoilt[~touched], clean[~touched])
    assert not np.isfinite(spoilt[~np.isfinite(exact)]).any()
