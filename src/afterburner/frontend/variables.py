"""Variables stay TensorFlow's. What we know of their values, and how we notice that we no longer do.

A variable's value is an ordinary eager tensor whose address we remember. After a step the new values
are bound with one assignment, or small ones written over the old (``in_place.py``); the next step reads
the remembered addresses. Anything that may have
written a variable behind our back (an eager assignment, a stock function that takes its handle, a
dataset) makes all remembered values stale, and stale values are read again.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import tensorflow as tf
from tensorflow.python.eager import execute
from tensorflow.python.ops import (
    gen_array_ops,
    gen_dataset_ops,
    gen_experimental_dataset_ops,
    gen_functional_ops,
    gen_resource_variable_ops,
    gen_state_ops,
    gen_stateful_random_ops,
    gen_training_ops,
)

from .bulk import Reader
from .exclusion import Writers, handles_among
from .tensors import address

# Without ResourceGather: it may move a variable's value to memory of its own.
_READS = frozenset({
    "ReadVariableOp", "VariableShape", "VarIsInitializedOp", "VarHandleOp", "OptionalHasValue", "OptionalGetValue",
    "OptionalFromValue", "OptionalNone", "IteratorGetNext", "IteratorGetNextSync", "IteratorGetNextAsOptional",
    "MakeIterator", "AnonymousIteratorV2", "AnonymousIteratorV3", "DeleteIterator", "DestroyResourceOp",
})
# The generated files whose eager operations may write a variable, and the one writer of another file.
_WATCHED = (gen_dataset_ops, gen_experimental_dataset_ops, gen_functional_ops, gen_resource_variable_ops,
            gen_state_ops, gen_stateful_random_ops, gen_training_ops)
_SLICE_WRITER = ("resource_strided_slice_assign", "ResourceStridedSliceAssign")
# How the names of those begin that write a variable at once, by a kernel that waits for nothing.
_WRITES = ("Assign", "Resource", "Rng", "StatefulUniform", "StatefulStandardNormal", "StatefulTruncatedNormal",
           "StatefulRandomBinomial")
_T = TypeVar("_T")


class Clock:
    """Counts events after which remembered values may be wrong.

    Attributes:
        now: the count; a value remembered at another count is stale.
        written: a count of single writes, after each of which the values of its variables alone are forgotten.
        unsafe: a dataset took a variable's handle, so that reading from it may write: nothing is
            remembered any more.
        reshaped: how often a variable was found with another shape than before.
    """

    def __init__(self) -> None:
        self._ticks, self._writes = itertools.count(1), itertools.count(1)
        self.now = self.written = 0
        self.unsafe = False
        self.reshaped = 0

    def tick(self) -> None:
        """Declare every remembered value stale."""
        self.now = next(self._ticks)

    def note_write(self) -> None:
        """Count a single write."""
        self.written = next(self._writes)


clock = Clock()


Value = tuple[Any, int, int, int, Any, int]
_UNKNOWN: Value = (None, 0, -1, 0, None, 0)
_numbers = itertools.count(1)


class Known:
    """What is known of one variable's value.

    Attributes:
        value: (the tensor, held so that its address stays valid; the address of its elements; the
            clock when it was known to be current; a number that no other value known at any time has; the same
            value where an executable left it on its device, or None; the address of TensorFlow's count of
            references to it, or 0), replaced as a whole since threads share it.
        ours: address of the last large value that was ours; 0 before.
        shape: of the last value that was read; None before.
    """

    __slots__ = ("value", "ours", "shape", "__weakref__")

    def __init__(self) -> None:
        self.value = _UNKNOWN
        self.ours = 0
        self.shape: tuple[int, ...] | None = None

    def learn(self, tensor: Any, where: int, moment: int, kept: Any = None, counter: int = 0) -> Value:
        """Remember a value that was current at ``moment``, and what an executable keeps of it on its device."""
        self.value = value = (tensor, where, moment, next(_numbers), kept, counter)
        return value

    def forget(self) -> None:
        """Drop the value, so that TensorFlow may reuse its memory. A value that was read before is not remembered: what
        stands here is another object than before."""
        self.value = (None, 0, -1, next(_numbers), None, 0)


def learn_all(records: Iterable[Known], moment: int, tensors: Sequence[Any], addresses: Sequence[int],
              kept: Sequence[Any], counters: Sequence[int]) -> None:
    """``Known.learn`` for many at once."""
    values = zip(tensors, addresses, itertools.repeat(moment), _numbers, kept, counters)
    for record, value in zip(records, values, strict=False):
        record.value = value


_known: weakref.WeakValueDictionary[str, Known] = weakref.WeakValueDictionary()
_lock = threading.RLock()  # a collector may run any code in the middle


def identity(handle: Any) -> str:
    """What tells one variable from another: TensorFlow's text of a handle holds the name of its
    resource, which is never used twice."""
    return repr(handle)


def known(handle: Any) -> Known:
    """The record of a variable, shared by all functions that use it."""
    key = identity(handle)
    with _lock:
        record = _known.get(key)
        return _known.setdefault(key, Known()) if record is None else record


writers = Writers(known)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=writers.reset)


def run_by_tensorflow(arguments: Sequence[Any], work: Callable[[], _T]) -> _T:
    """What ``work`` gives, a run of TensorFlow's that may write any variable among its arguments."""
    clock.tick()
    try:
        return writers.foreign(arguments, work)
    finally:
        clock.tick()


def forget_all() -> None:
    """Drop every remembered value."""
    clock.tick()
    with _lock:
        for record in list(_known.values()):
            record.forget()


def refresh(records: Sequence[Known], held: Sequence[Value], handles: Sequence[Any], shapes: Sequence[tuple[int, ...]],
            read: Reader, moment: int) -> list[Value]:
    """Read again those of some variables whose values are stale.

    Args:
        records: of the variables.
        held: what these knew, at ``moment`` or after.
        handles: of the variables.
        shapes: their values' shapes.
        read: of their element types.
        moment: the clock before.

    Raises:
        ShapeChanged: a variable was given a value of another shape.
        tf.errors.OpError: a variable is not initialised or was deleted.
    """
    stale = [i for i, value in enumerate(held) if clock.unsafe or value[2] != moment]
    tensors = read(handles, stale)
    require_shapes(tensors, [shapes[i] for i in stale])
    values = list(held)
    for i, value in zip(stale, remember([records[i] for i in stale], [held[i] for i in stale], tensors, moment),
                        strict=True):
        values[i] = value
    return values


def require_shapes(tensors: Sequence[Any], shapes: Sequence[tuple[int, ...]]) -> None:
    """Raise ``ShapeChanged`` where the value of a variable has another shape than the one expected."""
    for tensor, shape in zip(tensors, shapes, strict=True):
        if tensor._shape_tuple() != shape:  # noqa: SLF001
            raise ShapeChanged(f"a variable of shape {shape} was given a value of shape {tensor._shape_tuple()}")  # noqa: SLF001


def remember(records: Sequence[Known], before: Sequence[Value], tensors: Sequence[Any], moment: int) -> list[Value]:
    """What was read of variables, as values; they are known from now on, but where a compiled stage may have written
    the variable since.

    Args:
        records: of the variables.
        before: what the records knew before the variables were read.
        tensors: what was read.
        moment: the clock before that.
    """
    values = [(tensor, address(tensor), moment, next(_numbers), None, 0) for tensor in tensors]
    with writers.gate:
        for record, old, value in zip(records, before, values, strict=True):
            if record.value is old and record not in writers.changing:
                _note_shape(record, value[0]._shape_tuple())  # noqa: SLF001
                record.value = value
    return values


def _note_shape(record: Known, shape: tuple[int, ...]) -> None:
    """Count a change of shape before the value is there to be found: who finds it looks at the count afterwards."""
    if record.shape != shape:
        clock.reshaped += record.shape is not None
        record.shape = shape


class ShapeChanged(Exception):
    """A variable's value no longer has the shape that code was generated for."""


class _Watch(ModuleType):
    """TensorFlow's eager runtime module as the generated op files see it, with an eye on writers."""

    def __init__(self, real: ModuleType) -> None:
        super().__init__(real.__name__)
        self.__dict__.update(real.__dict__)
        self._real = real
        fast = real.TFE_Py_FastPathExecute

        def watched(ctx: Any, op: str, *rest: Any) -> Any:
            if op in _READS:
                return fast(ctx, op, *rest)
            _notice(op, rest)
            return _noticed(op, rest, lambda: fast(ctx, op, *rest))

        self.TFE_Py_FastPathExecute = watched


def _noticed(op: str, arguments: Sequence[Any], work: Callable[[], _T]) -> _T:
    """Do an operation that may write variables among its arguments."""
    if op.startswith(_WRITES):
        return writers.eager(arguments, lambda: _forgetting(arguments, work))
    if not _may_reach_variables(op, arguments):
        return work()
    return writers.foreign(arguments, lambda: _ticking(work))


def _may_reach_variables(op: str, arguments: Sequence[Any]) -> bool:
    """Whether an operation is given a variable, or something else than a dataset that may hold one."""
    kinds = (tf.resource,) if "Dataset" in op else (tf.resource, tf.variant)
    return any(True for _ in handles_among(arguments, kinds))


def _ticking(work: Callable[[], _T]) -> _T:
    try:
        return work()
    finally:
        clock.tick()


def _forgetting(arguments: Sequence[Any], work: Callable[[], _T]) -> _T:
    """Do a single write; the values of its variables are known no longer. They are forgotten before it as well: an
    interrupt may come between any two lines after it."""
    records = [known(handle) for handle in handles_among(arguments)]
    for record in records:
        record.forget()
    try:
        return work()
    finally:
        clock.note_write()
        for record in records:  # another thread may have read it meanwhile
            record.forget()


def _notice(op: str, arguments: Sequence[Any]) -> None:
    """A dataset that takes a variable may write it whenever it is read: never trust memory again."""
    if "Dataset" not in op:
        return
    for argument in arguments:
        items = argument if isinstance(argument, (list, tuple)) else (argument,)
        if any(getattr(item, "dtype", None) == tf.resource for item in items):
            clock.unsafe = True


_originals: dict[ModuleType, ModuleType] = {}
_functions: dict[tuple[Any, str], Callable[..., Any]] = {}


def _slice_writers() -> tuple[tuple[Any, str], ...]:
    return (gen_array_ops, _SLICE_WRITER[0]), (tf.raw_ops, _SLICE_WRITER[1])


def _writing(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        clock.tick()
        return _noticed(_SLICE_WRITER[1], (*args, *kwargs.values()), lambda: function(*args, **kwargs))

    return watched


def watch() -> None:
    """Begin to notice eager operations that write variables."""
    for module in _WATCHED:
        if module not in _originals:
            _originals[module] = module.pywrap_tfe
            vars(module)["pywrap_tfe"] = _Watch(_originals[module])
    for holder, name in _slice_writers():
        if (holder, name) not in _functions:
            _functions[holder, name] = getattr(holder, name)
            setattr(holder, name, _writing(getattr(holder, name)))
    _watch_slow_path()


def unwatch() -> None:
    """Leave TensorFlow's modules as they were."""
    for module, real in _originals.items():
        vars(module)["pywrap_tfe"] = real
    _originals.clear()
    for (holder, name), function in _functions.items():
        setattr(holder, name, function)
    _functions.clear()
    if execute.quick_execute is _watched_execute:
        execute.quick_execute = _quick_execute
        execute.execute = _quick_execute if execute.execute is _watched_execute else execute.execute


_quick_execute = execute.quick_execute


def _watched_execute(op_name: Any, num_outputs: int, inputs: Any, attrs: Any, ctx: Any, name: Any = None) -> Any:
    kind = op_name.decode() if isinstance(op_name, bytes) else op_name
    if not kind.startswith(_WRITES) or kind in _READS:
        return _quick_execute(op_name, num_outputs, inputs, attrs, ctx, name)
    return _noticed(kind, inputs, lambda: _quick_execute(op_name, num_outputs, inputs, attrs, ctx, name))


def _watch_slow_path() -> None:
    if execute.execute is execute.quick_execute:
        execute.execute = _watched_execute
    execute.quick_execute = _watched_execute
