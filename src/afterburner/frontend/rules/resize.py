"""Resizing of images, by the nearest pixel or linearly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir import Value
from ...ir.ops.gather import Gather
from ...ir.ops.matmul import Matmul
from ...ir.ops.reduce import ReduceSum
from ...ir.ops.shape import Broadcast
from ...ir.types import F32, I32
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


def _weights(ctx: Importer, old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each of ``new`` positions: the sources below and above, and the share of the one above."""
    align, centers = bool(ctx.attr("align_corners")), bool(ctx.attr("half_pixel_centers"))
    scale = np.float32((old - 1) / (new - 1)) if align and new > 1 else np.float32(old) / np.float32(new)
    position = np.arange(new, dtype=np.float32)
    half = np.float32(0.5)
    scaled = (position + half) * scale - half if centers else position * scale
    lower = np.maximum(np.floor(scaled), 0).astype(np.int64)
    upper = np.minimum(np.ceil(scaled), old - 1).astype(np.int64)
    return lower, upper, (scaled - np.floor(scaled)).astype(np.float32)


def _bilinear(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Along columns, then rows: low + (high - low) * share, in f32."""
    f, x = Formula(ctx), ctx.cast(inputs[0], F32)
    height, width = ctx.ints(inputs[1], "the size")
    for axis, new in ((2, width), (1, height)):
        lower, upper, share = _weights(ctx, x.shape[axis], new)
        low, high = (ctx.emit(Gather(axis), x, ctx.constant(i, I32)) for i in (lower, upper))
        wide = ctx.broadcast_along(ctx.constant(share), low.shape, (axis,))
        x = f.add(low, f.mul(f.sub(high, low), wide))
    return (x,)


def _bilinear_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The transposed interpolation matrices applied to rows and columns."""
    dy, shape = inputs[0], inputs[1].shape
    n, _, new_width, c = dy.shape
    rows, columns = (_matrix(ctx, shape[axis], dy.shape[axis]) for axis in (1, 2))
    down = ctx.emit(Matmul(), _repeated(ctx, rows, n), ctx.reshape(dy, (n, dy.shape[1], new_width * c)))
    across = ctx.reshape(down, (n * shape[1], new_width, c))
    dx = ctx.emit(Matmul(), _repeated(ctx, columns, n * shape[1]), across)
    return (ctx.cast(ctx.reshape(dx, shape), inputs[1].type.dtype),)


def _matrix(ctx: Importer, old: int, new: int) -> Value:
    lower, upper, share = _weights(ctx, old, new)
    matrix = np.zeros((old, new), np.float32)
    np.add.at(matrix, (lower, np.arange(new)), 1 - share)
    np.add.at(matrix, (upper, np.arange(new)), share)
    return ctx.constant(matrix)


def _repeated(ctx: Importer, matrix: Value, count: int) -> Value:
    return ctx.broadcast_along(matrix, (count, *matrix.shape), (1, 2))


RESIZE_RULES: dict[str, Rule] = {
    "ResizeBilinear": _bilinear,
    "ResizeBilinearGrad": _bilinear_grad,
    "ResizeNearestNeighbor": _nearest,
    "ResizeNearestNeighborGrad": _nearest_grad,
}
