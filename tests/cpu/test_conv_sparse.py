"""Convolutions that leave zeros out, against those that do not: the same bits."""

import numpy as np
import pytest
from cpu_harness import run_kernel
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv, correlation_sparse
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.conv import Conv2d, Conv2dInputGrad, output_size

FIRST = isas.available()[0]

# image, filter, strides, padding
CASES = {
    "valid": ((2, 12, 14, 8), (3, 3, 8, 64), (1, 1), ((0, 0), (0, 0))),
    "same": ((1, 9, 11, 20), (3, 3, 20, 128), (1, 1), ((1, 1), (1, 1))),
    "two groups of panels": ((1, 9, 9, 6), (3, 3, 6, 256), (1, 1), ((1, 1), (1, 1))),
    "strided": ((1, 19, 23, 8), (3, 3, 8, 128), (2, 2), ((1, 1), (0, 1))),
    "asymmetric": ((1, 10, 9, 24), (3, 4, 24, 64), (1, 1), ((0, 3), (2, 1))),
    "channels in parts": ((1, 7, 50, 272), (3, 3, 272, 128), (1, 1), ((1, 1), (1, 1))),
    "1x1": ((2, 9, 8, 24), (1, 1, 24, 192), (1, 1), ((0, 0), (0, 0))),
    "taps never read": ((1, 1, 70, 16), (3, 3, 16, 128), (1, 1), ((1, 1), (1, 1))),
    "padding beyond window": ((1, 5, 9, 16), (3, 3, 16, 128), (1, 1), ((4, 4), (4, 5))),
}


def build(case, gradient, sparse):
    x, w, strides, padding = CASES[case]
    attributes = dict(strides=strides, padding=padding, dilation=(1, 1), groups=1, sparse=sparse)
    builder, f32 = Builder(), DTYPES["f32"]
    if gradient:  # of an input with as many channels as the filter of the case has results
        w = (*w[:2], w[3], w[2])
        x = (*x[:3], w[2])
        y = (x[0], *(output_size(x[1 + i], w[i], strides[i], padding[i]) for i in (0, 1)), w[3])
        shapes, op = (w, y), Conv2dInputGrad(**attributes, input_shape=x)
    else:
        shapes, op = (x, w), Conv2d(**attributes)
    operands = [builder.input(TensorType(f32, shape), f"x{i}") for i, shape in enumerate(shapes)]
    value = builder.emit(op, *operands)
    builder.output(value)
    assert value.node is not None
    return value.node, shapes


def kernels(case, gradient, isa):
    name = "conv2d_input_grad" if gradient else "conv2d"
    dense, sparse = (build(case, gradient, flag)[0] for flag in (False, True))
    return [conv.LOWERINGS[name](node, isa) for node in (dense, sparse)]


def arrays(case, gradient, density, seed=0):
    rng = np.random.default_rng(seed)
    made = [rng.standard_normal(shape).astype(np.float32) for shape in build(case, gradient, True)[1]]
    image = made[1 if gradient else 0]
    image[rng.random(image.shape) >= density] = 0
    return made


def all_sparse(monkeypatch):
    """Everywhere, on every instruction set, whether it pays or not."""
    monkeypatch.setattr(correlation_sparse, "_FEWEST", 1)
    monkeypatch.setattr(correlation_sparse, "_FEWEST_PIXELS", 1)
    monkeypatch.setattr(correlation_sparse, "_FEWEST_PRODUCTS", 1)


# With stride 2 the gradient is several correlations that write one result: never sparse.
OTHERS = sorted({"avx2", "avx512", "generic"} - {FIRST})
BOTH_WAYS = [(case, gradient) for case in CASES for gradient in (False, True) if not (gradient and case == "strided")]


@pytest.mark.parametrize(("case", "gradient", "isa_name"), [
    *((*both, FIRST) for both in BOTH_WAYS),
    *(("asymmetric", gradient, name) for name in OTHERS for gradient in (False, True))])
def test_bits_are_those_of_the_dense_kernel(case, gradient, isa_name, monkeypatch):
    all_sparse(monkeypatch)
    isa = isas.host(isa_name)
    dense, sparse = kernels(case, gradient, isa)
    assert sparse.label == f"{dense.label} (zeros left out)"
    for density in (0.0, 0.3, 0.5, 1.0):
        operands = arrays(case, gradient, density)
        expected, = run_kernel(dense, operands, isa)
        got, = run_guarded(sparse, operands, isa)
        again, = run_kernel(sparse, operands, isa, reverse=True)
        np.testing.assert_array_equal(got, expected)
        assert got.tobytes() == again.tobytes()


@pytest.mark.parametrize("where", ["image", "filter"])
@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_goes_where_it_goes_in_the_dense_kernel(where, what, monkeypatch):
    all_sparse(monkeypatch)
    isa = isas.host(FIRST)
    operands = arrays("same", False, 0.3)
    operands[0][0, 4, 5] = 0
    operands[where == "filter"].reshape(-1)[37] = what
    dense, sparse = kernels("same", False, isa)
    np.testing.assert_array_equal(run_kernel(sparse, operands, isa)[0], run_kernel(dense, operands, isa)[0])


def test_the_whole_filter_is_looked_at_where_some_taps_are_never_read(monkeypatch):
    """Of the filter's three rows of taps only the one in the middle is read."""
    all_sparse(monkeypatch)
    isa = isas.host(FIRST)
    operands = arrays("taps never read", False, 0.3)
    operands[0][..., 5] = 0
    operands[1][1, 2, 5, 127] = np.inf
    dense, sparse = kernels("taps never read", False, isa)
    expected, = run_kernel(dense, operands, isa)
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(run_kernel(sparse, operands, isa)[0], expected)


def test_zeros_are_left_out(monkeypatch):
    """A zero that is multiplied by an infinity makes NaN: where the filter is taken for finite, none comes."""
    all_sparse(monkeypatch)
    monkeypatch.setattr(correlation_sparse.SparseCorrelator, "_finite", lambda self, e: correlation_sparse.TRUE)
    isa = isas.host(FIRST)
    operands = arrays("valid", False, 0.3)
    operands[1][...] = np.inf
    for density, finds in ((0.3, False), (1.0, True)):
        operands[0][...] = np.abs(arrays("valid", False, density)[0])
        operands[0][..., 0] = density == 1.0
        got, = run_kernel(kernels("valid", False, isa)[1], operands, isa)
        assert not np.isnan(got).any()
        operands[0][0, 5, 5, 1] = 0
        got, = run_kernel(kernels("valid", False, isa)[1], operands, isa)
        assert np.isnan(got).any() == finds


def test_narrow_results_and_small_images_stay_dense():
    isa = isas.host("avx2")
    for x, w in (((2, 12, 14, 8), (3, 3, 8, 32)), ((2, 7, 7, 8), (3, 3, 8, 64)), ((2, 12, 14, 8), (1, 1, 8, 64))):
        builder = Builder()
        operands = [builder.input(TensorType(DTYPES["f32"], shape), f"x{i}") for i, shape in enumerate((x, w))]
        value = builder.emit(Conv2d((1, 1), ((0, 0), (0, 0)), (1, 1), 1, True), *operands)
        builder.output(value)
        assert "(zeros left out)" not in conv.LOWERINGS["conv2d"](value.node, isa).label
