"""Input pipelines begin when they are first asked, and are destroyed in a thread of their own.

At the end of an epoch Keras makes an iterator for the next one, and another one when that begins. Where an
iterator over the same dataset has been made before and nobody can tell when another begins, it is made when it is
first asked for something.

The autotuner of ``tf.data`` is woken when its pipeline is cancelled, but the mark that it then looks for is set
only after all have been woken. Where it looks too early it sleeps on until its next look, which may be as far
away as it has been running, and the thread that dropped the last reference to the iterator waits for it: at the
end of an epoch, a validation, a ``predict``.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import iterator_ops
from tensorflow.python.eager import context
from tensorflow.python.framework import ops

from ..runtime.own_threads import OwnThread, require_threads

_log = logging.getLogger("afterburner")
_ATTRIBUTE = "_afterburner_destroyed_later"  # of an iterator
_WAITING = "_afterburner_dataset"  # of an iterator that has not been made
_MADE = ("_dataset", "_element_spec", "_flat_output_types", "_flat_output_shapes", "_iterator_resource")
_BEGINS_UNSEEN = "_afterburner_begins_unseen"  # of a dataset
_VERDICT = "_afterburner_harmless"  # of a function's graph
_MOST_BYTES = 64 << 20  # of a dataset whose pipeline lives on a little,
_MOST_WAITING = 16 << 20  # and of others that do already: of the large ones only one at a time
_IN_MEMORY = frozenset(f"{name}Dataset" for name in (
    "Batch", "Cache", "Concatenate", "Filter", "FlatMap", "Interleave", "Map", "Options", "PaddedBatch",
    "ParallelBatch", "ParallelInterleave", "ParallelMap", "Prefetch", "Range", "Repeat", "Restructured", "Shuffle",
    "Skip", "Take", "Tensor", "TensorSlice", "Unbatch", "Window", "Zip"))
_REPEATABLE = _IN_MEMORY - {"CacheDataset", "ShuffleDataset"}  # which tell one iterator from the next
_HARMLESS_STATE = frozenset((
    "RandomShuffle", "RandomUniform", "RandomUniformInt", "RandomStandardNormal", "TruncatedNormal",
    "Assert", "PartitionedCall", "StatefulPartitionedCall"))


class _Destroyer:
    """A thread that drops references."""

    def __init__(self) -> None:
        self._waiting: SimpleQueue[Any] = SimpleQueue()  # may be entered again by a destructor
        self._thread: threading.Thread | None = None
        self._held: deque[tuple[int, int]] = deque()  # of what waits; changed without a lock, by single C calls
        self._closed = False

    def start(self) -> None:
        """Start the thread, unless it runs or there can be none: then callers drop by themselves."""
        if self._thread is not None or self._closed:
            return
        thread = OwnThread(target=self._drop, name="afterburner-iterators", daemon=True)
        try:
            require_threads()
            thread.start()
        except RuntimeError:
            return
        self._thread = thread

    def drop(self, reference: Any, dataset: int, size: int) -> None:
        """Drop a reference to the ``size`` bytes of a dataset later; the caller does it where too much is waiting."""
        held = (dataset, size)
        others = _total({other for other in tuple(self._held) if other[0] != dataset})
        fits = size <= _MOST_BYTES and others <= _MOST_WAITING
        if fits and self._thread is not None and not self._closed:
            self._held.append(held)
            self._waiting.put(([reference], held))

    def close(self) -> None:
        """Wait until everything is dropped; from now on callers do it themselves."""
        self._closed = True
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()

    def _drop(self) -> None:
        while (item := self._waiting.get()) is not None:
            reference, held = item
            reference.clear()
            self._held.remove(held)


def _total(held: set[tuple[int, int]]) -> int:
    """Bytes of datasets, each of which counts once for all of its iterators."""
    return sum(size for _, size in held)


_destroyer = _Destroyer()
atexit.register(lambda: _destroyer.close())


def _forget_thread() -> None:
    """In a forked child, which has no thread but its own."""
    global _destroyer
    _destroyer = _Destroyer()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_thread)


_PIPELINE_BYTES = 1 << 20  # of a pipeline without its tensors, roughly


class _DestroyedLater:
    """Goes with an iterator, after its dataset, and keeps its resource a little longer."""

    def __init__(self, dataset: Any, resource: Any, size: int) -> None:
        self._dataset, self._key, self._resource, self._size = weakref.ref(dataset), id(dataset), resource, size

    def __del__(self) -> None:
        destroyer: _Destroyer | None = globals()["_destroyer"]
        if destroyer is None:  # the interpreter ends, and has taken this module apart
            return
        # Where somebody holds the dataset, as between two epochs, the tensors are not kept by us.
        size = self._size if self._dataset() is None else _PIPELINE_BYTES
        destroyer.drop(self._resource, self._key, size)


def destroyed_unseen(dataset: Any) -> int:
    """Bytes of a pipeline, if nobody can tell when it is destroyed: it holds no files, calls no Python and has
    no other side effects; else 0."""
    parts = list(_parts(dataset))
    functions = [f.function for part in parts for f in part._functions()]  # noqa: SLF001
    unseen = (
        all(type(part).__name__.lstrip("_") in _IN_MEMORY for part in parts)
        and not any(_is_given(getattr(part, "_filename", "")) for part in parts)
        and all(_is_harmless(function.graph) for function in functions))
    if not unseen:
        return 0
    held = [t for part in parts for t in getattr(part, "_tensors", ())]
    held += [t for function in functions for t in function.captured_inputs]
    return _PIPELINE_BYTES + sum(map(_bytes, held))


def _parts(dataset: Any) -> Iterator[Any]:
    yield dataset
    for part in dataset._inputs():  # noqa: SLF001
        yield from _parts(part)


def _is_given(name: Any) -> bool:
    """Whether a file name, a Python string or a tensor, is not empty."""
    return bool(name.numpy() if isinstance(name, tf.Tensor) else name)


def _bytes(tensor: Any) -> int:
    if not isinstance(tensor, tf.Tensor) or tensor.dtype in (tf.resource, tf.variant):
        return 0
    return int((tensor.shape.num_elements() or 0) * tensor.dtype.size)


def _is_harmless(graph: Any) -> bool:
    """Whether no operation of a function, and of the functions in it, has side effects; known once it was asked."""
    known = getattr(graph, _VERDICT, None)
    if known is None:
        inner = [f.graph for f in graph._functions.values()]  # noqa: SLF001
        types = {op.type for op in graph.get_operations()}
        known = not any(_is_stateful(graph, t) for t in types) and all(map(_is_harmless, inner))
        setattr(graph, _VERDICT, known)
    return bool(known)


def _is_stateful(graph: Any, operation: str) -> bool:
    if operation in _HARMLESS_STATE:
        return False
    kind = re.fullmatch(r"(\w+Dataset)(V\d)?", operation)
    if kind is not None:
        return kind[1] not in _IN_MEMORY or kind[1] == "CacheDataset"  # which may write to a file
    return bool(graph.op_def_for_type(operation).is_stateful)


def begins_anew(graph: Any) -> bool:
    """Whether a function without functions in it does the same in every iterator, whenever that is made: its streams of
    random numbers, if any, begin anew there, with the seeds that the graph has or by chance."""
    shuffles = any(op.type.startswith("Shuffle") for op in graph.get_operations())
    return not shuffles and not graph._functions and _is_harmless(graph)  # noqa: SLF001


def _begins_unseen(dataset: Any) -> bool:
    """Whether nobody can tell when an iterator over a pipeline is made, once one has been made."""
    parts = list(_parts(dataset))
    return (all(type(part).__name__.lstrip("_") in _REPEATABLE for part in parts)
            and all(begins_anew(f.function.graph) for part in parts for f in part._functions()))  # noqa: SLF001


_create_iterator = iterator_ops.OwnedIterator._create_iterator  # noqa: SLF001
_unmade: weakref.WeakSet[Any] = weakref.WeakSet()
_making = threading.RLock()


def _make(iterator: Any) -> None:
    """Make an iterator that has waited for its first use."""
    with _making:
        dataset = iterator.__dict__.get(_WAITING)
        if dataset is not None:
            try:
                with ops.init_scope(), tf.device(None):
                    _make_now(iterator, dataset)
            except BaseException:
                for name in _MADE:
                    iterator.__dict__.pop(name, None)
                raise
            del iterator.__dict__[_WAITING]
            _unmade.discard(iterator)


def _missing(self: Any, name: str) -> Any:
    """Python calls this for an attribute that an iterator has not got."""
    if name in _MADE:
        _make(self)
        if name in self.__dict__:
            return self.__dict__[name]
    raise AttributeError(f"'{type(self).__name__}' object has no attribute '{name}'")


def _hooked_create_iterator(self: Any, dataset: Any) -> None:
    if not context.executing_eagerly() or type(self) is not iterator_ops.OwnedIterator:
        _create_iterator(self, dataset)
    elif dataset.__dict__.get(_BEGINS_UNSEEN):
        self.__dict__[_WAITING] = dataset
        _unmade.add(self)
    else:
        _make_now(self, dataset)
        try:
            dataset.__dict__[_BEGINS_UNSEEN] = _begins_unseen(dataset)
        except Exception:  # noqa: BLE001 - a dataset of another make
            _log.debug("afterburner: the next iterator over %r is made at once", dataset, exc_info=True)


def _make_now(self: Any, dataset: Any) -> None:
    _create_iterator(self, dataset)
    try:
        size = destroyed_unseen(self._dataset)
    except Exception:  # noqa: BLE001 - a dataset of another make
        _log.debug("afterburner: an iterator over %r is destroyed at once", dataset, exc_info=True)
        return
    if size:
        _destroyer.start()
        self.__dict__[_ATTRIBUTE] = _DestroyedLater(self._dataset, self._iterator_resource, size)


def install() -> None:
    """From now on, iterators over harmless pipelines begin and are destroyed later."""
    iterator_ops.OwnedIterator._create_iterator = _hooked_create_iterator  # noqa: SLF001
    iterator_ops.OwnedIterator.__getattr__ = _missing


def uninstall() -> None:
    """Leave TensorFlow as it was."""
    iterator_ops.OwnedIterator._create_iterator = _create_iterator  # noqa: SLF001
    for iterator in list(_unmade):
        _make(iterator)
    if "__getattr__" in vars(iterator_ops.OwnedIterator):
        del iterator_ops.OwnedIterator.__getattr__
