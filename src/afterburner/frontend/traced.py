"""Functions of the pipelines that Keras makes over arrays are traced once, not in every ``fit`` and ``predict``.

Two functions that run the same code on the same constants, for elements of the same type, become the same graph.
Only functions of Keras are looked at: tracing a program's own function may do anything. One whose graph holds a tensor
is traced anew, and so is one that draws random numbers where the program's seed is another.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from types import CellType, CodeType, FunctionType, ModuleType
from typing import Any

from tensorflow.python.data.ops import structured_function
from tensorflow.python.eager import context
from tensorflow.python.framework import config

from .fastpath import plain_surroundings
from .iterators import begins_anew

_PLAIN = (int, float, bool, str, bytes, type(None))
_FROM = "keras.src.trainers.data_adapters."
_LAZY_MODULES = "keras.src.utils.module_utils"
_KEPT = 64  # functions; the one not used for the longest time goes

_Wrapper = structured_function.StructuredFunctionWrapper
_init = _Wrapper.__init__
_traced: OrderedDict[Hashable, dict[str, Any]] = OrderedDict()


class _Unlike(Exception):
    """Something whose likeness cannot be told."""


def _hooked_init(self: Any, func: Any, transformation_name: str, dataset: Any = None, **rest: Any) -> None:
    key = _key(func, transformation_name, dataset, rest)
    known = None if key is None else _traced.get(key)
    if known is not None:
        _traced.move_to_end(key)
        self.__dict__.update(known, _func=func)
        return
    _init(self, func, transformation_name, dataset, **rest)
    if key is not None and _may_serve_again(self):
        _traced[key] = {name: value for name, value in vars(self).items() if name != "_func"}
        while len(_traced) > _KEPT:
            _traced.popitem(last=False)


def _may_serve_again(wrapper: Any) -> bool:
    graph = getattr(wrapper.function, "graph", None)
    return graph is not None and not graph.captures and begins_anew(graph)


def is_of_pipelines(func: Any) -> bool:
    """Whether Keras wrote a function for its pipelines."""
    module = getattr(func, "__module__", None)
    return isinstance(module, str) and module.startswith(_FROM)


def _key(func: Any, name: str, dataset: Any, rest: dict[str, Any]) -> Hashable | None:
    """What a function's graph depends on; None where that is not known."""
    if dataset is None or not is_of_pipelines(func) or not plain_surroundings():
        return None
    try:
        options = tuple((k, _likeness(rest[k], ())) for k in sorted(rest))
        # Without a seed and with deterministic operations TensorFlow refuses to trace what draws random numbers.
        program = context.context(), context.global_seed(), config.is_op_determinism_enabled()
        key = (*program, name, _likeness(func, ()), _likeness(dataset.element_spec, ()), options)
        hash(key)
    except (_Unlike, TypeError):
        return None
    return key


def _likeness(value: Any, names: tuple[str, ...]) -> Hashable:
    """A key that two values share only where code cannot tell them apart by the names it uses.

    Raises:
        _Unlike: there is none.
    """
    if type(value) in _PLAIN:
        return type(value), value
    if type(value) in (tuple, list):
        return type(value), tuple(_likeness(item, names) for item in value)
    if type(value) is dict:
        return tuple((_likeness(k, names), _likeness(item, names)) for k, item in value.items())
    if type(value) is FunctionType:
        return _function_likeness(value)
    if isinstance(value, ModuleType) or type(value).__module__ == _LAZY_MODULES:
        return id(value)
    if type(value).__module__.startswith("tensorflow."):
        return type(value), value  # a type of elements: hashed by what it says
    if type(value).__module__.startswith(_FROM):
        return _object_likeness(value, names)
    raise _Unlike


def _function_likeness(function: FunctionType) -> Hashable:
    names = tuple(_names(function.__code__))
    cells: tuple[CellType, ...] = function.__closure__ or ()
    held = tuple(_likeness(cell.cell_contents, names) for cell in cells)
    defaults = _likeness(function.__defaults__, names)
    if function.__kwdefaults__:
        raise _Unlike
    return function.__code__, held, defaults, id(function.__globals__)


def _names(code: CodeType) -> Iterator[str]:
    """Names of globals and attributes that code uses, the functions in it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _object_likeness(value: Any, names: tuple[str, ...]) -> Hashable:
    """Of an object: its attributes that are used, all of them plain."""
    own = vars(value)
    if any(hasattr(type(value), name) for name in names):
        raise _Unlike
    used = tuple((name, own[name]) for name in names if name in own)
    if not all(type(item) in _PLAIN for _, item in used):
        raise _Unlike
    return type(value), used


def install() -> None:
    """From now on, what was traced serves again."""
    _Wrapper.__init__ = _hooked_init


def uninstall() -> None:
    """Leave TensorFlow as it was."""
    _Wrapper.__init__ = _init
    _traced.clear()
