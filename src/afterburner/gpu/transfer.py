"""Between the caller's memory and MLX's."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Generic, TypeVar

import numpy as np

from ..ir import TensorType
from ..runtime.views import array_at, bytes_at
from .backend import mx

_VIEWS = 64  # addresses remembered for one tensor; callers use a few buffers in turn
_FORMATS = ("bool", "i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32")  # whose bytes ``memoryview`` gives

View = TypeVar("View")


class _Views(Generic[View]):
    """What was made of the caller's buffers for one tensor, by their addresses."""

    def __init__(self, make: Callable[[int], View]) -> None:
        self._make = make
        self._views: dict[int, View] = {}

    def at(self, address: int) -> View:
        """What was made of the buffer that lies there."""
        view = self._views.get(address)
        if view is None:
            if len(self._views) >= _VIEWS:
                self._views.clear()
            view = self._views[address] = self._make(address)
        return view


class Reader:
    """Copies one input to MLX."""

    def __init__(self, type_: TensorType) -> None:
        self._arrays = _Views(lambda address: array_at(address, type_))

    def read(self, address: int) -> mx.array:
        """What lies at the address now."""
        return mx.array(self._arrays.at(address))


class Writer:
    """Copies one result to the caller.

    Attributes:
        place: gives, for an address, a function that writes a computed result there.
    """

    def __init__(self, type_: TensorType) -> None:
        self._type = type_
        # NumPy cannot see MLX's bfloat16: its bits are copied.
        self._bits = type_.dtype.name == "bf16"
        self._has_bytes = type_.dtype.name in _FORMATS and type_.bytes > 0
        self.place = _Views(self._place).at

    def _place(self, address: int) -> Callable[[mx.array], None]:
        array = array_at(address, self._type, np.dtype(np.uint16) if self._bits else None)
        if not self._has_bytes:
            return partial(self._assign, array)
        raw = memoryview(bytes_at(address, self._type.bytes).data)

        def write(result: mx.array) -> None:
            source = memoryview(result)  # type: ignore[arg-type]
            if source.c_contiguous:  # NumPy looks at MLX's arrays for longer than it takes to copy a small one
                raw[:] = source.cast("B")
            else:
                self._assign(array, result)

        return write

    def _assign(self, array: np.ndarray, result: mx.array) -> None:
        if self._bits:
            result = result.view(mx.uint16) if result.ndim else result.reshape(1).view(mx.uint16).reshape(())
        array[...] = result
