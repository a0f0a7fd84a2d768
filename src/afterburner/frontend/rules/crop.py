"""Boxes cut out of images and resized, and the gradients for images and boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Shape, Value
from ...ir.ops import elementwise as ew
from ...ir.ops.gather import Gather, SegmentSum
from ...ir.ops.shape import Concat, Iota
from ...ir.types import F32, I32, I64
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula
from .gather import check_bounds
from .shape import cut


@dataclass(frozen=True)
class _Line:
    """Where the pixels of crops lie along one axis of their images, f32[boxes,new].

    Attributes:
        at: the place.
        inside: whether it is one of the image.
        reach: how far a place moves with the box's first and second end, f32[boxes,new] each.
    """

    at: Value
    inside: Value
    reach: tuple[Value, Value]


class _Crops:
    """Crops f32[boxes,height,width,c] of images [n,h,w,c].

    Args:
        ctx: the importer.
        shape: of the images.
        boxes: f32[boxes,4]: the first row and column and the last ones, as shares of the image.
        which: the image of each box, i32[boxes].
        size: height and width of the crops.
    """

    def __init__(self, ctx: Importer, shape: Shape, boxes: Value, which: Value, size: Shape) -> None:
        if 0 in shape[1:3] or 0 in size:
            raise ctx.refuse("crops of nothing")
        ctx.check(ctx.emit(ew.IsFinite(), boxes), "a box is not finite")
        check_bounds(ctx, which, shape[0])
        self.ctx, self.f, self.images, self.which = ctx, Formula(ctx), shape, which
        self.index = I32 if shape[0] * shape[1] * shape[2] < 1 << 31 else I64
        self.shape = (boxes.shape[0], *size)
        self.rows, self.columns = (self._line(boxes, i, shape[1 + i], size[i]) for i in (0, 1))

    def _line(self, boxes: Value, axis: int, old: int, new: int) -> _Line:
        f, ctx = self.f, self.ctx
        shape = (boxes.shape[0], new)
        first, last = (ctx.broadcast_to(cut(ctx, boxes, 1, i, i + 1), shape) for i in (axis, axis + 2))
        step = ctx.emit(Iota(F32, shape, 1))
        if new == 1:
            at, far = f.mul(f.mul(0.5, f.add(first, last)), old - 1), ctx.like(first, 0.5 * (old - 1))
            near = far
        else:
            scale = f.div(f.mul(f.sub(last, first), old - 1), new - 1)
            at = f.add(f.mul(first, old - 1), f.mul(step, scale))
            far = f.mul(step, f.div(ctx.like(step, old - 1), new - 1))
            near = f.sub(old - 1, far)
        return _Line(at, f.both(f.ge(at, 0), f.ge(old - 1, at)), (near, far))

    def along(self, values: Value, axis: int) -> Value:
        """Values of rows (axis 1) or columns (2) for all pixels, [boxes,height,width]."""
        return self.ctx.broadcast_along(values, self.shape, (0, axis))

    def wide(self, values: Value) -> Value:
        """Values of pixels for all channels."""
        return self.ctx.broadcast_along(values, (*self.shape, self.images[3]), (0, 1, 2))

    @property
    def inside(self) -> Value:
        """Whether pixels lie in their images, [boxes,height,width]."""
        return self.f.both(self.along(self.rows.inside, 1), self.along(self.columns.inside, 2))

    def number(self, row: Value, column: Value) -> Value:
        """The pixel at whole numbers of rows and columns among all of all images, [boxes,height,width]."""
        f, ctx = self.f, self.ctx
        image = ctx.broadcast_along(ctx.cast(self.which, self.index), self.shape, (0,))
        y, x = (self.along(ctx.cast(f.minimum(f.maximum(at, 0), size - 1), self.index), axis)
                for axis, at, size in ((1, row, self.images[1]), (2, column, self.images[2])))
        return f.add(f.mul(f.add(f.mul(image, self.images[1]), y), self.images[2]), x)

    def pixels(self, images: Value, number: Value) -> Value:
        """Pixels by their number, f32."""
        n, h, w, channels = self.images
        return self.ctx.cast(self.ctx.emit(Gather(0), self.ctx.reshape(images, (n * h * w, channels)), number), F32)

    def rounded(self, line: _Line) -> Value:
        """The nearest whole number, the upper one where two are as near."""
        f, whole = self.f, self.f.floor(line.at)
        return f.select(f.ge(f.sub(line.at, whole), 0.5), f.add(whole, 1), whole)

    def corners(self) -> list[tuple[Value, Value, Value]]:
        """The four pixels around: number, and shares by row and by column, [boxes,height,width]."""
        found = []
        for y_end in (False, True):
            for x_end in (False, True):
                (row, by_row), (column, by_column) = (self._end(line, far) for line, far in
                                                      ((self.rows, y_end), (self.columns, x_end)))
                found.append((self.number(row, column), self.along(by_row, 1), self.along(by_column, 2)))
        return found

    def _end(self, line: _Line, far: bool) -> tuple[Value, Value]:
        """The whole number below or above a place, and its share."""
        f, low = self.f, self.f.floor(line.at)
        share = f.sub(line.at, low)
        return (self.ctx.emit(ew.Ceil(), line.at), share) if far else (low, f.sub(1, share))


def _forward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    images, boxes, which = inputs[:3]
    c = _Crops(ctx, images.shape, boxes, which, ctx.ints(inputs[3], "the size"))
    f = c.f
    if ctx.attr("method") == "nearest":
        made = c.pixels(images, c.number(c.rounded(c.rows), c.rounded(c.columns)))
    else:
        (a, _, _), (b, _, x), (d, _, _), (e, y, _) = c.corners()
        x, y = c.wide(x), c.wide(y)
        top, bottom = (f.add(left, f.mul(f.sub(right, left), x)) for left, right in
                       ((c.pixels(images, a), c.pixels(images, b)), (c.pixels(images, d), c.pixels(images, e))))
        made = f.add(top, f.mul(f.sub(bottom, top), y))
    return (f.select(c.wide(c.inside), made, float(ctx.attr("extrapolation_value"))),)


def _image_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Every pixel of a crop gives its gradient to the pixels it was made from."""
    dy, boxes, which = inputs[:3]
    shape, dtype = ctx.ints(inputs[3], "the image's size"), ctx.dtype("T")
    c = _Crops(ctx, shape, boxes, which, dy.shape[1:3])
    f = c.f
    if ctx.attr("method") == "nearest":
        parts = [(c.number(c.rounded(c.rows), c.rounded(c.columns)), dy)]
    else:
        parts = [(number, f.mul(c.wide(x), f.mul(c.wide(y), dy))) for number, y, x in c.corners()]
    numbers = [f.select(c.inside, number, -1) for number, _ in parts]
    updates = [ctx.cast(update, dtype) for _, update in parts]
    rows = ctx.emit(SegmentSum(shape[0] * shape[1] * shape[2]), _joined(ctx, numbers), _joined(ctx, updates))
    return (ctx.reshape(rows, shape),)


def _joined(ctx: Importer, parts: list[Value]) -> Value:
    return ctx.emit(Concat(0), *parts) if len(parts) > 1 else parts[0]


def _boxes_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """What moving the box's ends changes in the pixels, f32[boxes,4]."""
    dy, images, boxes, which = inputs[:4]
    c = _Crops(ctx, images.shape, boxes, which, dy.shape[1:3])
    f, corners = c.f, c.corners()
    a, b, d, e = (c.pixels(images, number) for number, _, _ in corners)
    left, right = c.wide(corners[0][2]), c.wide(corners[3][2])
    upper, lower = c.wide(corners[0][1]), c.wide(corners[3][1])
    by_row = f.add(f.mul(left, f.sub(d, a)), f.mul(right, f.sub(e, b)))
    by_column = f.add(f.mul(upper, f.sub(b, a)), f.mul(lower, f.sub(e, d)))
    slopes = [f.select(c.inside, f.sum(f.mul(dy, slope), (3,)), 0) for slope in (by_row, by_column)]
    ends = [f.sum(f.mul(slopes[i], c.along(line.reach[end], 1 + i)), (1, 2))
            for end in (0, 1) for i, line in enumerate((c.rows, c.columns))]
    return (ctx.emit(Concat(1), *(ctx.reshape(end, (boxes.shape[0], 1)) for end in ends)),)


CROP_RULES: dict[str, Rule] = {
    "CropAndResize": _forward,
    "CropAndResizeGradBoxes": _boxes_grad,
    "CropAndResizeGradImage": _image_grad,
}
