"""16-bit floats in registers: every bit pattern widened, and rounding at all the hard places."""

import cpu_harness
import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS
from llvmlite import ir as ll

from afterburner.cpu import halves
from afterburner.cpu import isa as isas
from afterburner.cpu.emitter import F32, KERNEL_TYPE, PTR, Emitter
from afterburner.ir import Builder, TensorType
from afterburner.ir.ops.shape import Reshape
from afterburner.ir.types import BF16, F16, DType

DTYPES = {"f16": F16, "bf16": BF16}


def convert(source: np.ndarray, dtype: DType, isa: isas.Isa, lanes: int, widens: bool) -> np.ndarray:
    """``source`` to f32, or to ``dtype``, ``lanes`` elements at a time."""
    node = Builder()
    value = node.emit(Reshape((1,)), node.input(TensorType(dtype, (1,)), "x"))
    module = ll.Module()
    module.triple = isa.triple
    function = ll.Function(module, KERNEL_TYPE, "convert")
    e = Emitter(function, value.node, isa)
    buffers = [e.b.load(e.at(function.args[0], i, PTR), typ=PTR) for i in range(2)]
    wide, stored = F32, halves.stored_type(dtype)
    with e.loop(0, source.size, lanes) as i:
        if widens:
            e.store(halves.load(e, e.at(buffers[0], i, stored), dtype, lanes), e.at(buffers[1], i, wide), 4)
        else:
            value = e.load(e.at(buffers[0], i, wide), e.vector(wide, lanes), 4)
            halves.store(e, value, e.at(buffers[1], i, stored), dtype)
    e.b.ret_void()
    result = np.empty(source.shape, np.float32 if widens else dtype.numpy)
    spans = [(array.ctypes.data, array.nbytes) for array in (source, result)]
    cpu_harness.run_calls(str(module), isa, [("convert", 0)], spans, (spans[0][0], 0))
    return result


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ("f16", "bf16"))
@pytest.mark.parametrize("lanes", (1, 8))
def test_every_pattern_widens(name, dtype, lanes):
    source = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype].numpy)
    got = convert(source, DTYPES[dtype], isas.host(name), lanes, True)
    np.testing.assert_array_equal(got, source.astype(np.float32))


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ("f16", "bf16"))
@pytest.mark.parametrize("lanes", (1, 8))
def test_rounds_to_nearest_even(name, dtype, lanes):
    exact = np.arange(1 << 16, dtype=np.uint16).view(DTYPES[dtype].numpy).astype(np.float32)
    near = [exact.view(np.uint32) + np.uint32(d) for d in (0, 0xFFF, 0x1000, 0x1001, 0x7FFF, 0x8000)]
    random = np.random.default_rng(0).integers(0, 2**32, 1 << 16, np.uint32)
    source = np.concatenate([*near, random]).view(np.float32)
    source[:5] = 2.0**-25, 3 * 2.0**-25, 65519.9, 65520, 1e30
    got = convert(source, DTYPES[dtype], isas.host(name), lanes, False)
    with np.errstate(all="ignore"):
        want = source.astype(DTYPES[dtype].numpy)
    number = ~np.isnan(source)
    assert np.isnan(got[~number].astype(np.float32)).all()
    np.testing.assert_array_equal(got[number].view(np.uint16), want[number].view(np.uint16))
