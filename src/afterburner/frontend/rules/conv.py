"""Convolutions and their gradients; NCHW is transposed around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...ir import Op, Shape, Value
from ...ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad, Pads
from ..flatten import FlatOp
from ..importer import Importer, Rule

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


@dataclass(frozen=True)
class Layout:
    """Where an operation's axes are."""

    nchw: bool

    def enter(self, ctx: Importer, x: Value) -> Value:
        """``x`` as NHWC."""
        return ctx.transpose(x, TO_NHWC) if self.nchw else x

    def leave(self, ctx: Importer, y: Value) -> Value:
        """``y``, which is NHWC, in the operation's layout."""
        return ctx.transpose(y, TO_NCHW) if self.nchw else y

    def nhwc(self, shape: Sequence[int]) -> Shape:
        """A shape as NHWC."""
        return tuple(shape[i] for i in TO_NHWC) if self.nchw else tuple(shape)

    def spatial(self, listed: Sequence[int]) -> tuple[int, int]:
        """The two spatial entries of a list with one entry per axis."""
        return (int(listed[2]), int(listed[3])) if self.nchw else (int(listed[1]), int(listed[2]))


def layout_of(ctx: Importer) -> Layout:
    """The current operation's layout."""
    return Layout(ctx.attr("data_format") == "NCHW")


def refuse_layout(op: FlatOp) -> str | None:
    """Why layout or windows are not taken: other layouts, strides across images or channels."""
    form = op.attr("data_format").decode()
    if form not in ("NHWC", "NCHW"):
        return f"the layout {form}"
    return refuse_windows(op, form.index("C"))


def refuse_windows(op: FlatOp, channel: int) -> str | None:
    """Why windows are not taken: they reach across images or channels, which lie along the axis ``channel``."""
    names = {attribute.name for attribute in op.source.op_def.attr}
    for name in ("strides", "ksize", "dilations"):
        listed = op.attr(name) if name in names else ()
        if listed and (listed[0] != 1 or listed[channel] != 1):
            return f"{name} {list(listed)} across images or channels"
    return None


def pads_of(ctx: Importer, layout: Layout, size: Sequence[int], window: Sequence[int], strides: Sequence[int],
            dilation: Sequence[int] = (1, 1)) -> Pads:
    """Padding of the two spatial axes by TensorFlow's rules for SAME, VALID and EXPLICIT."""
    kind = ctx.attr("padding")
    if kind == "VALID":
        return (0, 0), (0, 0)
    if kind == "EXPLICIT":
        listed = ctx.attr("explicit_paddings")
        first = 4 if layout.nchw else 2
        rows, columns = listed[first: first + 2], listed[first + 2: first + 4]
        return (int(rows[0]), int(rows[1])), (int(columns[0]), int(columns[1]))
    rows, columns = (same_pads(size[i], window[i], strides[i], dilation[i]) for i in (0, 1))
    return rows, columns


def same_pads(size: int, window: int, stride: int, dilation: int) -> tuple[int, int]:
    """Enough padding for ceil(size / stride) results; the odd one goes to the end."""
    needed = (-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size
    total = max(needed, 0)
    return total // 2, total - total // 2


@dataclass(frozen=True)
class Geometry:
    """What the three operations of a two-dimensional convolution share."""

    strides: tuple[int, int]
    padding: Pads
    dilation: tuple[int, int]
    groups: int

    def build(self, kind: type[Op], *shape: Shape) -> Op:
        return kind(self.strides, self.padding, self.dilation, self.groups, *shape)  # type: ignore[call-arg]


def _geometry(ctx: Importer, layout: Layout, x: Shape, filter_: Shape, depthwise: bool) -> Geometry:
    """From the NHWC input shape and TensorFlow's filter shape."""
    if len(x) != 4 or len(filter_) != 4:
        raise ctx.refuse(f"input of shape {list(x)} and filter of shape {list(filter_)}")
    strides, dilation = layout.spatial(ctx.attr("strides")), layout.spatial(ctx.attr("dilations"))
    padding = pads_of(ctx, layout, x[1:3], filter_[:2], strides, dilation)
    if not depthwise and (filter_[2] == 0 or x[3] % filter_[2]):
        raise ctx.refuse(f"{x[3]} channels and a filter of shape {list(filter_)}")
    return Geometry(strides, padding, dilation, x[3] if depthwise else x[3] // filter_[2])


def _grouped(filter_: Shape) -> Shape:
    """A depthwise filter [KH,KW,C,M] as a grouped one [KH,KW,1,C*M]."""
    return (*filter_[:2], 1, filter_[2] * filter_[3])


def _conv2d(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    depthwise, layout = op.type.startswith("Depthwise"), layout_of(ctx)
    x, w = layout.enter(ctx, inputs[0]), inputs[1]
    geometry = _geometry(ctx, layout, x.shape, w.shape, depthwise)
    w = ctx.reshape(w, _grouped(w.shape)) if depthwise else w
    return (layout.leave(ctx, ctx.emit(geometry.build(Conv2d), x, w)),)


def _input_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    depthwise, layout = op.type.startswith("Depthwise"), layout_of(ctx)
    w, dy = inputs[1], layout.enter(ctx, inputs[2])
    sizes = ctx.ints(inputs[0], "the input's shape")
    if len(sizes) == 2:  # the spatial sizes alone
        channels = w.shape[2]
        shape: Shape = (dy.shape[0], *sizes, channels)
    else:
        shape = layout.nhwc(sizes)
    geometry = _geometry(ctx, layout, shape, w.shape, depthwise)
    w = ctx.reshape(w, _grouped(w.shape)) if depthwise else w
    return (layout.leave(ctx, ctx.emit(geometry.build(Conv2dInputGrad, shape), w, dy)),)


def _filter_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    depthwise, layout = op.type.startswith("Depthwise"), layout_of(ctx)
    x, dy = layout.enter(ctx, inputs[0]), layout.enter(ctx, inputs[2])
    shape = ctx.ints(inputs[1], "the filter's shape")
    geometry = _geometry(ctx, layout, x.shape, shape, depthwise)
    result = _grouped(shape) if depthwise else shape
    return (ctx.reshape(ctx.emit(geometry.build(Conv2dFilterGrad, result), x, dy), shape),)


RULES: dict[str, Rule] = {
    "Conv2D": _conv2d,
    "Conv2DBackpropFilter": _filter_grad,
    "Conv2DBackpropInput": _input_grad,
    "DepthwiseConv2dNative": _conv2d,
    "DepthwiseConv2dNativeBackpropFilter": _filter_grad,
    "DepthwiseConv2dNativeBackpropInput": _input_grad,
}

REFUSALS = {name: refuse_layout for name in RULES}
