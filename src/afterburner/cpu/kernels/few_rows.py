"""Products of one to four rows with a large matrix: it is read once, as it lies in memory.

Register tiles would go down the matrix in pieces of some hundred bytes that lie kilobytes apart, which memory gives at
half the rate of whole rows. Here a chunk takes some rows of the matrix, in bands of columns whose sums stay in the
first-level cache, a few rows at a time, and asks meanwhile for those that follow. Each chunk has sums of its own, which
a second phase adds in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from ..kernel import Phase
from .gemm import LINE, MOST_CHUNKS, Numeric, cut, load_lanes, range_of_part, smaller, store_lanes
from .packing import load_scalar

if TYPE_CHECKING:
    from .matmul import Product

MOST_ROWS = 4
LARGE_BYTES = 4 << 20  # of the matrix: smaller ones stay in caches, which give columns as fast as rows
_TOGETHER = (0, 4, 4, 2, 2)  # rows of the matrix, by rows of the other operand: whose elements are in registers
_BAND_BYTES = 16 << 10  # of sums
_CHUNK_BYTES = 1 << 20  # of the matrix
_FEWEST_ROWS = 32  # of the matrix in a chunk: its sums are written and read once more


class FewRows:
    """Emits C[m,n] = A[m,k] B[k,n] without a batch; temporary 0 has the sums of each chunk."""

    def __init__(self, p: Product, num: Numeric, stored: ll.Type,
                 operands: Callable[[Emitter], tuple[ll.Value, ll.Value]]) -> None:
        self.p, self.num, self.stored, self.operands = p, num, stored, operands
        self.size = num.bytes if stored == num.element else 2
        wanted = min(MOST_CHUNKS, p.k * p.n * self.size // _CHUNK_BYTES)
        self.copies = max(1, min(wanted, p.k // _FEWEST_ROWS))
        self.together = min(_TOGETHER[p.m], max(1, p.k // self.copies))
        self.bands = cut(-(-p.n // num.lanes), max(1, _BAND_BYTES // (p.m * num.lanes * num.bytes)))

    @property
    def sums_bytes(self) -> int:
        """Bytes of the sums of all chunks."""
        return self.copies * self.p.m * self.p.n * self.num.bytes

    @property
    def phase(self) -> Phase:
        """Makes the sums."""
        return Phase(self.copies, self._emit)

    def _emit(self, e: Emitter) -> None:
        p, num = self.p, self.num
        self.a, self.b = self.operands(e)
        self.sums = e.at(e.temp(0), e.b.mul(e.chunk, i64(p.m * p.n)), num.element)
        first, end = range_of_part(e, e.chunk, p.k, self.copies)
        with e.loop(0, p.m * p.n, name="clear") as at:
            e.store(ll.Constant(num.element, 0), e.at(self.sums, at, num.element), num.bytes)
        with e.loop(0, self.bands.parts, name="band") as band:
            columns = range_of_part(e, band, -(-p.n // num.lanes), self.bands.parts)
            whole = e.b.add(first, e.b.mul(e.b.udiv(e.b.sub(end, first), i64(self.together)), i64(self.together)))
            with e.loop(first, whole, self.together, "rows") as k:
                self._add(e, k, self.together, columns)
            with e.loop(whole, end, name="row") as k:
                self._add(e, k, 1, columns)

    def _add(self, e: Emitter, k: ll.Value, rows: int, columns: tuple[ll.Value, ll.Value]) -> None:
        """Add what some rows of the matrix give to the sums of a band of columns."""
        p, num = self.p, self.num
        by_m, by_k = p.a_strides
        factors = [[e.splat(load_scalar(e, num, e.at(self.a, e.b.add(e.b.mul(e.b.add(k, i64(i)), i64(by_k)),
                                                                   i64(r * by_m)), self.stored), self.stored),
                            num.lanes) for r in range(p.m)] for i in range(rows)]
        lines = [e.at(self.b, e.b.mul(e.b.add(k, i64(i)), i64(p.n)), self.stored) for i in range(rows)]
        at_once = max(1, LINE // (num.lanes * self.size))
        tail = (p.n - 1) % num.lanes + 1
        full = smaller(e, columns[1], i64(p.n // num.lanes))
        many = e.b.add(columns[0], e.b.mul(e.b.udiv(e.b.sub(full, columns[0]), i64(at_once)), i64(at_once)))
        with e.loop(columns[0], many, at_once, "line") as vector:
            column = e.b.mul(vector, i64(num.lanes))
            for line in lines:
                e.prefetch(e.at(e.at(line, column, self.stored), rows * p.n, self.stored))
            for v in range(at_once):
                self._add_register(e, factors, lines, e.b.add(column, i64(v * num.lanes)), num.lanes)
        with e.loop(many, full, name="register") as vector:
            self._add_register(e, factors, lines, e.b.mul(vector, i64(num.lanes)), num.lanes)
        if tail < num.lanes:
            with e.b.if_then(e.b.icmp_signed(">", columns[1], full)):
                self._add_register(e, factors, lines, i64(p.n // num.lanes * num.lanes), tail)

    def _add_register(self, e: Emitter, factors: list[list[ll.Value]], lines: list[ll.Value], column: ll.Value,
                      lanes: int) -> None:
        num = self.num
        values = [load_lanes(e, e.at(line, column, self.stored), num, lanes, self.stored) for line in lines]
        for r in range(self.p.m):
            address = e.at(self.sums, e.b.add(column, i64(r * self.p.n)), num.element)
            total = load_lanes(e, address, num, lanes)
            for value, row in zip(values, factors, strict=True):
                total = num.multiply_add(e, row[r], value, total)
            store_lanes(e, total, address, num, lanes)


def few_rows(p: Product, size: int) -> bool:
    """Whether a product with elements of ``size`` bytes in memory is one of few rows with a large matrix."""
    large = LARGE_BYTES * (2 if p.m > 2 else 1)  # a tile of four rows is slowed down less
    return p.batch == 1 and p.m <= MOST_ROWS and not p.transpose_b and p.k * p.n * size >= large
