"""Buffers handed to TensorFlow without a copy, and taken back when TensorFlow lets go of them.

A buffer that is bound to a variable or was handed out is never written again until TensorFlow has
called its deleter: earlier reads must not change. The deleter is two native instructions that set a
flag, so that it needs neither the interpreter's lock nor the interpreter.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque

import numpy as np

from ..ir.types import TensorType

ALIGNMENT = 64  # bytes; TensorFlow aborts the process on a DLPack import that is less aligned
_LOOK = 4  # buffers asked for being free before a new one is made
_SPARE = 4  # free buffers of one type kept for reuse
_TRIM_EVERY = 512  # allocations of one type between two trims

_DLPACK_CODES = {"int": 0, "uint": 1, "float": 2, "bool": 6}
_BFLOAT = 4


class _DLDevice(ctypes.Structure):
    _fields_ = [("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32)]


class _DLDataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _DLTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device", _DLDevice), ("ndim", ctypes.c_int32), ("dtype", _DLDataType),
        ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
    ]


class _DLManagedTensor(ctypes.Structure):
    _fields_ = [("tensor", _DLTensor), ("flag", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


class Buffer:
    """64-byte aligned memory of one tensor type, with its DLPack description.

    Attributes:
        address: of the first element.
        managed: address of the DLManagedTensor that describes it.
    """

    __slots__ = ("address", "managed", "_free", "_memory", "_description", "_extents")

    def __init__(self, type_: TensorType, deleter: int) -> None:
        self._memory = np.empty(max(type_.bytes, 1) + ALIGNMENT, np.uint8)
        raw = self._memory.ctypes.data
        self.address = raw + (-raw % ALIGNMENT)
        self._free = ctypes.c_int64(1)
        self._extents = (ctypes.c_int64 * max(type_.rank, 1))(*type_.shape)
        code = _BFLOAT if type_.dtype.name == "bf16" else _DLPACK_CODES[type_.dtype.kind]
        tensor = _DLTensor(
            self.address, _DLDevice(1, 0), type_.rank, _DLDataType(code, type_.dtype.bits, 1),
            ctypes.addressof(self._extents), None, 0)
        self._description = _DLManagedTensor(tensor, ctypes.addressof(self._free), deleter)
        self.managed = ctypes.addressof(self._description)

    @property
    def free(self) -> bool:
        """Whether nobody outside holds the memory."""
        return self._free.value != 0

    def hand_out(self) -> None:
        """Mark as held by TensorFlow until the deleter runs."""
        self._free.value = 0

    def take_back(self) -> None:
        """Undo ``hand_out`` for a buffer that was never given away."""
        self._free.value = 1


class Shelf:
    """All buffers of one type; those that were handed out wait in the order they went. Thread-safe."""

    def __init__(self, type_: TensorType, deleter: int) -> None:
        self.type = type_
        self._deleter = deleter
        self._waiting: deque[Buffer] = deque()
        self._spare: list[Buffer] = []
        self._taken = 0
        self._lock = threading.Lock()

    def take(self) -> Buffer:
        """A buffer to write to; ``retire`` it once it is given away, ``give_back`` it if it is not.

        Raises:
            MemoryError: the machine has no memory left.
        """
        with self._lock:
            self._taken += 1
            if self._taken % _TRIM_EVERY == 0:
                self._trim()
            if self._spare:
                return self._spare.pop()
            for _ in range(min(_LOOK, len(self._waiting))):
                buffer = self._waiting.popleft()
                if buffer.free:
                    return buffer
                self._waiting.append(buffer)
        return Buffer(self.type, self._deleter)

    def retire(self, buffer: Buffer) -> None:
        """Remember a buffer that was handed out, to use it again when it comes back."""
        with self._lock:
            self._waiting.append(buffer)

    def give_back(self, buffer: Buffer) -> None:
        """Return a buffer that was not handed out."""
        with self._lock:
            self._spare.append(buffer)

    def held_bytes(self) -> int:
        """Bytes of all buffers on the shelf, free or handed out."""
        with self._lock:
            return self.type.bytes * (len(self._waiting) + len(self._spare))

    def _trim(self) -> None:
        """Keep a few free buffers; memory of the others goes back to the system."""
        free = [b for b in self._waiting if b.free]
        held = [b for b in self._waiting if not b.free]
        self._waiting = deque((*free[:_SPARE], *held))
        del self._spare[_SPARE:]


class BufferPool:
    """Shelves by tensor type. Thread-safe.

    Args:
        deleter: address of a native ``void(DLManagedTensor*)`` that stores 1 through ``flag`` and
            stays loaded for the life of the process.
    """

    def __init__(self, deleter: int) -> None:
        self._deleter = deleter
        self._shelves: dict[TensorType, Shelf] = {}
        self._lock = threading.Lock()

    def shelf(self, type_: TensorType) -> Shelf:
        """The shelf of a type."""
        with self._lock:
            if type_ not in self._shelves:
                self._shelves[type_] = Shelf(type_, self._deleter)
            return self._shelves[type_]

    def held_bytes(self) -> int:
        """Bytes of all buffers the pool knows, free or handed out."""
        with self._lock:
            shelves = list(self._shelves.values())
        return sum(s.held_bytes() for s in shelves)
