"""Buffers handed to TensorFlow without a copy, and taken back when TensorFlow lets go of them.

A buffer that is bound to a variable or was handed out is never written again until TensorFlow has
called its deleter: earlier reads must not change. The deleter is two native instructions that set a
flag, so that it needs neither the interpreter's lock nor the interpreter.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.types import TensorType

ALIGNMENT = 64  # bytes; TensorFlow aborts the process on a DLPack import that is less aligned
_LOOK = 4  # buffers asked for being free before a new one is made
_SPARE = 4  # free buffers of one type kept for reuse
_TRIM_EVERY = 512  # allocations of one type between two trims

_DLPACK_CODES = {"int": 0, "uint": 1, "float": 2, "bool": 6}
_BFLOAT = 4


@dataclass(frozen=True)
class HandoverCode:
    """Addresses of native functions.

    Attributes:
        release: ``void(DLManagedTensor*)``, the deleter: stores 1 through ``flag``.
        capsules: ``PyObject*(DLManagedTensor**, count)``: a list of DLPack capsules, flags cleared.
    """

    release: int
    capsules: int


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
        flag: 1 while nobody outside holds the memory; cleared with the capsule, set by the deleter.
    """

    __slots__ = ("address", "managed", "flag", "_memory", "_description", "_extents")

    def __init__(self, type_: TensorType, deleter: int) -> None:
        self._memory = np.empty(max(type_.bytes, 1) + ALIGNMENT, np.uint8)
        raw = self._memory.ctypes.data
        self.address = raw + (-raw % ALIGNMENT)
        self.flag = ctypes.c_int64(1)
        self._extents = (ctypes.c_int64 * max(type_.rank, 1))(*type_.shape)
        code = _BFLOAT if type_.dtype.name == "bf16" else _DLPACK_CODES[type_.dtype.kind]
        tensor = _DLTensor(
            self.address, _DLDevice(1, 0), type_.rank, _DLDataType(code, type_.dtype.bits, 1),
            ctypes.addressof(self._extents), None, 0)
        self._description = _DLManagedTensor(tensor, ctypes.addressof(self.flag), deleter)
        self.managed = ctypes.addressof(self._description)


class Shelf:
    """All buffers of one type; those that were handed out wait in the order they went. Used by a pool
    under its lock."""

    def __init__(self, type_: TensorType, deleter: int) -> None:
        self.type = type_
        self._deleter = deleter
        self._waiting: deque[Buffer] = deque()
        self._taken = 0

    def take(self) -> Buffer:
        """A buffer nobody holds.

        Raises:
            MemoryError: the machine has no memory left.
        """
        self._taken += 1
        if self._taken % _TRIM_EVERY == 0:
            self._trim()
        waiting = self._waiting
        for _ in range(min(_LOOK, len(waiting))):
            buffer = waiting.popleft()
            if buffer.flag.value:
                return buffer
            waiting.append(buffer)
        return Buffer(self.type, self._deleter)

    def put(self, buffer: Buffer) -> None:
        """Remember a buffer, to use it again when nobody holds it."""
        self._waiting.append(buffer)

    def held_bytes(self) -> int:
        """Bytes of all buffers on the shelf, free or handed out."""
        return self.type.bytes * len(self._waiting)

    def _trim(self) -> None:
        """Keep a few free buffers; memory of the others goes back to the system."""
        free = [b for b in self._waiting if b.flag.value]
        held = [b for b in self._waiting if not b.flag.value]
        self._waiting = deque((*free[:_SPARE], *held))


class BufferPool:
    """Shelves by tensor type. Thread-safe.

    Args:
        load: gives native functions that stay loaded for the life of the process; called with the
            first shelf, since it may have to compile them.
    """

    def __init__(self, load: Callable[[], HandoverCode]) -> None:
        self._load = load
        self._capsules: Callable[..., Any] | None = None
        self._shelves: dict[TensorType, Shelf] = {}
        self._lock = threading.Lock()

    def shelf(self, type_: TensorType) -> Shelf:
        """The shelf of a type."""
        with self._lock:
            if type_ not in self._shelves:
                self._shelves[type_] = Shelf(type_, self._load().release)
            return self._shelves[type_]

    def take(self, shelves: Sequence[Shelf]) -> list[Buffer]:
        """A buffer of each shelf, to write to. All go back by ``put``, handed out or not.

        Raises:
            MemoryError: the machine has no memory left.
        """
        with self._lock:
            return [shelf.take() for shelf in shelves]

    def put(self, shelves: Sequence[Shelf], buffers: Sequence[Buffer]) -> None:
        """Put buffers back on their shelves; those handed out are used again when they are let go."""
        with self._lock:
            for shelf, buffer in zip(shelves, buffers, strict=True):
                shelf.put(buffer)

    def capsules(self, buffers: Sequence[Buffer]) -> list[Any]:
        """A DLPack capsule over each buffer, which counts as handed out from now on."""
        if self._capsules is None:
            make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_int64)
            self._capsules = make(self._load().capsules)
        count = len(buffers)
        managed = (ctypes.c_void_p * count)(*[b.managed for b in buffers])
        return list(self._capsules(managed, count))

    def held_bytes(self) -> int:
        """Bytes of all buffers the pool knows, free or handed out."""
        with self._lock:
            return sum(s.held_bytes() for s in self._shelves.values())
