"""Fills memory that nothing has written yet, so that reading it shows."""

from __future__ import annotations

import ctypes
import math
import struct


def fill(address: int, size: int, value: float) -> None:
    """Fill ``size`` bytes with float32 numbers of a value; where it is NaN, with bytes that are NaN in every
    floating-point type, and neither true nor false."""
    if math.isnan(value):
        ctypes.memset(address, 0xFF, size)
        return
    pattern = struct.pack("=f", value)
    ctypes.memmove(address, (pattern * (size // len(pattern) + 1))[:size], size)
