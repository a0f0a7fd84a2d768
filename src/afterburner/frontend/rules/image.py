"""Images: cutting and resizing, turning and shearing by projective maps, and their colours."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from ...ir import Shape, Value
from ...ir.ops.gather import Gather
from ...ir.ops.shape import Iota, Pad
from ...ir.types import F32, I32, I64
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .colors import COLOR_RULES
from .conv import Layout, pads_of
from .crop import CROP_RULES
from .formulas import Formula
from .resample import RESAMPLE_RULES
from .resize import RESIZE_RULES
from .shape import cut


class _Projection:
    """Pixels of images f32[n,h,w,c] at computed places f32[n,height,width].

    Args:
        ctx: the importer.
        images: of any element type.
        fill: what lies outside of an image.
    """

    def __init__(self, ctx: Importer, images: Value, fill: Value) -> None:
        self.ctx, self.f, self.images, self.fill = ctx, Formula(ctx), images, fill

    def places(self, transforms: Value, shape: Shape) -> tuple[Value, Value, Value]:
        """Rows and columns that the pixels of the result come from, and what both were divided by."""
        f, ctx = self.f, self.ctx
        y, x = (ctx.emit(Iota(F32, shape, axis)) for axis in (1, 2))

        def parameter(i: int) -> Value:
            column = cut(ctx, transforms, 1, i, i + 1)
            count = column.shape[0]
            flat = ctx.reshape(column, () if count == 1 else (count,))
            return ctx.broadcast_along(flat, shape, () if count == 1 else (0,))

        def line(first: int, constant: Value | float) -> Value:
            return f.add(f.add(f.mul(parameter(first), x), f.mul(parameter(first + 1), y)), constant)

        divisor = line(6, 1.0)
        column, row = (f.div(line(first, parameter(first + 2)), divisor) for first in (0, 3))
        return row, column, divisor

    def inside(self, place: Value, size: int, mode: str) -> Value:
        """Places brought inside of an image by its fill mode."""
        f = self.f
        if mode == "CONSTANT":
            return place
        if mode == "NEAREST" or size <= 1:
            return self._clamped(place, size)
        below, above = f.lt(place, 0), f.gt(place, size - 1)
        if mode == "WRAP":
            turns = f.add(f.floor(f.div(f.neg(place), size - 1)), 1)
            low = f.add(place, f.mul(turns, size))
            high = f.sub(place, f.mul(f.floor(f.div(place, size - 1)), size))
        else:
            shifted = f.add(f.mul(f.floor(f.div(f.neg(place), 2 * size)), 2 * size), place)
            shifted = f.select(f.lt(place, 2 * size), shifted, place)
            low = f.select(f.lt(shifted, -size), f.add(shifted, 2 * size), f.sub(f.neg(shifted), 1))
            high = f.sub(place, f.mul(f.floor(f.div(place, 2 * size)), 2 * size))
            high = f.select(f.ge(high, size), f.sub(f.sub(2 * size, high), 1), high)
        return self._clamped(f.select(below, low, f.select(above, high, place)), size)

    def _clamped(self, place: Value, size: int) -> Value:
        return self.f.minimum(self.f.maximum(place, 0), size - 1)

    def pixels(self, row: Value, column: Value) -> Value:
        """The pixels at whole numbers, [n,height,width,c]."""
        f, ctx = self.f, self.ctx
        n, h, w, channels = self.images.shape
        shape = (*row.shape, channels)
        known = f.both(f.both(f.ge(row, 0), f.lt(row, h)), f.both(f.ge(column, 0), f.lt(column, w)))
        index = I32 if n * h * w < 1 << 31 else I64
        y, x = (ctx.cast(self._clamped(place, size), index) for place, size in ((row, h), (column, w)))
        image = ctx.emit(Iota(index, row.shape, 0))
        at = f.add(f.mul(f.add(f.mul(image, h), y), w), x)
        found = ctx.emit(Gather(0), ctx.reshape(self.images, (n * h * w, channels)), at)
        return f.select(self.wide(known, shape), found, ctx.broadcast_to(self.fill, shape))

    def wide(self, values: Value, shape: Shape) -> Value:
        """Values of pixels for all of their channels."""
        return self.ctx.broadcast_along(values, shape, (0, 1, 2))

    def nearest(self, row: Value, column: Value) -> Value:
        return self.pixels(self._rounded(row), self._rounded(column))

    def _rounded(self, place: Value) -> Value:
        """The nearest whole number, away from zero where two are as near."""
        f = self.f
        size = f.abs(place)
        whole = f.floor(size)
        up = f.select(f.ge(f.sub(size, whole), 0.5), f.add(whole, 1), whole)
        return f.select(f.lt(place, 0), f.neg(up), up)

    def bilinear(self, row: Value, column: Value) -> Value:
        """Four pixels by their shares, in f32."""
        f = self.f
        shape = (*row.shape, self.images.shape[3])
        top, left = f.floor(row), f.floor(column)
        bottom, right = f.add(top, 1), f.add(left, 1)

        def between(low: Value, high: Value, place: Value, first: Value, second: Value) -> Value:
            share = self.wide(f.sub(high, place), shape), self.wide(f.sub(place, low), shape)
            return f.add(f.mul(share[0], first), f.mul(share[1], second))

        def across(line: Value) -> Value:
            first, second = (f.cast(self.pixels(line, at), F32) for at in (left, right))
            return between(left, right, column, first, second)

        return f.cast(between(top, bottom, row, across(top), across(bottom)), self.images.type.dtype)


def _projective(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    images, transforms = inputs[:2]
    if images.type.dtype.kind == "bool":
        raise ctx.refuse(f"projects images of {images.type.dtype}")
    dtype, (n, h, w, channels) = images.type.dtype, images.shape
    shape = (n, *ctx.ints(inputs[2], "the size"))
    fill = ctx.cast(inputs[3], dtype) if op.type == "ImageProjectiveTransformV3" else ctx.constant(0, dtype)
    if 0 in (*images.shape, *shape):
        return (ctx.broadcast_to(fill, (*shape, channels)),)
    if transforms.shape not in ((1, 8), (n, 8)):
        raise ctx.refuse(f"transforms {list(transforms.shape)} of {n} images")
    p = _Projection(ctx, images, fill)
    row, column, divisor = p.places(transforms, shape)
    mode = ctx.attr("fill_mode")
    row, column = p.inside(row, h, mode), p.inside(column, w, mode)
    made = p.nearest(row, column) if ctx.attr("interpolation") == "NEAREST" else p.bilinear(row, column)
    beyond = p.wide(p.f.eq(divisor, 0), made.shape)
    return (p.f.select(beyond, ctx.broadcast_to(fill, made.shape), made),)


def _patches(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Windows laid out along the channels: rows, columns, then channels of each."""
    x = inputs[0]
    window, strides, rates = ([int(n) for n in ctx.attr(name)[1:3]] for name in ("ksizes", "strides", "rates"))
    (top, bottom), (left, right) = pads_of(ctx, Layout(nchw=False), x.shape[1:3], window, strides, rates)
    if any((top, bottom, left, right)):
        x = ctx.emit(Pad((0, top, left, 0), (0, bottom, right, 0), (0,) * 4), x, ctx.constant(0, x.type.dtype))
    for axis, i in ((1, 0), (3, 1)):
        reach = (window[i] - 1) * rates[i] + 1
        first = np.arange(0, x.shape[axis] - reach + 1, strides[i])
        x = ctx.emit(Gather(axis), x, ctx.constant(first[:, None] + np.arange(window[i]) * rates[i], I32))
    n, rows, _, columns, _, channels = x.shape
    return (ctx.reshape(ctx.transpose(x, (0, 1, 3, 2, 4, 5)), (n, rows, columns, prod(window) * channels)),)


RULES: dict[str, Rule] = {
    **COLOR_RULES,
    **CROP_RULES,
    **RESAMPLE_RULES,
    **RESIZE_RULES,
    "ExtractImagePatches": _patches,
    "ImageProjectiveTransformV2": _projective,
    "ImageProjectiveTransformV3": _projective,
}
