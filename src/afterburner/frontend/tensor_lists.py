"""TensorFlow's lists of tensors, in which its loops keep the rows of all turns, while a graph is imported.

The IR has no lists: each is followed through the import as what is known of it here. Outside of loops that is a tensor
with the elements as rows; inside, what one turn does to a list of the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..ir import DType, Shape, TensorType, Value
from ..ir.ops.elementwise import Add
from ..ir.ops.shape import Concat, Pad, Slice
from .importer import Importer, TensorListValue


@dataclass(frozen=True)
class Rows(TensorListValue):
    """A list whose elements are known.

    Attributes:
        length: how many.
        dtype: of the elements.
        shape: of an element; None where none has been set and TensorFlow does not say.
        rows: all elements, of shape (length, ...); None where none has been set, which TensorFlow reads as zeros.
        repeated: the element, where all are the same; ``rows`` is None then.
    """

    length: int
    dtype: DType
    shape: Shape | None
    rows: Value | None = None
    repeated: Value | None = None

    def stacked(self, ctx: Importer, shape: Shape | None = None) -> Value:
        """All elements as one tensor; ``shape`` is that of an element as far as the reader knows it."""
        if self.rows is not None:
            return self.rows
        if self.repeated is not None:
            whole = (self.length, *self.repeated.shape)
            return ctx.broadcast_along(self.repeated, whole, range(1, len(whole)))
        shape = self.shape if self.shape is not None else shape
        if shape is None:
            raise ctx.refuse("a list of elements of unknown shape")
        return ctx.full(TensorType(self.dtype, (self.length, *shape)), 0)

    def item(self, ctx: Importer, index: Value, shape: Shape | None) -> Value:
        at = int(ctx.static(index, "a position in a list"))
        if not 0 <= at < self.length:
            raise ctx.refuse(f"element {at} of a list of {self.length}")
        return row(ctx, self.stacked(ctx, shape), at)

    def with_item(self, ctx: Importer, index: Value, value: Value, grows: bool = False) -> TensorListValue:
        place = ctx.progress_of(index)
        if place is None:
            raise ctx.refuse("a position in a list that is computed from data")
        if place[1] and self.is_empty and not grows:
            return Single(self.length, place, value)
        if place[1] or place[0] < 0 or place[0] >= self.length and not grows:
            raise ctx.refuse(f"element {place[0]} of a list of {self.length}")
        wide = self.resized(ctx, max(self.length, place[0] + 1))
        return wide.joined(ctx, ctx.reshape(value, (1, *value.shape)), place[0])

    def pushed(self, ctx: Importer, value: Value) -> Rows:
        return self.resized(ctx, self.length + 1).joined(ctx, ctx.reshape(value, (1, *value.shape)), self.length)

    def popped(self, ctx: Importer, shape: Shape | None) -> tuple[TensorListValue, Value]:
        if not self.length:
            raise ctx.refuse("the last element of an empty list")
        return self.resized(ctx, self.length - 1), row(ctx, self.stacked(ctx, shape), self.length - 1)

    def resized(self, ctx: Importer, length: int) -> Rows:
        if self.rows is None and (self.repeated is None or length <= self.length):
            return replace(self, length=length)
        if not self.length:
            return Rows(length, self.dtype, self.item_shape(ctx))
        rows = self.stacked(ctx)
        if length > self.length:
            more = TensorType(self.dtype, (length - self.length, *rows.shape[1:]))
            return replace(self, length=length, rows=ctx.emit(Concat(0), rows, ctx.full(more, 0)), repeated=None)
        return replace(self, length=length, rows=span(ctx, rows, 0, length))

    def plus(self, ctx: Importer, other: TensorListValue) -> TensorListValue:
        if isinstance(other, Rows) and other.length == self.length:
            if self.is_empty or other.is_empty:
                return other if self.is_empty else self
            rows = [part.stacked(ctx) for part in (self, other)]
            return replace(self, rows=ctx.emit(Add(), *rows), repeated=None)
        if self.is_empty:
            return other
        raise ctx.refuse("a sum of lists of different kinds")

    def count(self, ctx: Importer) -> int:
        return self.length

    def item_shape(self, ctx: Importer) -> Shape | None:
        if self.rows is not None:
            return self.rows.shape[1:]
        return self.shape if self.repeated is None else self.repeated.shape

    def zeros(self, ctx: Importer) -> TensorListValue:
        return Rows(self.length, self.dtype, self.item_shape(ctx))

    @property
    def is_empty(self) -> bool:
        """Whether no element has been set."""
        return self.rows is None and self.repeated is None

    def joined(self, ctx: Importer, rows: Value, first: int, step: int = 1) -> Rows:
        """With ``rows`` in the place of the elements from ``first`` on, or of every second one, and so on, of a list in
        which none is set."""
        if step > 1:
            end, zero = first + step * (rows.shape[0] - 1) + 1, ctx.constant(0, rows.type.dtype)
            rest = (0,) * (rows.type.rank - 1)
            rows = ctx.emit(Pad((first, *rest), (self.length - end, *rest), (step - 1, *rest)), rows, zero)
            return Rows(self.length, self.dtype, rows.shape[1:], rows)
        end = first + rows.shape[0]
        if rows.shape[0] == self.length:
            return Rows(self.length, self.dtype, rows.shape[1:], rows)
        old = self.stacked(ctx, rows.shape[1:])
        if old.shape[1:] != rows.shape[1:]:
            raise ctx.refuse("elements of different shapes in one list")
        parts = [span(ctx, old, 0, first), rows, span(ctx, old, end, self.length)]
        whole = ctx.emit(Concat(0), *(p for p in parts if p.shape[0]))
        return Rows(self.length, self.dtype, rows.shape[1:], whole)


@dataclass(frozen=True)
class Single(TensorListValue):
    """A list made in one turn of a loop, in which one element is set and all others are zeros: how a gradient with
    respect to an element begins.

    Attributes:
        length: how many elements.
        place: the first turn's position of the element, and by how much it grows from turn to turn.
        value: the element.
    """

    length: int
    place: tuple[int, int]
    value: Value

    def plus(self, ctx: Importer, other: TensorListValue) -> TensorListValue:
        if isinstance(other, Single):
            if other.place != self.place:
                raise ctx.refuse("gradients with respect to different elements of a list")
            return replace(self, value=ctx.emit(Add(), self.value, other.value))
        return other.plus(ctx, self)


def row(ctx: Importer, rows: Value, at: int) -> Value:
    """One row of a tensor."""
    return ctx.reshape(span(ctx, rows, at, at + 1), rows.shape[1:])


def span(ctx: Importer, rows: Value, first: int, end: int, step: int = 1) -> Value:
    """Some rows of a tensor."""
    if (first, end, step) == (0, rows.shape[0], 1):
        return rows
    rest = rows.shape[1:]
    return ctx.emit(Slice((first, *(0 for _ in rest)), (end, *rest), (step, *(1 for _ in rest))), rows)


def element_shape(ctx: Importer, value: Value) -> Shape | None:
    """The shape that a list operation is told of its elements; None where it is not all known."""
    array = np.asarray(ctx.static(value, "the shape of a list's elements"))
    if array.ndim == 0 or (array < 0).any():
        return None
    return tuple(int(n) for n in array)
