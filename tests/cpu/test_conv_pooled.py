"""Gradients of convolutions behind max pooling against the reference meaning, dense and with what is not finite."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import lower
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.conv import output_size
from afterburner.ir.ops.conv_pooled import Conv2dFilterGradPooled, Conv2dInputGradPooled

NAMES = ["filter", "input"]
TWO = (2, 2), (2, 2)
# image, filter, padding, window, strides
CASES = {
    "valid": ((2, 8, 9, 8), (3, 3, 8, 16), ((0, 0), (0, 0)), *TWO),
    "same, odd": ((2, 7, 10, 5), (3, 3, 5, 7), ((1, 1), (1, 1)), *TWO),
    "many images": ((9, 12, 12, 32), (3, 3, 32, 40), ((0, 0), (0, 0)), *TWO),
    "other windows": ((3, 9, 8, 3), (5, 4, 3, 9), ((2, 2), (1, 2)), (2, 3), (2, 4)),
    "apart": ((2, 7, 8, 36), (2, 2, 36, 10), ((0, 1), (1, 0)), (2, 2), (3, 3)),
    "wide": ((1, 6, 61, 40), (3, 3, 40, 12), ((1, 1), (1, 1)), *TWO),
    "wide, valid": ((1, 5, 140, 64), (3, 3, 64, 3), ((0, 0), (0, 0)), *TWO),
    "many channels": ((2, 6, 6, 130), (3, 3, 130, 70), ((1, 1), (1, 1)), *TWO),
    "one window": ((1, 3, 3, 4), (2, 2, 4, 8), ((0, 0), (0, 0)), *TWO),
    "nothing to choose": ((1, 6, 6, 9), (3, 3, 9, 21), ((1, 1), (1, 1)), (1, 1), (2, 2)),
    "1x1": ((2, 5, 6, 24), (1, 1, 24, 17), ((0, 0), (0, 0)), *TWO),
    "padding beyond the filter": ((1, 3, 4, 4), (2, 2, 4, 8), ((3, 2), (2, 3)), *TWO),
}


def build(name, case, special=0.0):
    """A node and operands; ``special``: the share of what is not finite."""
    x, w, padding, window, strides = case
    between = [output_size(x[1 + i], w[i], 1, padding[i]) for i in (0, 1)]
    pooled = (x[0], *(output_size(between[i], window[i], strides[i], (0, 0)) for i in (0, 1)), w[3])
    rng = np.random.default_rng(5)
    taps = rng.integers(0, window[0] * window[1], pooled) + 128 * (rng.random(pooled) < 0.1)
    dy = np.where(rng.random(pooled) < 0.3, rng.choice([0.0, -0.0], pooled), rng.standard_normal(pooled))
    op = Conv2dFilterGradPooled(padding, window, strides, w) if name == "filter" else \
        Conv2dInputGradPooled(padding, window, strides, x)
    first = rng.standard_normal(x if name == "filter" else w)
    for value in (np.nan, np.inf, -np.inf):
        first[rng.random(first.shape) < special] = value
        dy[rng.random(dy.shape) < special] = value
    arrays = [first.astype(np.float32), taps.astype(np.uint8), dy.astype(np.float32)]
    builder = Builder()
    types = [TensorType(DTYPES["u8" if a.dtype == np.uint8 else "f32"], a.shape) for a in arrays]
    return builder.emit(op, *(builder.input(t, f"v{i}") for i, t in enumerate(types))).node, arrays


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_values(name, case, isa_name):
    node, (first, taps, dy) = build(name, CASES[case])
    isa = isas.host(isa_name)
    kernel = lower(node, isa)
    got, = run_guarded(kernel, [first, taps, dy], isa)
    again, = run_kernel(kernel, [first, taps, dy], isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    exact, = node.op.evaluate(first.astype(np.float64), taps, dy.astype(np.float64))
    magnitude, = node.op.evaluate(np.abs(first.astype(np.float64)), taps, np.abs(dy.astype(np.float64)))
    assert np.all(np.abs(got - exact) <= 2.0**-22 * magnitude)
    assert magnitude.any()


@pytest.mark.parametrize("isa_name", ["avx2", "generic"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_infinities_meet_the_zeros_that_are_left_out(name, case, isa_name):
    shape = CASES[case]
    for share in (0.002, 0.05):
        node, arrays = build(name, shape, share)
        isa = isas.host(isa_name)
        got, = run_guarded(lower(node, isa), arrays, isa)
        with np.errstate(all="ignore"):
            want, = node.op.evaluate(*arrays)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_an_infinity_that_only_zeros_meet():
    node, (first, taps, dy) = build("filter", CASES["many images"])
    first[:] = np.where(np.isfinite(first), first, 1)
    first[3, 4, 5, 6], dy[3] = np.inf, 0
    isa = isas.host("avx2")
    got, = run_guarded(lower(node, isa), [first, taps, dy], isa)
    assert np.isnan(got[:, :, 6]).all() and np.isfinite(np.delete(got, 6, 2)).all()


def test_an_infinity_in_the_filter_that_only_zeros_meet():
    node, (w, taps, dy) = build("input", CASES["same, odd"])
    w[1, 1, 3, 2], dy[:] = np.inf, 0
    got, = run_guarded(lower(node, isas.host("avx2")), [w, taps, dy], isas.host("avx2"))
    assert np.isnan(got[:, :, :, 3]).all() and not np.delete(got, 3, 3).any()
