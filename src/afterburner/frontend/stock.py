"""Pieces of a flattened graph that stock TensorFlow runs: the stages we do not take, and every part
we take when it has to fall back."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.eager.execute import quick_execute  # as it is before writers are watched
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import func_graph as func_graph_module
from tensorflow.python.framework import ops as framework_ops
from tensorflow.python.ops import handle_data_util
from tensorflow.python.util import _pywrap_util_port

from .flatten import FlatOp, FlatTensor, called_functions, is_stateful
from .op_errors import tell_where
from .streams import draws_from_stream

Runner = Callable[[list[Any]], Sequence[Any]]

_serial = itertools.count()


def intra_op_threads() -> int:
    """Threads that TensorFlow was told to use inside one operation; 0 where nobody has said."""
    return int(tf.config.threading.get_intra_op_parallelism_threads())


def tensorflow_version() -> str:
    """The release that runs."""
    return str(tf.__version__)


@cache
def uses_onednn() -> bool:
    """Whether TensorFlow has oneDNN's kernels in place of its own, as far as there are such."""
    return bool(_pywrap_util_port.IsMklEnabled())


def keeps_freed_memory() -> bool:
    """Whether TensorFlow's allocator never gives memory back to the system: that which it has with oneDNN."""
    return uses_onednn()


def runner(
    name: str, ops: Sequence[FlatOp], inputs: Sequence[FlatTensor], outputs: Sequence[FlatTensor],
) -> Runner:
    """A callable from eager tensors (one per input) to eager tensors (one per output).

    A single operation with plain attributes is run as it is; more become a TensorFlow function.
    """
    if is_plain_operation(ops) and tuple(outputs) == ops[0].outputs and tuple(inputs) == ops[0].inputs:
        return _single(ops[0], _plain_attributes(ops[0]) or ())
    return _function(name, ops, inputs, outputs)


def is_plain_operation(ops: Sequence[FlatOp]) -> bool:
    """Whether this is one operation that the eager runtime can run as it is. Its kernels serve all operations of the
    same attributes, and so would the state of a random one."""
    return len(ops) == 1 and _plain_attributes(ops[0]) is not None and not draws_from_stream(ops[0])


def _single(op: FlatOp, attributes: tuple[Any, ...]) -> Runner:
    kind, count = op.type, len(op.outputs)

    def run(arguments: list[Any]) -> Sequence[Any]:
        try:
            return quick_execute(kind, count, arguments, attributes, context.context()) or ()
        except tf.errors.OpError as error:
            tell_where(error, {op.name: op})
            raise

    return run


def _function(
    name: str, ops: Sequence[FlatOp], inputs: Sequence[FlatTensor], outputs: Sequence[FlatTensor],
) -> Runner:
    return call_by_name(*build_function(name, ops, inputs, outputs), len(outputs))


def call_by_name(function: atomic_function.AtomicFunction, places: dict[str, FlatOp], count: int) -> Runner:
    """A callable that runs a TensorFlow function past every hook; it keeps the function alive,
    since TensorFlow forgets a function nobody refers to. ``places``: its operations by their names in it."""
    call_name = function.name

    def run(arguments: list[Any]) -> Sequence[Any]:
        try:
            return context.context().call_function(call_name, arguments, count) or ()
        except tf.errors.OpError as error:
            tell_where(error, places)
            raise

    run.function = function  # type: ignore[attr-defined]
    return run


def call_inline(name: bytes, inputs: Sequence[int], outputs: Sequence[int], config: bytes) -> Runner:
    """``call_by_name`` for a few tiny operations that never wait: they run in the calling thread.

    TensorFlow hands a function to its pool and sleeps until it is done. An eager operation that calls the
    function is run at once, however, when everything in it can be: a third of the time for 20 variables.

    Args:
        name: of the function.
        inputs: TensorFlow's numbers of its inputs' types.
        outputs: those of its outputs.
        config: a serialized ``ConfigProto``.
    """
    count = len(outputs)
    attributes = ("Tin", tuple(inputs), "Tout", tuple(outputs), "f", _FunctionName(name),
                  "config", "", "config_proto", config, "executor_type", "")

    def run(arguments: list[Any]) -> Sequence[Any]:
        return quick_execute("StatefulPartitionedCall", count, arguments, attributes, context.context()) or ()

    return run


@dataclass(frozen=True)
class _FunctionName:
    """A function as the eager runtime wants it named in an attribute."""

    name: bytes


def function_of(graph: Any) -> atomic_function.AtomicFunction:
    """TensorFlow's function object over a finished FuncGraph, under a name of its own."""
    return atomic_function.from_func_graph(f"{graph.name}_{next(_serial)}", graph, {})


def build_function(
    name: str, ops: Sequence[FlatOp], inputs: Sequence[FlatTensor], outputs: Sequence[FlatTensor],
) -> tuple[atomic_function.AtomicFunction, dict[str, FlatOp]]:
    """A TensorFlow function of exactly these operations, with their control edges among themselves, and the operations
    by their names in it."""
    graph = func_graph_module.FuncGraph(f"afterburner_{name}")
    with graph.as_default(), tf.device(None):
        made: dict[FlatTensor, Any] = {}
        for tensor in inputs:
            made[tensor] = _placeholder(tensor)
        copies: dict[FlatOp, tf.Operation] = {}
        named = {op.name: op for op in ops}
        for op in ops:
            earlier = [copies[c] for c in (*op.control, *_forward(op, named)) if c in copies]
            copies[op] = _copy(graph, op, made, earlier)
        graph.inputs = [made[t] for t in inputs]
        graph.outputs = [made[t] for t in outputs]
        # Else results are called after their operations, and these then something else, which errors would tell.
        graph._output_names = {  # noqa: SLF001
            framework_ops.tensor_id(t): f"afterburner_result_{i}" for i, t in enumerate(graph.outputs)}
        graph.control_outputs = [copies[op] for op in ops if is_stateful(op.source)]
    return function_of(graph), {copy.name: op for op, copy in copies.items()}


def _placeholder(tensor: FlatTensor) -> Any:
    symbol = tf.compat.v1.placeholder(tensor.dtype, tensor.shape)
    if tensor.handle is not None:  # a gather from a variable demands its shape
        handle_data_util.set_handle_data(symbol, tensor.handle)
    return symbol


def _forward(op: FlatOp, named: Mapping[str, FlatOp]) -> Iterator[FlatOp]:
    """The operation whose gradient compares its operands' shapes here. Both fail where these do not go together, in
    any order, but only the operation's own error tells the program's line; so the comparison waits for it."""
    name, _, last = op.name.replace("gradient_tape/", "", 1).rpartition("/")
    if last == "BroadcastGradientArgs" and name in named:
        yield named[name]


def _copy(graph: Any, op: FlatOp, made: dict[FlatTensor, Any], earlier: Sequence[tf.Operation]) -> tf.Operation:
    source = op.source
    attributes = {k: v for k, v in source.node_def.attr.items() if not k.startswith("_class")}
    for function in called_functions(source):
        if not graph._is_function(function.name):  # noqa: SLF001
            graph._add_function_recursive(function)  # noqa: SLF001
    with graph.control_dependencies(earlier):
        copy = graph._create_op_internal(  # noqa: SLF001
            source.type, [made[t] for t in op.inputs], [t.dtype for t in source.outputs],
            name=op.name.replace("/", "_") if op.name.startswith("_") else op.name,
            attrs=attributes, op_def=source.op_def, compute_device=False)
    made.update(zip(op.outputs, copy.outputs, strict=True))
    return copy


def _plain_attributes(op: FlatOp) -> tuple[Any, ...] | None:
    """Attributes as the eager runtime takes them, or None where one is no plain value."""
    flat: list[Any] = []
    for name, value in op.source.node_def.attr.items():
        if name.startswith("_"):
            continue
        plain = _plain(value)
        if plain is None:
            return None
        flat += [name, plain]
    return tuple(flat)


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind in ("type", "i", "f", "b", "s"):
        return getattr(value, kind)
    if kind == "shape":
        return tf.TensorShape(value.shape)
    if kind != "list":
        return None
    items = value.list
    for field in ("type", "i", "f", "b", "s"):
        if len(getattr(items, field)):
            return list(getattr(items, field))
    if len(items.shape):
        return [tf.TensorShape(s) for s in items.shape]
    return None if len(items.func) or len(items.tensor) else []
