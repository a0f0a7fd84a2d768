"""Pooling over windows and its gradients; NCHW is transposed around."""

from __future__ import annotations

from collections.abc import Sequence

from ...ir import Shape, Value
from ...ir.ops.conv import Pads
from ...ir.ops.pool import AvgPool, AvgPoolGrad, MaxPool, MaxPoolGrad
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .conv import Layout, layout_of, pads_of, refuse_layout


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


def _refuse(op: FlatOp) -> str | None:
    floats = all(t.dtype.is_floating for t in op.outputs)
    return refuse_layout(op) if floats else "pooling of integers"


RULES: dict[str, Rule] = {
    "AvgPool": _avg_pool,
    "AvgPoolGrad": _avg_pool_grad,
    "MaxPool": _max_pool,
    "MaxPoolGrad": _max_pool_grad,
}

REFUSALS = {name: _refuse for name in RULES}
