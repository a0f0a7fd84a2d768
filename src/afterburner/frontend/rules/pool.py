"""Pooling over windows and its gradients; NCHW is transposed around."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Shape, Value
from ...ir.ops import elementwise as ew
from ...ir.ops.conv import Pads
from ...ir.ops.gather import Gather, SegmentSum
from ...ir.ops.pool import TAP_BITS, AvgPool, AvgPoolGrad, MaxPool, MaxPoolGrad, MaxPoolTaps
from ...ir.ops.shape import Iota
from ...ir.types import I64
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .conv import Layout, layout_of, pads_of, refuse_layout
from .formulas import Formula
from .gather import check_bounds


def _windows(ctx: Importer, layout: Layout, x: Shape) -> tuple[tuple[int, int], tuple[int, int], Pads]:
    """Window, strides and padding for an NHWC input shape."""
    if len(x) != 4:
        raise ctx.refuse(f"pools an input of shape {list(x)}")
    window, strides = layout.spatial(ctx.attr("ksize")), layout.spatial(ctx.attr("strides"))
    return window, strides, pads_of(ctx, layout, x[1:3], window, strides)


def _max_pool(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    layout = layout_of(ctx)
    x = layout.enter(ctx, inputs[0])
    return (layout.leave(ctx, ctx.emit(MaxPool(*_windows(ctx, layout, x.shape)), x)),)


def _max_pool_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    layout = layout_of(ctx)
    x, y, dy = (layout.enter(ctx, v) for v in inputs)
    return (layout.leave(ctx, ctx.emit(MaxPoolGrad(*_windows(ctx, layout, x.shape)), x, y, dy)),)


def _avg_pool(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    layout = layout_of(ctx)
    x = layout.enter(ctx, inputs[0])
    return (layout.leave(ctx, ctx.emit(AvgPool(*_windows(ctx, layout, x.shape)), x)),)


def _avg_pool_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    layout = layout_of(ctx)
    shape = layout.nhwc(ctx.ints(inputs[0], "the input's shape"))
    dy = layout.enter(ctx, inputs[1])
    return (layout.leave(ctx, ctx.emit(AvgPoolGrad(*_windows(ctx, layout, shape), shape), dy)),)


def _max_pool_with_argmax(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """The largest elements, and their positions among those of their image, or of all: the first element, until one
    exceeds it, and so on."""
    f, x = Formula(ctx), inputs[0]
    window, strides, pads = _windows(ctx, Layout(nchw=False), x.shape)
    if window[0] * window[1] > TAP_BITS:
        raise ctx.refuse(f"positions in windows of {window[0]} by {window[1]}")
    y, taps = ctx.add(MaxPoolTaps(window, strides, pads), x)
    tap = ctx.cast(ctx.emit(ew.BitwiseAnd(), taps, ctx.like(taps, TAP_BITS)), I64)
    _, height, width, channels = x.shape
    down = ctx.emit(ew.TruncDiv(), tap, ctx.like(tap, window[1]))
    across = f.sub(tap, f.mul(down, window[1]))
    image, row, column, channel = (ctx.emit(Iota(I64, y.shape, axis)) for axis in range(4))
    row = f.add(down, f.sub(f.mul(row, strides[0]), pads[0][0]))
    column = f.add(across, f.sub(f.mul(column, strides[1]), pads[1][0]))
    number = f.add(f.mul(f.add(f.mul(row, width), column), channels), channel)
    whole = f.add(number, f.mul(image, height * width * channels))
    largest = ctx.emit(Gather(0), ctx.reshape(x, (x.type.size,)), whole) if x.type.size else y
    return largest, ctx.cast(whole if ctx.attr("include_batch_in_index") else number, ctx.dtype("Targmax"))


def _max_pool_with_argmax_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Each dy added to the element at its position."""
    f, (x, dy, positions) = Formula(ctx), inputs
    if dy.shape != positions.shape:
        raise ctx.refuse(f"positions {positions.type} of gradients {dy.type}")
    at, size = ctx.cast(positions, I64), x.type.size
    if not ctx.attr("include_batch_in_index"):
        at = f.add(at, f.mul(ctx.emit(Iota(I64, at.shape, 0)), size // max(x.shape[0], 1)))
    check_bounds(ctx, at, size)
    count = dy.type.size
    return (ctx.reshape(ctx.emit(SegmentSum(size), ctx.reshape(at, (count,)), ctx.reshape(dy, (count,))), x.shape),)


def _refuse_integers(op: FlatOp) -> str | None:
    return None if op.outputs[0].dtype.is_floating else "pooling of integers"


def _refuse(op: FlatOp) -> str | None:
    floats = all(t.dtype.is_floating for t in op.outputs)
    return refuse_layout(op) if floats else "pooling of integers"


RULES: dict[str, Rule] = {
    "AvgPool": _avg_pool,
    "AvgPoolGrad": _avg_pool_grad,
    "MaxPool": _max_pool,
    "MaxPoolGrad": _max_pool_grad,
    "MaxPoolGradWithArgmax": _max_pool_with_argmax_grad,
    "MaxPoolWithArgmax": _max_pool_with_argmax,
}

REFUSALS = {name: _refuse_integers if name.endswith("Argmax") else _refuse for name in RULES}
