"""Between the caller's memory and MLX's."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence

import numpy as np

from ..ir import TensorType
from ..runtime.buffers import HandoverCode
from ..runtime.views import array_at
from .backend import mx

_VIEWS = 64  # addresses remembered for one tensor; callers use a few buffers in turn


class Reader:
    """Copies one input to MLX."""

    def __init__(self, type_: TensorType) -> None:
        self._type = type_
        self._arrays: dict[int, np.ndarray] = {}  # views of the caller's buffers, by address

    def read(self, address: int) -> mx.array:
        """What lies at the address now."""
        array = self._arrays.get(address)
        if array is None:
            if len(self._arrays) >= _VIEWS:
                self._arrays.clear()
            array = self._arrays[address] = array_at(address, self._type)
        return mx.array(array)


class Writers:
    """Copies all results of a program to the caller.

    Args:
        types: of the results.
        handover: native code that copies many at once; None to copy them one by one, which takes twice as long.
    """

    def __init__(self, types: Sequence[TensorType], handover: HandoverCode | None) -> None:
        self._types = types
        self._sizes = (ctypes.c_int64 * len(types))(*[t.bytes for t in types])
        self._addresses = ctypes.c_void_p * len(types)
        self._copy = _none_copied if handover is None else _COPY(handover.copy)

    def write(self, results: list[mx.array], outputs: Sequence[int]) -> None:
        """Copy computed results to addresses."""
        count, to = len(results), self._addresses(*outputs)
        done = self._copy(results, to, self._sizes, 0, count)
        while done < count:
            _assign(results[done], self._types[done], outputs[done])
            done = self._copy(results, to, self._sizes, done + 1, count)


_COPY = ctypes.PYFUNCTYPE(ctypes.c_int64, ctypes.py_object, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64,
                          ctypes.c_int64)


def _none_copied(objects: object, to: object, sizes: object, first: int, count: int) -> int:
    return first


def _assign(result: mx.array, type_: TensorType, address: int) -> None:
    """Copy a result, whatever the order of its elements in memory."""
    if type_.dtype.name != "bf16":
        array_at(address, type_)[...] = result
        return
    bits = result.view(mx.uint16) if result.ndim else result.reshape(1).view(mx.uint16).reshape(())
    array_at(address, type_, np.dtype(np.uint16))[...] = bits  # NumPy cannot see MLX's bfloat16
