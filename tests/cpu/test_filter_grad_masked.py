"""Filter gradients that leave zeros out by masks, as with AVX-512, against float64."""

import numpy as np
import pytest
from cpu_harness import run_kernel

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv, conv_filter_grad_masked
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.conv import Conv2dFilterGrad

CASES = {  # image, output channels
    "one panel": ((2, 9, 8, 16), 64),
    "two panels": ((1, 16, 16, 32), 256),
    "last unit short": ((1, 13, 15, 48), 128),
    "last unit of one pixel": ((1, 1, 129, 16), 64),
    "copied in parts": ((4, 20, 20, 64), 96),
    "sums beyond a chunk's": ((1, 12, 12, 512), 256),
}
ISA = isas.host("avx512")
F32 = DTYPES["f32"]


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """Whether it pays or not."""
    monkeypatch.setattr(conv_filter_grad_masked, "_FEWEST_SUMS", 1)


def node_of(image, outputs, sparse=True):
    """conv2d_filter_grad of a 1x1 filter."""
    op = Conv2dFilterGrad((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (1, 1, image[3], outputs), sparse)
    builder = Builder()
    shapes = (image, (*image[:3], outputs))
    value = builder.emit(op, *(builder.input(TensorType(F32, s), f"x{i}") for i, s in enumerate(shapes)))
    builder.output(value)
    assert value.node is not None
    return value.node


def operands_of(image, outputs, density, seed=0):
    """x, of which so much is not zero, and dy."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(image, np.float32)
    x[rng.random(image) >= density] = 0
    return [x, rng.standard_normal((*image[:3], outputs), np.float32)]


def gradient(image, outputs, operands):
    """By the kernel that leaves zeros out."""
    kernel = conv.LOWERINGS["conv2d_filter_grad"](node_of(image, outputs), ISA)
    assert kernel.label.endswith("(zeros left out)")
    return run_kernel(kernel, operands, ISA)[0][0, 0]


def expected(operands):
    """In float64."""
    x, dy = (a.reshape(-1, a.shape[-1]).astype(np.float64) for a in operands)
    return x.T @ dy


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("case", CASES)
def test_values(case, density):
    operands = operands_of(*CASES[case], density)
    np.testing.assert_allclose(gradient(*CASES[case], operands), expected(operands), rtol=1e-4, atol=1e-4)


def test_channels_that_differ_in_density():
    image, outputs = CASES["last unit short"]
    operands = operands_of(image, outputs, 1.0)
    for channel in range(image[3]):
        operands[0][..., channel][np.random.default_rng(channel).random(image[:3]) >= channel / image[3]] = 0
    np.testing.assert_allclose(gradient(image, outputs, operands), expected(operands), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_meets_zeros_too(which, what):
    image, outputs = CASES["two panels"]
    operands = operands_of(image, outputs, 0.4)
    operands[which][0, 5, 7, 3] = what
    got = gradient(image, outputs, operands)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected(operands)))


@pytest.mark.parametrize(("image", "outputs", "isa_name"), [
    ((2, 9, 8, 16), 64, "avx2"), ((2, 9, 8, 20), 64, "avx512"), ((2, 9, 8, 16), 40, "avx512"),
    ((1, 9, 9, 16), 64, "avx512")])
def test_others_are_computed_whole(image, outputs, isa_name):
    isa = isas.host(isa_name)
    kernel = conv.LOWERINGS["conv2d_filter_grad"](node_of(image, outputs), isa)
    assert "zeros" not in kernel.label
    operands = operands_of(image, outputs, 0.5)
    np.testing.assert_allclose(run_kernel(kernel, operands, isa)[0][0, 0], expected(operands), rtol=1e-4, atol=1e-4)


def test_what_is_not_marked_is_computed_whole():
    node = node_of(*CASES["one panel"], sparse=False)
    assert "zeros" not in conv.LOWERINGS["conv2d_filter_grad"](node, ISA).label
