"""What one ``Session.run`` of a TensorFlow 1 graph computes, as a flattened graph like those of functions.

Variables come in as arguments of resource type. An operation on a reference variable (``VariableV2``, ``ApplyAdam``) is
seen as the one on a resource variable that means the same (``VarHandleOp``, ``ResourceApplyAdam``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from ..errors import NotTaken
from .flatten import CALLS, FlatGraph, FlatOp, FlatTensor, inline_call, program_order

_REFERENCES = {"Assign": "AssignVariableOp", "AssignAdd": "AssignAddVariableOp", "AssignSub": "AssignSubVariableOp"}
_ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"  # TensorFlow's shared name for a new variable at each run
_CYCLES = ("Enter", "RefEnter", "NextIteration", "RefNextIteration")


@dataclass(frozen=True)
class _Symbol:
    """What a flat tensor is made from where TensorFlow has no tensor like it."""

    dtype: tf.DType
    shape: tf.TensorShape


class ReferenceOp(FlatOp):
    """An operation on reference variables, seen as one on resources."""

    def attr(self, name: str) -> Any:
        """An attribute's value."""
        return super().attr("T" if name == "dtype" else name)

    @property
    def stateful(self) -> bool:
        """Writes have effects, though TensorFlow's registry does not say so."""
        return self.type != "ReadVariableOp"


@dataclass
class Variable:
    """A variable of a session's graph.

    Attributes:
        name: by which the session knows it; several operations may share it.
        read: a tensor with its value that waits for nothing.
        assign: an operation that assigns its second input, and waits for nothing; None where there is none.
    """

    name: str
    read: Any
    assign: tf.Operation | None


@dataclass
class SessionGraph:
    """The flattened graph of a run.

    Attributes:
        graph: the session's.
        flat: its arguments are the feeds, then the variables.
        feeds: the tensors that are fed.
        variables: by the flat tensor of the handle.
    """

    graph: Any
    flat: FlatGraph
    feeds: tuple[Any, ...]
    variables: dict[FlatTensor, Variable] = field(default_factory=dict)


def session_graph(name: str, graph: Any, fetches: Sequence[Any], targets: Sequence[Any], feeds: Sequence[Any],
                  ) -> SessionGraph:
    """The part of a graph that fetches and targets need.

    Raises:
        NotTaken: it has loops of TensorFlow 1, or uses variables in a way that has no like on resources.
    """
    if any(t.op.type not in ("Placeholder", "PlaceholderWithDefault") for t in feeds):
        raise NotTaken("a tensor that is no placeholder is fed")
    if any(source.op.type != "Const" for t in feeds for source in t.op.inputs):
        raise NotTaken("a placeholder with a computed default is fed")
    found = SessionGraph(graph, FlatGraph(name), tuple(feeds))
    flat = found.flat
    flat.arguments = [FlatTensor(t, None, i) for i, t in enumerate(feeds)]
    known = {t.ref(): a for t, a in zip(feeds, flat.arguments, strict=True)}
    builder = _Builder(found, known)
    fed = [t.op for t in feeds]
    for op in program_order([*fed, *needed(fetches, targets, feeds)]):
        if op not in fed:
            builder.add(op)
    flat.outputs = [builder.fetched(t) for t in fetches]
    return found


def needed(fetches: Sequence[Any], targets: Sequence[Any], feeds: Sequence[Any]) -> list[tf.Operation]:
    """Operations that a run executes, in the order they were made.

    Raises:
        NotTaken: there is a loop of TensorFlow 1.
    """
    fed = {t.ref() for t in feeds}
    work = [t.op for t in fetches if t.ref() not in fed] + list(targets)
    seen: dict[str, tf.Operation] = {}
    while work:
        op = work.pop()
        if op.name in seen:
            continue
        if op.type in _CYCLES:
            raise NotTaken(f"a loop of TensorFlow 1 ({op.name})")
        seen[op.name] = op
        work += [t.op for t in op.inputs if t.ref() not in fed]
        work += op.control_inputs
    return sorted((op for op in seen.values() if not any(t.ref() in fed for t in op.outputs)), key=lambda op: op._id)  # noqa: SLF001


class _Builder:
    """Appends operations to a session graph."""

    def __init__(self, found: SessionGraph, known: dict[Any, FlatTensor]) -> None:
        self._found = found
        self._known = known
        self._done: dict[str, tuple[FlatOp, ...]] = {}
        self._written: dict[Any, FlatOp] = {}  # by the reference that a write gives on

    def value(self, symbol: Any) -> FlatTensor:
        """The flat tensor of a tensor that is read as a value.

        Raises:
            NotTaken: it is a reference.
        """
        if symbol.dtype._is_ref_dtype:  # noqa: SLF001
            raise NotTaken(f"the reference variable {symbol.name} is used without a read operation")
        return self._known[symbol.ref()]

    def fetched(self, symbol: Any) -> FlatTensor:
        """The flat tensor that a program is given; of a reference the value that the variable has in the end."""
        if not symbol.dtype._is_ref_dtype:  # noqa: SLF001
            return self.value(symbol)
        handle = self._known[symbol.ref()]
        writes = tuple(op for op in self._found.flat.ops if handle in op.inputs and op.stateful)
        read = self._found.variables[handle].read
        made = ReferenceOp(read.op, f"{read.op.name}/fetched", (handle,), control=writes)
        made.type = "ReadVariableOp"
        made.outputs = (FlatTensor(read, made, 0),)
        self._found.flat.ops.append(made)
        return made.outputs[0]

    def add(self, op: tf.Operation) -> None:
        """Append one operation."""
        control = tuple(dict.fromkeys(f for c in op.control_inputs for f in self._done.get(c.name, ())))
        self._done[op.name] = control
        if op.type == "NoOp":
            return
        if op.type == "Placeholder":
            raise NotTaken(f"{op.name} is not fed")
        if op.type in ("VarHandleOp", "VariableV2", "Variable"):
            self._add_variable(op)
        elif any(t.dtype._is_ref_dtype for t in op.inputs):  # noqa: SLF001
            self._add_reference(op, control)
        elif op.type == "Identity" or op.type == "PlaceholderWithDefault":
            self._add_alias(op, control)
        else:
            self._add_plain(op, control)

    def _add_variable(self, op: tf.Operation) -> None:
        variable = _variable(op)
        if any(other.name == variable.name for other in self._found.variables.values()):
            raise NotTaken(f"two operations stand for the variable {op.name}")
        handle = FlatTensor(_Symbol(tf.resource, tf.TensorShape([])), None, len(self._found.flat.arguments))
        self._found.flat.arguments.append(handle)
        self._found.variables[handle] = variable
        self._known[op.outputs[0].ref()] = handle

    def _add_alias(self, op: tf.Operation, control: tuple[FlatOp, ...]) -> None:
        source = self._known[op.inputs[0].ref()]
        if control and op.outputs[0].consumers():
            self._add_plain(op, control)
            return
        self._known[op.outputs[0].ref()] = source
        if source.op is not None:
            self._done[op.name] = (*control, source.op)

    def _add_plain(self, op: tf.Operation, control: tuple[FlatOp, ...]) -> None:
        flat = self._found.flat
        inputs = tuple(self.value(t) for t in op.inputs)
        if op.type in CALLS:
            self._done[op.name] = inline_call(flat, op.graph, op, "", self._known, inputs, control, 0)
            return
        self._append(op, FlatOp(op, op.name, inputs, control=control), op.outputs)

    def _add_reference(self, op: tf.Operation, control: tuple[FlatOp, ...]) -> None:
        """A read or write of reference variables; what it gives on is a reference again, or a value."""
        references = [t for t in op.inputs if t.dtype._is_ref_dtype]  # noqa: SLF001
        inputs = tuple(self._known[t.ref()] for t in op.inputs)
        after = tuple(self._written[t.ref()] for t in references if t.ref() in self._written)
        kind = _kind(op)
        made = ReferenceOp(op, op.name, inputs, control=tuple(dict.fromkeys((*control, *after))))
        made.type = kind
        if kind == "ReadVariableOp":
            self._append(op, made, op.outputs)
            return
        self._append(op, made, ())
        self._known[op.outputs[0].ref()] = inputs[0]
        self._written[op.outputs[0].ref()] = made

    def _append(self, op: tf.Operation, made: FlatOp, outputs: Iterable[Any]) -> None:
        made.outputs = tuple(FlatTensor(t, made, i) for i, t in enumerate(outputs))
        self._known.update({t.ref(): f for t, f in zip(outputs, made.outputs, strict=True)})
        self._done[op.name] = (made,)
        self._found.flat.ops.append(made)


def _kind(op: tf.Operation) -> str:
    """The type of the operation on resources that means the same.

    Raises:
        NotTaken: there is none.
    """
    if op.type == "Identity" and not op.outputs[0].dtype._is_ref_dtype:  # noqa: SLF001
        return "ReadVariableOp"
    if op.type in _REFERENCES:
        return _REFERENCES[op.type]
    if op.type.startswith("Apply"):
        return f"Resource{op.type}"
    raise NotTaken(f"{op.type} on a reference variable ({op.name})")


def _variable(op: tf.Operation) -> Variable:
    """What a session can read and write a variable by.

    Raises:
        NotTaken: it has no name, or nothing in the graph reads it at any time.
    """
    name = op.get_attr("shared_name").decode() or op.name
    if name == _ANONYMOUS:
        raise NotTaken(f"the variable {op.name} has no name")
    handle = op.outputs[0]
    free = [c for c in handle.consumers() if not c.control_inputs and c.inputs[0] is handle]
    reads = [c.outputs[0] for c in free if c.type in ("ReadVariableOp", "Identity")]
    if not reads:
        raise NotTaken(f"nothing reads the variable {op.name} as it is")
    assigns = [c for c in free if c.type in ("Assign", "AssignVariableOp")]
    return Variable(f"{op.get_attr('container').decode()}/{name}", reads[0], assigns[0] if assigns else None)
