"""What a correlation of an NHWC image computes, and how it is cut: taps, axes, tiles."""

from __future__ import annotations

from dataclasses import dataclass, replace

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from .gemm import Cut, larger, smaller


@dataclass(frozen=True)
class Taps:
    """Filter taps along one axis: tap i is filter index ``index + i * index_step``.

    Output position y reads input position ``y * stride + offset + i * offset_step``.
    """

    count: int
    index: int
    index_step: int
    stride: int
    offset: int
    offset_step: int


@dataclass(frozen=True)
class Axis:
    """Sizes along one spatial axis of the image that is read and of the positions that are written."""

    inputs: int
    outputs: int
    taps: Taps

    def reads(self, position: int, tap: int) -> bool:
        """Whether a tap of an output position lies inside of the image."""
        taps = self.taps
        return 0 <= position * taps.stride + taps.offset + tap * taps.offset_step < self.inputs

    @property
    def span(self) -> int:
        """Input positions from the first that an output position reads to the last, inclusive."""
        return (self.taps.count - 1) * self.taps.offset_step + 1

    @property
    def clipped(self) -> bool:
        """Some tap of some position lies outside."""
        ends = [(p, t) for p in (0, self.outputs - 1) for t in (0, self.taps.count - 1)]
        return self.taps.count > 0 and not all(self.reads(*end) for end in ends)

    @property
    def trimmed(self) -> Axis:
        """The axis without the taps at either end that lie outside of the image for all positions."""
        read = [t for t in range(self.taps.count) if any(self.reads(p, t) for p in range(self.outputs))]
        if not read:
            return self
        taps, first = self.taps, read[0]
        return replace(self, taps=replace(taps, count=read[-1] + 1 - first, index=taps.index + first * taps.index_step,
                                          offset=taps.offset + first * taps.offset_step))


@dataclass(frozen=True)
class Correlation:
    """One correlation.

    Attributes:
        images: batch size.
        rows, columns: the spatial axes.
        groups: groups of channels.
        depth: input channels of a group.
        width: output channels of a group.
        out_strides: elements of the result between images, rows and columns that are written.
        out_offset: element of the result written first.
        transposed: the filter is [KH,KW,width,depth*groups] instead of [KH,KW,depth,width*groups].
        gap: elements between the channels of a pixel and the next pixel.
    """

    images: int
    rows: Axis
    columns: Axis
    groups: int
    depth: int
    width: int
    out_strides: tuple[int, int, int]
    out_offset: int
    transposed: bool
    gap: int = 0

    @property
    def pixel(self) -> int:
        """Elements from an input pixel to the next."""
        return self.depth * self.groups + self.gap

    @property
    def trimmed(self) -> Correlation:
        """The correlation without taps that are never read: of a 4x4 filter, 2x2 meet an image of 2x2 pixels."""
        return replace(self, rows=self.rows.trimmed, columns=self.columns.trimmed)

    @property
    def merged(self) -> bool:
        """The taps of a row are adjacent in memory."""
        return self.groups == 1 and self.columns.taps.offset_step == 1

    @property
    def pointwise(self) -> bool:
        """Every output pixel reads the input pixel in its place and no other."""
        axes = (self.rows, self.columns)
        return self.groups == 1 and all(a.inputs == a.outputs and (a.taps.count, a.taps.stride, a.taps.offset)
                                        == (1, 1, 0) for a in axes)

    @property
    def rowless(self) -> bool:
        """Pointwise, and the pixels that are written follow each other: they may be taken in rows of any length."""
        image, row, pixel = self.out_strides
        adjacent = (image, row) == (row * self.rows.outputs, pixel * self.columns.outputs)
        return self.pointwise and adjacent

    @property
    def pixels(self) -> int:
        """Output pixels of all images."""
        return self.images * self.rows.outputs * self.columns.outputs

    @property
    def steps(self) -> int:
        """Products summed for one output element."""
        return self.rows.taps.count * self.columns.taps.count * self.depth


def in_rows_of(c: Correlation, pixels: int) -> Correlation:
    """A correlation without rows as over one image whose rows have so many pixels, of which those of all images are
    a multiple."""
    count = c.pixels // pixels
    rows, columns = replace(c.rows, inputs=count, outputs=count), replace(c.columns, inputs=pixels, outputs=pixels)
    step = c.out_strides[2]
    return replace(c, images=1, rows=rows, columns=columns, out_strides=(step * c.pixels, step * pixels, step))


@dataclass(frozen=True)
class Plan:
    """How a correlation is cut.

    Attributes:
        tiles: cut of an output row in pixels.
        panels: cut of a group's output channels, in registers.
        block: output rows that are computed for one panel before the next.
        parts: chunks along (blocks, panels).
    """

    tiles: Cut
    panels: Cut
    block: int
    parts: tuple[int, int]


def tap_range(e: Emitter, axis: Axis, position: ll.Value) -> tuple[ll.Value | int, ll.Value | int]:
    """The taps [first, end) of an output position that lie inside of the image."""
    taps = axis.taps
    if not axis.clipped:
        return 0, taps.count
    start = e.b.add(e.b.mul(position, i64(taps.stride)), i64(taps.offset))
    step = taps.offset_step
    above = larger(e, i64(0), e.b.sub(i64(step - 1), start))
    below = larger(e, i64(0), e.b.sub(i64(axis.inputs + step - 1), start))
    if step > 1:
        above, below = e.b.udiv(above, i64(step)), e.b.udiv(below, i64(step))
    return above, smaller(e, below, i64(taps.count))


Kind = tuple[int, tuple[tuple[int, ...], ...], int, int]


def kinds_of(tiles: Cut, axis: Axis) -> list[Kind]:
    """Runs of tiles that share one code: (pixels, for each tap the pixels it is valid for, first, end tile)."""
    kinds: list[Kind] = []
    for t in range(tiles.parts):
        pixels = tiles.base + (t < tiles.larger)
        start = t * tiles.base + min(t, tiles.larger)
        masks = tuple(tuple(p for p in range(pixels) if axis.reads(start + p, j)) for j in range(axis.taps.count))
        if kinds and kinds[-1][:2] == (pixels, masks):
            kinds[-1] = (pixels, masks, kinds[-1][2], t + 1)
        else:
            kinds.append((pixels, masks, t, t + 1))
    return kinds
