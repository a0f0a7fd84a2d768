"""Many variables read, or bound to new values, by one TensorFlow call.

The function that does it is written as a message to the runtime, operation by operation: to trace it in Python took
a second for the variables of a large network, and TensorFlow's optimisation of it as long.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import function_pb2
from tensorflow.core.protobuf import config_pb2
from tensorflow.python.eager import context
from tensorflow.python.eager.execute import quick_execute  # as it is before writers are watched

from .stock import Runner, call_inline

_serial = itertools.count()
_FEW = 8  # variables that are read one by one: one call for all, in which each takes less, takes longer to begin
_KEPT = 256  # readers and writers: TensorFlow never frees what it made to run a function once it ran


class Reader:
    """Reads some of a list of variables.

    Args:
        dtypes: of their values.
        read_all: gives the values of all by one call.
    """

    def __init__(self, dtypes: Sequence[tf.DType], read_all: Runner) -> None:
        self._read_all = read_all
        self._attributes = [("dtype", dtype.as_datatype_enum) for dtype in dtypes]

    def __call__(self, handles: Sequence[Any], positions: Sequence[int]) -> list[Any]:
        """Current values of the variables at some positions, given the handles of all."""
        if len(positions) > _FEW:
            values = self._read_all(list(handles))
            return [values[i] for i in positions]
        here = context.context()
        return [quick_execute("ReadVariableOp", 1, [handles[i]], self._attributes[i], here)[0] for i in positions]


def reader(dtypes: Sequence[tf.DType]) -> Reader:
    """What reads variables of these element types."""
    return _reader(tuple(dtypes), id(context.context()))


def writer(dtypes: Sequence[tf.DType]) -> Runner:
    """A callable from handles followed by values to nothing: the variables are bound to the values."""
    return _writer(tuple(dtypes), id(context.context()))


@lru_cache(maxsize=_KEPT)
def _reader(dtypes: tuple[tf.DType, ...], context_id: int) -> Reader:
    function = _function("read", len(dtypes))
    signature = function.signature
    for i, dtype in enumerate(dtypes):
        node = function.node_def.add(name=f"n{i}", op="ReadVariableOp", input=[f"h{i}"])
        node.attr["dtype"].type = dtype.as_datatype_enum
        signature.output_arg.add(name=f"o{i}", type=dtype.as_datatype_enum)
        function.ret[f"o{i}"] = f"n{i}:value:0"
    return Reader(dtypes, _runner(function))


@lru_cache(maxsize=_KEPT)
def _writer(dtypes: tuple[tf.DType, ...], context_id: int) -> Runner:
    function = _function("write", len(dtypes))
    signature = function.signature
    for i, dtype in enumerate(dtypes):
        signature.input_arg.add(name=f"v{i}", type=dtype.as_datatype_enum)
        node = function.node_def.add(name=f"n{i}", op="AssignVariableOp", input=[f"h{i}", f"v{i}"])
        node.attr["dtype"].type = dtype.as_datatype_enum
        signature.control_output.append(f"c{i}")
        function.control_ret[f"c{i}"] = f"n{i}"
    return _runner(function)


def _function(kind: str, count: int) -> function_pb2.FunctionDef:
    """A function that takes so many handles, first of all."""
    function = function_pb2.FunctionDef()
    function.signature.name = f"__afterburner_{kind}_{count}_{next(_serial)}"
    function.signature.is_stateful = True
    for i in range(count):
        function.signature.input_arg.add(name=f"h{i}", type=tf.resource.as_datatype_enum)
    return function


def _runner(function: function_pb2.FunctionDef) -> Runner:
    """Calls the function; TensorFlow forgets it when the runner goes."""
    signature = function.signature
    context.context().add_function_def(function)
    run = call_inline(signature.name.encode(), [a.type for a in signature.input_arg],
                      [a.type for a in signature.output_arg], _one_optimisation())
    weakref.finalize(run, context.context().remove_function, signature.name).atexit = False
    return run


def _one_optimisation() -> bytes:
    """Settings that leave TensorFlow one short optimisation. With none it would not run the function inline."""
    settings = config_pb2.ConfigProto()
    rewrites = settings.graph_options.rewrite_options
    rewrites.optimizers.append("pruning")
    rewrites.meta_optimizer_iterations = rewrites.ONE
    return bytes(settings.SerializeToString())
