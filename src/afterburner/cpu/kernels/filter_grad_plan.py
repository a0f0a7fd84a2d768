"""How the gradient of a convolution's filter is cut: register tiles, units of pixels, chunks.

The sums of one tile over one unit stay in registers. A unit's panel of dy stays in a first-level cache while it meets
all tiles, the copied input in a second-level cache while it meets all panels. Chunks are cut so that the least is
copied.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

from ...ir.ops.conv import Conv2dFilterGrad
from ..isa import Isa
from .gemm import CHUNK_CYCLES, MOST_CHUNKS, Cut, Numeric, choose_tile

_FEW_CHANNELS = 3  # so few that a tile takes neighbouring taps of a filter row as well
_PANEL_BYTES = 20 << 10  # of a unit's packed panel: most of a first-level cache
_INPUT_BYTES = 256 << 10  # of input copied in one go: half of a second-level cache
_COPIES = 4 << 20  # bytes of private sums
_COPIED_PIXELS = 64  # for each copy of the sums, at least
_STEPS = 256  # pixels of a unit, about
_COPY, _ADD = 2.5, 4.0  # cycles to copy a register's width of an operand, and of private sums
_ROW = 4.0  # cycles to begin a row of sums


@dataclass(frozen=True)
class FilterGrad:
    """Sizes of the operation and of the pieces it is cut in.

    Attributes:
        op, x, dy: the operation and its operand shapes.
        merged: tile rows run over (filter column, channel), not over channels only.
        tiles: cut of the tile rows.
        panels: cut of a group's output channels, in registers.
        bordered: the copy of the input has zeros at its sides, so that every tap has all columns.
        unit: (images, rows) of one unit; several images only where rows are all.
        together: tiles whose input is copied in one go.
        abreast: panels of dy that are copied in one go.
        parts: chunks along (units, panels, tiles).
        per_step: pixels of a row whose products are added in one step.
    """

    op: Conv2dFilterGrad
    x: tuple[int, ...]
    dy: tuple[int, ...]
    merged: bool
    tiles: Cut
    panels: Cut
    bordered: bool
    unit: tuple[int, int]
    together: int
    abreast: int
    parts: tuple[int, int, int]
    per_step: int = 1

    @property
    def row_blocks(self) -> int:
        return -(-self.dy[1] // self.unit[1])

    @property
    def units(self) -> int:
        return -(-self.x[0] // self.unit[0]) * self.row_blocks

    @property
    def sparse(self) -> bool:
        """Only the pixels that a strided 1x1 filter meets are copied."""
        return _pointwise(self.op) and not self.merged

    @property
    def flat(self) -> bool:
        """The pixels of a unit are one run of adjacent pixels in both operands."""
        return self.sparse and self.op.strides == (1, 1)

    @property
    def strides(self) -> tuple[int, int]:
        """Strides over the copied input."""
        return (1, 1) if self.sparse else self.op.strides

    @property
    def unit_pixels(self) -> int:
        return self.unit[0] * self.unit[1] * self.dy[2]

    @property
    def row_steps(self) -> int:
        """Steps of a row of output pixels."""
        return -(-self.dy[2] // self.per_step)

    @property
    def unit_steps(self) -> int:
        return self.unit[0] * self.unit[1] * self.row_steps

    @property
    def column_step(self) -> int:
        """Columns of the copied input from a step to the next."""
        return 1 if self.sparse else self.op.strides[1] * self.per_step

    @property
    def input_rows(self) -> int:
        """Input rows that a unit reads of one image, at most."""
        if self.sparse:
            return self.unit[1]
        span = (self.unit[1] - 1) * self.op.strides[0] + (self.op.filter_shape[0] - 1) * self.op.dilation[0] + 1
        return min(span, self.x[1])

    @property
    def input_columns(self) -> int:
        """Columns of the copied input."""
        if self.sparse:
            return self.row_steps
        return self.x[2] + (sum(self.op.padding[1]) if self.bordered else 0)

    @property
    def tile_input(self) -> int:
        """Elements of the input copied for one tile, or for all where they share it."""
        channels = self.op.filter_shape[2] if self.merged else self.tiles.widest
        return self.unit[0] * self.input_rows * self.input_columns * channels

    @property
    def asked(self) -> int:
        """Pixels that each tap of each tile and panel asks for, so that together they ask for a whole unit."""
        tiles = min(self.together, self.tiles.parts // self.parts[2])
        return -(-self.unit_pixels // (tiles * self.abreast * self.taps))

    @property
    def taps(self) -> int:
        """Register tiles that share an input tile and a panel of dy."""
        kh, kw, *_ = self.op.filter_shape
        return kh if self.merged else kh * kw

    @property
    def sums(self) -> int:
        return prod(self.op.filter_shape)


def _pointwise(op: Conv2dFilterGrad) -> bool:
    return op.filter_shape[:2] == (1, 1) and op.padding == ((0, 0), (0, 0))


def _in_place(op: Conv2dFilterGrad) -> bool:
    """Whether every output pixel meets the input pixel in its place alone: then rows may be of any length."""
    return _pointwise(op) and op.strides == (1, 1)


def plan_of(op: Conv2dFilterGrad, x: tuple[int, ...], dy: tuple[int, ...], num: Numeric, isa: Isa,
            by_channel: bool = False, per_step: int = 1) -> FilterGrad:
    """Tiles, units and chunks, from the sizes alone; ``by_channel``: the input must be copied by channels."""
    kh, kw, depth, outputs = op.filter_shape
    width = outputs // op.groups
    merged = depth <= _FEW_CHANNELS and op.groups == 1 and op.dilation[1] == 1 and not by_channel
    if not merged and _in_place(op) and prod(dy[:3]) % per_step == 0:
        x, dy = ((1, prod(dy[:3]) // per_step, per_step, channels) for channels in (x[3], dy[3]))
    tiles, panels = choose_tile(depth * kw if merged else depth, -(-width // num.lanes), _STEPS, isa)
    pixels = max(1, _PANEL_BYTES // (panels.widest * num.lanes * num.bytes)) * per_step
    image = dy[1] * dy[2]
    if image <= pixels:
        unit = (min(x[0], pixels // image), dy[1])
    else:
        rows = max(1, pixels // dy[2])
        unit = (1, -(-dy[1] // -(-dy[1] // rows)))
    bordered = merged or per_step > 1 or 0 < sum(op.padding[1]) <= dy[2] / 12
    found = FilterGrad(op, x, dy, merged, tiles, panels, bordered, unit, 1, 1, (1, 1, 1), per_step)
    parts = cheapest_parts(found, num)
    together = min(-(-tiles.parts // parts[2]), max(1, _INPUT_BYTES // (found.tile_input * num.bytes)))
    mine = min(panels.parts, -(-panels.parts * op.groups // parts[1]))
    abreast = -(-mine // -(-mine // max(1, pixels // found.unit_pixels)))
    return replace(found, together=tiles.parts if merged else together, abreast=abreast, parts=parts)


def cheapest_parts(f: FilterGrad, num: Numeric, most_sums: int = 0) -> tuple[int, int, int]:
    """The cut into chunks that copies least: every part of the tiles copies dy, every part of the panels the input,
    and every part of the units makes private sums. ``most_sums``: elements of the gradient that a chunk may
    have, where that is limited."""
    pixels = prod(f.dy[:3])
    cycles = f.sums * pixels / num.lanes / 2
    wanted = int(max(1, min(MOST_CHUNKS, cycles // CHUNK_CYCLES)))
    most = max(1, min(wanted, f.units, _COPIES // (f.sums * num.bytes), pixels // _COPIED_PIXELS))
    panels = f.panels.parts * f.op.groups
    least = -(-f.sums // most_sums) if most_sums else 1
    found = []
    for copies in range(1, most + 1):
        for down in range(1, min(f.tiles.parts, max(-(-wanted // copies), least)) + 1):
            wide = min(panels, max(-(-wanted // (copies * down)), -(-least // down)))
            operands = _COPY * (down * prod(f.dy) + wide * prod(f.x) / prod(f.op.strides))
            rows = _ROW * wide * f.units * f.sums / f.op.filter_shape[3] * num.lanes
            private = (copies + 1) * f.sums * _ADD if copies > 1 else 0
            found.append((-min(wanted, copies * wide * down), operands + rows + private, copies, wide, down))
    return min(found)[2:]
