"""A graph function with its nested calls inlined: one list of operations in program order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.ops.handle_data_util import get_handle_data

from ..errors import NotTaken
from ..ir import Location

CALLS = ("PartitionedCall", "StatefulPartitionedCall")
LOOPS = ("While", "StatelessWhile")
_MAX_DEPTH = 64
_OURS = str(Path(__file__).parents[1])  # the package's folder

# Where XLA and plain TensorFlow differ: random streams, integer division by zero, unchecked positions and lengths, NaN
# among extremes.
_XLA_DIFFERS = ("Random", "StatelessRandom", "FloorDiv", "FloorMod", "TruncateDiv", "TruncateMod", "Gather",
                "ResourceGather", "Scatter", "ResourceScatter", "UnsortedSegmentMax", "UnsortedSegmentMin",
                "UnsortedSegmentProd", "ReverseSequence", "DenseBincount", "Bincount", "MaxPoolGradWithArgmax")
_XLA_DIFFERS_EXACTLY = ("Div", "Mod")
_XLA_ATTRIBUTE = "_XlaMustCompile"

# Of functions among which TensorFlow chooses by the device: their interface, the device one is for, and what tells the
# forward and backward passes of one.
_INTERFACE = "api_implements"
_DEVICE = "api_preferred_device"
_PASSES = ("forward_function_name", "backward_function_name")


class FlatTensor:
    """A tensor of the flattened graph; compared by identity, since a function called twice has
    its tensors twice.

    Attributes:
        dtype: TensorFlow's element type.
        shape: TensorFlow's static shape, perhaps unknown.
        op: the operation that makes it; None for an argument of the function.
        index: which result of the operation, or which argument.
        handle: what TensorFlow knows of what the tensor refers to, such as a variable's type; else None.
    """

    __slots__ = ("dtype", "shape", "op", "index", "handle")

    def __init__(self, symbol: tf.Tensor, op: FlatOp | None, index: int) -> None:
        self.dtype: tf.DType = symbol.dtype
        self.shape: tf.TensorShape = symbol.shape
        self.op = op
        self.index = index
        refers = symbol.dtype in (tf.resource, tf.variant) and isinstance(symbol, tf.Tensor)
        self.handle = get_handle_data(symbol) if refers else None


@dataclass(eq=False)
class FlatOp:
    """An operation of the flattened graph.

    Attributes:
        source: TensorFlow's operation, for its attributes.
        name: its name with the names of the calls it was inlined from in front.
        inputs: data inputs.
        outputs: results.
        control: operations that must run before it beyond its data inputs.
        refusal: why it cannot be imported, where it was looked at; empty where it can.
    """

    source: tf.Operation
    name: str
    inputs: tuple[FlatTensor, ...]
    outputs: tuple[FlatTensor, ...] = ()
    control: tuple[FlatOp, ...] = ()
    refusal: str | None = None

    @cached_property
    def type(self) -> str:
        return str(self.source.type)

    @property
    def stateful(self) -> bool:
        """Whether it has effects, or gives something else each time."""
        return is_stateful(self.source)

    def attr(self, name: str) -> Any:
        """An attribute's value.

        Raises:
            ValueError: the operation has no such attribute.
        """
        return self.source.get_attr(name)

    @cached_property
    def location(self) -> Location:
        """TensorFlow's node name and the user's source line."""
        return _OpLocation(self.name, self.source)

    def __repr__(self) -> str:
        return f"<{self.type} {self.name}>"


@dataclass
class FlatGraph:
    """A function's operations in an order that program semantics allows, calls inlined."""

    name: str
    arguments: list[FlatTensor] = field(default_factory=list)
    ops: list[FlatOp] = field(default_factory=list)
    outputs: list[FlatTensor] = field(default_factory=list)


def flatten(graph: Any, name: str) -> FlatGraph:
    """Flatten a FuncGraph.

    Raises:
        ValueError: calls nested deeper than any sane program (recursion), or a called function
            whose body cannot be found.
    """
    flat = FlatGraph(name)
    flat.arguments = [FlatTensor(t, None, i) for i, t in enumerate(graph.inputs)]
    known = {t.ref(): a for t, a in zip(graph.inputs, flat.arguments, strict=True)}
    last: dict[str, tuple[FlatOp, ...]] = {}
    _inline(flat, graph, "", known, last, (), 0)
    flat.outputs = [known[t.ref()] for t in graph.outputs]
    return flat


def _inline(
    flat: FlatGraph, graph: Any, prefix: str, known: dict[Any, FlatTensor],
    done: dict[str, tuple[FlatOp, ...]], before: tuple[FlatOp, ...], depth: int,
) -> None:
    """Append the operations of one graph. ``before`` must precede every operation of it."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"{flat.name}: calls are nested more than {_MAX_DEPTH} deep")
    arguments = {t.op.name for t in graph.inputs}
    for op in program_order(graph.get_operations()):
        if op.name in arguments:
            continue
        control = tuple(dict.fromkeys((*before, *(f for c in op.control_inputs for f in done.get(c.name, ())))))
        inputs = tuple(known[t.ref()] for t in op.inputs)
        if _is_alias(op):
            known[op.outputs[0].ref()] = inputs[0]
            done[op.name] = (*control, inputs[0].op) if inputs[0].op is not None else control
            continue
        if op.type in CALLS and not _belongs_to_xla(graph, op):
            done[op.name] = inline_call(flat, graph, op, prefix, known, inputs, control, depth)
            continue
        flat_op = FlatOp(op, prefix + op.name, inputs, control=control)
        flat_op.outputs = tuple(FlatTensor(t, flat_op, i) for i, t in enumerate(op.outputs))
        known.update({t.ref(): f for t, f in zip(op.outputs, flat_op.outputs, strict=True)})
        known.update({op.outputs[i].ref(): inputs[i] for i in _given_on(op)})
        done[op.name] = (flat_op,)
        flat.ops.append(flat_op)


def program_order(operations: Iterable[tf.Operation]) -> Iterator[tf.Operation]:
    """Operations as they were made, but each behind those it needs: the gradient of a loop rewrites
    the loop after later operations were made."""
    seen: set[str] = set()
    for first in operations:
        stack = [first]
        while stack:
            op = stack[-1]
            if op.name in seen:
                stack.pop()
                continue
            missing = [n for n in (*(t.op for t in op.inputs), *op.control_inputs) if n.name not in seen]
            if missing:
                stack += missing
                continue
            seen.add(op.name)
            yield stack.pop()


def _is_alias(op: tf.Operation) -> bool:
    """An Identity that only renames: none waits for it, or it waits for none. (Effects it waits for
    happen in any case.)"""
    return op.type == "Identity" and not (op.control_inputs and op.outputs[0].consumers())


_WRITES_NOTHING = (
    "Assert", "ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VarIsInitializedOp", "VariableShape")


def _given_on(op: tf.Operation) -> list[int]:
    """Positions of the resources that a loop without effects gives on as they are."""
    if op.type not in LOOPS or all(t.dtype != tf.resource for t in op.outputs):
        return []
    body = _function(op.graph, op, "body").graph
    if any(is_stateful(inner) and inner.type not in _WRITES_NOTHING for inner in body.get_operations()):
        return []
    return [i for i, (given, got) in enumerate(zip(body.inputs, body.outputs, strict=True))
            if given.dtype == tf.resource and _renamed(got) is given]


def _renamed(tensor: Any) -> Any:
    """What a tensor is another name of."""
    while tensor.op.type == "Identity":
        tensor = tensor.op.inputs[0]
    return tensor


def inline_call(
    flat: FlatGraph, graph: Any, op: tf.Operation, prefix: str, known: dict[Any, FlatTensor],
    inputs: tuple[FlatTensor, ...], control: tuple[FlatOp, ...], depth: int,
) -> tuple[FlatOp, ...]:
    """Inline a call; returns the operations that stand for it in control edges."""
    body = called_graph(graph, op)
    inner = {t.ref(): f for t, f in zip(body.inputs, inputs, strict=True)}
    first = len(flat.ops)
    done: dict[str, tuple[FlatOp, ...]] = {}
    _inline(flat, body, f"{prefix}{op.name}/", inner, done, control, depth + 1)
    results = body.outputs[:len(op.outputs)]  # a gradient may have added some since
    for symbol, result in zip(op.outputs, results, strict=True):
        known[symbol.ref()] = inner[result.ref()]
    # A call is stateful as a whole: what follows it by a control edge follows its effects.
    effects = tuple(f for f in flat.ops[first:] if is_stateful(f.source))
    return effects or control


def xla_differs(kind: str) -> bool:
    """Whether XLA may compute an operation of this type differently from TensorFlow."""
    return kind.startswith(_XLA_DIFFERS) or kind in _XLA_DIFFERS_EXACTLY


def _belongs_to_xla(graph: Any, op: tf.Operation) -> bool:
    """A call marked ``jit_compile`` stays XLA's unless plain TensorFlow means the same."""
    if not (_XLA_ATTRIBUTE in op.node_def.attr and op.node_def.attr[_XLA_ATTRIBUTE].b):
        return False
    return _contains(called_graph(graph, op), xla_differs)


def _contains(graph: Any, wanted: Callable[[str], bool]) -> bool:
    return any(wanted(op.type) or (op.type in CALLS and _contains(called_graph(graph, op), wanted))
               for op in graph.get_operations())


def must_use_xla(function: Any) -> bool:
    """Whether a function as a whole is marked ``jit_compile``."""
    attributes = function.cached_definition.attr
    return _XLA_ATTRIBUTE in attributes and bool(attributes[_XLA_ATTRIBUTE].b)


def called_graph(graph: Any, op: tf.Operation) -> Any:
    """The FuncGraph a call operation runs on the CPU.

    Raises:
        NotTaken: its body has no graph.
        ValueError: its body is not known to the graph, or is one with other results than were called for.
    """
    function = _function(graph, op, "f")
    chosen = _implementation(graph, function)
    if chosen is not function and _result_types(chosen) != _result_types(function):
        raise ValueError(f"{op.name}: TensorFlow chooses among functions with different results")
    return chosen.graph


def branch_graph(op: FlatOp, attribute: str) -> Any:
    """The FuncGraph that an attribute of a loop or conditional names.

    Raises:
        ValueError: its body is not known to the graph.
    """
    return _function(op.source.graph, op.source, attribute).graph


def nested_graphs(op: FlatOp, attributes: Iterable[str]) -> list[Any]:
    """The FuncGraphs that attributes of a loop or conditional name, some by a list of them.

    Raises:
        ValueError: the body of one is not known to the graph.
    """
    values = (op.source.get_attr(name) for name in attributes)
    named = [f.name for value in values for f in (value if isinstance(value, list) else [value])]
    return [_named(op.source.graph, op.source, name).graph for name in named]


def _function(graph: Any, op: tf.Operation, attribute: str) -> Any:
    return _named(graph, op, op.get_attr(attribute).name)


def _named(graph: Any, op: tf.Operation, name: str) -> Any:
    for around in _graphs_around(graph):
        function = around._get_function(name)  # noqa: SLF001
        if function is not None and not hasattr(function, "graph"):
            raise NotTaken(f"{op.type} {op.name} calls a function that TensorFlow 1's Defun made")
        if function is not None:
            return function
    raise ValueError(f"{op.name}: the function {name} is not known")


def called_functions(source: tf.Operation) -> list[Any]:
    """Functions that an operation's attributes name: branches, bodies of loops, what a dataset maps."""
    values = source.node_def.attr.values()
    names = [f.name for value in values for f in ([value.func] if value.HasField("func") else value.list.func)]
    around = list(_graphs_around(source.graph))
    found = (next(filter(None, (graph._get_function(name) for graph in around)), None) for name in names)  # noqa: SLF001
    return [function for function in found if function is not None]


def _graphs_around(graph: Any) -> Iterator[Any]:
    """The graph, and those in which it was made."""
    while graph is not None:
        yield graph
        graph = getattr(graph, "outer_graph", None)


def _implementation(graph: Any, function: Any) -> Any:
    """What TensorFlow's optimizer puts in the place of a function: one of the same interface that is for the CPU."""
    interface = _text(function, _INTERFACE)
    if not interface:
        return function
    for around in _graphs_around(graph):
        for other in around._functions.values():  # noqa: SLF001
            if (_text(other, _INTERFACE) == interface and _text(other, _DEVICE) == b"CPU"
                    and _which_pass(other) == _which_pass(function)):
                return other
    return function


def _which_pass(function: Any) -> list[bool]:
    return [bool(_text(function, name)) for name in _PASSES]


def _result_types(function: Any) -> list[int]:
    return [result.type for result in function.cached_definition.signature.output_arg]


def _text(function: Any, attribute: str) -> bytes:
    """An attribute of a function's definition; empty where it has none, or is of TensorFlow 1."""
    attributes = getattr(getattr(function, "cached_definition", None), "attr", {})
    return bytes(attributes[attribute].s) if attribute in attributes else b""


def is_stateful(op: tf.Operation) -> bool:
    """Whether TensorFlow's registry marks the operation as stateful."""
    return bool(op.op_def.is_stateful)


class _OpLocation(Location):
    """A location whose source line is looked up when it is asked for: that takes 0.2 ms."""

    def __init__(self, node: str, op: tf.Operation) -> None:
        object.__setattr__(self, "node", node)
        object.__setattr__(self, "_op", op)

    @cached_property
    def source(self) -> str:  # type: ignore[override]
        return _source_line(self._op)  # type: ignore[attr-defined]


def _source_line(op: tf.Operation) -> str:
    """The innermost stack frame of the user's own code: neither TensorFlow's nor Keras's."""
    frames = users_frames(op)
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def users_frames(op: tf.Operation) -> list[Any]:
    """The stack frames of the user's own code in which an operation was made, the innermost last."""
    try:
        frames = op.traceback or ()
    except (AttributeError, ValueError):
        return []
    return [frame for frame in frames if not _is_library(frame.filename)]


_LIBRARIES = ("tensorflow", "keras", "tf_keras", "keras_hub", "tensorflow_probability")


@lru_cache(maxsize=4096)
def _is_library(filename: str) -> bool:
    return filename.startswith(_OURS) or filename.endswith("/bin/afterburner") \
        or any(f"-packages/{name}/" in filename for name in _LIBRARIES)
