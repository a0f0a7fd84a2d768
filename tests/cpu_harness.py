"""Runs one kernel from ctypes, all chunks in one thread: for tests of single kernels."""

import ctypes
import platform
from collections import deque
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from afterburner.cpu import jit
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel
from afterburner.cpu.module import KernelModule
from afterburner.runtime.collector import paused_collector

# Those that tests of kernels go through: on x86 all of them, since LLVM splits what the processor lacks.
INSTRUCTION_SETS = (
    ("neon",) if platform.machine().lower() in ("arm64", "aarch64") else ("avx2", "avx512", "generic"))

_written: deque[tuple[Kernel, Isa, str, tuple[str, ...]]] = deque(maxlen=8)


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
    text, symbols = text_of(kernel, isa)
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
    spans = [(b.ctypes.data, b.nbytes) for b in (*inputs, *results, *temps, scratch)]
    run_calls(text, isa, calls_of(kernel, symbols, reverse), spans[:-1], spans[-1])
    return results


def text_of(kernel: Kernel, isa: Isa) -> tuple[str, tuple[str, ...]]:
    """LLVM's text of a kernel, and the symbols of its phases; written once, however often this very kernel runs.

    Another kernel has a text of its own even where it compares equal: a test may have changed what is emitted.
    """
    for known, known_isa, text, symbols in _written:
        if known is kernel and known_isa == isa:
            return text, symbols
    module = KernelModule(isa)
    with paused_collector():
        symbols = module.add(kernel)
        text = str(module.llvm)
    _written.append((kernel, isa, text, symbols))
    return text, symbols


compiled = lru_cache(maxsize=32)(jit.compile_object)


def calls_of(kernel: Kernel, symbols: Sequence[str], reverse: bool = False) -> list[tuple[str, int]]:
    """Every chunk of every phase."""
    found = []
    for phase, symbol in zip(kernel.phases, symbols, strict=True):
        chunks = range(phase.chunks)
        found.extend((symbol, chunk) for chunk in (reversed(chunks) if reverse else chunks))
    return found


def run_calls(text: str, isa: Isa, calls: Sequence[tuple[str, int]], buffers: Sequence[tuple[int, int]],
              scratch: tuple[int, int]) -> None:
    """Compile an LLVM module and call its functions one after the other.

    Args:
        text: the module.
        isa: what to compile for.
        calls: functions and chunks.
        buffers: address and bytes of each.
        scratch: the worker's own memory.
    """
    library = jit.Library(compiled(text, isa), isa)
    addresses = library.load(tuple(dict.fromkeys(symbol for symbol, _ in calls)))
    table = (ctypes.c_void_p * len(buffers))(*[address for address, _ in buffers])
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)
    for symbol, chunk in calls:
        kind(addresses[symbol])(table, chunk, scratch[0])
