"""Convolutions that leave out zeros which all pixels of a tile share, against those that do not: the same bits."""

import numpy as np
import pytest
from cpu_harness import run_kernel
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv, correlation_sparse, shared_zeros
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.conv import Conv2d, Conv2dInputGrad, output_size

FIRST = isas.available()[0]
LABEL = "(shared zeros left out)"

# image, filter, strides, padding, dilation
CASES = {
    "same": ((1, 9, 11, 20), (3, 3, 20, 32), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "valid": ((2, 8, 15, 8), (3, 3, 8, 24), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "strided": ((1, 19, 23, 13), (3, 3, 13, 40), (2, 2), ((1, 1), (0, 1)), (1, 1)),
    "asymmetric": ((1, 10, 9, 24), (3, 4, 24, 32), (1, 1), ((0, 3), (2, 1)), (1, 1)),
    "rows apart": ((1, 13, 9, 16), (3, 3, 16, 32), (1, 1), ((2, 2), (1, 1)), (2, 1)),
    "1x1": ((2, 9, 40, 24), (1, 1, 24, 64), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "padding beyond window": ((1, 5, 9, 16), (3, 3, 16, 32), (1, 1), ((4, 4), (4, 5)), (1, 1)),
    "taps never read": ((1, 1, 70, 24), (3, 3, 24, 32), (1, 1), ((1, 1), (1, 1)), (1, 1)),
    "1x1 streamed": ((1, 7, 7, 200), (1, 1, 200, 512), (1, 1), ((0, 0), (0, 0)), (1, 1)),
    "3x3 streamed": ((2, 5, 6, 40), (3, 3, 40, 512), (1, 1), ((1, 1), (1, 1)), (1, 1)),
}
STREAMED = ("1x1 streamed", "3x3 streamed")


def build(case, gradient, sparse):
    x, w, strides, padding, dilation = CASES[case]
    attributes = dict(strides=strides, padding=padding, dilation=dilation, groups=1, sparse=sparse, kept=True)
    builder, f32 = Builder(), DTYPES["f32"]
    if gradient:  # of an input with as many channels as the filter of the case has results
        w = (*w[:2], w[3], w[2])
        x = (*x[:3], w[2])
        y = (x[0], *(output_size(x[1 + i], w[i], strides[i], padding[i], dilation[i]) for i in (0, 1)), w[3])
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
    return [conv.LOWERINGS[name](build(case, gradient, sparse)[0], isa) for sparse in (False, True)]


def arrays(case, gradient, share):
    """Operands; of the image a share of the channels, others in each quarter of a row, is mostly not zero."""
    rng = np.random.default_rng(0)
    made = [rng.standard_normal(shape).astype(np.float32) for shape in build(case, gradient, True)[1]]
    image = made[1 if gradient else 0]
    for columns in np.array_split(np.arange(image.shape[2]), 4):
        image[:, :, columns] *= rng.random((*image.shape[:2], 1, image.shape[3])) < share
    image[rng.random(image.shape) < 0.1] = -0.0
    return made


OTHERS = sorted({"avx2", "avx512", "generic"} - {FIRST})
# With stride 2 the gradient is several correlations that write one result: all steps are computed.
BOTH_WAYS = [(case, gradient) for case in CASES for gradient in (False, True) if not (gradient and case == "strided")]


@pytest.mark.parametrize(("case", "gradient", "isa_name"), [
    *((*both, FIRST) for both in BOTH_WAYS),
    *((case, gradient, name) for case in ("asymmetric", *STREAMED) for name in OTHERS for gradient in (False, True))])
def test_bits_are_those_of_the_dense_kernel(case, gradient, isa_name):
    isa = isas.host(isa_name)
    dense, shared = kernels(case, gradient, isa)
    assert shared.label == f"{dense.label} {LABEL}"
    assert (len(shared.phases), shared.kept[1]) == (3, 2)
    for share in (0.0, 0.4, 1.0):
        operands = arrays(case, gradient, share)
        expected, = run_kernel(dense, operands, isa)
        got, = run_guarded(shared, operands, isa)
        again, = run_kernel(shared, operands, isa, reverse=True)
        np.testing.assert_array_equal(got, expected)
        assert got.tobytes() == again.tobytes()


@pytest.mark.parametrize("case", ["same", "1x1 streamed"])
@pytest.mark.parametrize("where", ["image", "filter"])
@pytest.mark.parametrize("what", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_goes_where_it_goes_in_the_dense_kernel(case, where, what):
    isa = isas.host(FIRST)
    operands = arrays(case, False, 0.3)
    operands[where == "filter"].reshape(-1)[37] = what
    dense, shared = kernels(case, False, isa)
    expected, = run_kernel(dense, operands, isa)
    assert np.isnan(expected).any() or np.isinf(expected).any()
    np.testing.assert_array_equal(run_kernel(shared, operands, isa)[0], expected)


def test_the_whole_filter_is_looked_at_where_some_taps_are_never_read():
    """Of the filter's three rows of taps only the one in the middle is read."""
    isa = isas.host(FIRST)
    operands = arrays("taps never read", False, 0.3)
    operands[0][..., 5] = 0
    operands[1][1, 2, 5, 31] = np.inf
    dense, shared = kernels("taps never read", False, isa)
    expected, = run_kernel(dense, operands, isa)
    assert np.isnan(expected).any()
    np.testing.assert_array_equal(run_kernel(shared, operands, isa)[0], expected)


@pytest.mark.parametrize("case", ["same", "1x1", "1x1 streamed", "3x3 streamed"])
def test_shared_zeros_are_left_out(case, monkeypatch):
    """A zero that is multiplied by an infinity makes NaN: where the filter is taken for finite, none comes."""
    monkeypatch.setattr(shared_zeros, "noted_finite", lambda e, notes, packs: correlation_sparse.TRUE)
    isa = isas.host(FIRST)
    operands = arrays(case, False, 1.0)
    operands[0][...] = 1
    operands[0][..., 3] = 0
    operands[1][...] = np.inf
    got, = run_kernel(kernels(case, False, isa)[1], operands, isa)
    assert not np.isnan(got).any()
    operands[0][0, 2, 2, 3] = 1  # now the tile's other pixels are multiplied
    got, = run_kernel(kernels(case, False, isa)[1], operands, isa)
    assert np.isnan(got).any()


def test_few_products_many_pixels_and_filters_that_change_stay_dense():
    isa = isas.host("avx2")
    for x, w, kept in (((2, 12, 14, 8), (1, 1, 8, 32), True), ((32, 56, 56, 128), (3, 3, 128, 32), True),
                       ((1, 7, 7, 200), (1, 1, 200, 512), False)):
        builder = Builder()
        operands = [builder.input(TensorType(DTYPES["f32"], shape), f"x{i}") for i, shape in enumerate((x, w))]
        value = builder.emit(Conv2d((1, 1), ((0, 0), (0, 0)), (1, 1), 1, True, kept), *operands)
        builder.output(value)
        assert "zeros" not in conv.LOWERINGS["conv2d"](value.node, isa).label
