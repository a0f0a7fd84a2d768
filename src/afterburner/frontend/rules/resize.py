"""Resizing of images by the nearest pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir import Value
from ...ir.ops.gather import Gather
from ...ir.ops.reduce import ReduceSum
from ...ir.ops.shape import Broadcast
from ...ir.types import I32
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula


def _sources(ctx: Importer, old: int, new: int) -> np.ndarray:
    """For each of ``new`` positions, the nearest of ``old``, in f32 as TensorFlow computes it."""
    align, centers = bool(ctx.attr("align_corners")), bool(ctx.attr("half_pixel_centers"))
    scale = np.float32((old - 1) / (new - 1)) if align and new > 1 else np.float32(old) / np.float32(new)
    position = np.arange(new, dtype=np.float32)
    scaled = (position + np.float32(0.5)) * scale if centers else position * scale
    nearest = np.floor(scaled + np.float32(0.5)) if align else np.floor(scaled)
    return np.clip(nearest.astype(np.int64), 0, old - 1)


def _nearest(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    for axis, new in zip((1, 2), ctx.ints(inputs[1], "the size"), strict=True):
        x = _resized(ctx, x, axis, new)
    return (x,)


def _resized(ctx: Importer, x: Value, axis: int, new: int) -> Value:
    old = x.shape[axis]
    sources = _sources(ctx, old, new)
    shape = (*x.shape[:axis], new, *x.shape[axis + 1:])
    if new % old == 0 and np.array_equal(sources, np.arange(new) // (new // old)):
        split = (*x.shape[: axis + 1], new // old, *x.shape[axis + 1:])
        kept = tuple(i for i in range(len(split)) if i != axis + 1)
        return ctx.reshape(ctx.emit(Broadcast(split, kept), x), shape)
    return ctx.emit(Gather(axis), x, ctx.constant(sources, I32))


def _nearest_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Every pixel's gradient is the sum over the pixels that were made from it."""
    dtype, dy = inputs[0].type.dtype, Formula(ctx).widened(inputs[0])
    for axis, old in zip((1, 2), ctx.ints(inputs[1], "the size"), strict=True):
        new = dy.shape[axis]
        if new % old or not np.array_equal(_sources(ctx, old, new), np.arange(new) // (new // old)):
            raise ctx.refuse(f"the gradient of a resize from {old} to {new}")
        split = ctx.reshape(dy, (*dy.shape[:axis], old, new // old, *dy.shape[axis + 1:]))
        dy = ctx.emit(ReduceSum((axis + 1,)), split)
    return (ctx.cast(dy, dtype),)


RESIZE_RULES: dict[str, Rule] = {
    "ResizeNearestNeighbor": _nearest,
    "ResizeNearestNeighborGrad": _nearest_grad,
}
