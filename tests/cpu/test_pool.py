"""Pooling kernels against the interpreter: windows, strides, padding, dtypes, NaN and infinities."""

from functools import lru_cache

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels.pool import LOWERINGS
from afterburner.ir import DTYPES, Builder, TensorType, dtype_of
from afterburner.ir.ops.pool import AvgPool, AvgPoolGrad, MaxPool, MaxPoolGrad, MaxPoolScatter, MaxPoolTaps

NONE = ((0, 0), (0, 0))
# shape, window, strides, padding
CASES = [
    ((2, 6, 8, 16), (2, 2), (2, 2), NONE),
    ((1, 7, 5, 3), (2, 2), (2, 2), NONE),
    ((2, 7, 5, 20), (2, 2), (2, 2), ((0, 1), (0, 1))),
    ((1, 7, 6, 9), (3, 3), (2, 2), ((1, 1), (0, 1))),
    ((2, 6, 7, 1), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((1, 6, 7, 5), (2, 3), (1, 1), NONE),
    ((1, 9, 9, 8), (1, 1), (2, 2), NONE),
    ((1, 10, 11, 8), (2, 2), (3, 4), ((0, 0), (1, 1))),
    ((1, 12, 13, 4), (5, 5), (5, 6), NONE),
    ((1, 8, 9, 2), (6, 7), (1, 2), ((2, 3), (3, 3))),
    ((1, 13, 13, 2), (12, 12), (1, 1), NONE),
    ((1, 1, 1, 33), (1, 1), (1, 1), NONE),
    ((1, 3, 3, 4), (2, 2), (1, 1), ((2, 2), (3, 0))),
    ((1, 4, 5, 4), (2, 2), (2, 3), ((2, 0), (3, 1))),
    ((0, 4, 4, 3), (2, 2), (2, 2), NONE),
    ((2, 4, 4, 0), (2, 2), (2, 2), NONE),
    ((1, 1, 4, 3), (2, 2), (2, 2), NONE),
]
# Windows apart and over each other, whole registers of channels and less, padding: what conversions to and from other
# types meet in a kernel. The first instruction set takes all cases in all types.
SHAPED = CASES[:4] + CASES[8:10]
TOLERANCE = {"f32": 1e-6, "f64": 1e-14, "f16": 1e-3, "bf16": 8e-3}


def values(rng, shape, dtype, hard):
    """Rounded numbers, so that maxima tie; ``hard`` adds zeros of both signs, NaN and infinities."""
    x = np.round(rng.standard_normal(shape) * 2)
    if hard:
        for special in (np.nan, -0.0, np.inf, -np.inf):
            x[rng.random(shape) < 0.1] = special
    return x.astype(DTYPES[dtype].numpy)


@lru_cache(maxsize=8)
def kernel_of(op, types, name):
    """One kernel for all values of a shape."""
    builder = Builder()
    inputs = [builder.input(type_, f"x{i}") for i, type_ in enumerate(types)]
    return LOWERINGS[op.name](builder.add(op, *inputs)[0].node, isas.host(name))


def check(op, operands, name, exact):
    kernel = kernel_of(op, tuple(TensorType(dtype_of(a.dtype), a.shape) for a in operands), name)
    with np.errstate(all="ignore"):
        wanted = op.evaluate(*operands)
    results = run_kernel(kernel, operands, isas.host(name), reverse=True)
    tolerance = 0 if exact else TOLERANCE[kernel.node.results[0].type.dtype.name]
    for got, want in zip(results, wanted, strict=True):
        got, want = got.astype(np.float64), want.astype(np.float64)
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=10 * tolerance)
        if exact:
            np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


def tried(name, dtype):
    return CASES if dtype == "f32" or name == INSTRUCTION_SETS[0] else SHAPED


@pytest.mark.parametrize(("name", "dtype", "case"), [
    pytest.param(name, dtype, case, id=f"{case}-{dtype}-{name}") for name in INSTRUCTION_SETS
    for dtype in ("f32", "f64", "f16", "bf16") for case in tried(name, dtype)])
def test_pooling(name, dtype, case):
    shape, *attributes = case
    rng = np.random.default_rng(len(str(case)))
    maximum = MaxPool(*attributes)
    for hard in (False, True):
        x = values(rng, shape, dtype, hard)
        y = maximum.evaluate(x)[0]
        dy = rng.standard_normal(y.shape).astype(x.dtype)
        check(maximum, [x], name, exact=True)
        disjoint = all(s >= w for s, w in zip(attributes[1], attributes[0], strict=True))
        check(MaxPoolGrad(*attributes), [x, y, dy], name, exact=disjoint)
        if maximum.window[0] * maximum.window[1] <= 127:
            check(MaxPoolTaps(*attributes), [x], name, exact=True)
            taps = MaxPoolTaps(*attributes).evaluate(x)[1]
            zeros = np.where(rng.random(dy.shape) < 0.2, -np.zeros_like(dy), dy)
            check(MaxPoolScatter(*attributes, shape), [taps, zeros], name, exact=disjoint)
        check(AvgPool(*attributes), [np.abs(x)], name, exact=False)
        check(AvgPoolGrad(*attributes, shape), [dy], name, exact=False)


def test_signed_zero_gradient():
    x = np.ones((1, 2, 2, 8), np.float32)
    dy = np.full((1, 1, 1, 8), -0.0, np.float32)
    check(MaxPoolGrad((2, 2), (2, 2), NONE), [x, dy, dy], "avx2", exact=True)
    scatter = MaxPoolScatter((2, 2), (2, 2), NONE, x.shape)
    check(scatter, [np.zeros(dy.shape, np.uint8), dy], "avx2", exact=True)
    assert np.signbit(scatter.evaluate(np.zeros(dy.shape, np.uint8), dy)[0]).sum() == dy.size


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_many_chunks(name):
    rng = np.random.default_rng(3)
    x = rng.standard_normal((3, 33, 35, 40)).astype(np.float32)
    for window, strides in (((2, 2), (2, 2)), ((3, 3), (2, 2))):
        maximum = MaxPool(window, strides, NONE)
        y = maximum.evaluate(x)[0]
        dy = rng.standard_normal(y.shape).astype(np.float32)
        check(maximum, [x], name, exact=True)
        check(MaxPoolGrad(window, strides, NONE), [x, y, dy], name, exact=False)
        check(MaxPoolTaps(window, strides, NONE), [x], name, exact=True)
        taps = MaxPoolTaps(window, strides, NONE).evaluate(x)[1]
        check(MaxPoolScatter(window, strides, NONE, x.shape), [taps, dy], name, exact=False)
        check(AvgPoolGrad(window, strides, NONE, x.shape), [dy], name, exact=False)
