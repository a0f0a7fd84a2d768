"""The state of one import: values so far, current variable values, checks, and constant folding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from ..errors import NotTaken
from ..ir import Builder, DType, IRError, Op, Shape, TensorType, Value
from ..ir.ops.elementwise import Cast, LogicalAnd, LogicalNot, LogicalOr, Select
from ..ir.ops.reduce import ReduceAnd
from ..ir.ops.shape import Broadcast, Concat, Constant, Iota, Reshape, Transpose
from ..ir.types import BOOL
from .dtypes import has_ir_dtype, ir_dtype
from .flatten import FlatGraph, FlatOp, FlatTensor

Rule = Callable[["Importer", FlatOp, list[Value]], Sequence[Value]]

_FOLDED_ELEMENTS = 1024  # results up to this size are computed while importing
_FOLDED_OPERAND_ELEMENTS = 1 << 16


class Refused(NotTaken):
    """An operation that cannot be imported.

    Attributes:
        op: the operation.
        reason: why, without the operation's name.
        unknown: tensors made outside whose values, were they known, would tell what must be known; empty where they
            alone would not, or that is not the reason.
    """

    def __init__(self, op: FlatOp, reason: str, unknown: Sequence[FlatTensor] = ()) -> None:
        super().__init__(f"{op.type} {op.location}: {reason}")
        self.op = op
        self.reason = reason
        self.unknown = tuple(unknown)


class TensorListValue:
    """What is known of one of TensorFlow's lists of tensors while it is imported (see ``tensor_lists``).

    Lists are never changed: what changes one gives another. All raise ``Refused`` for what is not followed.
    """

    def item(self, ctx: Importer, index: Value, shape: Shape | None) -> Value:
        """The element at a position; ``shape`` is its shape as far as the reader knows it."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def with_item(self, ctx: Importer, index: Value, value: Value, grows: bool = False) -> TensorListValue:
        """With another element at a position, which if it ``grows`` may lie behind the last one."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def resized(self, ctx: Importer, length: int) -> TensorListValue:
        """With its first elements only, or zeros behind the last one."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def pushed(self, ctx: Importer, value: Value) -> TensorListValue:
        """With another element behind the last one."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def popped(self, ctx: Importer, shape: Shape | None) -> tuple[TensorListValue, Value]:
        """Without its last element, and that."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def stacked(self, ctx: Importer, shape: Shape | None = None) -> Value:
        """All elements as the rows of one tensor."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def plus(self, ctx: Importer, other: TensorListValue) -> TensorListValue:
        """The sums of the elements of both."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def zeros(self, ctx: Importer) -> TensorListValue:
        """Zeros in the place of all elements."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def item_shape(self, ctx: Importer) -> Shape | None:
        """The shape of its elements; None where it is not known."""
        raise ctx.refuse(_NOT_FOLLOWED)

    def count(self, ctx: Importer) -> int:
        """How many elements it has."""
        raise ctx.refuse(_NOT_FOLLOWED)


_NOT_FOLLOWED = "what becomes of a list of tensors here is not followed"


class Importer:
    """What a rule works with. Variables are functional: a rule reads and replaces current values."""

    def __init__(self, name: str, variable_types: Mapping[FlatTensor, TensorType],
                 import_op: Callable[[Importer, FlatOp], None]) -> None:
        self.builder = Builder(name)
        self.variable_types = variable_types
        self._import_rule = import_op
        self.values: dict[FlatTensor, Value] = {}
        self.lists: dict[FlatTensor, TensorListValue] = {}
        self.inputs: dict[Value, FlatTensor] = {}
        self.variables: list[FlatTensor] = []
        self.checks: dict[Value, str] = {}
        self.op: FlatOp | None = None
        self._handles: dict[FlatTensor, FlatTensor] = {}
        self._initial: dict[FlatTensor, Value] = {}
        self._current: dict[FlatTensor, Value] = {}
        self._known: dict[Value, np.ndarray | None] = {}
        self._guard: Value | None = None  # inside a branch: whether it is the one taken

    def import_op(self, op: FlatOp) -> None:
        """Import an operation whose operands are there.

        Raises:
            Refused: it cannot be.
        """
        self._import_rule(self, op)

    def refuse(self, reason: str, unknown: Sequence[FlatTensor] = ()) -> Refused:
        """The error to raise where the current operation cannot be imported."""
        if self.op is None:
            raise NotTaken(reason)
        return Refused(self.op, reason, unknown)

    # Attributes and types of the current operation.

    def attr(self, name: str) -> Any:
        """An attribute of the current operation; bytes come as text."""
        assert self.op is not None
        value = self.op.attr(name)
        return value.decode() if isinstance(value, bytes) else value

    def dtype(self, name: str) -> DType:
        """A type attribute of the current operation."""
        return self.ir_type(self.attr(name))

    def ir_type(self, dtype: tf.DType) -> DType:
        """The IR's element type.

        Raises:
            Refused: it has none.
        """
        if not has_ir_dtype(dtype):
            raise self.refuse(f"{tf.as_dtype(dtype).name} tensors")
        return ir_dtype(dtype)

    # Emitting.

    def add(self, op: Op, *operands: Value) -> tuple[Value, ...]:
        """Append an operation, or its results as constants where they are known and small."""
        folded = self._fold(op, operands)
        if folded is not None:
            return folded
        try:
            return self.builder.add(op, *operands)
        except IRError as error:
            raise self.refuse(str(error)) from error

    def emit(self, op: Op, *operands: Value) -> Value:
        """Append an operation with one result."""
        return self.add(op, *operands)[0]

    def _fold(self, op: Op, operands: tuple[Value, ...]) -> tuple[Value, ...] | None:
        """Constants for the results, where they are known, small, and not just an element repeated."""
        if isinstance(op, Constant | Iota | Broadcast):
            return None
        arrays = [self.known(v) for v in operands]
        if any(a is None for a in arrays):
            return None
        try:
            types = op.infer(*(v.type for v in operands))
        except IRError as error:
            raise self.refuse(f"{op.name}: {error}") from error
        if any(t.size > _FOLDED_ELEMENTS for t in types):
            return None
        with np.errstate(all="ignore"):
            results = op.evaluate(*(a for a in arrays if a is not None))
        return tuple(self.constant(r) for r in results)

    def constant(self, value: Any, dtype: DType | None = None) -> Value:
        """A constant; one element repeated becomes a broadcast, so that kernels need not load it."""
        array = np.asarray(value, dtype=dtype.numpy if dtype else None)
        first = array.reshape(-1)[:1]
        if array.size > 1 and array.tobytes() == first.tobytes() * array.size:
            scalar = self.builder.emit(Constant(first.reshape(())))
            return self.builder.emit(Broadcast(array.shape, ()), scalar)
        return self.builder.emit(Constant(np.ascontiguousarray(array).reshape(array.shape)))

    def like(self, value: Value, number: float | int | bool) -> Value:
        """``number`` in the shape and element type of ``value``."""
        return self.full(value.type, number)

    def full(self, type_: TensorType, number: Any) -> Value:
        """``number`` everywhere."""
        scalar = self.emit(Constant(np.asarray(number).astype(type_.dtype.numpy)))
        return self.broadcast_to(scalar, type_.shape)

    def cast(self, value: Value, dtype: DType) -> Value:
        return value if value.type.dtype == dtype else self.emit(Cast(dtype), value)

    def reshape(self, value: Value, shape: Sequence[int]) -> Value:
        shape = tuple(int(s) for s in shape)
        return value if value.shape == shape else self.emit(Reshape(shape), value)

    def transpose(self, value: Value, perm: Sequence[int]) -> Value:
        perm = tuple(int(p) for p in perm)
        return value if perm == tuple(range(len(perm))) else self.emit(Transpose(perm), value)

    def broadcast_to(self, value: Value, shape: Shape) -> Value:
        """``value`` repeated by NumPy's rule: axes are aligned at the right."""
        if value.shape == tuple(shape):
            return value
        first = len(shape) - value.type.rank
        if first < 0:
            raise self.refuse(f"{value.type} does not broadcast to {list(shape)}")
        return self.emit(Broadcast(tuple(shape), tuple(range(first, len(shape)))), value)

    def broadcast_along(self, value: Value, shape: Shape, axes: Sequence[int]) -> Value:
        """``value`` repeated along all axes of ``shape`` but ``axes``, which are its own."""
        if value.shape == tuple(shape):
            return value
        return self.emit(Broadcast(tuple(shape), tuple(axes)), value)

    def broadcast_together(self, *values: Value) -> list[Value]:
        """All values in their common shape by NumPy's rule."""
        try:
            shape = np.broadcast_shapes(*(v.shape for v in values))
        except ValueError:
            raise self.refuse(f"shapes {', '.join(str(list(v.shape)) for v in values)} do not fit") from None
        return [self.broadcast_to(v, shape) for v in values]

    # What is known at compile time.

    def known(self, value: Value) -> np.ndarray | None:
        """The value, where it depends on constants alone; else None."""
        if value.constant is not None:
            return value.constant
        if value not in self._known:
            self._known[value] = self._evaluate(value)
        return self._known[value]

    def _evaluate(self, value: Value) -> np.ndarray | None:
        if value.node is None or value.type.size > _FOLDED_OPERAND_ELEMENTS or value.node.op.regions():
            return None  # loops may take long
        operands = [self.known(v) for v in value.node.operands]
        if any(a is None for a in operands):
            return None
        with np.errstate(all="ignore"):
            return value.node.op.evaluate(*(a for a in operands if a is not None))[value.index]

    def static(self, value: Value, what: str = "an operand") -> np.ndarray:
        """The value of an operand that must be known at compile time.

        Raises:
            Refused: it depends on data; ``what`` names it.
        """
        array = self.known(value)
        if array is None:
            raise self.refuse(f"{what} is computed from data", self._made_of(value))
        return array

    def _made_of(self, value: Value) -> list[FlatTensor]:
        """The tensors made outside that a value is computed from; none where variables are among them."""
        leaves = self._leaves(value)
        return [self.inputs[v] for v in leaves] if all(v in self.inputs for v in leaves) else []

    def _leaves(self, value: Value) -> list[Value]:
        """The graph inputs that a value is computed from."""
        found: dict[Value, None] = {}
        work, seen = [value], {value}
        while work:
            now = work.pop()
            if now.node is None:
                found[now] = None
            more = [] if now.node is None else [v for v in now.node.operands if v not in seen]
            seen.update(more)
            work += more
        return list(found)

    def ints(self, value: Value, what: str = "an operand") -> tuple[int, ...]:
        """A static operand's elements, flattened."""
        return tuple(int(i) for i in self.static(value, what).reshape(-1))

    def progress_of(self, value: Value) -> tuple[int, int] | None:
        """The integer a scalar is in the first turn of the loop that is imported, and by how much it grows from turn to
        turn (0 where it is known and always the same); None where that is not known."""
        known = self.known(value)
        if known is None or known.shape or known.dtype.kind not in "iu":
            return None
        return int(known), 0

    def elements_of(self, vector: Value) -> list[Value] | None:
        """The elements of a vector as scalars, as far as it was put together of such; else None."""
        known = self.known(vector)
        if known is not None:
            return [self.constant(n) for n in known.reshape(-1)]
        if vector.node is None:
            return None
        parts = vector.node.operands
        if isinstance(vector.node.op, Reshape) and parts[0].shape == ():
            return [parts[0]]
        if not isinstance(vector.node.op, Concat):
            return None
        found = [self.elements_of(part) for part in parts]
        return None if any(f is None for f in found) else [e for f in found for e in f or ()]

    def row_of_turn(self, value: Value, axis: int, index: Value) -> Value:
        """What lies at an index that grows from turn to turn along an axis, which is dropped.

        Raises:
            Refused: the value is not the same in all turns.
        """
        raise self.refuse("an index that is computed from data")

    def list_of(self, tensor: FlatTensor) -> TensorListValue:
        """What is known of a list.

        Raises:
            Refused: nothing is.
        """
        if tensor not in self.lists:
            raise self.refuse(_NOT_FOLLOWED)
        return self.lists[tensor]

    # Checks.

    def check(self, condition: Value, message: str) -> None:
        """Demand that all elements of a bool tensor hold when the graph runs.

        Raises:
            Refused: it is known that one does not.
        """
        if condition.type.dtype != BOOL:
            raise self.refuse(f"a check of {condition.type}")
        if condition.type.size == 0:
            return
        if condition.shape:
            condition = self.emit(ReduceAnd(tuple(range(condition.type.rank))), condition)
        if self._guard is not None:
            condition = self.emit(LogicalOr(), self.emit(LogicalNot(), self._guard), condition)
        known = self.known(condition)
        if known is None:
            assert self.op is not None
            self.checks.setdefault(condition, f"{message} ({self.op.name})")
            return
        if not known.all():
            raise self.refuse(message)

    # Variables.

    def variable(self, handle: FlatTensor) -> FlatTensor:
        """The variable a resource tensor stands for.

        Raises:
            Refused: it is not one of the import's variables.
        """
        root = self.root(handle)
        if root not in self.variable_types:
            raise self.refuse("the resource is not a variable with a known type")
        return root

    def root(self, handle: FlatTensor) -> FlatTensor:
        """The resource tensor that others were recorded to be the same as."""
        while handle in self._handles:
            handle = self._handles[handle]
        return handle

    def alias(self, handle: FlatTensor, of: FlatTensor) -> None:
        """Record that two resource tensors are the same variable."""
        self._handles[handle] = of

    def read(self, handle: FlatTensor) -> Value:
        """A variable's current value; its first use makes it a state input of the graph."""
        root = self.variable(handle)
        if root not in self._current:
            value = self.builder.input(self.variable_types[root], f"v{len(self.variables)}", state=True)
            self.variables.append(root)
            self._initial[root] = self._current[root] = value
        return self._current[root]

    def assign(self, handle: FlatTensor, value: Value) -> None:
        """Replace a variable's current value.

        Raises:
            Refused: the type is not the variable's.
        """
        expected = self.read(handle).type
        if value.type != expected:
            raise self.refuse(f"assigns {value.type} to a variable of type {expected}")
        self._current[self.variable(handle)] = value

    def updates(self) -> list[tuple[int, Value]]:
        """Index among the variables, and new value, of every variable that was replaced."""
        return [(i, self._current[v]) for i, v in enumerate(self.variables)
                if self._current[v] is not self._initial[v]]

    # Branches.

    def import_graph(self, flat: FlatGraph, arguments: Sequence[FlatTensor]) -> list[Value]:
        """Import a function's operations with the current operation's tensors as its arguments."""
        caller = self.op
        for inner, outer in zip(flat.arguments, arguments, strict=True):
            if outer.dtype == tf.resource:
                self.alias(inner, outer)
            elif outer in self.values:
                self.values[inner] = self.values[outer]
        try:
            for op in flat.ops:
                self.import_op(op)
        except Refused as error:
            if caller is None:
                raise
            raise Refused(caller, str(error), error.unknown) from error
        self.op = caller
        if any(t not in self.values for t in flat.outputs):
            raise self.refuse("a branch returns something that is no tensor of numbers")
        return [self.values[t] for t in flat.outputs]

    def branch(self, condition: Value, branches: tuple[Callable[[], list[Value]], Callable[[], list[Value]]],
               ) -> list[Value]:
        """Import both branches and select results, and new values of variables, by a scalar condition."""
        known = self.known(condition)
        if known is not None:
            return branches[0 if known else 1]()
        before, guard = dict(self._current), self._guard
        ends: list[tuple[list[Value], dict[FlatTensor, Value]]] = []
        opposite = self.emit(LogicalNot(), condition)
        for import_branch, taken in zip(branches, (condition, opposite), strict=True):
            self._guard = taken if guard is None else self.emit(LogicalAnd(), guard, taken)
            ends.append((import_branch(), self._current))
            self._current = {v: before.get(v, self._initial[v]) for v in self._current}
        self._guard = guard
        (results, then), (others, other) = ends
        for variable, value in self._current.items():
            a, b = then.get(variable, value), other.get(variable, value)
            self._current[variable] = self._chosen(condition, a, b)
        return [self._chosen(condition, a, b) for a, b in zip(results, others, strict=True)]

    def _chosen(self, condition: Value, a: Value, b: Value) -> Value:
        if a is b:
            return a
        if a.type != b.type:
            raise self.refuse(f"the branches give {a.type} and {b.type}")
        return self.emit(Select(), self.broadcast_to(condition, a.shape), a, b)
