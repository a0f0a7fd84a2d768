"""New values of small variables, written over the old ones where nothing but the variable refers to those.

TensorFlow's own optimizers write into a variable's memory where nobody else refers to it, and copy it otherwise, so
that what was read earlier never changes. We do the same, by the same count of references: for a small variable,
handing a new buffer over and binding it takes many times longer than copying its value.

The count belongs to the object behind a tensor's memory (``tensorflow::TensorBuffer``). An exported DLPack
description refers to it, first of all; behind its table of virtual functions stands the count. Nothing promises
that this stays so. It is therefore tried out, once a process, on a tensor that is referred to in known ways, and only
releases of TensorFlow that it was looked up for are tried.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context
from tensorflow.python.eager.execute import quick_execute  # as it is before writers are watched

from ..ir import TensorType
from ..ir.types import F32
from ..runtime.buffers import BufferPool, Moves, Row
from ..runtime.own_threads import own_threads
from .stock import tensorflow_version
from .tensors import capsule_address, hand_over
from .variables import clock

AVERAGE_BYTES = 1 << 16  # of a program's new values, at most: a larger one is bound as fast as it is copied
THREADS = 1  # that the interpreter may have, beside our own: any other might be reading
_LONGEST_PAUSE = 1024  # steps whose new values are bound without another look; doubled with every refusal
_TABLES = 16  # remembered for one program, whose rows and old values take turns

_RELEASES = ("2.18.", "2.19.", "2.20.", "2.21.")
_CONTEXT = 48  # bytes in front of a DLManagedTensor's manager_ctx, which begins with the TensorBuffer's address
_COUNT = 8  # bytes in front of a TensorBuffer's count
_PROBE = TensorType(F32, (4,))

_pointer_at = ctypes.c_void_p.from_address
_count_at = ctypes.c_int32.from_address


def _counter(tensor: Any) -> int:
    """Address of TensorFlow's count of references to a tensor's memory; valid while the tensor lives."""
    return _buffer(tensor) + _COUNT


def _buffer(tensor: Any) -> int:
    """Address of the TensorBuffer behind a tensor's memory, whose first word says of what class it is."""
    capsule = pywrap_tfe.TFE_ToDlpackCapsule(tensor)
    return _pointer_at(_pointer_at(capsule_address(capsule) + _CONTEXT).value or 0).value or 0


def is_let_go(pool: BufferPool, tensor: Any) -> bool:
    """Whether TensorFlow allocated a tensor's memory, all of it for this tensor, and nothing else refers to it any
    more: a value that a variable was rebound from. The memory is ours then for as long as we hold the tensor.

    What only looks at memory (a NumPy array's, another library's, part of a larger tensor) is of another class.
    """
    bound = references_when_bound(pool)
    if not bound:
        return False
    buffer = _buffer(tensor)
    return _count_at(buffer + _COUNT).value == bound - 1 and _pointer_at(buffer).value == _class_of(tensor.dtype)


@cache
def _class_of(dtype: tf.DType) -> int | None:
    """The class of memory that TensorFlow's allocator gives an operation for its result."""
    made, = _run("Fill", [tf.constant([4]), tf.cast(1, dtype)], "T", dtype.as_datatype_enum,
                 "index_type", tf.int32.as_datatype_enum)
    return _pointer_at(_buffer(made)).value


@lru_cache(maxsize=1)
def references_when_bound(pool: BufferPool) -> int:
    """How many references there are to memory that an eager tensor and a variable hold, and nothing else; 0 where
    TensorFlow's count cannot be relied on."""
    if not tensorflow_version().startswith(_RELEASES):
        return 0
    shelf = pool.shelf(_PROBE)
    row = Row(pool.take([shelf]))
    try:
        return _probed(*hand_over(pool, row))
    finally:
        pool.put([shelf], row.buffers)


def _probed(tensor: Any) -> int:
    """``references_when_bound``, tried out with a tensor that nothing else refers to."""
    count = _count_at(_counter(tensor))
    alone = count.value
    handle, = _run("VarHandleOp", [], "container", "", "shared_name", context.anonymous_name(),
                   "dtype", tf.float32.as_datatype_enum, "shape", _PROBE.shape, "allowed_devices", [])
    _run("AssignVariableOp", [handle, tensor], "dtype", tf.float32.as_datatype_enum, outputs=0)
    bound = count.value
    read, = _run("ReadVariableOp", [handle], "dtype", tf.float32.as_datatype_enum)
    seen = [alone, bound, count.value]
    view = read._numpy_internal()  # noqa: SLF001
    seen.append(count.value)
    del read
    seen.append(count.value)
    del view
    seen.append(count.value)
    exported = pywrap_tfe.TFE_ToDlpackCapsule(tensor)
    seen.append(count.value)
    del exported, handle
    seen.append(count.value)
    return bound if _plausible(seen) else 0


def _plausible(seen: Sequence[int]) -> bool:
    """Whether counts are right for a tensor that is alone, bound, read too, seen by NumPy too, no longer read, no
    longer seen, exported, and neither exported nor bound any more."""
    alone, bound, read, view, unread, unseen, exported, again = seen
    return (0 < alone < 8 and bound == alone + 1 and bound < read < bound + 8 and view == read + 1
            and unread == bound + 1 and unseen == bound and exported == bound + 1 and again == alone)


def _run(kind: str, inputs: list[Any], *attributes: Any, outputs: int = 1) -> Any:
    return quick_execute(kind, outputs, inputs, attributes, context.context())


class Overwriter:
    """Writes a program's new values over the old ones.

    Args:
        pool: where the buffers come from.
        types: of the new values.
    """

    def __init__(self, pool: BufferPool, types: Sequence[TensorType]) -> None:
        self._pool = pool
        self._sizes = [t.bytes for t in types]
        self._moves: dict[Row, tuple[Any, Moves]] = {}  # of the last time, by row, with the old values they are for
        self._pause = 1  # steps, after the next refusal
        self._left = 0  # steps of the present pause

    def counters(self, tensors: Sequence[Any]) -> list[int]:
        """For tensors about to be bound, the addresses of their counts of references; zeros where they cannot be
        written over, or where it is not worth a look."""
        none = [0] * len(tensors)
        if self._left:
            self._left -= 1
            return none
        if clock.unsafe or context.is_async() or not references_when_bound(self._pool):
            self._rest()
            return none
        return [_counter(tensor) for tensor in tensors]

    def only_bound(self, counters: list[int]) -> list[int]:
        """The same addresses once the tensors are bound; zeros where something else refers to one of them."""
        bound = references_when_bound(self._pool)
        if not all(counters) or all([_count_at(where).value == bound for where in counters]):
            return counters
        self._rest()
        return [0] * len(counters)

    def write(self, row: Row, counters: Sequence[int], destinations: Sequence[int]) -> bool:
        """Copy a row over old values, all or none; whether it was done.

        Args:
            row: the new values.
            counters: addresses of the counts of references to the old values, 0 where one is not known.
            destinations: addresses of the old values.
        """
        if not all(counters) or clock.unsafe or context.is_async():
            return False
        known = self._moves.get(row)
        if known is None or known[0] != (counters, destinations):
            if len(self._moves) >= _TABLES:
                self._moves.clear()
            moves = Moves(counters, destinations, row.addresses, self._sizes)
            known = self._moves[row] = ((counters, destinations), moves)
        if self._pool.overwrite(known[1], references_when_bound(self._pool), THREADS + own_threads()):
            self._pause = 1
            return True
        self._rest()
        return False

    def _rest(self) -> None:
        self._left = self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
