"""Running sums and products against the interpreter."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels.loops.scan import lower_cumulative
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.reduce import Cumprod, Cumsum

TOLERANCE = {"f32": 1e-5, "f64": 1e-13, "f16": 1e-3, "bf16": 8e-3}


def check(x, op, name):
    builder = Builder()
    dtype = next(d for d in DTYPES.values() if d.numpy == x.dtype)
    node, isa = builder.emit(op, builder.input(TensorType(dtype, x.shape), "x")).node, isas.host(name)
    (got,) = run_kernel(lower_cumulative(node, isa), [x], isa, reverse=True)
    with np.errstate(all="ignore"):
        want = op.evaluate(x)[0].astype(np.float64)
    tolerance = TOLERANCE.get(dtype.name, 0)
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [d for d in sorted(DTYPES) if d != "bool"])
@pytest.mark.parametrize("shape,axis", [((7,), 0), ((3, 5), 0), ((3, 5), 1), ((2, 4, 37), 1), ((2, 0, 3), 1),
                                        ((0, 2), 1), ((1, 1), 0)])
def test_cumsum(name, dtype, shape, axis):
    x = (np.random.default_rng(5).standard_normal(shape) * 9).astype(DTYPES[dtype].numpy)
    for exclusive in (False, True):
        for reverse in (False, True):
            check(x, Cumsum(axis, exclusive, reverse), name)
            check((x.astype(np.float64) / 16).astype(x.dtype), Cumprod(axis, exclusive, reverse), name)


def test_not_finite():
    x = np.array([1, np.inf, 2, -np.inf, 3, np.nan, 4], np.float32)
    check(x, Cumsum(0, False, False), "avx2")
    check(x, Cumsum(0, True, True), "avx2")
    for large in (np.array([1e30, 1e30, 1e-30, 0], np.float32), np.array([300, 300, 0.01, 0.01], np.float16)):
        check(large, Cumprod(0, False, False), "avx2")


def test_many_chunks():
    x = np.random.default_rng(6).standard_normal((3, 50, 1001)).astype(np.float32)
    check(x, Cumsum(1, False, True), "avx2")
