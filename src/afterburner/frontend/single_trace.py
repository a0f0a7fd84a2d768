"""Keras's training step, whose first trace makes variables, is traced once, not twice.

TensorFlow lifts variables that a trace makes out of it, each with graphs and a conditional of its own, and traces the
function again to be rid of the conditionals. Keras's optimizers and metrics make their variables in the first
training step, of constants. Such a variable is made at once, outside the graph, as Keras does itself where variables
exist before a function is called; then the first trace is the one that stays.

That holds for Keras's own steps of models, losses, metrics and optimizers that are all Keras's own: other Python code
may do something else the second time, and is traced twice as ever.
"""

from __future__ import annotations

import sys
import threading
from types import FrameType
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.eager.polymorphic_function import polymorphic_function
from tensorflow.python.framework import ops

from . import tracebacks

_LIBRARIES = ("keras.", "tensorflow.", "afterburner.")  # whose code may stand between a step and its variables
_BACKEND = "keras.src.backend.tensorflow.core"
_STATELESS = "keras.src.backend.common.stateless_scope"
_STRATEGIES = "tensorflow.python.distribute.distribute_lib"  # where there is none, its creators do nothing
_CONSTANT_INITIALIZERS = "keras.src.initializers.constant_initializers"
_CONSTANT = ("Zeros", "Ones", "Constant")
_NUMBERS = (bool, int, float, np.ndarray, np.generic)
_NAMES = ("zeros", "ones")
_OTHER_ON_THE_FIRST_TRACE = "LossScaleOptimizer"  # scales by a number until its variables are there
_OUTERMOST_PRIORITY = 1000  # before any other creator, which then sees the argument

_initialize = polymorphic_function.Function._initialize  # noqa: SLF001
_originals: dict[type, Any] = {}  # constructors, by class


class _Tracing(threading.local):
    """The functions that are being traced for the first time, the outermost first, and what is known of models."""

    def __init__(self) -> None:
        self.functions: list[Any] = []
        self.models: dict[int, bool] = {}


_tracing = _Tracing()


def _hooked_initialize(self: Any, *args: Any, **kwds: Any) -> Any:
    _hook_keras()
    tracebacks.install()
    _tracing.functions.append(self)
    try:
        return _initialize(self, *args, **kwds)
    finally:
        _tracing.functions.pop()
        _tracing.models.clear()


def _hooked_constructor(self: Any, *args: Any, **kwds: Any) -> None:
    make = _originals[_variable_class()]
    if not (_tracing.functions and _is_constant(args, kwds) and _is_kerass_step() and _in_first_trace()
            and _may_be_lifted()):
        make(self, *args, **kwds)
        return
    with tf.init_scope(), ops.get_default_graph()._variable_creator_scope(_unlifted, _OUTERMOST_PRIORITY):  # noqa: SLF001
        make(self, *args, **kwds)


def _unlifted(next_creator: Any, **arguments: Any) -> Any:
    """A variable that is none of the function's."""
    return next_creator(**{**arguments, "experimental_enable_variable_lifting": False})


def _is_constant(args: tuple[Any, ...], kwds: dict[str, Any]) -> bool:
    """Whether the arguments of a variable say that its first value is a constant."""
    first = args[0] if args else kwds.get("initializer")
    if isinstance(first, str):
        return first in _NAMES
    kind = type(first)
    if kind.__module__ == _CONSTANT_INITIALIZERS and kind.__name__ in _CONSTANT:
        return isinstance(getattr(first, "value", 0), _NUMBERS)
    return isinstance(first, _NUMBERS)


def _is_kerass_step() -> bool:
    """Whether the variable is made in a training step of Keras's, and all Python code of the step is Keras's."""
    frame: FrameType | None = sys._getframe(2)  # noqa: SLF001
    while frame is not None and frame.f_code is not _hooked_initialize.__code__:
        if not frame.f_globals.get("__name__", "").startswith(_LIBRARIES):
            return False
        if frame.f_code.co_name == "train_step":
            model = frame.f_locals.get("self")
            if id(model) not in _tracing.models:
                _tracing.models[id(model)] = _is_kerass_model(model)
            return _tracing.models[id(model)]
        frame = frame.f_back
    return False


def _is_kerass_model(model: Any) -> bool:
    """Whether a compiled model is made of Keras's own parts, and its step does the same in every trace."""
    optimizer = getattr(model, "optimizer", None)
    if type(optimizer).__name__ == _OTHER_ON_THE_FIRST_TRACE:
        return False
    given = [getattr(model, name, None) for name in ("_compile_loss", "_compile_metrics")]
    given += [value for part in given for name, value in getattr(part, "__dict__", {}).items()
              if name.startswith("_user_")]
    return all(map(_is_kerass, [optimizer, *model._flatten_layers(), *given]))  # noqa: SLF001


def _is_kerass(part: Any) -> bool:
    """Whether a layer, loss, metric or optimizer with the functions it holds, or all in a structure of such, are
    Keras's own; names and numbers are nobody's."""
    if isinstance(part, (list, tuple)):
        return all(map(_is_kerass, part))
    if isinstance(part, dict):
        return all(map(_is_kerass, part.values()))
    held = getattr(part, "__dict__", {}).values() if type(part).__module__.startswith("keras.") else ()
    return _is_known(part) and all(map(_is_known, held))


def _is_known(value: Any) -> bool:
    """Whether something that can be called is Keras's or TensorFlow's."""
    home = value if hasattr(value, "__qualname__") else type(value)
    return not callable(value) or str(home.__module__).startswith((*_LIBRARIES, "builtins"))


def _in_first_trace() -> bool:
    """Whether all functions around are in their first traces, and nobody else has a say in how variables are made."""
    graph = ops.get_default_graph()
    if not graph.building_function:
        return False
    lists = [id(function._created_variables) for function in _tracing.functions]  # noqa: SLF001
    creators = [creator for _, creator in graph._variable_creator_stack  # noqa: SLF001
                if getattr(creator, "__module__", "") != _STRATEGIES]
    return bool(creators) and [_created_by(creator) for creator in creators] == lists[-len(creators):]


def _created_by(creator: Any) -> int:
    """Which list a function's creator of variables adds them to; 0 for another one."""
    names = getattr(getattr(creator, "__code__", None), "co_freevars", ())
    cells = dict(zip(names, getattr(creator, "__closure__", None) or (), strict=True))
    return id(cells["created_variables"].cell_contents) if "created_variables" in cells else 0


def _may_be_lifted() -> bool:
    """Whether a variable made outside is the same: there is one device, and Keras is not looking at shapes alone."""
    if tf.distribute.has_strategy() or sys.modules[_STATELESS].in_stateless_scope():
        return False
    with tf.init_scope():
        return tf.executing_eagerly()


def _variable_class() -> type:
    return sys.modules[_BACKEND].Variable  # type: ignore[no-any-return]


def _hook_keras() -> None:
    """Keras may have been imported since TensorFlow was."""
    if _BACKEND in sys.modules and _variable_class() not in _originals:
        _originals[_variable_class()] = _variable_class().__init__  # type: ignore[misc]
        _variable_class().__init__ = _hooked_constructor  # type: ignore[misc]


def install() -> None:
    """Have such variables made at once."""
    polymorphic_function.Function._initialize = _hooked_initialize  # noqa: SLF001


def uninstall() -> None:
    """Leave TensorFlow and Keras as they were."""
    polymorphic_function.Function._initialize = _initialize  # noqa: SLF001
    for kind, constructor in _originals.items():
        kind.__init__ = constructor  # type: ignore[misc]
    _originals.clear()
