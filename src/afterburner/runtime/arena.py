"""The memory of intermediate values: one arena for all executables, which run one at a time."""

from __future__ import annotations

import ctypes
import mmap
import sys
import weakref
from collections import deque
from typing import Any

HUGE_PAGE = 2 << 20  # bytes
_SMALL = HUGE_PAGE // 2  # below, a huge page would take more memory than it holds, and small pages do
_MADVISE_FREE = getattr(mmap, "MADV_FREE" if sys.platform == "darwin" else "MADV_DONTNEED", None)


class ArenaError(MemoryError):
    """The system gives no memory of the size a program needs; the message says how much."""


class Arena:
    """A block as large as the largest live lease; a large one on huge pages where the system has them.

    The caller serialises ``lease``, ``settle`` and the use of the memory (the engine's lock). An owner
    may go at any time in any thread; that takes effect at the next ``lease`` or ``settle``.

    Attributes:
        address: of the block, a multiple of 2 MB; 0 while it is empty. Changes when the block grows.
        size: of the block in bytes.
        dropped: leases whose owners are gone, until the next ``lease`` or ``settle``.
    """

    def __init__(self) -> None:
        self.address = 0
        self.size = 0
        self._map: mmap.mmap | None = None
        self._view: Any = None
        self._leases: dict[int, int] = {}
        self.dropped: deque[int] = deque()
        self._next = 0

    @property
    def needed(self) -> int:
        """Bytes of the largest live lease."""
        return max(self._leases.values(), default=0)

    def lease(self, owner: object, size: int) -> None:
        """Make the block at least ``size`` bytes for as long as ``owner`` lives.

        Raises:
            ArenaError: the system has no such block; what was there before remains.
        """
        self.settle()
        if size > self.size:
            self._grow(size)
        self._leases[self._next] = size
        weakref.finalize(owner, self.dropped.append, self._next).atexit = False
        self._next += 1

    def settle(self) -> None:
        """Give back what dropped leases alone needed."""
        changed = False
        while self.dropped:
            self._leases.pop(self.dropped.popleft(), None)
            changed = True
        if not changed or not self.size:
            return
        needed = self.needed
        if needed == 0:
            self._close()
        elif needed <= self.size // 2:
            self._shrink(needed)

    def _grow(self, size: int) -> None:
        rounded = -(-size // HUGE_PAGE) * HUGE_PAGE
        try:
            block = mmap.mmap(-1, rounded + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError, ValueError) as error:
            raise ArenaError(f"no memory for {rounded >> 20} MB of intermediate values: {error}") from error
        advice = "MADV_NOHUGEPAGE" if size < _SMALL else "MADV_HUGEPAGE"
        if hasattr(mmap, advice):
            try:
                block.madvise(getattr(mmap, advice))
            except OSError:
                pass  # a kernel without huge pages: slower, not wrong
        self._close()
        self._map = block
        self._view = (ctypes.c_char * len(block)).from_buffer(block)
        base = ctypes.addressof(self._view)
        self.address = -(-base // HUGE_PAGE) * HUGE_PAGE
        self.size = rounded

    def _shrink(self, needed: int) -> None:
        """Keep the addresses but give back the pages behind ``needed``."""
        if self._map is None or _MADVISE_FREE is None:
            return
        start = self.address - ctypes.addressof(self._view) + -(-needed // HUGE_PAGE) * HUGE_PAGE
        self._map.madvise(_MADVISE_FREE, start, len(self._map) - start)

    def _close(self) -> None:
        self.address = self.size = 0
        self._view = None
        if self._map is not None:
            self._map.close()
            self._map = None
