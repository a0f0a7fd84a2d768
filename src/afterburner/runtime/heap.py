"""The C library's allocator, where it is one that keeps what was freed."""

from __future__ import annotations

import ctypes
from collections.abc import Callable


def _trimmer() -> Callable[[int], object] | None:
    try:
        return ctypes.CDLL(None).malloc_trim  # type: ignore[no-any-return]
    except (AttributeError, OSError, TypeError):  # not the GNU library
        return None


_trim = _trimmer()


def give_back() -> None:
    """Return freed memory to the system, where the allocator would keep it for later."""
    if _trim is not None:
        _trim(0)
