"""Buffers handed to TensorFlow without a copy, and taken back when TensorFlow lets go of them.

A buffer that was handed out is never written again until TensorFlow has called its deleter: earlier
reads must not change. The deleter is two native instructions that set a flag, so that it needs neither
the interpreter's lock nor the interpreter. The one exception: a buffer that nothing but a variable refers
to, as TensorFlow's own count of references says (``BufferPool.overwrite``).
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import mmap
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir.types import TensorType

ALIGNMENT = 64  # bytes; TensorFlow aborts the process on a DLPack import that is less aligned
_LARGE = 1 << 20  # bytes; a buffer as large is looked for among all of its size,
_LOOK = 4  # of others so many are asked for being free before a new one is made
_SPARE = 4  # free buffers of one size kept for reuse
_TRIM_EVERY = 512  # allocations of one size between two trims
_ROW_BYTES = 2 << 20  # of the buffers that a program keeps for itself, at most
_ROWS = 2  # of a program: one is bound to the variables while the other is written

_DLPACK_CODES = {"int": 0, "uint": 1, "float": 2, "bool": 6}
_BFLOAT = 4


@dataclass(frozen=True)
class HandoverCode:
    """Addresses of native functions.

    Attributes:
        release: ``void(DLManagedTensor*)``, the deleter: stores 1 through ``flag``.
        capsules: ``PyObject*(DLManagedTensor**, count)``: a list of DLPack capsules, flags cleared.
        overwrite: ``int32(moves*, count, int32 references, threads)``: see ``BufferPool.overwrite``.
        copy: ``int64(PyObject* objects, void** to, int64* bytes, first, count)``: copies the memory that objects of a
            list show, each so many bytes, from number ``first`` on; gives the number of the first that does not
            show so many in row-major order, else ``count``.
    """

    release: int
    capsules: int
    overwrite: int
    copy: int


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
    """64-byte aligned memory with its DLPack description.

    Attributes:
        address: of the first element.
        managed: address of the DLManagedTensor that describes it.
        flag: 1 while nobody outside holds the memory; cleared with the capsule, set by the deleter.
        type: of the tensor that it is described as.
    """

    __slots__ = ("address", "managed", "flag", "type", "_owner", "_description", "_extents", "__weakref__")

    def __init__(self, type_: TensorType, address: int, owner: object, deleter: int) -> None:
        self._owner = owner  # of the memory
        self.address = address
        self.flag = ctypes.c_int64(1)
        tensor = _DLTensor(data=self.address, device=_DLDevice(1, 0))
        self._description = _DLManagedTensor(tensor, ctypes.addressof(self.flag), deleter)
        self.managed = ctypes.addressof(self._description)
        self.describe(type_)
        _alive.add(self)

    def describe(self, type_: TensorType) -> None:
        """Say that a tensor of this type lies here. Nobody outside may hold the memory."""
        self.type = type_
        self._extents = (ctypes.c_int64 * max(type_.rank, 1))(*type_.shape)
        tensor = self._description.tensor
        tensor.ndim, tensor.shape = type_.rank, ctypes.addressof(self._extents)
        code = _BFLOAT if type_.dtype.name == "bf16" else _DLPACK_CODES[type_.dtype.kind]
        tensor.dtype = _DLDataType(code, type_.dtype.bits, 1)


def keep_all() -> None:
    """Let all buffers live until the process has ended: TensorFlow drops some tensors when the interpreter has
    dropped everything, and then reads a buffer's description and sets its flag."""
    for buffer in list(_alive):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(buffer))


_alive: weakref.WeakSet[Buffer] = weakref.WeakSet()  # to ask the collector for them takes 5 MiB at the end
atexit.register(keep_all)


def _memory(capacity: int) -> np.ndarray:
    """Room for aligned bytes. Large memory comes from the system and goes back there at once: the allocator
    may keep what was freed, and does when other threads freed it.

    Raises:
        MemoryError: there is none left.
    """
    if capacity < _LARGE:
        return np.empty(capacity + ALIGNMENT, np.uint8)
    try:
        return np.frombuffer(mmap.mmap(-1, capacity, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    except OSError as error:
        raise MemoryError(f"no memory for {capacity >> 20} MB of results: {error}") from error


class Store:
    """All buffers of one size; those that were handed out wait in the order they went. Used by a pool
    under its lock."""

    def __init__(self, capacity: int, deleter: int) -> None:
        self.capacity = capacity
        self._deleter = deleter
        self._waiting: deque[Buffer] = deque()
        self._taken = 0

    def take(self, type_: TensorType) -> Buffer:
        """A buffer nobody holds, described as a tensor of a type that fits.

        Raises:
            MemoryError: the machine has no memory left.
        """
        self._taken += 1
        if self._taken % _TRIM_EVERY == 0:
            self._trim()
        waiting = self._waiting
        looks = len(waiting) if self.capacity >= _LARGE else min(_LOOK, len(waiting))
        for _ in range(looks):
            buffer = waiting.popleft()
            if buffer.flag.value:
                if buffer.type is not type_:
                    buffer.describe(type_)
                return buffer
            waiting.append(buffer)
        memory = _memory(self.capacity)
        raw = memory.ctypes.data
        return Buffer(type_, raw + (-raw % ALIGNMENT), memory, self._deleter)

    def adopt(self, type_: TensorType, address: int, owner: object) -> None:
        """Have memory that somebody else allocated, aligned and of this size; it stays while ``owner`` lives."""
        self._waiting.appendleft(Buffer(type_, address, owner, self._deleter))

    def put(self, buffer: Buffer) -> None:
        """Remember a buffer, to use it again when nobody holds it."""
        self._waiting.append(buffer)

    def held_bytes(self) -> int:
        """Bytes of all buffers in the store, free or handed out."""
        return self.capacity * len(self._waiting)

    def _trim(self) -> None:
        """Keep a few free buffers; memory of the others goes back to the system."""
        free = [b for b in self._waiting if b.flag.value]
        held = [b for b in self._waiting if not b.flag.value]
        self._waiting = deque((*free[:_SPARE], *held))


@dataclass(frozen=True)
class Shelf:
    """Where buffers of one type come from; types of one size share a store."""

    type: TensorType
    store: Store


class Row:
    """Buffers for the outputs of one run.

    Attributes:
        buffers: one an output.
        addresses: of their first elements.
        managed: the addresses of their DLManagedTensors, as a C array.
        flags: of the buffers.
    """

    __slots__ = ("buffers", "addresses", "managed", "flags")

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self.buffers = list(buffers)
        self.addresses = [b.address for b in buffers]
        self.managed = (ctypes.c_void_p * len(buffers))(*[b.managed for b in buffers])
        self.flags = [b.flag for b in buffers]


class Moves:
    """What is to be copied where.

    Args:
        counters: addresses of the 32-bit counts of references to the destinations.
        destinations: addresses.
        sources: addresses.
        sizes: bytes.

    Attributes:
        table: all of it, as a C array.
        count: of the copies.
    """

    __slots__ = ("table", "count")

    def __init__(self, counters: Sequence[int], destinations: Sequence[int], sources: Sequence[int],
                 sizes: Sequence[int]) -> None:
        self.count = len(counters)
        rows = zip(counters, destinations, sources, sizes, strict=True)
        self.table = (ctypes.c_int64 * (4 * self.count))(*itertools.chain.from_iterable(rows))


class BufferPool:
    """Buffers by size. Thread-safe.

    Args:
        load: gives native functions that stay loaded for the life of the process; called with the
            first shelf, since it may have to compile them.
    """

    def __init__(self, load: Callable[[], HandoverCode]) -> None:
        self._load = load
        self._capsules: Callable[..., Any] | None = None
        self._overwrite: Callable[..., int] | None = None
        self._shelves: dict[TensorType, Shelf] = {}
        self._stores: dict[int, Store] = {}
        self._lock = threading.Lock()
        self.orphans: deque[tuple[Sequence[Shelf], Sequence[Buffer]]] = deque()

    def shelf(self, type_: TensorType) -> Shelf:
        """The shelf of a type."""
        with self._lock:
            shelf = self._shelves.get(type_)
            if shelf is None:
                capacity = -(-max(type_.bytes, 1) // ALIGNMENT) * ALIGNMENT
                store = self._stores.get(capacity)
                if store is None:
                    store = self._stores[capacity] = Store(capacity, self._load().release)
                shelf = self._shelves[type_] = Shelf(type_, store)
            return shelf

    def take(self, shelves: Sequence[Shelf]) -> list[Buffer]:
        """A buffer of each shelf, to write to. All go back by ``put``, handed out or not.

        Raises:
            MemoryError: the machine has no memory left.
        """
        with self._lock:
            while self.orphans:
                for shelf, buffer in zip(*self.orphans.popleft(), strict=True):
                    shelf.store.put(buffer)
            return [shelf.store.take(shelf.type) for shelf in shelves]

    def put(self, shelves: Sequence[Shelf], buffers: Sequence[Buffer]) -> None:
        """Put buffers back on their shelves; those handed out are used again when they are let go."""
        with self._lock:
            for shelf, buffer in zip(shelves, buffers, strict=True):
                shelf.store.put(buffer)

    def adopt(self, shelf: Shelf, address: int, owner: object) -> bool:
        """Have memory for a shelf that somebody else allocated and nobody uses; whether it fits.

        Args:
            shelf: what may lie there.
            address: of its first byte.
            owner: keeps it while it lives.
        """
        if address % ALIGNMENT or shelf.type.bytes != shelf.store.capacity:
            return False
        with self._lock:
            shelf.store.adopt(shelf.type, address, owner)
        return True

    def capsules(self, row: Row) -> list[Any]:
        """A DLPack capsule over each buffer, which counts as handed out from now on."""
        if self._capsules is None:
            make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_int64)
            self._capsules = make(self._load().capsules)
        return self._capsules(row.managed, len(row.buffers))  # type: ignore[no-any-return]

    def overwrite(self, moves: Moves, references: int, threads: int) -> bool:
        """Copy over buffers that are handed out, all or none; whether it was done.

        It is done where TensorFlow counts so many references to each of them, and the interpreter has no more than
        so many threads: others could have begun to read without having been counted.
        """
        if self._overwrite is None:
            make = ctypes.PYFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32, ctypes.c_int64)
            self._overwrite = make(self._load().overwrite)
        return bool(self._overwrite(moves.table, moves.count, references, threads))

    def held_bytes(self) -> int:
        """Bytes of all buffers in stores, free or handed out; those of racks are not."""
        with self._lock:
            return sum(s.held_bytes() for s in self._stores.values())


class Rack:
    """Rows of buffers that a program writes in turn: where they are small, finding each anew takes longer than
    a row of them all. Larger ones come from the pool for every run. Thread-safe.

    Args:
        pool: gives the buffers, and has them when this object has gone.
        shelves: of the outputs.
    """

    def __init__(self, pool: BufferPool, shelves: Sequence[Shelf]) -> None:
        self._pool = pool
        self._shelves = tuple(shelves)
        self._rows: deque[Row] = deque()
        self._keep = _ROWS if sum(s.type.bytes for s in shelves) <= _ROW_BYTES else 0
        # What TensorFlow still holds must outlive the program. The pool's lock may be taken when this runs.
        weakref.finalize(self, _orphan, pool, self._shelves, self._rows).atexit = False

    def take(self) -> Row:
        """Buffers nobody holds. They go back by ``put``, handed out or not.

        Raises:
            MemoryError: the machine has no memory left.
        """
        pool, shelves = self._pool, self._shelves
        if len(self._rows) < self._keep or not self._keep:
            return Row(pool.take(shelves))
        try:
            row = self._rows.popleft()
        except IndexError:  # other threads have them
            return Row(pool.take(shelves))
        if all([flag.value for flag in row.flags]):
            return row
        pool.put(shelves, row.buffers)
        return Row(pool.take(shelves))

    def put(self, row: Row) -> None:
        """Take back a row, to use it again when nobody holds its buffers."""
        if len(self._rows) < self._keep:
            self._rows.append(row)
        else:
            self._pool.put(self._shelves, row.buffers)


def _orphan(pool: BufferPool, shelves: Sequence[Shelf], rows: deque[Row]) -> None:
    while rows:
        pool.orphans.append((shelves, rows.popleft().buffers))
