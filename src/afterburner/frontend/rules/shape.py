"""Shapes, and moving elements without computing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from math import prod

import numpy as np

from ...ir import Shape, Value
from ...ir.ops.elementwise import LessEqual, LogicalAnd, Select, Sub
from ...ir.ops.shape import Broadcast, Concat, Iota, Pad, Reverse, Slice
from ...ir.types import I64
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula
from .strided import STRIDED_RULES


def _shape(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    dtype = ctx.dtype("out_type")
    return tuple(ctx.constant(np.array(v.shape), dtype) for v in inputs)


def _variable_shape(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    shape = ctx.variable_types[ctx.variable(op.inputs[0])].shape
    return (ctx.constant(np.array(shape), ctx.dtype("out_type")),)


def _size(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.constant(inputs[0].type.size, ctx.dtype("out_type")),)


def _rank(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.constant(np.int32(inputs[0].type.rank)),)


def axis_in(ctx: Importer, axis: int, rank: int) -> int:
    """A perhaps negative axis counted from the front.

    Raises:
        Refused: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise ctx.refuse(f"axis {axis} of rank {rank}")
    return axis % rank


def _reshape(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, shape = inputs[0], list(ctx.ints(inputs[1], "the shape"))
    if -1 in shape:
        shape[shape.index(-1)] = _inferred(x.shape, [s for s in shape if s != -1])
    if prod(shape) != x.type.size or min(shape, default=0) < 0:
        raise ctx.refuse(f"reshapes {x.type} to {shape}")
    return (ctx.reshape(x, shape),)


def _inferred(old: Shape, known: Sequence[int]) -> int:
    """The size that makes ``known`` as many elements as ``old``; where a size of 0 is known, all of 0 are left out."""
    if 0 in known:
        old, known = tuple(filter(None, old)), tuple(filter(None, known))
    return prod(old) // prod(known)


def _expand_dims(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    axis = axis_in(ctx, ctx.ints(inputs[1], "the axis")[0], x.type.rank + 1)
    return (ctx.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])),)


def _squeeze(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    axes = {axis_in(ctx, a, x.type.rank) for a in ctx.attr("squeeze_dims")}
    axes = axes or {i for i, s in enumerate(x.shape) if s == 1}
    if any(x.shape[a] != 1 for a in axes):
        raise ctx.refuse(f"squeezes axes {sorted(axes)} of {x.type}")
    return (ctx.reshape(x, [s for i, s in enumerate(x.shape) if i not in axes]),)


def _transpose(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    perm = [axis_in(ctx, p, x.type.rank) for p in ctx.ints(inputs[1], "the permutation")]
    return (ctx.transpose(x, perm),)


def _invert_permutation(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.constant(np.argsort(ctx.static(inputs[0])), inputs[0].type.dtype),)


def _dynamic_stitch(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Of numbers known at compile time, as shapes are; later ones take the place of earlier ones."""
    half = len(inputs) // 2
    places = [ctx.static(v, "where values go") for v in inputs[:half]]
    values = [ctx.static(v, "what is put together") for v in inputs[half:]]
    ranks = [place.ndim for place in places]
    tail = values[0].shape[ranks[0]:]
    whole = np.concatenate([p.reshape(-1) for p in places])
    if len(np.unique(whole)) != (whole.max() + 1 if whole.size else 0):
        raise ctx.refuse("some places are given no value")
    found = np.zeros((len(np.unique(whole)), *tail), values[0].dtype)
    for place, value in zip(places, values, strict=True):
        for at, row in zip(place.reshape(-1), value.reshape(-1, *tail), strict=True):
            found[at] = row
    return (ctx.constant(found),)


def _pack(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    axis = axis_in(ctx, ctx.attr("axis"), inputs[0].type.rank + 1)
    if any(v.shape != inputs[0].shape for v in inputs):
        raise ctx.refuse("packs tensors of different shapes")
    shape = (*inputs[0].shape[:axis], 1, *inputs[0].shape[axis:])
    return (concat(ctx, [ctx.reshape(v, shape) for v in inputs], axis),)


def _unpack(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    axis = axis_in(ctx, ctx.attr("axis"), x.type.rank)
    if x.shape[axis] != len(op.outputs):
        raise ctx.refuse(f"unpacks axis {axis} of {x.type} into {len(op.outputs)}")
    shape = x.shape[:axis] + x.shape[axis + 1:]
    return tuple(ctx.reshape(cut(ctx, x, axis, i, i + 1), shape) for i in range(len(op.outputs)))


def concat(ctx: Importer, values: Sequence[Value], axis: int) -> Value:
    """Values one after another; empty ones are left out."""
    full = [v for v in values if v.shape[axis]] or [values[0]]
    return full[0] if len(full) == 1 else ctx.emit(Concat(axis), *full)


def cut(ctx: Importer, x: Value, axis: int, start: int, limit: int) -> Value:
    """Elements ``start`` to ``limit`` of one axis."""
    if (start, limit) == (0, x.shape[axis]):
        return x
    starts, limits = [0] * x.type.rank, list(x.shape)
    starts[axis], limits[axis] = start, limit
    return ctx.emit(Slice(tuple(starts), tuple(limits), (1,) * x.type.rank), x)


def _concat(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    values, where = (inputs[:-1], inputs[-1]) if op.type == "ConcatV2" else (inputs[1:], inputs[0])
    axis = axis_in(ctx, ctx.ints(where, "the axis")[0], values[0].type.rank)
    Concat(axis).infer(*(v.type for v in values))  # also of the empty ones
    return (concat(ctx, values, axis),)


def _concat_offset(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    axis = ctx.ints(inputs[0], "the axis")[0]
    shapes = [ctx.static(v, "a shape") for v in inputs[1:]]
    offsets, at = [], 0
    for shape in shapes:
        offset = np.zeros_like(shape)
        offset[axis] = at
        at += int(shape[axis])
        offsets.append(ctx.constant(offset))
    return offsets


def _pieces(ctx: Importer, x: Value, axis: int, sizes: Sequence[int]) -> Sequence[Value]:
    if min(sizes, default=0) < 0 or sum(sizes) != x.shape[axis]:
        raise ctx.refuse(f"splits axis {axis} of {x.type} into {list(sizes)}")
    ends = np.cumsum(sizes)
    return tuple(cut(ctx, x, axis, int(end) - size, int(end)) for size, end in zip(sizes, ends, strict=True))


def _split(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, count = inputs[1], len(op.outputs)
    axis = axis_in(ctx, ctx.ints(inputs[0], "the axis")[0], x.type.rank)
    return _pieces(ctx, x, axis, [x.shape[axis] // count] * count)


def _split_v(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, sizes = inputs[0], list(ctx.ints(inputs[1], "the sizes"))
    axis = axis_in(ctx, ctx.ints(inputs[2], "the axis")[0], x.type.rank)
    if -1 in sizes:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(s for s in sizes if s != -1)
    return _pieces(ctx, x, axis, sizes)


def fixed_slice(ctx: Importer, x: Value, starts: Shape, sizes: Shape) -> Value:
    """``sizes`` elements of each axis from ``starts`` on; -1 for all that follow."""
    limits = tuple(n if size == -1 else start + size
                   for n, start, size in zip(x.shape, starts, sizes, strict=True))
    if any(s < 0 or e < s or e > n for n, s, e in zip(x.shape, starts, limits, strict=True)):
        raise ctx.refuse(f"slice {list(starts)}:{list(limits)} of {x.type}")
    return x if limits == x.shape and not any(starts) else ctx.emit(Slice(starts, limits, (1,) * x.type.rank), x)


def _widths(ctx: Importer, padding: Value) -> np.ndarray:
    """Rows of elements to put in front of an axis and behind it."""
    widths = ctx.static(padding, "the padding").reshape(-1, 2)
    if (widths < 0).any():
        raise ctx.refuse("negative padding")
    return widths


def _pad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    widths = _widths(ctx, inputs[1])
    low, high = (tuple(int(w) for w in widths[:, i]) for i in (0, 1))
    value = inputs[2] if len(inputs) == 3 else ctx.constant(0, x.type.dtype)
    return (x if not any(low + high) else ctx.emit(Pad(low, high, (0,) * x.type.rank), x, value),)


def _mirror_pad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, skip = inputs[0], int(ctx.attr("mode") == "REFLECT")
    for axis, (low, high) in enumerate(ctx.static(inputs[1], "the padding").reshape(-1, 2).tolist()):
        size = x.shape[axis]
        if max(low, high) + skip > size:
            raise ctx.refuse(f"mirror padding {low}, {high} of an axis of size {size}")
        front = ctx.emit(Reverse((axis,)), cut(ctx, x, axis, skip, skip + low))
        back = ctx.emit(Reverse((axis,)), cut(ctx, x, axis, size - skip - high, size - skip))
        x = concat(ctx, [front, x, back], axis)
    return (x,)


def _mirror_pad_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The mirrored edges are folded back onto the elements they came from."""
    f, dy, skip = Formula(ctx), inputs[0], int(ctx.attr("mode") == "REFLECT")
    for axis, (low, high) in enumerate(ctx.static(inputs[1], "the padding").reshape(-1, 2).tolist()):
        size = dy.shape[axis] - low - high
        folded = cut(ctx, dy, axis, low, low + size)
        front = ctx.emit(Reverse((axis,)), cut(ctx, dy, axis, 0, low))
        back = ctx.emit(Reverse((axis,)), cut(ctx, dy, axis, low + size, low + size + high))
        for part, before in ((front, skip), (back, size - skip - high)):
            if part.shape[axis]:
                folded = f.add(folded, _padded_along(ctx, part, axis, before, size))
        dy = folded
    return (dy,)


def _padded_along(ctx: Importer, x: Value, axis: int, before: int, size: int) -> Value:
    low, high = [0] * x.type.rank, [0] * x.type.rank
    low[axis], high[axis] = before, size - before - x.shape[axis]
    return ctx.emit(Pad(tuple(low), tuple(high), (0,) * x.type.rank), x, ctx.constant(0, x.type.dtype))


def _tile(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, times = inputs[0], ctx.ints(inputs[1], "the multiples")
    return (tile(ctx, x, times),)


def tile(ctx: Importer, x: Value, times: Shape) -> Value:
    """``x`` repeated ``times`` along every axis."""
    if all(t == 1 for t in times):
        return x
    shape = tuple(n for pair in zip(times, x.shape, strict=True) for n in pair)
    repeated = ctx.emit(Broadcast(shape, tuple(range(1, len(shape), 2))), x)
    return ctx.reshape(repeated, [t * n for t, n in zip(times, x.shape, strict=True)])


def _broadcast_to(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.broadcast_to(inputs[0], ctx.ints(inputs[1], "the shape")),)


def _fill(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.broadcast_to(inputs[1], ctx.ints(inputs[0], "the shape")),)


def _zeros_like(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.like(inputs[0], 0),)


def _ones_like(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.like(inputs[0], 1),)


def _broadcast_args(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    shapes = [ctx.ints(v, "a shape") for v in inputs]
    return (ctx.constant(np.array(np.broadcast_shapes(*shapes)), inputs[0].type.dtype),)


def _range(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    start, limit, delta = (ctx.static(v, "a bound of the range") for v in inputs)
    if delta == 0 or not all(np.isfinite(v.astype(np.float64)) for v in (start, limit, delta)):
        raise ctx.refuse("a range with step 0, or without end")
    if start > limit if delta > 0 else start < limit:
        raise ctx.refuse("a range whose step leads away from its limit")
    if start.dtype.kind in "iu":
        count = len(range(int(start), int(limit), int(delta)))
    else:  # in the element type itself, as TensorFlow counts: rounded, 0.3 / 0.1 is 3 in f32
        with np.errstate(over="ignore"):
            exact = float((limit - start) / delta)
        if not math.isfinite(exact):
            raise ctx.refuse("a range without end")
        count = math.ceil(exact)
    steps = np.arange(count).astype(start.dtype)
    return (ctx.constant((start + steps * delta).astype(start.dtype)),)


def _lin_space(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    f, (start, stop, number) = Formula(ctx), inputs
    count = ctx.ints(number, "the number of elements")[0]
    if count == 1:
        return (ctx.reshape(start, (1,)),)
    step = f.div(f.sub(stop, start), float(count - 1))
    index = ctx.cast(ctx.emit(Iota(I64, (count,), 0)), start.type.dtype)
    points = f.add(ctx.broadcast_to(start, (count,)), f.mul(index, ctx.broadcast_to(step, (count,))))
    return (concat(ctx, [cut(ctx, points, 0, 0, count - 1), ctx.reshape(stop, (1,))], 0),)


def _reverse(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    if op.type == "Reverse":
        axes = tuple(i for i, flag in enumerate(ctx.static(inputs[1], "the axes")) if flag)
    else:
        axes = tuple(sorted(axis_in(ctx, a, x.type.rank) for a in ctx.ints(inputs[1], "the axes")))
    if len(set(axes)) < len(axes):
        raise ctx.refuse("an axis is named twice")
    return (ctx.emit(Reverse(axes), x) if axes else x,)


def _roll(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x = inputs[0]
    for shift, axis in zip(ctx.ints(inputs[1], "the shift"), ctx.ints(inputs[2], "the axis"), strict=True):
        axis = axis_in(ctx, axis, x.type.rank)
        size = x.shape[axis]
        split = (-shift) % size if size else 0
        if split:
            x = concat(ctx, [cut(ctx, x, axis, split, size), cut(ctx, x, axis, 0, split)], axis)
    return (x,)


def _matrix_band_part(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Elements within ``lower`` below and ``upper`` above the diagonal; a negative number is no bound."""
    x = inputs[0]
    rank = x.type.rank
    lower, upper = (ctx.cast(v, I64) for v in inputs[1:])
    row, column = (ctx.emit(Iota(I64, x.shape, rank - 2 + i)) for i in (0, 1))
    below = ctx.emit(Sub(), row, column)
    f = Formula(ctx)
    inside = []
    for distance, bound, size in zip((below, f.neg(below)), (lower, upper), x.shape[-2:], strict=True):
        ctx.check(f.lt(bound, size + 1), f"a band of more than {size} diagonals")
        wide = ctx.broadcast_to(bound, x.shape)
        inside.append(f.either(f.lt(wide, 0), ctx.emit(LessEqual(), distance, wide)))
    return (ctx.emit(Select(), ctx.emit(LogicalAnd(), *inside), x, ctx.like(x, 0)),)


def _refuse_other_diagonals(ctx: Importer, inputs: list[Value]) -> None:
    if any(any(ctx.ints(v, "the diagonal")) for v in inputs):
        raise ctx.refuse("a diagonal other than the main one")


def _matrix_diag_part(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The main diagonal: every (columns + 1)-th element of the matrix laid out as one row."""
    x = inputs[0]
    _refuse_other_diagonals(ctx, inputs[1:2])
    lead, (rows, columns) = x.shape[:-2], x.shape[-2:]
    count = min(rows, columns)
    flat = ctx.reshape(x, (*lead, rows * columns))
    limits = (*lead, (count - 1) * (columns + 1) + 1 if count else 0)
    return (ctx.emit(Slice((0,) * flat.type.rank, limits, (*(1,) * len(lead), columns + 1)), flat),)


def _matrix_diag(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """A square matrix with the given main diagonal and zeros elsewhere."""
    x = inputs[0]
    _refuse_other_diagonals(ctx, inputs[1:2])
    size = x.shape[-1]
    if any(n not in (-1, size) for v in inputs[2:4] for n in ctx.ints(v)):
        raise ctx.refuse("a matrix that is not square")
    rank = x.type.rank
    fill = ctx.cast(inputs[4], x.type.dtype) if len(inputs) > 4 else ctx.constant(0, x.type.dtype)
    interior = (*(0,) * (rank - 1), size)
    spread = ctx.emit(Pad((0,) * rank, (0,) * rank, interior), x, ctx.reshape(fill, ()))
    return (ctx.reshape(spread, (*x.shape[:-1], size, size)),)


def _matrix_set_diag(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, diagonal = inputs[:2]
    _refuse_other_diagonals(ctx, inputs[2:3])
    rank = x.type.rank
    row, column = (ctx.emit(Iota(I64, x.shape, rank - 2 + i)) for i in (0, 1))
    longer = rank - 2 if x.shape[-2] <= x.shape[-1] else rank - 1
    if diagonal.shape != (*x.shape[:-2], x.shape[longer]):
        raise ctx.refuse(f"a diagonal {diagonal.type} of {x.type}")
    wide = ctx.broadcast_along(diagonal, x.shape, (*range(rank - 2), longer))
    return (ctx.emit(Select(), Formula(ctx).eq(row, column), wide, x),)


def _space_depth(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Blocks of pixels to channels or back, NHWC."""
    x, block = inputs[0], int(ctx.attr("block_size"))
    n, h, w, c = x.shape
    if op.type == "SpaceToDepth":
        split = ctx.reshape(x, (n, h // block, block, w // block, block, c))
        moved = ctx.transpose(split, (0, 1, 3, 2, 4, 5))
        return (ctx.reshape(moved, (n, h // block, w // block, block * block * c)),)
    split = ctx.reshape(x, (n, h, w, block, block, c // (block * block)))
    moved = ctx.transpose(split, (0, 1, 3, 2, 4, 5))
    return (ctx.reshape(moved, (n, h * block, w * block, c // (block * block))),)


def _refuse_nchw(op: FlatOp) -> str | None:
    return None if op.attr("data_format") == b"NHWC" else "the layout NCHW"


def _space_to_batch(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, block = inputs[0], ctx.ints(inputs[1], "the block")
    pads = _widths(ctx, inputs[2]).tolist()
    m, rest = len(block), x.type.rank - 1 - len(block)
    low = (0, *(p[0] for p in pads), *(0,) * rest)
    high = (0, *(p[1] for p in pads), *(0,) * rest)
    if any(low + high):
        x = ctx.emit(Pad(low, high, (0,) * x.type.rank), x, ctx.constant(0, x.type.dtype))
    inner = [n for size, b in zip(x.shape[1:], block, strict=False) for n in (size // b, b)]
    split = ctx.reshape(x, (x.shape[0], *inner, *x.shape[1 + m:]))
    perm = (*range(2, 2 * m + 1, 2), 0, *range(1, 2 * m, 2), *range(2 * m + 1, 2 * m + 1 + rest))
    moved = ctx.transpose(split, perm)
    return (ctx.reshape(moved, (x.shape[0] * prod(block), *inner[::2], *x.shape[1 + m:])),)


def _batch_to_space(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, block = inputs[0], ctx.ints(inputs[1], "the block")
    crops = ctx.static(inputs[2], "the crops").reshape(-1, 2).tolist()
    m, batch = len(block), x.shape[0] // prod(block)
    split = ctx.reshape(x, (*block, batch, *x.shape[1:]))
    perm = [m]
    for i in range(m):
        perm += [m + 1 + i, i]
    moved = ctx.transpose(split, (*perm, *range(2 * m + 1, split.type.rank)))
    spatial = [s * b for s, b in zip(x.shape[1:], block, strict=False)]
    y = ctx.reshape(moved, (batch, *spatial, *x.shape[1 + m:]))
    for i, (low, high) in enumerate(crops):
        y = cut(ctx, y, 1 + i, low, y.shape[1 + i] - high)
    return (y,)


RULES: dict[str, Rule] = {
    **STRIDED_RULES,
    "BatchToSpaceND": _batch_to_space,
    "BroadcastArgs": _broadcast_args,
    "BroadcastTo": _broadcast_to,
    "Concat": _concat,
    "ConcatOffset": _concat_offset,
    "ConcatV2": _concat,
    "ConjugateTranspose": _transpose,
    "DepthToSpace": _space_depth,
    "DynamicStitch": _dynamic_stitch,
    "ExpandDims": _expand_dims,
    "Fill": _fill,
    "InvertPermutation": _invert_permutation,
    "LinSpace": _lin_space,
    "MatrixBandPart": _matrix_band_part,
    "MatrixDiag": _matrix_diag,
    "MatrixDiagPart": _matrix_diag_part,
    "MatrixDiagPartV2": _matrix_diag_part,
    "MatrixDiagPartV3": _matrix_diag_part,
    "MatrixDiagV2": _matrix_diag,
    "MatrixDiagV3": _matrix_diag,
    "MatrixSetDiag": _matrix_set_diag,
    "MatrixSetDiagV2": _matrix_set_diag,
    "MatrixSetDiagV3": _matrix_set_diag,
    "MirrorPad": _mirror_pad,
    "MirrorPadGrad": _mirror_pad_grad,
    "OnesLike": _ones_like,
    "Pack": _pack,
    "Pad": _pad,
    "PadV2": _pad,
    "Range": _range,
    "Rank": _rank,
    "Reshape": _reshape,
    "Reverse": _reverse,
    "ReverseV2": _reverse,
    "Roll": _roll,
    "Shape": _shape,
    "ShapeN": _shape,
    "Size": _size,
    "SpaceToBatchND": _space_to_batch,
    "SpaceToDepth": _space_depth,
    "Split": _split,
    "SplitV": _split_v,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unpack": _unpack,
    "VariableShape": _variable_shape,
    "ZerosLike": _zeros_like,
}

REFUSALS = {"DepthToSpace": _refuse_nchw, "SpaceToDepth": _refuse_nchw}
