"""Runs one kernel from ctypes, all chunks in one thread: for tests of single kernels."""

import ctypes

import numpy as np

from afterburner.cpu import jit
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel
from afterburner.cpu.module import KernelModule


def aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array at a 64-byte boundary, filled with a pattern that shows up where nothing was written."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.full(size + 128, 0x5A, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start: start + size].view(dtype).reshape(shape)


def run_kernel(kernel: Kernel, operands: list[np.ndarray], isa: Isa, reverse: bool = False,
               in_place: dict[int, int] | None = None) -> list[np.ndarray]:
    """Results of a kernel; ``reverse`` takes the chunks in opposite order (it must not matter), and
    ``in_place`` names results that share the buffer of an operand: {result: operand}."""
    module = KernelModule(isa)
    symbols = module.add(kernel)
    library = jit.Library(jit.compile_object(str(module.llvm), isa), isa)
    addresses = library.load(symbols)
    inputs = []
    for array in operands:
        copy = aligned(array.shape, array.dtype)
        copy[...] = array
        inputs.append(copy)
    results = [aligned(r.shape, r.type.dtype.numpy) for r in kernel.node.results]
    for result, operand in (in_place or {}).items():
        results[result] = inputs[operand]
    temps = [aligned((max(t, 1),), np.dtype(np.uint8)) for t in kernel.temps]
    scratch = aligned((max(kernel.scratch, 1),), np.dtype(np.uint8))
    buffers = [*inputs, *results, *temps]
    table = (ctypes.c_void_p * len(buffers))(*[b.ctypes.data for b in buffers])
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    for phase, symbol in zip(kernel.phases, symbols, strict=True):
        chunks = range(phase.chunks)
        for chunk in reversed(chunks) if reverse else chunks:
            kind(addresses[symbol])(table, chunk, scratch.ctypes.data)
    return results
