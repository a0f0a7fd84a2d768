"""What Winograd's products sum to, to the pixels of a result."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from .correlation import Correlation
from .doubts import Finite
from .epilogue import Finish
from .gemm import Numeric, larger, smaller
from .winograd_lines import Scheme, transform
from .winograd_patches import REGISTERS, Grid, between, load, registers, store


@dataclass(frozen=True)
class Outputs:
    """The tiles of a correlation's result.

    Attributes:
        c: the correlation.
        grid: the tiles.
        scheme: their algorithm.
        plane: elements between the sums of neighbouring products.
        spare: element of scratch where a register for each product may be kept.
        finite: notes whether all outputs are finite; small tiles only.
    """

    c: Correlation
    grid: Grid
    scheme: Scheme
    plane: int
    spare: int
    finite: Finite | None = None

    def write(self, e: Emitter, num: Numeric, finish: Finish, tile: ll.Value, given: ll.Value, first: ll.Value,
              end: ll.Value) -> None:
        """A tile's sums of channels [first, end), which begin at ``given``, to its outputs inside of the image."""
        c, size = self.c, self.scheme.outputs
        number, down, across = self.grid.position(e, tile)
        row, column = e.b.mul(down, i64(size)), e.b.mul(across, i64(size))
        inside = e.b.add(e.b.mul(row, i64(c.out_strides[1])), e.b.mul(column, i64(c.out_strides[2])))
        target = e.b.add(e.b.add(e.b.mul(number, i64(c.out_strides[0])), inside), i64(c.out_offset))
        rows = smaller(e, i64(size), e.b.sub(i64(c.rows.outputs), row))
        for whole, stop, lanes in registers(c.width, num.lanes):
            with e.loop(larger(e, first, i64(whole)), smaller(e, end, i64(stop)), num.lanes, "channel") as channel:
                source, into = e.at(given, e.b.sub(channel, first), num.element), e.b.add(target, channel)
                if self.scheme.products <= REGISTERS:
                    self._at_once(e, num, finish, source, into, channel, lanes, across, rows)
                else:
                    self._columns(e, num, source)
                    self._rows(e, num, finish, into, channel, lanes, across, rows)

    def _at_once(self, e: Emitter, num: Numeric, finish: Finish, source: ll.Value, target: ll.Value,
                 channel: ll.Value, lanes: int, across: ll.Value, rows: ll.Value) -> None:
        """The outputs of a tile whose sums fit in registers."""
        c, points, matrix = self.c, self.scheme.points, self.scheme.products_to_outputs
        columns = [transform(e, num, matrix, [load(e, num, source, (i * points + j) * self.plane)
                                              for i in range(points)]) for j in range(points)]
        lines = [transform(e, num, matrix, [column[r] for column in columns]) for r in range(self.scheme.outputs)]
        if self.finite is not None:
            self.finite.note(e, num, chain(*lines))
        whole, rest = divmod(c.columns.outputs, self.scheme.outputs)
        for pixels, low, high in ((self.scheme.outputs, 0, whole), (rest, whole, self.grid.across)):
            if low == high:
                continue
            with between(e, across, low, high, self.grid.across):
                for r, line in enumerate(lines):
                    into = e.b.add(target, i64(r * c.out_strides[1]))
                    surely = r < (c.rows.outputs % self.scheme.outputs or self.scheme.outputs)
                    with nullcontext() if surely else e.b.if_then(e.b.icmp_signed("<", i64(r), rows)):
                        finish(e, [[value] for value in line[:pixels]], into, c.out_strides[2], channel, lanes)

    def _columns(self, e: Emitter, num: Numeric, source: ll.Value) -> None:
        """Transform the columns of sums into the spare registers."""
        spare, points = e.at(e.scratch, self.spare, num.element), self.scheme.points
        for j in range(points):
            column = [load(e, num, source, (i * points + j) * self.plane) for i in range(points)]
            for i, value in enumerate(transform(e, num, self.scheme.products_to_outputs, column)):
                store(e, num, value, spare, (i * points + j) * num.lanes)

    def _rows(self, e: Emitter, num: Numeric, finish: Finish, target: ll.Value, channel: ll.Value, lanes: int,
              across: ll.Value, rows: ll.Value) -> None:
        c, points = self.c, self.scheme.points
        spare = e.at(e.scratch, self.spare, num.element)
        whole, rest = divmod(c.columns.outputs, self.scheme.outputs)
        for pixels, low, high in ((self.scheme.outputs, 0, whole), (rest, whole, self.grid.across)):
            if low == high:
                continue
            with between(e, across, low, high, self.grid.across), e.loop(0, rows, name="row") as r:
                line = e.at(spare, e.b.mul(r, i64(points * num.lanes)), num.element)
                given = [load(e, num, line, j * num.lanes) for j in range(points)]
                values = transform(e, num, self.scheme.products_to_outputs, given)
                into = e.b.add(target, e.b.mul(r, i64(c.out_strides[1])))
                finish(e, [[value] for value in values[:pixels]], into, c.out_strides[2], channel, lanes)
