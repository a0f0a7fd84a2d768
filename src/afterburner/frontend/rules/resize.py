"""Resizing of images: by the nearest pixel, linearly, by cubic curves, or by the area that a pixel covers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...ir import Value
from ...ir.ops import elementwise as ew
from ...ir.ops.gather import Gather
from ...ir.ops.matmul import Matmul
from ...ir.ops.reduce import ReduceSum
from ...ir.ops.shape import Broadcast
from ...ir.types import F32, I32
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula

_STEPS = 1024  # in which TensorFlow's cubic kernel is tabled


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
    rows, columns = (_matrix(ctx, shape[axis], dy.shape[axis]) for axis in (1, 2))
    return (ctx.cast(transposed(ctx, dy, rows, columns), inputs[1].type.dtype),)


def transposed(ctx: Importer, dy: Value, rows: Value, columns: Value) -> Value:
    """Matrices [old,new] applied to rows and columns."""
    n, new_height, new_width, c = dy.shape
    height, width = rows.shape[0], columns.shape[0]
    down = ctx.emit(Matmul(), _repeated(ctx, rows, n), ctx.reshape(dy, (n, new_height, new_width * c)))
    across = ctx.reshape(down, (n * height, new_width, c))
    dx = ctx.emit(Matmul(), _repeated(ctx, columns, n * height), across)
    return ctx.reshape(dx, (n, height, width, c))


def _scale(ctx: Importer, old: int, new: int) -> np.float32:
    """Pixels of the old size to one of the new."""
    if ctx.attr("align_corners") and new > 1:
        return np.float32(old - 1) / np.float32(new - 1)
    return np.float32(old) / np.float32(new)


def _cubic_table(a: float) -> np.ndarray:
    """The cubic kernel at 0 to 1 and at 1 to 2, in 1024 steps, f32[2,1025]."""
    x = np.arange(_STEPS + 1) / _STEPS
    y = (x.astype(np.float32) + np.float32(1)).astype(np.float64)
    return np.stack([((a + 2) * x - (a + 3)) * x * x + 1, ((a * y - 5 * a) * y + 8 * a) * y - 4 * a]).astype(np.float32)


def _cubic_taps(ctx: Importer, old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``new`` positions four sources and their shares; with centers at halves (Keys's kernel) sources
    outside have none."""
    centers, scale, half = bool(ctx.attr("half_pixel_centers")), _scale(ctx, old, new), np.float32(0.5)
    position = np.arange(new, dtype=np.float32)
    place = (position + half) * scale - half if centers else position * scale
    first = np.floor(place)
    step = np.rint((place - first) * np.float32(_STEPS)).astype(np.int64)
    near, far = _cubic_table(-0.5 if centers else -0.75)
    shares = np.stack([far[step], near[step], near[_STEPS - step], far[_STEPS - step]], axis=1)
    sources = first.astype(np.int64)[:, None] + np.arange(-1, 3)
    bounded = np.clip(sources, 0, old - 1)
    if centers:
        shares = np.where(bounded == sources, shares, np.float32(0))
        total = ((shares[:, 0] + shares[:, 1]) + shares[:, 2]) + shares[:, 3]
        kept = np.abs(total) >= 1000 * np.finfo(np.float32).tiny
        shares = np.where(kept[:, None], shares * (1 / np.where(kept, total, 1))[:, None], shares)
    return bounded, shares.astype(np.float32)


def _bicubic(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Along rows, then columns, in f32."""
    x = ctx.cast(inputs[0], F32)
    for axis, new in zip((1, 2), ctx.ints(inputs[1], "the size"), strict=True):
        x = of_taps(ctx, x, axis, *_cubic_taps(ctx, x.shape[axis], new))
    return (x,)


def of_taps(ctx: Importer, x: Value, axis: int, sources: np.ndarray, shares: np.ndarray) -> Value:
    """Sums of elements along an axis by their shares."""
    taken = ctx.emit(Gather(axis), x, ctx.constant(sources, I32))
    wide = ctx.broadcast_along(ctx.constant(shares, F32), taken.shape, (axis, axis + 1))
    return ctx.emit(ReduceSum((axis + 1,)), ctx.emit(ew.Mul(), taken, wide))


def _bicubic_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    dy, (_, height, width, _) = inputs[0], inputs[1].shape
    rows, columns = (matrix_of(ctx, old, *_cubic_taps(ctx, old, new))
                     for old, new in ((height, dy.shape[1]), (width, dy.shape[2])))
    return (ctx.cast(transposed(ctx, dy, rows, columns), inputs[1].type.dtype),)


def matrix_of(ctx: Importer, old: int, sources: np.ndarray, shares: np.ndarray) -> Value:
    """The matrix [old,new] of shares of sources."""
    matrix = np.zeros((old, len(sources)), np.float32)
    np.add.at(matrix, (sources, np.arange(len(sources))[:, None]), shares)
    return ctx.constant(matrix)


def _area_taps(ctx: Importer, old: int, new: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``new`` positions the sources it covers, and how much of each; missing ones have no share."""
    scale = _scale(ctx, old, new)
    start, end = (np.arange(i, new + i, dtype=np.float32) * scale for i in (0, 1))
    first, last = np.floor(start).astype(np.int64), np.ceil(end).astype(np.int64)
    sources = first[:, None] + np.arange((last - first).max(initial=0))
    low, high = start[:, None], end[:, None]
    above = (sources + 1).astype(np.float32)
    begun = np.where(above > high, scale, above - low)
    whole = np.where(above > high, high - sources.astype(np.float32), np.float32(1))
    shares = np.where(sources < low, begun, whole)
    return np.clip(sources, 0, old - 1), np.where(sources < last[:, None], shares, 0).astype(np.float32)


def _area(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Along columns, then rows, in f32."""
    f, x = Formula(ctx), ctx.cast(inputs[0], F32)
    height, width = ctx.ints(inputs[1], "the size")
    scales = [_scale(ctx, x.shape[axis], new) for axis, new in ((1, height), (2, width))]
    for axis, new in ((2, width), (1, height)):
        x = of_taps(ctx, x, axis, *_area_taps(ctx, x.shape[axis], new))
    return (f.mul(x, float(np.float32(1 / float(scales[0] * scales[1])))),)


def _matrix(ctx: Importer, old: int, new: int) -> Value:
    lower, upper, share = _weights(ctx, old, new)
    matrix = np.zeros((old, new), np.float32)
    np.add.at(matrix, (lower, np.arange(new)), 1 - share)
    np.add.at(matrix, (upper, np.arange(new)), share)
    return ctx.constant(matrix)


def _repeated(ctx: Importer, matrix: Value, count: int) -> Value:
    return ctx.broadcast_along(matrix, (count, *matrix.shape), (1, 2))


RESIZE_RULES: dict[str, Rule] = {
    "ResizeArea": _area,
    "ResizeBicubic": _bicubic,
    "ResizeBicubicGrad": _bicubic_grad,
    "ResizeBilinear": _bilinear,
    "ResizeBilinearGrad": _bilinear_grad,
    "ResizeNearestNeighbor": _nearest,
    "ResizeNearestNeighborGrad": _nearest_grad,
}
