"""Between the caller's memory and MLX's."""

from __future__ import annotations

import ctypes

import numpy as np

from ..ir import TensorType
from .backend import mx

_VIEWS = 64  # addresses remembered for one tensor; callers use a few buffers in turn


class _Memory:
    """Arrays over the caller's buffers for one tensor."""

    def __init__(self, type_: TensorType, dtype: np.dtype) -> None:
        self._type, self._dtype = type_, dtype
        self._views: dict[int, np.ndarray] = {}

    def at(self, address: int) -> np.ndarray:
        """The tensor that lies there."""
        view = self._views.get(address)
        if view is None:
            if len(self._views) >= _VIEWS:
                self._views.clear()
            view = self._views[address] = self._view(address)
        return view

    def _view(self, address: int) -> np.ndarray:
        size = self._type.bytes
        if size == 0:
            return np.empty(self._type.shape, self._dtype)
        raw = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
        return raw.view(self._dtype).reshape(self._type.shape)


class Reader:
    """Copies one input to MLX."""

    def __init__(self, type_: TensorType) -> None:
        self._memory = _Memory(type_, type_.dtype.numpy)

    def read(self, address: int) -> mx.array:
        """What lies at the address now."""
        return mx.array(self._memory.at(address))


class Writer:
    """Copies one result to the caller."""

    def __init__(self, type_: TensorType) -> None:
        # NumPy cannot see MLX's bfloat16: its bits are copied.
        self._bits = type_.dtype.name == "bf16"
        self._memory = _Memory(type_, np.dtype(np.uint16) if self._bits else type_.dtype.numpy)

    def write(self, result: mx.array, address: int) -> None:
        """Write a computed result to the address."""
        source = result.view(mx.uint16) if self._bits and result.ndim else result
        if self._bits and not result.ndim:
            source = result.reshape(1).view(mx.uint16).reshape(())
        self._memory.at(address)[...] = source
