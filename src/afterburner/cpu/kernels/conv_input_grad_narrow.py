"""Gradient of a convolution's input of few channels: the products of all taps at once, added where they belong.

A register tile whose columns are the three channels of an image uses three lanes of each register. Here its columns
are all taps' channels: pixels of dy times the filter as a matrix [KH*KW*C, K], which is how it lies in memory. What a
pixel gives to a row of taps are adjacent elements of a row of dx. They are added to a block of rows in scratch, which
is finished when all is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...ir import DType
from ...ir.ops.conv import Conv2dInputGrad
from ...ir.types import F32
from ..emitter import I1, Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase
from .correlation import Axis, Correlation, Plan, Taps
from .correlator import Correlator
from .epilogue import Contraction, Finish
from .gemm import (
    MOST_CHUNKS,
    Cut,
    Numeric,
    Tile,
    choose_tile,
    chunks_of,
    cut,
    larger,
    numeric,
    range_of_part,
    smaller,
    store_tile,
    walk_panels,
)

_WORTH = 2  # times fewer registers of products than one for each tap
_BLOCK_BYTES = 128 << 10  # of rows of dx: a quarter of a 512 KB second-level cache
_TAPS_ROWS = 8  # of dx in a block for each row of taps, at least: what blocks share is computed by each
_TILE_PIXELS = 8  # finished at a time


@dataclass(frozen=True)
class Narrow:
    """Sizes of the operation, and how it is cut.

    Attributes:
        op: the operation.
        filter, dy: shapes of its operands.
        num: arithmetic.
        blocks: of rows of an image of dx.
    """

    op: Conv2dInputGrad
    filter: tuple[int, ...]
    dy: tuple[int, ...]
    num: Numeric
    blocks: int

    @property
    def taps(self) -> int:
        """Elements of dx that a pixel of dy is multiplied for, in whole registers."""
        return -(-prod(self.filter[:3]) // self.num.lanes) * self.num.lanes

    @property
    def run(self) -> int:
        """Adjacent elements of dx that a pixel gives to a row of taps."""
        return self.filter[1] * self.filter[2]

    @property
    def line(self) -> int:
        """Elements of a row of dx in scratch, padded, with room for a register beyond."""
        last = (self.dy[2] - 1) * self.op.strides[1] + self.filter[1]
        columns = max(last, self.op.padding[1][0] + self.op.input_shape[2])
        return -(-(columns * self.filter[2] + self.num.lanes) // self.num.lanes) * self.num.lanes

    @property
    def rows(self) -> Cut:
        """Blocks of an image."""
        return Cut(self.op.input_shape[1], self.blocks)


def narrow_pays(op: Conv2dInputGrad, filter_: tuple[int, ...], dtype: DType, isa: Isa) -> bool:
    """Whether registers of all taps' channels are clearly fewer than registers of each tap's."""
    kh, kw, channels, _ = filter_
    plain = op.groups == 1 and op.dilation == (1, 1) and min(min(p) for p in op.padding) >= 0
    if dtype != F32 or not plain:
        return False
    lanes = isa.lanes(dtype.bytes)
    return _WORTH * -(-kh * kw * channels // lanes) <= kh * kw * -(-channels // lanes)


def plan_of(op: Conv2dInputGrad, filter_: tuple[int, ...], dy: tuple[int, ...], num: Numeric) -> Narrow:
    """How the gradient is cut, from its sizes alone."""
    images, height = op.input_shape[:2]
    whole = Narrow(op, filter_, dy, num, 1)
    wanted = chunks_of(prod(dy) * whole.taps / num.lanes / 2)
    fewest = -(-height * whole.line * num.bytes // _BLOCK_BYTES)
    most = max(height // (_TAPS_ROWS * filter_[0]), min(2, height // (2 * filter_[0])))
    return Narrow(op, filter_, dy, num, max(1, min(height, max(fewest, min(most, -(-wanted // images))))))


def lower_narrow_input_grad(contraction: Contraction, isa: Isa, label: str) -> Kernel:
    """The kernel of a gradient for which it pays."""
    op, (w, dy, _) = contraction.root.op, contraction.shapes
    assert isinstance(op, Conv2dInputGrad)
    gradient = NarrowInputGradient(plan_of(op, w, dy, numeric(contraction.dtype, isa)), isa)
    products, finish = gradient.products, contraction.finish(isa)
    packing = min(MOST_CHUNKS, products.plan.panels.parts)
    units = op.input_shape[0] * gradient.n.blocks
    chunks = min(MOST_CHUNKS, units)

    def compute(e: Emitter) -> None:
        first, end = range_of_part(e, e.chunk, units, chunks)
        with e.loop(first, end, name="unit") as unit:
            gradient.block(e, contraction.operand(e, 1), unit, finish)

    phases = (Phase(packing, lambda e: products.pack(e, contraction.operand(e, 0), packing)), Phase(chunks, compute))
    temps = (products.packed_elements * products.num.bytes,)
    return Kernel(contraction.node, phases, f"narrow {contraction.key(isa)}", temps, gradient.scratch, label)


class NarrowInputGradient:
    """Emits a block of rows of dx. Temporary 0 is the packed filter; in scratch lie the totals of a register tile, the
    products of a row of dy, and the block."""

    def __init__(self, n: Narrow, isa: Isa) -> None:
        self.n, self.num = n, n.num
        height, width, depth = n.dy[1:]
        pixel = Taps(1, 0, 1, 1, 0, 1)
        taps = prod(n.filter[:3])
        product = Correlation(n.dy[0], Axis(height, height, pixel), Axis(width, width, pixel), 1, depth, taps,
                              (0, 0, n.taps), 0, True)
        tiles, panels = choose_tile(width, -(-taps // n.num.lanes), depth, isa)
        self.products = Correlator(product, Plan(tiles, panels, 0, (1, 1)), n.num, n.num.element, 0, 1)
        self.products_at = -(-self.products.tile_totals // n.num.bytes // n.num.lanes) * n.num.lanes
        self.block_at = self.products_at + width * n.taps + n.num.lanes

    @property
    def scratch(self) -> int:
        """Bytes of private memory."""
        return (self.block_at + self.n.rows.widest * self.n.line) * self.num.bytes

    def block(self, e: Emitter, dy: ll.Value, unit: ll.Value, finish: Finish) -> None:
        """Compute a block of rows and finish it."""
        n, (height, width, channels) = self.n, self.n.op.input_shape[1:]
        image, part = (f(unit, i64(n.blocks)) for f in (e.b.udiv, e.b.urem))
        first, end = range_of_part(e, part, height, n.blocks)
        self._clear(e, e.b.sub(end, first))
        source = e.at(dy, e.b.mul(image, i64(prod(n.dy[1:]))), self.num.element)
        with e.loop(*self._rows_that_reach(e, first, end), name="row") as y:
            self._multiply(e, image, source, y)
            top = e.b.sub(e.b.mul(y, i64(n.op.strides[0])), e.b.add(first, i64(n.op.padding[0][0])))
            low = larger(e, i64(0), e.b.sub(i64(0), top))
            high = smaller(e, i64(n.filter[0]), e.b.sub(e.b.sub(end, first), top))
            self._add(e, top, low, high)
        with e.loop(first, end, name="finish") as y:
            row = e.b.add(e.b.mul(image, i64(height)), y)
            self._finish(e, self._line(e, e.b.sub(y, first)), e.b.mul(row, i64(width * channels)), finish)

    def _line(self, e: Emitter, row: ll.Value) -> ll.Value:
        """Row ``row`` of the block."""
        at = e.b.add(i64(self.block_at), e.b.mul(row, i64(self.n.line)))
        return e.at(e.scratch, at, self.num.element)

    def _clear(self, e: Emitter, rows: ll.Value) -> None:
        lanes = self.num.lanes
        with e.loop(0, e.b.mul(rows, i64(self.n.line)), lanes, "clear") as at:
            e.store(self.num.zero, e.at(self._line(e, i64(0)), at, self.num.element), lanes * self.num.bytes)

    def _rows_that_reach(self, e: Emitter, first: ll.Value, end: ll.Value) -> tuple[ll.Value, ll.Value]:
        """The rows of dy with a tap in rows [first, end) of dx."""
        n = self.n
        stride, before = n.op.strides[0], n.op.padding[0][0]
        low = e.b.add(first, i64(before - (n.filter[0] - 1) + stride - 1))
        high = e.b.add(e.b.udiv(e.b.add(end, i64(before - 1)), i64(stride)), i64(1))
        return e.b.udiv(larger(e, low, i64(0)), i64(stride)), smaller(e, high, i64(n.dy[1]))

    def _multiply(self, e: Emitter, image: ll.Value, source: ll.Value, y: ll.Value) -> None:
        """The products of a row of dy, pixel by pixel."""
        p = self.products
        p.ahead = e.scratch  # nothing is asked for

        def keep(e: Emitter, tile: Tile, offset: ll.Value, stride: int, column: ll.Value, last: int) -> None:
            at = e.b.add(offset, i64(self.products_at))
            store_tile(e, self.num, tile, e.at(e.scratch, at, self.num.element), stride, self.num.lanes, add=False)

        for width, panel, channel, last in walk_panels(e, p.plan.panels, self.num.lanes, p.c.width, i64(0),
                                                       i64(p.plan.panels.parts)):
            packed = p.panel_address(e, i64(0), panel)
            p.row(e, image, source, packed, y, channel, width, channel, last, keep)

    def _add(self, e: Emitter, top: ll.Value, low: ll.Value, high: ll.Value) -> None:
        """Add the products of a row of dy with rows [low, high) of taps to the block; ``top``: its row of tap row 0.
        Pixel by pixel: what neighbours add to a row overlaps, and would be read just after it was stored."""
        n, num = self.n, self.num
        step = n.op.strides[1] * n.filter[2]
        with e.loop(0, n.dy[2], name="x") as x, e.loop(low, high, name="i") as i:
            given = e.b.add(e.b.mul(x, i64(n.taps)), e.b.mul(i, i64(n.run)))
            source = e.at(e.scratch, e.b.add(given, i64(self.products_at)), num.element)
            into = e.at(self._line(e, e.b.add(top, i)), e.b.mul(x, i64(step)), num.element)
            for at in range(0, n.run, num.lanes):
                value = e.load(e.at(source, at, num.element), num.vector, num.bytes)
                value = _first_lanes(e, num, value, n.run - at)
                place = e.at(into, at, num.element)
                e.store(num.add(e, e.load(place, num.vector, num.bytes), value), place, num.bytes)

    def _finish(self, e: Emitter, line: ll.Value, offset: ll.Value, finish: Finish) -> None:
        """Finish a row of dx."""
        num, channels = self.num, self.n.filter[2]
        row = e.at(line, self.n.op.padding[1][0] * channels, num.element)
        tiles = cut(self.n.op.input_shape[2], _TILE_PIXELS)
        for pixels, _, x in tiles.walk(e, i64(0), i64(tiles.parts)):
            at = e.b.mul(x, i64(channels))
            tile = [[e.load(e.at(row, e.b.add(at, i64(p * channels)), num.element), num.vector, num.bytes)]
                    for p in range(pixels)]
            finish(e, tile, e.b.add(offset, at), channels, i64(0), channels)


def _first_lanes(e: Emitter, num: Numeric, value: ll.Value, count: int) -> ll.Value:
    """The first ``count`` lanes, zeros in the others."""
    if count >= num.lanes:
        return value
    mask = ll.Constant(ll.VectorType(I1, num.lanes), [ll.Constant(I1, int(k < count)) for k in range(num.lanes)])
    return e.b.select(mask, value, num.zero)
