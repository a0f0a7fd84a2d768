"""Python's slicing: StridedSlice with all its masks, and its gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Shape, TensorType, Value
from ...ir.ops.elementwise import Add, Equal, Less, Select
from ...ir.ops.shape import Iota, Pad, Reverse, Slice
from ...ir.types import BOOL
from ..flatten import FlatOp
from ..importer import Importer, Rule

_MASKS = ("begin", "end", "ellipsis", "new_axis", "shrink_axis")


@dataclass(frozen=True)
class _Spec:
    """A slice of a tensor: a range per axis, then the result's shape with axes dropped and added."""

    ranges: tuple[range, ...]
    shape: Shape

    @property
    def taken(self) -> Shape:
        """The shape before axes are dropped and added."""
        return tuple(len(r) for r in self.ranges)

    @property
    def reversed_axes(self) -> Shape:
        return tuple(i for i, r in enumerate(self.ranges) if r.step < 0 and len(r) > 1)


def _spec(ctx: Importer, shape: Shape, begin: Value, end: Value, strides: Value) -> _Spec:
    """The slice that begin, end, strides and the masks of the current operation describe."""
    begins, ends = ctx.ints(begin, "where the slice begins"), ctx.ints(end, "where the slice ends")
    return _spec_of(ctx, shape, begins, ends, ctx.ints(strides, "the slice's strides"))


def _spec_of(ctx: Importer, shape: Shape, begins: Sequence[int], ends: Sequence[int], steps: Sequence[int]) -> _Spec:
    masks = {name: int(ctx.attr(f"{name}_mask")) for name in _MASKS}
    ranges: list[range] = []
    result: list[int] = []
    for i, (first, last, step) in enumerate(zip(begins, ends, steps, strict=True)):
        on = {name for name, mask in masks.items() if mask >> i & 1}
        if "ellipsis" in on:
            later = sum(1 for j in range(i + 1, len(begins)) if not masks["new_axis"] >> j & 1)
            for size in shape[len(ranges): len(shape) - later]:
                ranges.append(range(size))
                result.append(size)
        elif "new_axis" in on:
            result.append(1)
        else:
            ranges.append(_range(ctx, shape, len(ranges), (first, last, step), on))
            result += [] if "shrink_axis" in on else [len(ranges[-1])]
    rest = shape[len(ranges):]
    return _Spec((*ranges, *(range(s) for s in rest)), (*result, *rest))


def _range(ctx: Importer, shape: Shape, axis: int, bounds: tuple[int, int, int], on: set[str]) -> range:
    if axis >= len(shape) or bounds[2] == 0:
        raise ctx.refuse(f"slice {bounds} of axis {axis} of shape {list(shape)}")
    size, (first, last, step) = shape[axis], bounds
    if "shrink_axis" in on:
        index = first + size if first < 0 else first
        if not 0 <= index < size:
            raise ctx.refuse(f"index {first} of an axis of size {size}")
        return range(index, index + 1)
    start, stop = None if "begin" in on else first, None if "end" in on else last
    return range(*slice(start, stop, step).indices(size))


def _strided_slice(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    moving = _moving(ctx, *inputs[1:4])
    if moving is not None:
        x, spec = _row_of_turn(ctx, x, moving), moving.spec(ctx, x.shape)
    else:
        spec = _spec(ctx, x.shape, *inputs[1:4])
    if all(r == range(n) for r, n in zip(spec.ranges, x.shape, strict=True)):
        return (ctx.reshape(x, spec.shape),)
    spans = [_ascending(r) for r in spec.ranges]
    op_ = Slice(tuple(r.start for r in spans), tuple(r[-1] + 1 if r else r.start for r in spans),
                tuple(r.step for r in spans))
    taken = ctx.emit(op_, x)
    if spec.reversed_axes:
        taken = ctx.emit(Reverse(spec.reversed_axes), taken)
    return (ctx.reshape(taken, spec.shape),)


def _ascending(r: range) -> range:
    """The same numbers in increasing order."""
    if not r:
        return range(0)
    return range(min(r[0], r[-1]), max(r[0], r[-1]) + 1, abs(r.step))


def _strided_slice_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """dy put back where it was taken from, zeros elsewhere."""
    shape = ctx.ints(inputs[0], "the input's shape")
    moving = _moving(ctx, *inputs[1:4])
    if moving is not None:
        return (_put_back_moving(ctx, moving, shape, inputs[4]),)
    spec = _spec(ctx, shape, *inputs[1:4])
    return (_put_back(ctx, spec, shape, ctx.reshape(inputs[4], spec.taken)),)


@dataclass(frozen=True)
class _Moving:
    """A slice that takes another index of one axis in each turn of a loop.

    Attributes:
        axis: which.
        index: the index in this turn.
        begins, ends, steps: of the slice where that axis has one element.
    """

    axis: int
    index: Value
    begins: tuple[int, ...]
    ends: tuple[int, ...]
    steps: tuple[int, ...]

    def spec(self, ctx: Importer, shape: Shape) -> _Spec:
        """The slice of what ``_row_of_turn`` gives."""
        one = (*shape[:self.axis], 1, *shape[self.axis + 1:])
        return _spec_of(ctx, one, self.begins, self.ends, self.steps)


def _moving(ctx: Importer, begin: Value, end: Value, strides: Value) -> _Moving | None:
    """The slice, where that is what it takes; None for all others."""
    elements, steps = ctx.elements_of(begin), ctx.known(strides)
    if elements is None or steps is None:
        return None
    places = [ctx.progress_of(e) for e in elements]
    axes = [i for i, place in enumerate(places) if place is not None and place[1]]
    if len(axes) != 1 or any(p is None for p in places):
        return None
    axis, masks = axes[0], {name: int(ctx.attr(f"{name}_mask")) for name in _MASKS}
    earlier = (1 << axis + 1) - 1
    ends = ctx.elements_of(end)
    if not masks["shrink_axis"] >> axis & 1 or (masks["ellipsis"] | masks["new_axis"]) & earlier or ends is None:
        return None
    last = [(1, 0) if i == axis else ctx.progress_of(e) for i, e in enumerate(ends)]
    if any(p is None or p[1] for p in last):
        return None
    begins = tuple(0 if i == axis else p[0] for i, p in enumerate(places) if p is not None)
    whole = tuple(p[0] for p in last if p is not None)
    return _Moving(axis, elements[axis], begins, whole, tuple(int(n) for n in steps))


def _row_of_turn(ctx: Importer, x: Value, moving: _Moving) -> Value:
    """What a turn takes of the moving axis, which is kept with size 1."""
    row = ctx.row_of_turn(x, moving.axis, moving.index)
    return ctx.reshape(row, (*x.shape[:moving.axis], 1, *x.shape[moving.axis + 1:]))


def _put_back_moving(ctx: Importer, moving: _Moving, shape: Shape, part: Value) -> Value:
    """``part`` at this turn's index, zeros elsewhere."""
    one = (*shape[:moving.axis], 1, *shape[moving.axis + 1:])
    spec = moving.spec(ctx, shape)
    whole = _put_back(ctx, spec, one, ctx.reshape(part, spec.taken))
    whole = ctx.broadcast_to(whole, shape)
    index = moving.index
    place = ctx.progress_of(index)
    if place is None or min(place) < 0:  # an index below zero counts from the end
        from_end = ctx.emit(Add(), index, ctx.constant(shape[moving.axis], index.type.dtype))
        index = ctx.emit(Select(), ctx.emit(Less(), index, ctx.like(index, 0)), from_end, index)
    numbers = ctx.emit(Iota(index.type.dtype, shape, moving.axis))
    here = ctx.emit(Equal(), numbers, ctx.broadcast_to(index, shape))
    return ctx.emit(Select(), here, whole, ctx.like(whole, 0))


def _put_back(ctx: Importer, spec: _Spec, shape: Shape, part: Value) -> Value:
    """``part`` where the slice takes it from, in zeros of ``shape``."""
    zero = ctx.constant(0, part.type.dtype)
    if not part.type.size:
        return ctx.broadcast_to(zero, shape)
    if spec.reversed_axes:
        part = ctx.emit(Reverse(spec.reversed_axes), part)
    if spec.taken == shape:
        return part
    spans = [_ascending(r) for r in spec.ranges]
    pad = Pad(tuple(r[0] for r in spans), tuple(n - 1 - r[-1] for n, r in zip(shape, spans, strict=True)),
              tuple(r.step - 1 for r in spans))
    return ctx.emit(pad, part, zero)


def _with_slice(ctx: Importer, x: Value, bounds: list[Value], part: Value) -> Value:
    """``x`` with the slice replaced by ``part``, which may have fewer or size-1 axes."""
    spec = _spec(ctx, x.shape, *bounds)
    part = ctx.reshape(ctx.broadcast_to(part, spec.shape), spec.taken)
    inside = _put_back(ctx, spec, x.shape, ctx.full(TensorType(BOOL, spec.taken), True))
    return ctx.emit(Select(), inside, _put_back(ctx, spec, x.shape, part), x)


def _strided_slice_update(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (_with_slice(ctx, inputs[0], inputs[1:4], inputs[4]),)


def _strided_slice_assign(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    variable = op.inputs[0]
    ctx.assign(variable, _with_slice(ctx, ctx.read(variable), inputs[:3], inputs[3]))
    return ()


STRIDED_RULES: dict[str, Rule] = {
    "ResourceStridedSliceAssign": _strided_slice_assign,
    "StridedSlice": _strided_slice,
    "StridedSliceGrad": _strided_slice_grad,
    "TensorStridedSliceUpdate": _strided_slice_update,
}
