"""Runs kernels on buffers that end at memory no one may touch: reading or writing past an end stops the test."""

import ctypes
import mmap

import cpu_harness
import numpy as np

from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel

_LIBC = ctypes.CDLL(None, use_errno=True)
_PROT_NONE = 0


class Guarded:
    """``size`` bytes whose end is as close to an unreadable page as ``alignment`` allows."""

    def __init__(self, size: int, alignment: int) -> None:
        pages = -(-max(size, 1) // mmap.PAGESIZE)
        self._map = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        start = self._bytes.ctypes.data
        end = start + pages * mmap.PAGESIZE
        if _LIBC.mprotect(ctypes.c_void_p(end), ctypes.c_size_t(mmap.PAGESIZE), _PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
        self._before = (end - size) // alignment * alignment - start
        self._after = self._before + size
        self._bytes[:pages * mmap.PAGESIZE] = 0x5A
        self.address = start + self._before
        self.size, self._usable = size, pages * mmap.PAGESIZE

    def array(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """The bytes as an array."""
        return self._bytes[self._before: self._after].view(dtype).reshape(shape)

    def intact(self) -> bool:
        """Whether nothing around the bytes was written."""
        around = (self._bytes[:self._before], self._bytes[self._after: self._usable])
        return all(bool((part == 0x5A).all()) for part in around)


def run_guarded(kernel: Kernel, operands: list[np.ndarray], isa: Isa) -> list[np.ndarray]:
    """Results of a kernel; operands and results are aligned to their elements only."""
    text, symbols = cpu_harness.text_of(kernel, isa)
    inputs = [Guarded(x.nbytes, x.dtype.itemsize) for x in operands]
    for item, value in zip(inputs, operands, strict=True):
        item.array(value.shape, value.dtype)[...] = value
    results = [Guarded(r.type.bytes, r.type.dtype.bytes) for r in kernel.node.results]
    temps = [Guarded(t, 64) for t in kernel.temps]
    scratch = Guarded(kernel.scratch, 64)
    buffers = [*inputs, *results, *temps]
    spans = [(b.address, b.size) for b in (*buffers, scratch)]
    cpu_harness.run_calls(text, isa, cpu_harness.calls_of(kernel, symbols), spans[:-1], spans[-1])
    assert all(b.intact() for b in (*buffers, scratch))
    return [b.array(r.shape, r.type.dtype.numpy).copy()
            for b, r in zip(results, kernel.node.results, strict=True)]
