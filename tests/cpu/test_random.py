"""Random keys and bits on the CPU target against the interpreter: every bit must match."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels.random import lower_random_bits, lower_random_key
from afterburner.ir import Builder, TensorType
from afterburner.ir.ops.random import RandomBits, RandomKey
from afterburner.ir.types import DTYPES, U64

TOP = 2**64 - 1


def bits_node(shape: tuple[int, ...]):
    builder = Builder()
    key = builder.input(TensorType(U64, (1,)), "key")
    counter = builder.input(TensorType(U64, (2,)), "counter")
    return builder.emit(RandomBits(shape), key, counter).node


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("seed", [(0, 0), (1, -2), (-(2**31), 2**31 - 1), (2**40 + 3, -(2**50))])
@pytest.mark.parametrize("dtype", ["i32", "i64"])
def test_random_key(name, seed, dtype):
    value = np.array(seed, np.int64).astype(DTYPES[dtype].numpy)
    builder = Builder()
    node = builder.add(RandomKey(), builder.input(TensorType(DTYPES[dtype], (2,)), "seed"))[0].node
    isa = isas.host(name)
    got = run_kernel(lower_random_key(node, isa), [value], isa)
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(node.op.evaluate(value)))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (4,), (5,), (7, 9), (64,), (65,), (3, 11, 31)])
@pytest.mark.parametrize("key,counter", [
    (0, (0, 0)), (0xDEADBEEF12345678, (0, 0xFEDCBA9876543210)), (TOP, (TOP - 2, TOP)),
    (1 << 63, (2**32 - 3, TOP)),
])
def test_random_bits(name, shape, key, counter):
    node, isa = bits_node(shape), isas.host(name)
    operands = [np.array([key], np.uint64), np.array(counter, np.uint64)]
    (got,) = run_kernel(lower_random_bits(node, isa), operands, isa)
    np.testing.assert_array_equal(got, node.op.evaluate(*operands)[0])


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("size", [1 << 17, 200_001])
def test_chunks_in_any_order(name, size):
    node, isa = bits_node((size,)), isas.host(name)
    kernel = lower_random_bits(node, isa)
    assert kernel.phases[0].chunks > 1
    operands = [np.array([77], np.uint64), np.array([TOP - size // 8, 3], np.uint64)]
    (got,) = run_kernel(kernel, operands, isa, reverse=True)
    np.testing.assert_array_equal(got, node.op.evaluate(*operands)[0])
