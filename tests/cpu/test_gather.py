"""Gather and scatter kernels against the interpreter: every dtype, indices in and out of range."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels.gather import LOWERINGS
from afterburner.ir import DTYPES, Builder, TensorType, dtype_of
from afterburner.ir.ops.gather import Gather, ScatterAdd, SegmentMax, SegmentMin, SegmentProd, SegmentSum

TOLERANCE = {"f32": 1e-5, "f64": 1e-13, "f16": 1e-3, "bf16": 8e-3}


def check(op, operands, name):
    builder = Builder()
    inputs = [builder.input(TensorType(dtype_of(a.dtype), a.shape), f"x{i}") for i, a in enumerate(operands)]
    node, isa = builder.emit(op, *inputs).node, isas.host(name)
    (want,) = op.evaluate(*operands)
    kernel = LOWERINGS[op.name](node, isa)
    (got,) = run_kernel(kernel, operands, isa, reverse=True)
    tolerance = TOLERANCE.get(node.results[0].type.dtype.name, 0) if op.name != "gather" else 0
    got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return kernel


def numbers(rng, shape, dtype):
    return (rng.standard_normal(shape) * 50).astype(DTYPES[dtype].numpy)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape,axis,index_shape", [
    ((5, 7), 0, (4,)), ((5, 7), 1, (2, 3)), ((3, 4, 33), 1, ()), ((9,), 0, (17,)), ((1, 1), 1, (2,)),
    ((2, 3, 0), 1, (2,)), ((0, 3), 0, (0,)), ((4, 64), 0, (0,)), ((6, 2, 5, 16), 2, (3,)),
])
def test_gather(name, dtype, shape, axis, index_shape):
    rng = np.random.default_rng(1)
    x = numbers(rng, shape, dtype)
    check(Gather(axis), [x, rng.integers(-2, shape[axis] + 2, index_shape, np.int32)], name)


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", [d for d in sorted(DTYPES) if d != "bool"])
@pytest.mark.parametrize("shape,index_shape", [
    ((5, 7), (20,)), ((3, 33), (2, 3)), ((9,), (17,)), ((1, 1), (2,)), ((4, 0), (2,)), ((0, 3), (2,)),
    ((4, 8), (0,)), ((6, 2, 5), ()),
])
def test_scatter_add(name, dtype, shape, index_shape):
    rng = np.random.default_rng(2)
    indices = rng.integers(-2, shape[0] + 2, index_shape, np.int32)
    operands = [numbers(rng, shape, dtype), np.asarray(indices), numbers(rng, index_shape + shape[1:], dtype)]
    check(ScatterAdd(), operands, name)
    for kind in (SegmentSum, SegmentMax, SegmentMin):
        check(kind(shape[0]), operands[1:], name)
    few = (operands[2].astype(np.float64) / 32).astype(operands[2].dtype)
    check(SegmentProd(shape[0]), [operands[1], few], name)


@pytest.mark.parametrize("dtype", [d for d in sorted(DTYPES) if DTYPES[d].is_integer])
def test_index_types(dtype):
    rng = np.random.default_rng(3)
    indices = np.array([0, 3, 1, 1, 9, np.iinfo(DTYPES[dtype].numpy).max, np.iinfo(DTYPES[dtype].numpy).min],
                       DTYPES[dtype].numpy)
    x = numbers(rng, (4, 5), "f32")
    check(Gather(0), [x, indices], "avx2")
    check(ScatterAdd(), [x, indices, numbers(rng, (7, 5), "f32")], "avx2")


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_many_chunks(name):
    rng = np.random.default_rng(4)
    x, indices = numbers(rng, (3000, 128), "f32"), rng.integers(0, 3000, (50, 80), np.int64)
    updates = numbers(rng, (50, 80, 128), "f32")
    assert check(Gather(0), [x, indices], name).phases[0].chunks > 1
    assert check(ScatterAdd(), [x, indices, updates], name).phases[0].chunks > 1
    check(SegmentSum(3000), [indices, updates], name)
    check(ScatterAdd(), [x.astype(np.float16), indices, updates.astype(np.float16) / 64], name)


def test_not_a_number_is_kept():
    x = np.array([[np.nan, np.inf, -np.inf, -0.0]], np.float32)
    check(Gather(0), [x, np.zeros(3, np.int32)], "avx2")
    check(ScatterAdd(), [x, np.zeros(1, np.int32), np.ones((1, 4), np.float32)], "avx2")


@pytest.mark.parametrize("kind", [SegmentMax, SegmentMin])
def test_extremes_of_what_is_not_a_number(kind):
    x = np.array([[np.nan, np.inf, -np.inf, -0.0], [1, np.nan, 2, 3]], np.float32)
    check(kind(3), [np.array([1, 1]), x], "avx2")
