"""NumPy arrays over memory that is known by its address; they are valid while the memory is."""

from __future__ import annotations

import ctypes

import numpy as np

from ..ir.types import TensorType


def bytes_at(address: int, size: int) -> np.ndarray:
    """u8[size] at an address."""
    if size == 0:
        return np.empty(0, np.uint8)
    found: np.ndarray = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return found


def array_at(address: int, type_: TensorType, dtype: np.dtype | None = None) -> np.ndarray:
    """A tensor at an address, its elements seen as ``dtype`` where NumPy should take them for another type."""
    seen_as = type_.dtype.numpy if dtype is None else dtype
    return bytes_at(address, type_.bytes).view(seen_as).reshape(type_.shape)
