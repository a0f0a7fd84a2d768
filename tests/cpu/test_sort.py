"""The largest elements against the interpreter: ties, NaN, every dtype, both ways of ranking."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels.sort import lower_top_k
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.sort import TopK

NUMBERS = [d for d in sorted(DTYPES) if d != "bool"]


def check(x, k, name="avx2", index="i32"):
    builder = Builder()
    dtype = next(d for d in DTYPES.values() if d.numpy == x.dtype)
    op = TopK(k, DTYPES[index])
    node = builder.add(op, builder.input(TensorType(dtype, x.shape), "x"))[0].node
    isa = isas.host(name)
    got = run_kernel(lower_top_k(node, isa), [x], isa, reverse=True)
    for mine, want in zip(got, op.evaluate(x), strict=True):
        np.testing.assert_array_equal(mine.astype(np.float64), want.astype(np.float64))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape,k", [((9,), 3), ((9,), 9), ((9,), 1), ((1,), 1), ((3, 40), 5), ((3, 40), 40),
                                     ((2, 100), 70), ((0, 4), 2), ((2, 5), 0), ((4, 2), 2), ((2, 0), 0)])
def test_top_k(name, dtype, shape, k):
    x = np.random.default_rng(7).integers(0, 12, shape).astype(DTYPES[dtype].numpy)
    check(x, k, name)


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
def test_not_numbers(dtype):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((5, 60))
    for special in (np.nan, np.inf, -np.inf, -0.0, 0.0):
        x[rng.random(x.shape) < 0.1] = special
    for k in (1, 7, 60):
        check(x.astype(DTYPES[dtype].numpy), k)


@pytest.mark.parametrize("index", ["i16", "i32", "i64"])
def test_types_of_positions(index):
    check(np.arange(300, dtype=np.float32) % 7, 300, index=index)
    check(np.arange(300, dtype=np.float32) % 7, 4, index=index)


def test_extreme_integers():
    for dtype in ("i8", "u8", "i64", "u64"):
        limits = np.iinfo(DTYPES[dtype].numpy)
        check(np.array([limits.min, 1, limits.max, limits.min, limits.max, 0], DTYPES[dtype].numpy), 4)


def test_many_chunks():
    x = np.round(np.random.default_rng(9).standard_normal((400, 130)) * 20).astype(np.float32)
    check(x, 10)
    check(x, 130)
