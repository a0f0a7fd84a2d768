"""Filter gradients that leave zeros out by masks, as with AVX-512 and, of 1x1 filters, AVX2, against float64."""

from dataclasses import replace

import numpy as np
import pytest
from cpu_harness import run_kernel

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv, filter_grad_masked
from afterburner.cpu.kernels.gemm import numeric
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.conv import Conv2dFilterGrad

NONE, SAME = ((0, 0), (0, 0)), ((1, 1), (1, 1))
TAPS = {  # image, output channels, filter, padding
    "row by row": ((2, 6, 56, 16), 64, (3, 3), SAME),
    "two rows": ((1, 7, 28, 32), 128, (3, 3), SAME),
    "taps of a row at once": ((2, 9, 14, 16), 32, (3, 3), SAME),
    "valid": ((2, 7, 28, 16), 64, (3, 3), NONE),
    "asymmetric": ((1, 9, 26, 16), 128, (4, 2), ((3, 0), (0, 1))),
    "one row of taps": ((1, 5, 60, 16), 32, (1, 3), ((0, 0), (2, 0))),
    "sums beyond a chunk's, by taps": ((1, 4, 28, 256), 128, (3, 3), SAME),
}
CASES = {  # image, output channels
    "one panel": ((2, 9, 8, 16), 64),
    "two panels": ((1, 16, 16, 32), 256),
    "last unit short": ((1, 13, 15, 48), 128),
    "last unit of one pixel": ((1, 1, 129, 16), 64),
    "copied in parts": ((4, 20, 20, 64), 96),
    "sums beyond a chunk's": ((1, 12, 12, 512), 256),
}
ALL = {**CASES, **TAPS}
WAYS = [*((case, "avx512") for case in ALL), *((case, "avx2") for case in CASES)]
ISA = isas.host("avx512")


@pytest.fixture(autouse=True)
def everywhere(monkeypatch):
    """Whether it pays or not."""
    monkeypatch.setattr(filter_grad_masked, "_FEWEST_DEPTH", 1)


def node_of(image, outputs, size=(1, 1), padding=NONE, sparse=True, dtype="f32"):
    """conv2d_filter_grad."""
    op = Conv2dFilterGrad((1, 1), padding, (1, 1), 1, (*size, image[3], outputs), sparse)
    builder = Builder()
    shapes = (image, op.output_shape(image, op.filter_shape))
    value = builder.emit(op, *(builder.input(TensorType(DTYPES[dtype], s), f"x{i}") for i, s in enumerate(shapes)))
    builder.output(value)
    assert value.node is not None
    return value.node


def operands_of(node, density, seed=0):
    """x, of which so much is not zero, and dy."""
    rng = np.random.default_rng(seed)
    x, dy = (rng.standard_normal(v.shape, np.float32) for v in node.operands)
    x[rng.random(x.shape) >= density] = 0
    return [x, dy]


def gradient(node, operands, isa_name="avx512"):
    """By the kernel that leaves zeros out."""
    isa = isas.host(isa_name)
    kernel = conv.LOWERINGS["conv2d_filter_grad"](node, isa)
    assert kernel.label.endswith("(zeros left out)")
    return run_kernel(kernel, operands, isa)[0]


def expected(node, operands):
    """In float64."""
    return node.op.evaluate(*(a.astype(np.float64) for a in operands))[0]


@pytest.mark.parametrize("density", [0.0, 0.1, 0.5, 0.75, 1.0])
@pytest.mark.parametrize(("case", "isa_name"), WAYS)
def test_values(case, isa_name, density):
    node = node_of(*ALL[case])
    operands = operands_of(node, density)
    np.testing.assert_allclose(gradient(node, operands, isa_name), expected(node, operands), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("case", "isa_name"), [
    ("last unit short", "avx512"), ("two rows", "avx512"), ("last unit short", "avx2"), ("two panels", "avx2")])
def test_channels_that_differ_in_density(case, isa_name):
    node = node_of(*ALL[case])
    operands = operands_of(node, 1.0)
    image = node.operands[0].shape
    for channel in range(image[3]):
        operands[0][..., channel][np.random.default_rng(channel).random(image[:3]) >= channel / image[3]] = 0
    np.testing.assert_allclose(gradient(node, operands, isa_name), expected(node, operands), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize(("case", "isa_name"), [("two panels", "avx512"), ("valid", "avx512"), ("two panels", "avx2")])
def test_what_is_not_finite_meets_zeros_too(case, isa_name, which, what):
    node = node_of(*ALL[case])
    operands = operands_of(node, 0.4)
    operands[which][0, 4, 7, 3] = what
    got = gradient(node, operands, isa_name)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isnan(got), np.isnan(expected(node, operands)))


@pytest.mark.parametrize(("image", "outputs", "isa_name"), [
    ((2, 9, 8, 16), 64, "generic"), ((2, 9, 8, 16), 56, "avx2"), ((2, 9, 8, 20), 64, "avx512"),
    ((2, 9, 8, 16), 40, "avx512"), ((1, 9, 9, 16), 64, "avx512")])
def test_others_are_computed_whole(image, outputs, isa_name):
    isa, node = isas.host(isa_name), node_of(image, outputs)
    kernel = conv.LOWERINGS["conv2d_filter_grad"](node, isa)
    assert "zeros" not in kernel.label
    operands = operands_of(node, 0.5)
    np.testing.assert_allclose(run_kernel(kernel, operands, isa)[0], expected(node, operands), rtol=1e-4, atol=1e-4)


def test_what_is_not_marked_is_computed_whole():
    node = node_of(*CASES["one panel"], sparse=False)
    assert "zeros" not in conv.LOWERINGS["conv2d_filter_grad"](node, ISA).label


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64"])
@pytest.mark.parametrize("case", ["two panels", "two rows"])
def test_other_types_are_computed_whole(case, dtype):
    node = node_of(*(*ALL[case], (1, 1), NONE)[:4], dtype=dtype)
    kernel = conv.LOWERINGS["conv2d_filter_grad"](node, ISA)
    assert "zeros" not in kernel.label
    x, dy = operands_of(node, 0.5)
    operands = [a.astype(v.type.dtype.numpy) for a, v in zip((x, dy), node.operands, strict=True)]
    got = run_kernel(kernel, operands, ISA)[0].astype(np.float64)
    rough = {"f16": 2e-2, "bf16": 1e-1, "f64": 1e-9}[dtype]
    np.testing.assert_allclose(got, expected(node, operands), rtol=rough, atol=10 * rough)


@pytest.mark.parametrize(("cpu", "pixels"), [("cascadelake", 48), ("znver4", 48), ("znver5", 64)])
def test_a_panel_leaves_room_in_the_first_level_cache(cpu, pixels):
    isa = replace(ISA, cpu=cpu)
    x, dy = (16, 28, 28, 128), (16, 28, 28, 512)
    op = Conv2dFilterGrad((1, 1), ((0, 0), (0, 0)), (1, 1), 1, (1, 1, 128, 512), True)
    plan = filter_grad_masked.masked_plan(op, x, dy, numeric(DTYPES["f32"], isa), isa)
    assert plan is not None and plan.unit == (1, pixels)


@pytest.mark.parametrize(("cpu", "finds"), [("cascadelake", False), ("znver5", True), ("", True)])
def test_convolutions_find_zeros_where_that_pays(cpu, finds):
    assert replace(ISA, cpu=cpu).finds_zeros == finds


@pytest.mark.parametrize("isa_name", ["avx512", "avx2"])
def test_the_same_bits_however_many_zeros_a_tile_has(monkeypatch, isa_name):
    node = node_of(*CASES["last unit short"])
    operands = operands_of(node, 0.5)
    found = []
    for most in (0.0, 1.0):
        monkeypatch.setattr(filter_grad_masked, "_MOST_NONZERO", most)
        found.append(gradient(node, operands, isa_name).tobytes())
    assert found[0] == found[1]
