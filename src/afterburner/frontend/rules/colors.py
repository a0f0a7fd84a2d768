"""Contrast, hue and saturation of pictures, and their colours as hue, saturation and value."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from ...ir import Value
from ...ir.ops.shape import Concat
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .formulas import Formula
from .shape import cut


def _contrast(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Differences to an image's mean by channel."""
    f, x = Formula(ctx), inputs[0]
    if not x.type.size:
        return (x,)
    rank = x.type.rank
    kept = (*range(rank - 3), rank - 1)
    mean = f.along(f.mul(f.sum(x, (rank - 3, rank - 2)), 1 / prod(x.shape[-3:-1])), x, kept)
    factor = ctx.broadcast_along(inputs[1], x.shape, ())
    return (f.add(f.mul(f.sub(x, mean), factor), mean),)


def _channels(ctx: Importer, x: Value) -> list[Value]:
    last = x.type.rank - 1
    if x.shape[last] != 3:
        raise ctx.refuse(f"colours of {x.shape[last]} channels")
    return [cut(ctx, x, last, i, i + 1) for i in range(3)]


def _together(ctx: Importer, channels: list[Value]) -> Value:
    return ctx.emit(Concat(channels[0].type.rank - 1), *channels)


def _to_hsv(f: Formula, channels: list[Value]) -> list[Value]:
    """Red, green and blue as hue, saturation and value."""
    red, green, blue = channels
    value = f.maximum(f.maximum(red, green), blue)
    spread = f.sub(value, f.minimum(f.minimum(red, green), blue))
    saturation = f.select(f.gt(value, 0), f.div(spread, value), 0)
    unit = f.mul(f.div(1, spread), 1 / 6)
    hue = f.select(f.eq(green, value), f.add(f.mul(unit, f.sub(blue, red)), 2 / 6),
                   f.add(f.mul(unit, f.sub(red, green)), 4 / 6))
    hue = f.select(f.eq(red, value), f.mul(unit, f.sub(green, blue)), hue)
    hue = f.select(f.gt(spread, 0), hue, 0)
    return [f.select(f.lt(hue, 0), f.add(hue, 1), hue), saturation, value]


def _shares(f: Formula, angle: Value) -> list[Value]:
    """Of red, green and blue, between the weakest colour and the strongest, at an angle of sixths of a turn."""
    raw = (f.sub(f.abs(f.sub(angle, 3)), 1), f.sub(2, f.abs(f.sub(angle, 2))), f.sub(2, f.abs(f.sub(angle, 4))))
    return [f.minimum(f.maximum(share, 0), 1) for share in raw]


def _to_rgb(f: Formula, hue: Value, saturation: Value, value: Value) -> list[Value]:
    rest = f.sub(1, saturation)
    return [f.mul(f.add(rest, f.mul(saturation, share)), value) for share in _shares(f, f.mul(hue, 6))]


def _rgb_to_hsv(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (_together(ctx, _to_hsv(Formula(ctx), _channels(ctx, inputs[0]))),)


def _hsv_to_rgb(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (_together(ctx, _to_rgb(Formula(ctx), *_channels(ctx, inputs[0]))),)


def _saturation(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Scaled, and kept within [0, 1]."""
    f = Formula(ctx)
    hue, saturation, value = _to_hsv(f, _channels(ctx, f.widened(inputs[0])))
    scale = ctx.broadcast_to(ctx.cast(inputs[1], hue.type.dtype), hue.shape)
    scaled = f.minimum(f.maximum(f.mul(saturation, scale), 0), 1)
    return (ctx.cast(_together(ctx, _to_rgb(f, hue, scaled, value)), inputs[0].type.dtype),)


def _hue(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Turned, between the same weakest and strongest colour."""
    f = Formula(ctx)
    red, green, blue = _channels(ctx, f.widened(inputs[0]))
    most, least = (fold(fold(red, green), blue) for fold in (f.maximum, f.minimum))
    spread = f.sub(most, least)
    delta = ctx.broadcast_to(ctx.cast(inputs[1], red.type.dtype), red.shape)
    turned = f.add(_sixths(f, (red, green, blue), most, spread), f.mul(delta, 6))
    angle = f.sub(turned, f.mul(f.floor(f.div(turned, 6)), 6))
    angle = f.select(f.ge(angle, 6), f.sub(angle, 6), angle)  # what was hardly below 0
    colors = [f.add(least, f.mul(share, spread)) for share in _shares(f, angle)]
    return (ctx.cast(_together(ctx, colors), inputs[0].type.dtype),)


def _sixths(f: Formula, channels: tuple[Value, Value, Value], most: Value, spread: Value) -> Value:
    """The hue from 0 to 6; 0 of grey."""
    red, green, blue = channels
    from_red = f.div(f.sub(green, blue), spread)
    from_red = f.select(f.lt(from_red, 0), f.add(from_red, 6), from_red)
    from_green, from_blue = f.add(f.div(f.sub(blue, red), spread), 2), f.add(f.div(f.sub(red, green), spread), 4)
    hue = f.select(f.eq(red, most), from_red, f.select(f.eq(green, most), from_green, from_blue))
    return f.select(f.gt(spread, 0), hue, 0)


COLOR_RULES: dict[str, Rule] = {
    "AdjustContrastv2": _contrast,
    "AdjustHue": _hue,
    "AdjustSaturation": _saturation,
    "HSVToRGB": _hsv_to_rgb,
    "RGBToHSV": _rgb_to_hsv,
}
