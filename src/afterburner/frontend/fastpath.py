"""Calls that look like an earlier one go from ``tf.function``'s ``__call__`` straight to the compiled code.

Binding arguments, looking up the trace and flattening take TensorFlow most of the time of a small step.
A call whose arguments, thread and surroundings match a recorded call under the guards below would find
the same trace, so all that is skipped.
"""

from __future__ import annotations

import inspect
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tensorflow.python import pywrap_tfe
from tensorflow.python.data.ops import iterator_ops
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function, eager_function_run, polymorphic_function
from tensorflow.python.framework import constant_op, dtypes, ops
from tensorflow.python.saved_model import save_context

from .optionals import packer

_ATTRIBUTE = "_afterburner_routes"
_ROUTES = 4  # recorded calls per function; the oldest goes
_PATIENCE = 32  # calls recorded without one that went by a route; then the function is left alone
_PLAIN = (int, float, bool, str, type(None))
MISS = object()


class Route:
    """A recorded call: what its arguments were, and where they went.

    Args:
        function: TensorFlow's flat function that was called.
        run: our way to call it, flat arguments to flat outputs or None; an optional may be unsealed.
        arguments: of the recorded call, by position and by name.
        captures: flat arguments behind those that came from ``arguments``.
    """

    def __init__(self, function: Any, run: Callable[[Any, Sequence[Any]], Any], arguments: _Arguments,
                 captures: Sequence[Any]) -> None:
        self._function = function
        self._run = run
        self._captures = tuple(captures)
        self._match = _arguments_matcher(function, arguments)
        self._pack = packer(function.function_type)

    def call(self, arguments: _Arguments) -> Any:
        """The structured result, or MISS where this call differs from the recorded one."""
        leaves: list[Any] = []
        if not self._match(arguments, leaves):
            return MISS
        flat = (*leaves, *self._captures)
        try:
            outputs = self._run(self._function, flat)
        except Exception:
            with atomic_function.InterpolateRuntimeError(self._function):
                raise
        return MISS if outputs is None else self._pack(outputs)


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Matcher = Callable[[Any, list[Any]], bool]
"""Whether an argument is like the recorded one; its tensors are appended to the list."""


class _NoRoute(Exception):
    """An argument of a kind whose likeness cannot be told quickly."""


def _arguments_matcher(function: Any, recorded: _Arguments) -> Matcher:
    """Arguments by position, then those by name in the order in which the function takes them."""
    order = _parameter_order(function)
    if not all(name in order for name in recorded[1]):
        raise _NoRoute
    by_position = _sequence_matcher(recorded[0])
    by_name = _mapping_matcher(recorded[1], sorted(recorded[1], key=order.index))

    def match(arguments: _Arguments, leaves: list[Any]) -> bool:
        return by_position(arguments[0], leaves) and by_name(arguments[1], leaves)

    return match


def _parameter_order(function: Any) -> list[str]:
    """The order in which a function's arguments are flattened: keyword-only ones last, by name."""
    parameters = function.function_type.parameters.values()
    last = sorted(p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY)
    return [*(p.name for p in parameters if p.name not in last), *last]


def _matcher(recorded: Any) -> Matcher:
    kind = type(recorded)
    if kind is ops.EagerTensor:
        return _tensor_matcher(recorded._datatype_enum(), recorded._shape_tuple())  # noqa: SLF001
    if kind is iterator_ops.OwnedIterator:
        return _iterator_matcher(recorded)
    if kind is np.ndarray and recorded.dtype.kind in "biufc":
        return _array_matcher(recorded.dtype, recorded.shape)
    if kind in (list, tuple):
        return _sequence_matcher(recorded)
    if kind is dict and all(type(key) is str for key in recorded):
        return _mapping_matcher(recorded, sorted(recorded))
    if kind in _PLAIN:
        return _plain_matcher(kind, recorded)
    raise _NoRoute


def _tensor_matcher(dtype: int, shape: tuple[int, ...]) -> Matcher:
    def match(argument: Any, leaves: list[Any]) -> bool:
        leaves.append(argument)
        return (type(argument) is ops.EagerTensor and argument._shape_tuple() == shape  # noqa: SLF001
                and argument._datatype_enum() == dtype)  # noqa: SLF001

    return match


def _array_matcher(dtype: np.dtype, shape: tuple[int, ...]) -> Matcher:
    def match(argument: Any, leaves: list[Any]) -> bool:
        if type(argument) is not np.ndarray or argument.shape != shape or argument.dtype != dtype:
            return False
        leaves.append(constant_op.convert_to_eager_tensor(argument, context.context()))
        return True

    return match


def _iterator_matcher(recorded: Any) -> Matcher:
    same, resource = weakref.ref(recorded), recorded._iterator_resource  # noqa: SLF001
    held = weakref.ref(resource)

    def match(argument: Any, leaves: list[Any]) -> bool:
        leaves.append(held())
        return argument is same() and leaves[-1] is not None

    return match


def _sequence_matcher(recorded: Sequence[Any]) -> Matcher:
    kind, count, matchers = type(recorded), len(recorded), [_matcher(item) for item in recorded]

    def match(argument: Any, leaves: list[Any]) -> bool:
        if type(argument) is not kind or len(argument) != count:
            return False
        for matcher, item in zip(matchers, argument, strict=True):
            if not matcher(item, leaves):
                return False
        return True

    return match


def _mapping_matcher(recorded: dict[str, Any], order: Sequence[str]) -> Matcher:
    count, matchers = len(recorded), [(name, _matcher(recorded[name])) for name in order]

    def match(argument: Any, leaves: list[Any]) -> bool:
        if type(argument) is not dict or len(argument) != count:
            return False
        for name, matcher in matchers:
            if name not in argument or not matcher(argument[name], leaves):
                return False
        return True

    return match


def _plain_matcher(kind: type, recorded: Any) -> Matcher:
    def match(argument: Any, leaves: list[Any]) -> bool:
        return type(argument) is kind and bool(argument == recorded)

    return match


class _Recording(threading.local):
    """The flat calls made while a polymorphic function runs its ordinary way."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, Sequence[Any]]] | None = None


_recording = _Recording()


def note(function: Any, run: Callable[[Any, Sequence[Any]], Any], arguments: Sequence[Any]) -> None:
    """Called where a flat function has been run by us."""
    if _recording.calls is not None:
        _recording.calls.append((function, run, arguments))


def plain_surroundings() -> bool:
    """Whether nothing around the call could make TensorFlow choose another trace or record it."""
    return bool(
        pywrap_tfe.TFE_Py_TapeSetIsEmpty()
        and not ops._default_graph_stack.stack  # noqa: SLF001 - a graph or strategy scope
        and context.executing_eagerly()
        and not context.context().device_name
        and not eager_function_run.RUN_FUNCTIONS_EAGERLY
        and not save_context.in_save_context()
        and not ops.get_default_graph()._distribution_strategy_stack  # noqa: SLF001
    )


_call = polymorphic_function.Function.__call__


class _Routes:
    """What is known of a polymorphic function's calls.

    Args:
        function: the polymorphic function.

    Attributes:
        found: routes, the newest first.
        patience: calls that may still be recorded before one goes by a route.
        count: tells TensorFlow of a call that traced nothing; it warns where most calls trace.
    """

    def __init__(self, function: Any) -> None:
        self.found: tuple[Route, ...] = ()
        self.patience = _PATIENCE
        manager = polymorphic_function._frequent_tracing_detector_manager  # noqa: SLF001
        with manager._lock:  # noqa: SLF001
            detector = manager._get_detector(function._key_for_call_stats)  # noqa: SLF001
        self.count: Callable[[], None] = detector.called_without_tracing


def _hooked_call(self: Any, *args: Any, **kwds: Any) -> Any:
    if not plain_surroundings():
        return _call(self, *args, **kwds)
    routes = self.__dict__.get(_ATTRIBUTE)
    if routes is None:
        routes = self.__dict__[_ATTRIBUTE] = _Routes(self)
    for route in routes.found:
        result = route.call((args, kwds))
        if result is not MISS:
            routes.patience = _PATIENCE
            routes.count()
            return result
    if routes.patience == 0:
        return _call(self, *args, **kwds)
    return _record(self, routes, (args, kwds))


def _record(self: Any, routes: _Routes, arguments: _Arguments) -> Any:
    routes.patience -= 1
    outer, _recording.calls = _recording.calls, []
    try:
        result = _call(self, *arguments[0], **arguments[1])
        calls = _recording.calls
    finally:
        _recording.calls = outer
    if calls is not None and len(calls) == 1:
        route = _route(arguments, *calls[0])
        if route is not None:
            routes.found = (route, *routes.found)[:_ROUTES]
    return result


def _route(arguments: _Arguments, function: Any, run: Any, flat: Sequence[Any]) -> Route | None:
    """A route, if the flat arguments are the tensors of ``arguments`` in order, then fixed captures."""
    leaves: list[Any] = []
    try:
        known = _arguments_matcher(function, arguments)(arguments, leaves)
    except _NoRoute:
        return None
    if not known or len(leaves) > len(flat) or not all(map(_same, leaves, flat)):
        return None
    if function.graph.deferred_external_captures:
        return None
    return Route(function, run, arguments, flat[len(leaves):])


def _same(leaf: Any, flat: Any) -> bool:
    """The tensor itself, or another one made of the same array."""
    if leaf is flat:
        return True
    handles = (dtypes.resource, dtypes.variant)
    if leaf.dtype != flat.dtype or leaf.shape != flat.shape or leaf.dtype in handles:
        return False
    return bool(leaf.numpy().tobytes() == flat.numpy().tobytes())


def install() -> None:
    """Put the short way in."""
    polymorphic_function.Function.__call__ = _hooked_call


def uninstall() -> None:
    """Leave TensorFlow as it was; recorded calls are looked at again after the next ``install``."""
    polymorphic_function.Function.__call__ = _call
