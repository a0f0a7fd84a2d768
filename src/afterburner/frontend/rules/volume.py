"""Convolutions and pooling over three axes, NDHWC: two-dimensional ones of all planes, put together along the depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from math import prod

import numpy as np
import tensorflow as tf

from ...ir import Shape, TensorType, Value
from ...ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad, Pads, output_size
from ...ir.ops.pool import AvgPool, AvgPoolGrad, MaxPool, MaxPoolGrad, lowest
from ...ir.ops.shape import Broadcast, Pad, Slice
from ...ir.types import BOOL
from ..flatten import FlatOp
from ..importer import Importer, Rule
from ..stock import uses_onednn
from .conv import Geometry, refuse_windows, same_pads
from .formulas import Formula
from .shape import concat, cut

_EQUAL = 1e-5  # TensorFlow's own kernel takes an element this close to its window's maximum for the maximum
_WITH_ALL_KERNELS = (tf.float32, tf.bfloat16)  # others have no pooling in TensorFlow, and no kernels of oneDNN


@dataclass(frozen=True)
class Windows:
    """Windows along the axes 1, 2, … of a tensor, with an entry for each of these axes; it may have more axes."""

    size: Shape
    window: Shape
    strides: Shape
    pads: tuple[tuple[int, int], ...]
    dilation: Shape

    @property
    def count(self) -> Shape:
        """How many windows there are."""
        return tuple(map(output_size, self.size, self.window, self.strides, self.pads, self.dilation))

    @property
    def depth(self) -> Windows:
        """Along the first axis alone."""
        return Windows(self.size[:1], self.window[:1], self.strides[:1], self.pads[:1], self.dilation[:1])

    @property
    def plane(self) -> tuple[tuple[int, int], tuple[int, int], Pads]:
        """Window, strides and padding of the second and third axis."""
        (_, *window), (_, *strides), (_, rows, columns) = self.window, self.strides, self.pads
        return (window[0], window[1]), (strides[0], strides[1]), (rows, columns)

    @property
    def taps(self) -> list[Shape]:
        """The places in a window, in row-major order."""
        return list(product(*map(range, self.window)))

    def take(self, ctx: Importer, x: Value, tap: Shape, fill: float = 0.0) -> Value:
        """What lies at one place of all windows, [N,count,…]; ``fill`` where that is padding."""
        if all(s == 1 for s in self.strides):
            before, after = self._margins(tap)
            return _padded(ctx, x, _entries(x, before), _entries(x, after), _entries(x, []), fill)
        low, high = zip(*self.pads, strict=True)
        x = _padded(ctx, x, _entries(x, low), _entries(x, high), _entries(x, []), fill)  # the same for all places
        starts = _entries(x, [i * d for i, d in zip(tap, self.dilation, strict=True)])
        ends = [i + span for i, span in zip(starts[1:], self._spans(), strict=False)]
        return ctx.emit(Slice(starts, (x.shape[0], *ends, *x.shape[1 + len(ends):]), _entries(x, self.strides, 1)), x)

    def put(self, ctx: Importer, part: Value, tap: Shape) -> Value:
        """``part``, [N,count,…], where ``take`` takes it from, and zeros elsewhere: [N,size,…]."""
        low, high = (_entries(part, [-n for n in margin]) for margin in self._margins(tap))
        return _padded(ctx, part, low, high, _entries(part, [s - 1 for s in self.strides]))

    def put_all(self, ctx: Importer, parts: Sequence[Value]) -> Value:
        """The sum of one part for every tap, in float32 at least. Axis by axis, so that most of it is small."""
        f = Formula(ctx)
        sums = [f.widened(part) for part in parts]
        for axis in reversed(range(len(self.window))):
            along, n = self._only(axis), self.window[axis]
            rows = [sums[i: i + n] for i in range(0, len(sums), n)]
            sums = [_sum(f, [along.put(ctx, *at) for at in zip(row, along.taps, strict=True)]) for row in rows]
        return ctx.cast(sums[0], parts[0].type.dtype)

    def _only(self, axis: int) -> Windows:
        """Along one axis, where those behind it are whole and those before it are still windows."""
        before, after = axis, len(self.window) - axis - 1
        one, none = (1,), ((0, 0),)
        return Windows(
            size=(*self.count[:axis], *self.size[axis:]),
            window=(*one * before, self.window[axis], *one * after),
            strides=(*one * before, self.strides[axis], *one * after),
            pads=(*none * before, self.pads[axis], *none * after),
            dilation=self.dilation,
        )

    def _margins(self, tap: Shape) -> tuple[list[int], list[int]]:
        """How far a place reaches beyond the axes, in the first window and in the last; negative within them."""
        before = [pad[0] - i * d for pad, i, d in zip(self.pads, tap, self.dilation, strict=True)]
        return before, [span - n - m for span, n, m in zip(self._spans(), self.size, before, strict=True)]

    def _spans(self) -> list[int]:
        """From what a place is in the first window to what it is in the last."""
        return [(n - 1) * s + 1 if n else 0 for n, s in zip(self.count, self.strides, strict=True)]


def _entries(x: Value, entries: Sequence[int], other: int = 0) -> Shape:
    """An entry for every axis of ``x``: those given from axis 1 on, ``other`` for the rest."""
    return (other, *entries, *(other,) * (x.type.rank - 1 - len(entries)))


def _padded(ctx: Importer, x: Value, low: Shape, high: Shape, interior: Shape, fill: float = 0.0) -> Value:
    if not any((*low, *high, *interior)):
        return x
    return ctx.emit(Pad(low, high, interior), x, ctx.constant(fill, x.type.dtype))


def _sum(f: Formula, parts: Sequence[Value]) -> Value:
    return reduce(f.add, parts)


def _windows(ctx: Importer, x: Shape, window: Sequence[int], strides: Sequence[int],
             dilation: Sequence[int] = (1, 1, 1)) -> Windows:
    """Of the current operation, from the input's shape [N,D,H,W,C]."""
    size = x[1:4]
    pads: tuple[tuple[int, int], ...] = ((0, 0),) * 3
    if ctx.attr("padding") == "SAME":
        if any((-(-n // s) - 1) * s + (w - 1) * d + 1 <= n - 2 for n, w, s, d in
               zip(size, window, strides, dilation, strict=True)):
            raise ctx.refuse("SAME windows that leave out two elements or more: TensorFlow's kernels differ in where")
        pads = tuple(map(same_pads, size, window, strides, dilation))
    found = Windows(size, tuple(window), tuple(strides), pads, tuple(dilation))
    if min(found.count) < 0:
        raise ctx.refuse(f"windows {list(window)} of an input of shape {list(x)}")
    return found


def _spatial(ctx: Importer, name: str) -> Shape:
    return tuple(int(n) for n in ctx.attr(name)[1:4])


def _images(ctx: Importer, x: Value) -> Value:
    """All planes of [N,D,H,W,C] as images [N*D,H,W,C]."""
    return ctx.reshape(x, (x.shape[0] * x.shape[1], *x.shape[2:]))


@dataclass(frozen=True)
class _Convolution:
    """A three-dimensional convolution as a two-dimensional one over all planes.

    Either the planes under the taps of the depth are gathered first and lie behind one another as channels; or every
    plane is convolved with the filters of all taps, whose results are channels too and are then added, shifted.

    Attributes:
        x: shape of the input, [N,D,H,W,C].
        w: shape of the filter, [KD,KH,KW,C,O].
        windows: of the three axes.
    """

    x: Shape
    w: Shape
    windows: Windows

    @property
    def gathers(self) -> bool:
        """What makes the smaller tensor between, and computes nothing that is not needed."""
        _, *plane = self.windows.count
        return self.windows.strides[0] > 1 or self.w[0] * prod(self.x[2:]) <= prod(plane) * self.w[4]

    @property
    def y(self) -> Shape:
        """Shape of the result, [N,D,H,W,O]."""
        return (self.x[0], *self.windows.count, self.w[4])

    @property
    def geometry(self) -> Geometry:
        """Of the planes."""
        _, strides, pads = self.windows.plane
        return Geometry(strides, pads, (self.windows.dilation[1], self.windows.dilation[2]), 1)

    def forward(self, ctx: Importer, x: Value, w: Value) -> Value:
        op, filter_ = self.geometry.build(Conv2d), self._filter(ctx, w)
        if self.gathers:
            return ctx.reshape(ctx.emit(op, self._gathered(ctx, x), filter_), self.y)
        depth, f = self.windows.depth, Formula(ctx)
        every = ctx.reshape(ctx.emit(op, _images(ctx, x), filter_), (*self.x[:2], *self.y[2:4], filter_.shape[3]))
        parts = zip(self._by_tap(ctx, every), depth.taps, strict=True)
        return ctx.cast(_sum(f, [depth.take(ctx, f.widened(part), tap) for part, tap in parts]), x.type.dtype)

    def input_grad(self, ctx: Importer, w: Value, dy: Value) -> Value:
        filter_, (n, d, *plane, c) = self._filter(ctx, w), self.x
        if not self.gathers:
            op = self.geometry.build(Conv2dInputGrad, (n * d, *plane, c))
            return ctx.reshape(ctx.emit(op, filter_, self._spread(ctx, dy)), self.x)
        images = (n * self.y[1], *plane, self.w[0] * c)
        every = ctx.emit(self.geometry.build(Conv2dInputGrad, images), filter_, _images(ctx, dy))
        every = ctx.reshape(every, (n, self.y[1], *images[1:]))
        return self.windows.depth.put_all(ctx, self._by_tap(ctx, every))

    def filter_grad(self, ctx: Importer, x: Value, dy: Value) -> Value:
        taps, *window, c, o = self.w
        if self.gathers:
            op = self.geometry.build(Conv2dFilterGrad, (*window, taps * c, o))
            dw = ctx.reshape(ctx.emit(op, self._gathered(ctx, x), _images(ctx, dy)), (*window, taps, c, o))
            return ctx.transpose(dw, (2, 0, 1, 3, 4))
        op = self.geometry.build(Conv2dFilterGrad, (*window, c, taps * o))
        dw = ctx.reshape(ctx.emit(op, _images(ctx, x), self._spread(ctx, dy)), (*window, c, taps, o))
        return ctx.transpose(dw, (3, 0, 1, 2, 4))

    def _filter(self, ctx: Importer, w: Value) -> Value:
        """The filter of the planes: the taps of the depth in front of the channels it reads or writes."""
        taps, *window, c, o = self.w
        if self.gathers:
            return ctx.reshape(ctx.transpose(w, (1, 2, 0, 3, 4)), (*window, taps * c, o))
        return ctx.reshape(ctx.transpose(w, (1, 2, 3, 0, 4)), (*window, c, taps * o))

    def _gathered(self, ctx: Importer, x: Value) -> Value:
        """The planes of ``x`` under each tap as channels, [N*count,H,W,KD*C]."""
        depth = self.windows.depth
        return _images(ctx, concat(ctx, [depth.take(ctx, x, tap) for tap in depth.taps], 4))

    def _spread(self, ctx: Importer, dy: Value) -> Value:
        """For each tap, dy on the planes that it took, as channels: [N*D,OH,OW,KD*O]."""
        depth = self.windows.depth
        return _images(ctx, concat(ctx, [depth.put(ctx, dy, tap) for tap in depth.taps], 4))

    def _by_tap(self, ctx: Importer, every: Value) -> list[Value]:
        channels = every.shape[4] // self.w[0]
        return [cut(ctx, every, 4, i * channels, (i + 1) * channels) for i in range(self.w[0])]


def _convolution(ctx: Importer, x: Shape, w: Shape) -> _Convolution:
    """Of the current operation, from the shapes of input and filter."""
    if len(x) != 5 or len(w) != 5 or x[4] != w[3]:
        raise ctx.refuse(f"input of shape {list(x)} and filter of shape {list(w)}")
    if 0 in w:
        raise ctx.refuse(f"an empty filter of shape {list(w)}")
    return _Convolution(x, w, _windows(ctx, x, w[:3], _spatial(ctx, "strides"), _spatial(ctx, "dilations")))


def _require_shape(ctx: Importer, x: Value, shape: Shape) -> None:
    if x.shape != shape:
        raise ctx.refuse(f"an operand of shape {list(x.shape)} instead of {list(shape)}")


def _conv(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, w = inputs
    return (_convolution(ctx, x.shape, w.shape).forward(ctx, x, w),)


def _input_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    shape, w, dy = ctx.ints(inputs[0], "the input's shape"), inputs[1], inputs[2]
    convolution = _convolution(ctx, shape, w.shape)
    _require_shape(ctx, dy, convolution.y)
    return (convolution.input_grad(ctx, w, dy),)


def _filter_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, shape, dy = inputs[0], ctx.ints(inputs[1], "the filter's shape"), inputs[2]
    convolution = _convolution(ctx, x.shape, shape)
    _require_shape(ctx, dy, convolution.y)
    return (convolution.filter_grad(ctx, x, dy),)


def _pool_windows(ctx: Importer, x: Shape) -> Windows:
    if len(x) != 5:
        raise ctx.refuse(f"pools an input of shape {list(x)}")
    return _windows(ctx, x, _spatial(ctx, "ksize"), _spatial(ctx, "strides"))


def _pooled(x: Shape, windows: Windows) -> Shape:
    return (x[0], *windows.count, x[4])


def _plane_maxima(ctx: Importer, windows: Windows, x: Value) -> list[Value]:
    """For each tap of the depth the largest element of the window on that plane, [N,count,C]; the lowest number where
    that is padding."""
    images = ctx.emit(MaxPool(*windows.plane), _images(ctx, x))
    planes, depth = ctx.reshape(images, (*x.shape[:2], *images.shape[1:])), windows.depth
    return [depth.take(ctx, planes, tap, lowest(x.type.dtype)) for tap in depth.taps]


def _max_pool(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    f, windows = Formula(ctx), _pool_windows(ctx, inputs[0].shape)
    best, *others = _plane_maxima(ctx, windows, inputs[0])
    for other in others:
        best = f.select(f.gt(other, best), other, best)
    return (best,)


def _max_pool_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """As the kernel that TensorFlow uses: its own gives dy to all elements that are about the maximum. That of oneDNN,
    which is used where the pooling is in the same function, gives it to the first of equals."""
    x, y, dy = inputs
    windows, source = _pool_windows(ctx, x.shape), op.inputs[1].op
    for operand in (y, dy):
        _require_shape(ctx, operand, _pooled(x.shape, windows))
    if uses_onednn() and source is not None and source.type == "MaxPool3D":
        return (_to_first(ctx, windows, x, y, dy),)
    if windows.window == windows.strides:
        return (_to_all_of_tiles(ctx, windows, x, y, dy),)
    return (windows.put_all(ctx, [_where_largest(ctx, windows.take(ctx, x, tap), y, dy) for tap in windows.taps]),)


def _where_largest(ctx: Importer, x: Value, y: Value, dy: Value) -> Value:
    """dy where x is about y, else 0."""
    f = Formula(ctx)
    return f.select(f.lt(f.abs(f.sub(x, y)), _EQUAL), dy, 0)


def _to_all_of_tiles(ctx: Importer, windows: Windows, x: Value, y: Value, dy: Value) -> Value:
    """Where windows lie side by side: y and dy are repeated over them."""
    before = [pad[0] for pad in windows.pads]
    after = [n * w - size - low for n, w, size, low in
             zip(windows.count, windows.window, windows.size, before, strict=True)]
    tiled = _padded(ctx, x, _entries(x, before), _entries(x, after), _entries(x, []))
    dx = _where_largest(ctx, tiled, *(_repeated(ctx, v, windows.window, tiled.shape) for v in (y, dy)))
    low, high = (_entries(x, [-n for n in margin]) for margin in (before, after))
    return _padded(ctx, dx, low, high, _entries(x, []))


def _repeated(ctx: Importer, y: Value, times: Shape, shape: Shape) -> Value:
    """Every element of the axes 1 to 3 so many times."""
    n, *count, c = y.shape
    split = (n, *(m for pair in zip(count, times, strict=True) for m in pair), c)
    return ctx.reshape(ctx.emit(Broadcast(split, (0, 1, 3, 5, 7)), y), shape)


def _to_first(ctx: Importer, windows: Windows, x: Value, y: Value, dy: Value) -> Value:
    """The first plane whose maximum is the window's, and on it the first element."""
    f, parts, found = Formula(ctx), [], ctx.full(TensorType(BOOL, y.shape), False)
    for plane in _plane_maxima(ctx, windows, x):
        hit = f.eq(plane, y)
        parts.append(f.select(found, 0, f.select(hit, dy, 0)))
        found = f.either(found, hit)
    spread = _images(ctx, windows.depth.put_all(ctx, parts))
    images = _images(ctx, x)
    pooled = ctx.emit(MaxPool(*windows.plane), images)
    return ctx.reshape(ctx.emit(MaxPoolGrad(*windows.plane), images, pooled, spread), x.shape)


def _avg_pool(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    x, f = inputs[0], Formula(ctx)
    windows = _pool_windows(ctx, x.shape)
    images = ctx.emit(AvgPool(*windows.plane), _images(ctx, f.widened(x)))
    planes, depth = ctx.reshape(images, (*x.shape[:2], *images.shape[1:])), windows.depth
    total = _sum(f, [depth.take(ctx, planes, tap) for tap in depth.taps])
    return (ctx.cast(_divided(ctx, depth, total), x.type.dtype),)


def _avg_pool_grad(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    shape, dy = ctx.ints(inputs[0], "the input's shape"), Formula(ctx).widened(inputs[1])
    windows = _pool_windows(ctx, shape)
    _require_shape(ctx, dy, _pooled(shape, windows))
    share = _divided(ctx, windows.depth, dy)
    spread = _images(ctx, windows.depth.put_all(ctx, [share] * windows.window[0]))
    grad = ctx.emit(AvgPoolGrad(*windows.plane, (shape[0] * shape[1], *shape[2:])), spread)
    return (ctx.cast(ctx.reshape(grad, shape), inputs[1].type.dtype),)


def _divided(ctx: Importer, depth: Windows, x: Value) -> Value:
    """[N,count,…] divided by how many planes, without padding, each window has."""
    first = np.arange(depth.count[0]) * depth.strides[0] - depth.pads[0][0]
    planes = np.minimum(first + depth.window[0], depth.size[0]) - np.maximum(first, 0)
    return Formula(ctx).div(x, ctx.broadcast_along(ctx.constant(planes, x.type.dtype), x.shape, (1,)))


def _refuse(op: FlatOp) -> str | None:
    form = op.attr("data_format").decode()
    return refuse_windows(op, 4) if form == "NDHWC" else f"the layout {form}"


def _refuse_pool(op: FlatOp) -> str | None:
    """Also what TensorFlow has no kernel for, so that it raises its error."""
    dtype = op.outputs[0].dtype
    return _refuse(op) if dtype in _WITH_ALL_KERNELS else f"pooling of {dtype.name} volumes"


def _refuse_conv(op: FlatOp) -> str | None:
    """Also what TensorFlow has no kernel for, so that it raises its error."""
    dilated, dtype = any(n != 1 for n in op.attr("dilations")), op.outputs[0].dtype
    if dilated and not (uses_onednn() and dtype in _WITH_ALL_KERNELS):
        return f"dilated convolution of {dtype.name} volumes without oneDNN's kernels"
    return _refuse(op)


RULES: dict[str, Rule] = {
    "AvgPool3D": _avg_pool,
    "AvgPool3DGrad": _avg_pool_grad,
    "Conv3D": _conv,
    "Conv3DBackpropFilterV2": _filter_grad,
    "Conv3DBackpropInputV2": _input_grad,
    "MaxPool3D": _max_pool,
    "MaxPool3DGrad": _max_pool_grad,
}

REFUSALS = {name: _refuse_pool if "Pool" in name else _refuse_conv for name in RULES}
