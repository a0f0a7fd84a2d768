"""One turn of a loop, imported as a graph that stands for all turns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from ..ir import Graph, Input, Output, Shape, TensorType, Value
from ..ir.ops.control import Scan
from ..ir.ops.elementwise import Add, Cast, Mul, Neg, Sub
from ..ir.ops.reduce import ReduceAnd
from ..ir.ops.shape import Constant, Slice
from .flatten import FlatGraph, FlatOp, FlatTensor
from .importer import Importer, Refused, TensorListValue
from .loop_lists import CellList, ChangingList, Kept, ListOfLoop, OutsideList, State
from .tensor_lists import Rows, row, span

_CAPTURED_ELEMENTS = 1024  # known values up to this size are constants of the turn
_INT64 = np.iinfo(np.int64)
_MOST_WORK = 200_000  # operations of all turns: each kernel of each turn has a row in the tables of a program
_STEADY = (Add, Cast, Mul, Neg, Sub)  # may make integers that grow steadily of such


@dataclass(frozen=True)
class Counter:
    """An integer that grows by the same amount in each turn."""

    start: int
    step: int


def at(counter: Counter, turn: int, type_: TensorType) -> np.ndarray:
    """A counter's value in a turn, in the bits that its type has."""
    dtype = np.dtype(type_.dtype.numpy)
    bits = (counter.start + turn * counter.step) % (1 << 8 * dtype.itemsize)
    return np.asarray(bits, f"u{dtype.itemsize}").view(dtype)


class Turn(Importer):
    """The import of one turn, which stands for all.

    Attributes:
        outer: the import that the loop is part of.
        turns: how many there are.
        captured: what is the same in all turns, by its value outside.
        moving: integers that grow by the same amount each turn.
    """

    def __init__(self, outer: Importer, op: FlatOp, turns: int) -> None:
        super().__init__("turn", outer.variable_types, outer._import_rule)
        self.outer = outer
        self.turns = turns
        self.captured: dict[Value, Value] = {}
        self.moving: dict[Value, Counter] = {}
        self._progress: dict[Value, tuple[int, int] | None] = {}
        self._moving_elements: dict[Value, list[Counter]] = {}
        self.states: list[State] = []
        self._loop = op
        self._slices: dict[tuple[Value, bool], Value] = {}
        self._stacks: list[tuple[Value, bool]] = []

    # What comes from outside.

    def capture(self, value: Value) -> Value:
        """A value from outside, the same in every turn."""
        known = self.outer.known(value)
        if known is not None and known.size <= _CAPTURED_ELEMENTS:
            return self.constant(known)
        if value not in self.captured:
            self.captured[value] = self.builder.input(value.type, f"c{len(self.captured)}")
        return self.captured[value]

    def sliced(self, rows: Value, start: int, step: int) -> Value:
        """Of the rows of a tensor from outside the one at ``start + step * turn``."""
        last = start + step * (self.turns - 1)
        if not (0 <= start < rows.shape[0] and 0 <= last < rows.shape[0]):
            raise self.refuse(f"elements {start} to {last} of a list of {rows.shape[0]}")
        if start == last:
            return self.capture(row(self.outer, rows, start))
        taken = span(self.outer, rows, min(start, last), max(start, last) + 1, abs(step))
        known = self.outer.known(taken) if taken.type.size <= _CAPTURED_ELEMENTS or taken.type.rank == 1 else None
        if known is not None and known.tobytes() == known[:1].tobytes() * len(known):
            return self.constant(known[0])
        key = taken, step < 0
        if key not in self._slices:
            value = self._slices[key] = self.builder.input(
                TensorType(taken.type.dtype, taken.shape[1:]), f"s{len(self._slices)}")
            counters = None if known is None else _as_counters(known[::-1] if step < 0 else known)
            if counters is not None and value.shape:
                self._moving_elements[value] = counters
            elif counters is not None:
                self.moving[value] = counters[0]
        return self._slices[key]

    def row_of_turn(self, value: Value, axis: int, index: Value) -> Value:
        """What lies at an index that grows from turn to turn along an axis, which is dropped."""
        outside = next((o for o, inner in self.captured.items() if inner is value), None)
        known, place = self.known(value), self.progress_of(index)
        if outside is None and known is not None:
            outside = self.outer.constant(known)
        if outside is None or place is None:
            raise self.refuse("an index that differs from turn to turn")
        start, step = place
        if start < 0:
            start += value.shape[axis]
        others = [i for i in range(value.type.rank) if i != axis]
        return self.sliced(self.outer.transpose(outside, (axis, *others)), start, step)

    def variable(self, handle: FlatTensor) -> FlatTensor:
        """The variable a resource tensor stands for, outside."""
        return self.outer.variable(self.root(handle))

    def read(self, handle: FlatTensor) -> Value:
        """A variable's value, which no turn changes."""
        return self.capture(self.outer.read(self.variable(handle)))

    def assign(self, handle: FlatTensor, value: Value) -> None:
        """No turn writes a variable."""
        raise self.refuse("a loop that writes a variable")

    def _made_of(self, value: Value) -> list[FlatTensor]:
        """As outside, for what is computed from captured values alone."""
        outside = {inner: outer for outer, inner in self.captured.items()}
        leaves = self._leaves(value)
        if any(leaf not in outside for leaf in leaves):
            return []
        found = [self.outer._made_of(outside[leaf]) for leaf in leaves]
        return list(dict.fromkeys(t for tensors in found for t in tensors)) if all(found) else []

    # Integers that grow.

    def progress_of(self, value: Value) -> tuple[int, int] | None:
        """The integer a scalar is in the first turn, and by how much it grows from turn to turn; None where that is not
        known, or goes beyond what its type can hold."""
        work = [value]
        while work:
            now = work[-1]
            missing = [v for v in self._followed(now) if v not in self._progress]
            if not missing:
                self._progress[now] = self._held(now, self._progress_of(now))
                work.pop()
            work += missing
        return self._progress[value]

    def _followed(self, value: Value) -> Sequence[Value]:
        """What the progress of a value is told from."""
        node = value.node
        known = value in self.moving or value in self._progress
        return node.operands if not known and node is not None and isinstance(node.op, _STEADY) else ()

    def _held(self, value: Value, progress: tuple[int, int] | None) -> tuple[int, int] | None:
        """None in the place of a progress beyond what the value's type can hold."""
        if progress is None:
            return None
        start, last = progress[0], progress[0] + progress[1] * (self.turns - 1)
        held = np.iinfo(value.type.dtype.numpy)
        return progress if max(start, last) <= min(held.max, _INT64.max) and min(start, last) >= held.min else None

    def _progress_of(self, value: Value) -> tuple[int, int] | None:
        if value in self.moving:
            return self.moving[value].start, self.moving[value].step
        known = super().progress_of(value)
        if known is not None or value.node is None or value.shape or not isinstance(value.node.op, _STEADY):
            return known
        parts = [self._progress[v] for v in value.node.operands]
        if any(p is None for p in parts):
            return None
        (start, step), *more = (p for p in parts if p is not None)
        match value.node.op:
            case Add():
                return start + more[0][0], step + more[0][1]
            case Sub():
                return start - more[0][0], step - more[0][1]
            case Neg():
                return -start, -step
            case Mul() if step == 0 or more[0][1] == 0:
                return start * more[0][0], step * more[0][0] + start * more[0][1]
            case Cast(dtype) if dtype.numpy in (np.int32, np.int64):
                return start, step
        return None

    def elements_of(self, vector: Value) -> list[Value] | None:
        """The elements of a vector as scalars, as far as it was put together of such; else None."""
        counters = self._moving_elements.get(vector)
        if counters is None:
            return super().elements_of(vector)
        elements = [self.reshape(self.emit(Slice((i,), (i + 1,), (1,)), vector), ()) for i in range(len(counters))]
        self.moving.update(zip(elements, counters, strict=True))
        return elements

    def numbers_of_turns(self, value: Value) -> np.ndarray | None:
        """What an integer, or a vector of such, is in all turns, where that is known: one row a turn."""
        if value.type.rank > 1 or value.type.dtype.numpy.kind not in "iu":
            return None
        elements = self.elements_of(value) if value.shape else [value]
        places = [self.progress_of(e) for e in elements or ()]
        if not places or any(p is None for p in places):
            return None
        columns = [p[0] + p[1] * np.arange(self.turns) for p in places if p is not None]
        return np.stack(columns, axis=1).reshape(self.turns, *value.shape).astype(value.type.dtype.numpy)

    # The turn.

    def import_ops(self, flat: FlatGraph) -> None:
        """Import the operations of a function of the loop.

        Raises:
            Refused: one cannot be; the error names the loop.
        """
        try:
            for inner in flat.ops:
                self.import_op(inner)
        except Refused as error:
            raise Refused(self._loop, str(error), error.unknown) from error
        self.op = self._loop

    def begin(self, op: FlatOp, body: FlatGraph, counters: dict[int, Counter]) -> None:
        """Say what the body's arguments are."""
        self.op = op
        for i, (outer, argument, result) in enumerate(zip(op.inputs, body.arguments, body.outputs, strict=True)):
            if outer.dtype == tf.resource:
                if result is not argument:
                    raise self.refuse("a loop that goes from one resource to another")
                self.alias(argument, outer)
            elif outer.dtype == tf.variant:
                self.lists[argument] = self._list(i, self.outer.list_of(outer), result is argument)
            elif result is argument:
                self.values[argument] = self.capture(self.outer.values[outer])
            else:
                self.values[argument] = self.state(self.outer.values[outer], counters.get(i)).value

    def state(self, first: Value, counter: Counter | None = None) -> State:
        state = State(self.builder.input(first.type, f"v{len(self.states)}"), first)
        self.states.append(state)
        if counter is not None:
            self.moving[state.value] = counter
        return state

    def _list(self, index: int, outside: TensorListValue, same: bool) -> TensorListValue:
        if same:
            return OutsideList(outside)
        if not isinstance(outside, Rows):
            raise self.refuse("a list of an outer loop that an inner one changes")
        if outside.length == 1 and self.turns > 1:
            return CellList(index, outside)
        return ChangingList(index, outside)

    def cell(self, list_: CellList, shape: Shape | None) -> Value:
        """The value that a turn begins with of a list of one element."""
        for state in self.states:
            if state.cell == list_.index:
                return state.value
        first = row(self.outer, list_.outside.stacked(self.outer, shape), 0)
        state = self.state(first)
        state.cell = list_.index
        return state.value

    def stack(self, value: Value, backwards: bool = False) -> int:
        """Keep a value of every turn; the position among the stacked results."""
        if (value, backwards) not in self._stacks:
            self._stacks.append((value, backwards))
        return self._stacks.index((value, backwards))

    def end(self, op: FlatOp, body: FlatGraph) -> None:
        """Make the loop of the turn, and say what its results are."""
        self.outer.op = op
        plan: list[tuple[FlatTensor, State | FlatTensor | Kept | TensorListValue]] = []
        for i, (outer, argument, new, result) in enumerate(
                zip(op.inputs, body.arguments, body.outputs, op.outputs, strict=True)):
            if outer.dtype == tf.resource or (new is argument and outer.dtype != tf.variant):
                plan.append((result, outer))
            elif outer.dtype == tf.variant:
                list_ = self.list_of(new)
                if not isinstance(list_, ListOfLoop) or isinstance(list_, OutsideList) and new is not argument:
                    raise self.refuse("a loop that puts another list in the place of one")
                plan.append((result, list_.kept(self, i)))
            else:
                state = next(s for s in self.states if s.value is self.values[argument])
                if new not in self.values:
                    raise self.refuse("a turn gives something that is no tensor of numbers")
                state.next = self.values[new]
                plan.append((result, state))
        checks = [(self.stack(value), message) for value, message in self.checks.items()]
        last, stacks = self._emit()
        for position, message in checks:
            self.outer.check(self.outer.emit(ReduceAnd((0,)), stacks[position]), message.rpartition(" (")[0])
        for result, end in plan:
            self._give(result, end, last, stacks)

    def _give(self, result: FlatTensor, end: State | FlatTensor | Kept | TensorListValue,
              last: dict[Value, Value], stacks: Sequence[Value]) -> None:
        outer = self.outer
        if isinstance(end, FlatTensor):
            if end.dtype == tf.resource:
                outer.alias(result, end)
            else:
                outer.values[result] = outer.values[end]
        elif isinstance(end, State):
            outer.values[result] = self._last(end, last)
        elif isinstance(end, Kept):
            outer.lists[result] = end.after(self, last, stacks)
        else:
            outer.lists[result] = end

    def _last(self, state: State, last: dict[Value, Value]) -> Value:
        """A state after the loop; that of a counter is known."""
        counter = self.moving.get(state.value)
        if counter is None:
            return last[state.value]
        return self.outer.constant(at(counter, self.turns, state.value.type))

    def _emit(self) -> tuple[dict[Value, Value], list[Value]]:
        """The loop in the outer graph: last values by the state's inputs, and stacked results."""
        for state in self.states:
            if state.next is None:
                state.next = state.value
            if state.next.type != state.first.type:
                raise self.refuse(f"a turn makes {state.next.type} of {state.first.type}")
        sliced = [(value, rows, back) for (rows, back), value in self._slices.items()]
        values = [*(s.value for s in self.states), *(v for v, *_ in sliced), *self.captured.values()]
        results = [*(s.next for s in self.states if s.next is not None), *(v for v, _ in self._stacks)]
        names = {item.value: item for item in self.builder.inputs}
        graph = Graph("turn", tuple(Input(v, names[v].name) for v in values), tuple(self.builder.nodes),
                      tuple(Output(v) for v in results))
        work = self.turns * _work(graph)
        if work > _MOST_WORK:
            raise self.refuse(f"a loop of {work} operations in all turns")
        scan = Scan(self.turns, tuple(back for *_, back in sliced), tuple(back for _, back in self._stacks), graph)
        operands = [*(s.first for s in self.states), *(rows for _, rows, _ in sliced), *self.captured]
        made = self.outer.builder.add(scan, *operands, loc=self._loop.location)
        count = len(self.states)
        return {s.value: v for s, v in zip(self.states, made, strict=False)}, list(made[count:])


def _work(graph: Graph) -> int:
    """Operations of a graph that may become kernels, those of inner loops in all of their turns."""
    return sum(node.op.steps * _work(node.op.body) if isinstance(node.op, Scan)
               else not (node.op.view or isinstance(node.op, Constant)) for node in graph.nodes)


def _as_counters(rows: np.ndarray) -> list[Counter] | None:
    """Rows of integers of which each grows by the same amount from row to row."""
    if rows.ndim > 2 or rows.dtype.kind not in "iu":
        return None
    table = rows.reshape(len(rows), -1).astype(np.int64)
    steps = np.diff(table, axis=0)
    if not len(steps) or (steps != steps[0]).any():
        return None
    return [Counter(int(start), int(step)) for start, step in zip(table[0], steps[0], strict=True)]
