"""Loops whose number of turns is known when they are imported, as one operation of the IR.

Such are the loops of recurrent layers, forward and backward. One turn is imported as a graph of its own. What stays the
same is captured, integers that grow by the same amount each turn are followed, and TensorFlow's lists, in which its
loops keep what each turn reads or makes, become the rows of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import tensorflow as tf

from ..ir import Graph, Input, Output, Shape, TensorType, Value, interpret
from ..ir.ops.control import Scan
from ..ir.ops.elementwise import Add, Cast, Mul, Neg, Sub
from ..ir.ops.reduce import ReduceAnd
from ..ir.ops.shape import Slice
from .flatten import FlatGraph, FlatOp, FlatTensor
from .importer import Importer, Refused, TensorListValue
from .tensor_lists import Rows, Single, row, span

_MOST_TURNS = 20_000
_MOST_WORK = 400_000  # operations of all turns: each kernel of each turn has an entry in the program's tables
_CAPTURED_ELEMENTS = 1024  # known values up to this size are constants of the turn


@dataclass(frozen=True)
class Counter:
    """An integer that grows by the same amount in each turn."""

    start: int
    step: int


def import_loop(ctx: Importer, op: FlatOp, cond: FlatGraph, body: FlatGraph) -> None:
    """Import a while loop; its results are in ``ctx.values`` and ``ctx.lists`` then.

    Raises:
        Refused: the number of turns is not known, or what it does with a list is not followed.
    """
    counters = dict(_counters(ctx, op, body))
    turns = _turns(ctx, op, cond, body, counters)
    if turns == 0:
        _pass_on(ctx, op)
        return
    work = turns * sum(inner.type != "Const" for inner in body.ops)
    if turns > _MOST_TURNS or work > _MOST_WORK:
        raise ctx.refuse(f"a loop of {turns} turns and {work} operations")
    turn = Turn(ctx, op, turns)
    turn.begin(op, body, counters)
    turn.import_ops(body)
    turn.end(op, body)


def writes(body: FlatGraph) -> str | None:
    """The first operation of a loop's body that may write a variable."""
    return next((inner.type for inner in body.ops if inner.type not in _READERS
                 and any(t.dtype == tf.resource for t in inner.inputs)), None)


_READERS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "Identity", "While",
            "StatelessWhile", "If", "StatelessIf", "VarIsInitializedOp")


def may_be_counted(cond: FlatGraph, body: FlatGraph) -> bool:
    """Whether all that decides on another turn is the same in all turns, or grows by the same amount."""
    work, seen = list(cond.outputs), set(cond.outputs)
    while work:
        tensor = work.pop()
        if tensor.op is None:
            old, new = body.arguments[tensor.index], body.outputs[tensor.index]
            if new is not old and _growth(old, new) is None:
                return False
            continue
        more = [t for t in tensor.op.inputs if t not in seen]
        seen.update(more)
        work += more
    return True


def _growth(old: FlatTensor, new: FlatTensor) -> tuple[FlatTensor, int] | None:
    """By what an argument grows, and whether that is added (1) or taken away (-1); None where that is not what a turn
    does to it."""
    made = new.op
    if made is None or not old.dtype.is_integer or old.shape.rank not in (0, None):
        return None
    if made.type in ("AddV2", "Add") and old in made.inputs:
        first, second = made.inputs
        return (second if first is old else first), 1
    if made.type == "Sub" and made.inputs[0] is old:
        return made.inputs[1], -1
    return None


def _counters(ctx: Importer, op: FlatOp, body: FlatGraph) -> Iterator[tuple[int, Counter]]:
    """Positions of the loop's variables that are counters."""
    for i, (outer, old, new) in enumerate(zip(op.inputs, body.arguments, body.outputs, strict=True)):
        growth = _growth(old, new)
        if growth is None or outer not in ctx.values:
            continue
        start, by = ctx.known(ctx.values[outer]), _constant(ctx, op, body, growth[0])
        if start is not None and not start.shape and by is not None:
            yield i, Counter(int(start), growth[1] * by)


def _constant(ctx: Importer, op: FlatOp, body: FlatGraph, tensor: FlatTensor) -> int | None:
    """An integer that is the same in every turn and known."""
    if tensor.op is not None:
        return int(tf.make_ndarray(tensor.op.attr("value"))) if tensor.op.type == "Const" else None
    if body.outputs[tensor.index] is not tensor or op.inputs[tensor.index] not in ctx.values:
        return None
    known = ctx.known(ctx.values[op.inputs[tensor.index]])
    return int(known) if known is not None and not known.shape else None


def _turns(ctx: Importer, op: FlatOp, cond: FlatGraph, body: FlatGraph, counters: dict[int, Counter]) -> int:
    """How often the body runs."""
    probe = Turn(ctx, op, 0)
    read = {t for inner in cond.ops for t in inner.inputs} | set(cond.outputs)
    for i, (argument, outer) in enumerate(zip(cond.arguments, op.inputs, strict=True)):
        if argument not in read:
            continue
        if i in counters:
            probe.values[argument] = probe.builder.input(ctx.values[outer].type, f"counter{i}")
        elif outer in ctx.values and body.outputs[i] is body.arguments[i]:
            probe.values[argument] = probe.capture(ctx.values[outer])
    probe.import_ops(cond)
    result = probe.values.get(cond.outputs[0])
    if result is None or result.shape or probe.checks:
        raise ctx.refuse("the number of turns depends on data")
    fixed = {inner: ctx.static(outer, "the number of turns of a loop") for outer, inner in probe.captured.items()}
    probe.builder.output(result)
    graph = probe.builder.build()
    follow = iter([counters[i] for i in sorted(counters) if cond.arguments[i] in read])
    inputs = [None if item.value in fixed else next(follow) for item in graph.inputs]
    for turn in range(_MOST_TURNS + 1):
        arguments = [fixed[item.value] if counter is None else _at(counter, turn, item.value.type)
                     for item, counter in zip(graph.inputs, inputs, strict=True)]
        if not interpret(graph, arguments)[0]:
            return turn
    return _MOST_TURNS + 1


def _at(counter: Counter, turn: int, type_: TensorType) -> np.ndarray:
    return np.asarray(counter.start + turn * counter.step).astype(type_.dtype.numpy)


def _pass_on(ctx: Importer, op: FlatOp) -> None:
    """The results of a loop that never runs."""
    for source, result in zip(op.inputs, op.outputs, strict=True):
        if source.dtype == tf.resource:
            ctx.alias(result, source)
        elif source.dtype == tf.variant:
            ctx.lists[result] = ctx.list_of(source)
        else:
            ctx.values[result] = ctx.values[source]


class Turn(Importer):
    """The import of one turn, which stands for all.

    Attributes:
        outer: the import that the loop is part of.
        turns: how many there are.
        captured: what is the same in all turns, by its value outside.
        moving: integers that grow by the same amount each turn.
    """

    def __init__(self, outer: Importer, op: FlatOp, turns: int) -> None:
        super().__init__("turn", outer.variable_types, outer._import_op)
        self.outer = outer
        self.turns = turns
        self.captured: dict[Value, Value] = {}
        self.moving: dict[Value, Counter] = {}
        self._moving_elements: dict[Value, list[Counter]] = {}
        self.states: list[_State] = []
        self._loop = op
        self._slices: dict[tuple[Value, bool], Value] = {}
        self._stacks: list[tuple[Value, bool]] = []
        self._ends: list[tuple[FlatTensor, _State | Value]] = []

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
        if abs(step) != 1:
            raise self.refuse("a loop takes every second element of a list, or fewer")
        taken = span(self.outer, rows, min(start, last), max(start, last) + 1)
        known = self.outer.known(taken) if taken.type.size <= _CAPTURED_ELEMENTS or taken.type.rank == 1 else None
        if known is not None and (known == known[:1]).all():
            return self.constant(known[0])
        key = taken, step < 0
        if key not in self._slices:
            value = self._slices[key] = self.builder.input(
                TensorType(taken.type.dtype, taken.shape[1:]), f"s{len(self._slices)}")
            counters = None if known is None else _as_counters(known[::step])
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
        root = handle
        while root in self._handles:
            root = self._handles[root]
        return self.outer.variable(root)

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
        """The integer a scalar is in the first turn, and by how much it grows from turn to turn."""
        if value in self.moving:
            return self.moving[value].start, self.moving[value].step
        known = super().progress_of(value)
        if known is not None or value.node is None or value.shape:
            return known
        parts = [self.progress_of(v) for v in value.node.operands]
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
            case Mul() if more[0][1] == 0:
                return start * more[0][0], step * more[0][0]
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
                self._import_op(self, inner)
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
                self.values[argument] = self._state(self.outer.values[outer], counters.get(i)).value

    def _state(self, first: Value, counter: Counter | None = None) -> _State:
        state = _State(self.builder.input(first.type, f"v{len(self.states)}"), first)
        self.states.append(state)
        if counter is not None:
            self.moving[state.value] = counter
        return state

    def _list(self, index: int, outside: TensorListValue, same: bool) -> TensorListValue:
        if same:
            return _Outside(outside)
        if not isinstance(outside, Rows):
            raise self.refuse("a list of an outer loop that an inner one changes")
        if outside.length == 1 and self.turns > 1:
            return _Cell(index, outside)
        return _Changing(index, outside)

    def cell(self, list_: _Cell, shape: Shape | None) -> Value:
        """The value that a turn begins with of a list of one element."""
        for state in self.states:
            if state.cell == list_.index:
                return state.value
        first = row(self.outer, list_.outside.stacked(self.outer, shape), 0)
        state = self._state(first)
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
        plan: list[tuple[FlatTensor, _State | FlatTensor | _Kept | TensorListValue]] = []
        for i, (outer, argument, new, result) in enumerate(
                zip(op.inputs, body.arguments, body.outputs, op.outputs, strict=True)):
            if outer.dtype == tf.resource or (new is argument and outer.dtype != tf.variant):
                plan.append((result, outer))
            elif outer.dtype == tf.variant:
                list_ = self.list_of(new)
                plan.append((result, list_.kept(self, i) if isinstance(list_, _OfLoop) else self._foreign(list_)))
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

    def _foreign(self, list_: TensorListValue) -> TensorListValue:
        raise self.refuse("a loop that puts another list in the place of one")

    def _give(self, result: FlatTensor, end: _State | FlatTensor | _Kept | TensorListValue,
              last: dict[Value, Value], stacks: Sequence[Value]) -> None:
        outer = self.outer
        if isinstance(end, FlatTensor):
            if end.dtype == tf.resource:
                outer.alias(result, end)
            else:
                outer.values[result] = outer.values[end]
        elif isinstance(end, _State):
            outer.values[result] = self._last(end, last)
        elif isinstance(end, _Kept):
            outer.lists[result] = end.after(self, last, stacks)
        else:
            outer.lists[result] = end

    def _last(self, state: _State, last: dict[Value, Value]) -> Value:
        """A state after the loop; that of a counter is known."""
        counter = self.moving.get(state.value)
        if counter is None:
            return last[state.value]
        return self.outer.constant(_at(counter, self.turns, state.value.type))

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
        scan = Scan(self.turns, tuple(back for *_, back in sliced), tuple(back for _, back in self._stacks), graph)
        operands = [*(s.first for s in self.states), *(rows for _, rows, _ in sliced), *self.captured]
        made = self.outer.builder.add(scan, *operands, loc=self._loop.location)
        count = len(self.states)
        return {s.value: v for s, v in zip(self.states, made, strict=False)}, list(made[count:])


@dataclass(eq=False)
class _State:
    """What one turn gives to the next.

    Attributes:
        value: in the turn.
        first: before the loop, outside.
        next: what the turn makes of it.
        cell: the position of the list of one element that it is the element of.
    """

    value: Value
    first: Value
    next: Value | None = None
    cell: int | None = None


class _Kept:
    """What a list is after the loop."""

    def after(self, turn: Turn, last: dict[Value, Value], stacks: Sequence[Value]) -> TensorListValue:
        raise NotImplementedError


@dataclass(frozen=True)
class _Filled(_Kept):
    """Elements of a list were set, or added to zeros, or pushed: the rows of a stacked result."""

    before: Rows
    position: int
    first: int

    def after(self, turn: Turn, last: dict[Value, Value], stacks: Sequence[Value]) -> TensorListValue:
        return self.before.joined(turn.outer, stacks[self.position], self.first)


@dataclass(frozen=True)
class _Ready(_Kept):
    """A list that is known without the loop."""

    list: TensorListValue

    def after(self, turn: Turn, last: dict[Value, Value], stacks: Sequence[Value]) -> TensorListValue:
        return self.list


@dataclass(frozen=True)
class _LastElement(_Kept):
    """A list of one element, which is a state."""

    before: Rows
    state: _State

    def after(self, turn: Turn, last: dict[Value, Value], stacks: Sequence[Value]) -> TensorListValue:
        value = last[self.state.value]
        return self.before.joined(turn.outer, turn.outer.reshape(value, (1, *value.shape)), 0)


class _OfLoop(TensorListValue):
    """A list that a turn is given."""

    def kept(self, turn: Turn, index: int) -> _Kept:
        """What it is after the loop, where it is what the turn gives for the loop's variable ``index``."""
        raise NotImplementedError


def _turn(ctx: Importer) -> Turn:
    assert isinstance(ctx, Turn)
    return ctx


def _place(ctx: Importer, index: Value) -> tuple[int, int]:
    place = ctx.progress_of(index)
    if place is None:
        raise ctx.refuse("a position in a list that is computed from data")
    return place


@dataclass(frozen=True)
class _Outside(_OfLoop):
    """A list from outside that no turn changes."""

    outside: TensorListValue

    def item(self, ctx: Importer, index: Value, shape: Shape | None) -> Value:
        turn = _turn(ctx)
        rows = self._rows(turn)
        if rows.repeated is not None:
            return turn.capture(rows.repeated)
        return turn.sliced(rows.stacked(turn.outer, shape), *_place(ctx, index))

    def _rows(self, turn: Turn) -> Rows:
        if isinstance(self.outside, Rows):
            return self.outside
        if isinstance(self.outside, _Outside) and isinstance(turn.outer, Turn):
            rows = self.outside._rows(turn.outer)
            inside = turn.outer.capture(rows.stacked(turn.outer.outer))
            return Rows(rows.length, rows.dtype, rows.shape, inside)
        raise turn.refuse("a list of an outer loop that changes there")

    def item_shape(self, ctx: Importer) -> Shape | None:
        return self.outside.item_shape(_turn(ctx).outer)

    def count(self, ctx: Importer) -> int:
        return self.outside.count(_turn(ctx).outer)

    def zeros(self, ctx: Importer) -> TensorListValue:
        return self._rows(_turn(ctx)).zeros(ctx)

    def stacked(self, ctx: Importer, shape: Shape | None = None) -> Value:
        turn = _turn(ctx)
        return turn.capture(self._rows(turn).stacked(turn.outer, shape))

    def kept(self, turn: Turn, index: int) -> _Kept:
        return _Ready(self.outside)


@dataclass(frozen=True)
class _Cell(_OfLoop):
    """A list of one element: what the last turn sets stays.

    Attributes:
        index: of the loop's variable.
        outside: the list before the loop.
        value: what this turn has set so far.
    """

    index: int
    outside: Rows
    value: Value | None = None

    def item(self, ctx: Importer, index: Value, shape: Shape | None) -> Value:
        self._require_first(ctx, index)
        return self.value if self.value is not None else _turn(ctx).cell(self, shape)

    def with_item(self, ctx: Importer, index: Value, value: Value) -> TensorListValue:
        self._require_first(ctx, index)
        return replace(self, value=value)

    def _require_first(self, ctx: Importer, index: Value) -> None:
        if _place(ctx, index) != (0, 0):
            raise ctx.refuse("a position behind the end of a list")

    def plus(self, ctx: Importer, other: TensorListValue) -> TensorListValue:
        if isinstance(other, Rows) and other.length == 1 and other.rows is not None:
            added = row(ctx, other.rows, 0)
        elif isinstance(other, Single) and other.length == 1:
            added = other.value
        else:
            return super().plus(ctx, other)
        before = self.value if self.value is not None else _turn(ctx).cell(self, added.shape)
        return replace(self, value=ctx.emit(Add(), before, added))

    def item_shape(self, ctx: Importer) -> Shape | None:
        return self.outside.item_shape(ctx) if self.value is None else self.value.shape

    def count(self, ctx: Importer) -> int:
        return 1

    def zeros(self, ctx: Importer) -> TensorListValue:
        return self.outside.zeros(ctx)

    def kept(self, turn: Turn, index: int) -> _Kept:
        if self.index != index:
            raise turn.refuse("a loop that exchanges lists")
        if self.value is None:
            return _Ready(self.outside)
        state = next((s for s in turn.states if s.cell == index), None)
        if state is None:
            state = turn._state(turn.outer.full(self.value.type, 0))
        state.next = self.value
        return _LastElement(self.outside, state)


@dataclass(frozen=True)
class _Changing(_OfLoop):
    """A list that every turn changes in the same way.

    Attributes:
        index: of the loop's variable.
        outside: the list before the loop.
        change: what this turn has done so far: "set", "add", "push" or "pop".
        place: of the element set or added to.
        value: that element, or the one that was pushed.
        reads: places of the elements that a turn reads, of all lists with this origin.
    """

    index: int
    outside: Rows
    change: str = ""
    place: tuple[int, int] = (0, 0)
    value: Value | None = None
    reads: list[tuple[int, int]] = field(default_factory=list)

    def item(self, ctx: Importer, index: Value, shape: Shape | None) -> Value:
        turn, place = _turn(ctx), _place(ctx, index)
        if self.change == "set" and self.place == place and self.value is not None:
            return self.value
        if self.change:
            raise ctx.refuse("a list is read in the turn that changes it")
        self.reads.append(place)
        if self.outside.repeated is not None:
            return turn.capture(self.outside.repeated)
        return turn.sliced(self.outside.stacked(turn.outer, shape), *place)

    def with_item(self, ctx: Importer, index: Value, value: Value) -> TensorListValue:
        if self.change:
            raise ctx.refuse("a list is changed twice in a turn")
        return replace(self, change="set", place=_place(ctx, index), value=value)

    def pushed(self, ctx: Importer, value: Value) -> TensorListValue:
        if self.change:
            raise ctx.refuse("a list is changed twice in a turn")
        return replace(self, change="push", value=value)

    def popped(self, ctx: Importer, shape: Shape | None) -> tuple[TensorListValue, Value]:
        if self.change:
            raise ctx.refuse("a list is changed twice in a turn")
        turn, outside = _turn(ctx), self.outside
        if outside.length < turn.turns:
            raise ctx.refuse(f"a loop of {turn.turns} turns takes an element each of {outside.length}")
        if outside.repeated is not None:
            element = turn.capture(outside.repeated)
        else:
            element = turn.sliced(outside.stacked(turn.outer, shape), outside.length - 1, -1)
        return replace(self, change="pop"), element

    def plus(self, ctx: Importer, other: TensorListValue) -> TensorListValue:
        if isinstance(other, Rows) and other.is_empty:
            return self
        if not isinstance(other, Single) or other.length != self.outside.length or self.change not in ("", "add"):
            return super().plus(ctx, other)
        if self.value is None:
            return replace(self, change="add", place=other.place, value=other.value)
        if self.place != other.place:
            raise ctx.refuse("a turn adds to different elements of a list")
        return replace(self, value=ctx.emit(Add(), self.value, other.value))

    def item_shape(self, ctx: Importer) -> Shape | None:
        return self.outside.item_shape(ctx) if self.value is None else self.value.shape

    def count(self, ctx: Importer) -> int:
        if self.change in ("push", "pop"):
            raise ctx.refuse("the length of a list that grows")
        return self.outside.length

    def zeros(self, ctx: Importer) -> TensorListValue:
        return self.outside.zeros(ctx)

    def kept(self, turn: Turn, index: int) -> _Kept:
        if self.index != index:
            raise turn.refuse("a loop that exchanges lists")
        if self.reads and self.change not in ("", "set"):
            raise turn.refuse("a list is read at places that earlier turns may have changed")
        match self.change:
            case "":
                return _Ready(self.outside)
            case "pop":
                return _Ready(self._rest(turn))
            case "push":
                return self._pushed(turn)
        return self._set(turn)

    def _rest(self, turn: Turn) -> Rows:
        left = self.outside.length - turn.turns
        rows = self.outside.rows
        return replace(self.outside, length=left, rows=None if rows is None else span(turn.outer, rows, 0, left))

    def _pushed(self, turn: Turn) -> _Kept:
        assert self.value is not None
        if self.outside.length:
            raise turn.refuse("a loop that adds to a list with elements")
        type_ = self.value.type
        after = Rows(turn.turns, type_.dtype, type_.shape)
        outside = next((o for o, inner in turn.captured.items() if inner is self.value), None)
        if outside is not None:
            return _Ready(replace(after, repeated=outside))
        known = turn.known(self.value)
        if known is not None:
            return _Ready(replace(after, repeated=turn.outer.constant(known)))
        numbers = turn.numbers_of_turns(self.value)
        if numbers is not None:
            return _Ready(replace(after, rows=turn.outer.constant(numbers)))
        return _Filled(after, turn.stack(self.value), 0)

    def _set(self, turn: Turn) -> _Kept:
        assert self.value is not None
        (start, step), length = self.place, self.outside.length
        last = start + step * (turn.turns - 1)
        if turn.turns > 1 and abs(step) != 1 or not (0 <= start < length and 0 <= last < length):
            raise turn.refuse(f"a loop sets elements {start} to {last} of a list of {length}")
        if any(place != self.place for place in self.reads):
            raise turn.refuse("a list is read at places that earlier turns may have changed")
        if self.change == "add" and not self.outside.is_empty:
            raise turn.refuse("a loop adds to elements of a list that has some")
        return _Filled(self.outside, turn.stack(self.value, step < 0), min(start, last))


def _as_counters(rows: np.ndarray) -> list[Counter] | None:
    """Rows of integers of which each grows by the same amount from row to row."""
    if rows.ndim > 2 or rows.dtype.kind not in "iu":
        return None
    table = rows.reshape(len(rows), -1).astype(np.int64)
    steps = np.diff(table, axis=0)
    if not len(steps) or (steps != steps[0]).any():
        return None
    return [Counter(int(start), int(step)) for start, step in zip(table[0], steps[0], strict=True)]
