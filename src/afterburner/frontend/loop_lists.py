"""What one turn of a loop does to the lists of tensors that it is given, and what they are after all turns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, cast

from ..ir import Shape, Value
from ..ir.ops.elementwise import Add
from .importer import Importer, TensorListValue
from .tensor_lists import Rows, Single, row, span

if TYPE_CHECKING:
    from .loop_turns import Turn


@dataclass(eq=False)
class State:
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


_LENGTH_CHANGES = "the length of a list, which changes from turn to turn"


class Kept(ABC):
    """What a list is after the loop."""

    @abstractmethod
    def after(self, turn: Turn, last: dict[Value, Value], stacks: Sequence[Value]) -> TensorListValue:
        """The list outside, given the last values of the state and the stacked results."""


@dataclass(frozen=True)
class _Filled(Kept):
    """Elements of a list were set, or added to zeros, or pushed: the rows of a stacked result."""

    before: Rows
    position: int
    first: int
    step: int = 1

    def after(self, turn: Turn, last: dict[Value, Value], stacks: Sequence[Value]) -> TensorListValue:
        return self.before.joined(turn.outer, stacks[self.position], self.first, self.step)


@dataclass(frozen=True)
class _Ready(Kept):
    """A list that is known without the loop."""

    list: TensorListValue

    def after(self, turn: Turn, last: dict[Value, Value], stacks: Sequence[Value]) -> TensorListValue:
        return self.list


@dataclass(frozen=True)
class _LastElement(Kept):
    """A list of one element, which is a state."""

    before: Rows
    state: State

    def after(self, turn: Turn, last: dict[Value, Value], stacks: Sequence[Value]) -> TensorListValue:
        value = last[self.state.value]
        return self.before.joined(turn.outer, turn.outer.reshape(value, (1, *value.shape)), 0)


class ListOfLoop(TensorListValue, ABC):
    """A list that a turn is given."""

    @abstractmethod
    def kept(self, turn: Turn, index: int) -> Kept:
        """What it is after the loop, where it is what the turn gives for the loop's variable ``index``."""


def _turn(ctx: Importer) -> Turn:
    return cast("Turn", ctx)


def _place(ctx: Importer, index: Value) -> tuple[int, int]:
    place = ctx.progress_of(index)
    if place is None:
        raise ctx.refuse("a position in a list that is computed from data")
    return place


@dataclass(frozen=True)
class OutsideList(ListOfLoop):
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
        if isinstance(self.outside, OutsideList):
            outer = _turn(turn.outer)
            rows = self.outside._rows(outer)
            inside = outer.capture(rows.stacked(outer.outer))
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

    def kept(self, turn: Turn, index: int) -> Kept:
        return _Ready(self.outside)


@dataclass(frozen=True)
class CellList(ListOfLoop):
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

    def with_item(self, ctx: Importer, index: Value, value: Value, grows: bool = False) -> TensorListValue:
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

    def kept(self, turn: Turn, index: int) -> Kept:
        if self.index != index:
            raise turn.refuse("a loop that exchanges lists")
        if self.value is None:
            return _Ready(self.outside)
        state = next((s for s in turn.states if s.cell == index), None)
        if state is None:
            state = turn.state(turn.outer.full(self.value.type, 0))
        state.next = self.value
        return _LastElement(self.outside, state)


@dataclass(frozen=True)
class ChangingList(ListOfLoop):
    """A list that every turn changes in the same way.

    Attributes:
        index: of the loop's variable.
        outside: the list before the loop.
        change: what this turn has done so far: "set", "add", "push" or "pop".
        place: of the element set or added to.
        value: that element, or the one that was pushed.
        grows: whether that element may lie behind the end of the list.
        reads: places of the elements that a turn reads, of all lists with this origin.
        counted: holds something where a turn asks for its length, of all lists with this origin.
    """

    index: int
    outside: Rows
    change: str = ""
    place: tuple[int, int] = (0, 0)
    value: Value | None = None
    grows: bool = False
    reads: list[tuple[int, int]] = field(default_factory=list)
    counted: list[bool] = field(default_factory=list)

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

    def with_item(self, ctx: Importer, index: Value, value: Value, grows: bool = False) -> TensorListValue:
        if self.change:
            raise ctx.refuse("a list is changed twice in a turn")
        return replace(self, change="set", place=_place(ctx, index), value=value, grows=grows)

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
        if self.change in ("push", "pop") or self.grows:
            raise ctx.refuse(_LENGTH_CHANGES)
        self.counted.append(True)
        return self.outside.length

    def zeros(self, ctx: Importer) -> TensorListValue:
        return self.outside.zeros(ctx)

    def kept(self, turn: Turn, index: int) -> Kept:
        if self.index != index:
            raise turn.refuse("a loop that exchanges lists")
        if self.reads and self.change not in ("", "set"):
            raise turn.refuse("a list is read at places that earlier turns may have changed")
        if self.counted and self.change in ("push", "pop"):
            raise turn.refuse(_LENGTH_CHANGES)
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

    def _pushed(self, turn: Turn) -> Kept:
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

    def _set(self, turn: Turn) -> Kept:
        assert self.value is not None
        (start, step), before = self.place, self.outside
        last = start + step * (turn.turns - 1)
        if self.grows and max(start, last) >= before.length:
            if self.counted:
                raise turn.refuse(_LENGTH_CHANGES)
            before = before.resized(turn.outer, max(start, last) + 1)
        if turn.turns > 1 and (not step or abs(step) > 1 and not before.is_empty) or min(start, last) < 0 \
                or max(start, last) >= before.length:
            raise turn.refuse(f"a loop sets elements {start} to {last} of a list of {before.length}")
        if any(place != self.place for place in self.reads):
            raise turn.refuse("a list is read at places that earlier turns may have changed")
        if self.change == "add" and not self.outside.is_empty:
            raise turn.refuse("a loop adds to elements of a list that has some")
        return _Filled(before, turn.stack(self.value, step < 0), min(start, last), max(1, abs(step)))
