"""Matrix products: blocked GEMM on packed panels, and dot products where vectors run along the inner axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.matmul import Matmul
from ..emitter import Emitter, i64, stored_type
from ..isa import Isa
from ..kernel import Kernel, Phase
from .dot import dot_phase
from .gemm import (
    Columns,
    Cut,
    Numeric,
    Rows,
    Tile,
    accumulate,
    choose_tile,
    is_half,
    kernel_key,
    larger,
    load_lanes,
    numeric,
    range_of_part,
    smaller,
    store_lanes,
    zeros,
)
from .packing import copy_rows, pack_columns, pack_columns_transposed

_CHUNK_CYCLES = 60_000  # about 20 us: less does not pay for meeting at a barrier
_MOST_CHUNKS = 32
_BLOCK_BYTES = 192 << 10  # of packed B: leaves room for A and C in a 512 KB second-level cache
_A_BYTES = 16 << 10  # of packed A: half of a first-level cache


@dataclass(frozen=True)
class Product:
    """Sizes and layout of a batch of products C[m,n] = A[m,k] B[k,n]."""

    batch: int
    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool

    @property
    def a_strides(self) -> tuple[int, int]:
        """Elements between rows and between steps of k."""
        return (1, self.m) if self.transpose_a else (self.k, 1)

    @property
    def b_strides(self) -> tuple[int, int]:
        """Elements between steps of k and between columns."""
        return (1, self.k) if self.transpose_b else (self.n, 1)

    def as_row(self) -> Product:
        """The same product with one column written as one with a single row: C' = B' A'."""
        return Product(self.batch, 1, self.m, self.k, False, not self.transpose_a)


def product_of(node: Node) -> Product:
    """Sizes of a matmul node."""
    op = node.op
    assert isinstance(op, Matmul)
    a, result = node.operands[0].shape, node.results[0].shape
    k = a[-2] if op.transpose_a else a[-1]
    return Product(prod(result[:-2]), *result[-2:], k, op.transpose_a, op.transpose_b)


@dataclass(frozen=True)
class Blocking:
    """How a product is cut.

    Attributes:
        rows: cut of m in register tiles.
        columns: cut of n, in registers, in panels.
        parts: chunks along (batch, m, n, k).
        depth: steps of k in one pass over C.
        pack_a, pack_b: operands are copied to scratch, block by block.
        a_tiles: register tiles in one packed block of A.
        partial: sums go to a temporary in the accumulation type, one copy for each part of k.
    """

    rows: Cut
    columns: Cut
    parts: tuple[int, int, int, int]
    depth: int
    pack_a: bool
    pack_b: bool
    a_tiles: int
    partial: bool

    @property
    def chunks(self) -> int:
        return prod(self.parts)


def block(p: Product, num: Numeric, isa: Isa, half: bool) -> Blocking:
    """Choose tiles, chunks and packing for a product from its sizes alone."""
    vectors = -(-p.n // num.lanes)
    rows, columns = choose_tile(p.m, vectors, min(p.k, 512), isa)
    parts = _parts(p, num, rows, columns)
    part_k, part_m = -(-p.k // parts[3]), p.m / parts[1]
    width = -(-columns.parts // parts[2]) * columns.widest * num.lanes
    depth = _even(part_k, max(128, _BLOCK_BYTES // (width * num.bytes)))
    contiguous = columns.parts == 1 and p.n % num.lanes == 0
    pack_b = p.transpose_b or half or (part_m > 12 and not contiguous)
    pack_a = half or (p.transpose_a and p.k > 16 and p.m * num.bytes >= 1024 and columns.parts > 1)
    a_tiles = max(1, min(rows.parts, _A_BYTES // (depth * rows.widest * num.bytes)))
    return Blocking(rows, columns, parts, depth, pack_a, pack_b, a_tiles,
                    parts[3] > 1 or (half and depth < part_k))


def _parts(p: Product, num: Numeric, rows: Cut, columns: Cut) -> tuple[int, int, int, int]:
    touched = num.bytes * (p.m * p.k + p.k * p.n + p.m * p.n)
    cycles = p.batch * max(p.m * p.n * p.k / num.lanes / 2, touched / 8)
    wanted = int(max(1, min(_MOST_CHUNKS, cycles // _CHUNK_CYCLES)))
    if p.batch >= wanted:
        return (wanted, 1, 1, 1)
    wanted = -(-wanted // p.batch)
    n = max(1, min(wanted, columns.parts, p.n // (64 if p.m >= 8 else 256)))
    m = max(1, min(-(-wanted // n), rows.parts, p.m // 96))
    k = max(1, min(-(-wanted // (n * m)), p.k // 256))
    return (p.batch, m, n, k)


def _even(size: int, limit: int) -> int:
    """The largest part when ``size`` is cut in the fewest near-equal parts up to ``limit``."""
    return -(-size // -(-size // limit))


Addresses = Callable[[Emitter], tuple[ll.Value, ll.Value]]


class Gemm:
    """Emits one product for a blocking."""

    def __init__(self, p: Product, blocking: Blocking, num: Numeric, stored: ll.Type, operands: Addresses) -> None:
        self.p, self.by, self.num, self.stored, self.operands = p, blocking, num, stored, operands
        self.slot = blocking.depth * blocking.columns.widest * num.lanes
        self.panels_per_part = -(-blocking.columns.parts // blocking.parts[2])
        self.b_bytes = self.slot * self.panels_per_part * num.bytes if blocking.pack_b else 0
        self.a_rows = blocking.a_tiles * blocking.rows.widest
        self.a_bytes = self.a_rows * blocking.depth * num.bytes if blocking.pack_a else 0

    @property
    def scratch(self) -> int:
        return self.b_bytes + self.a_bytes

    @property
    def temp_bytes(self) -> int:
        return self.by.parts[3] * self.p.batch * self.p.m * self.p.n * self.num.bytes if self.by.partial else 0

    def emit(self, e: Emitter) -> None:
        """The code of one chunk."""
        batches, m, n, k = self.by.parts
        index, self.k_part = _split(e, e.chunk, k)
        index, n_part = _split(e, index, n)
        batch_part, m_part = _split(e, index, m)
        self.first_panel, self.end_panel = range_of_part(e, n_part, self.by.columns.parts, n)
        self.first_tile, self.end_tile = range_of_part(e, m_part, self.by.rows.parts, m)
        self.k_range = range_of_part(e, self.k_part, self.p.k, k)
        if batches == self.p.batch == 1:
            self._batch(e, i64(0))
            return
        with e.loop(*range_of_part(e, batch_part, self.p.batch, batches), name="batch") as batch:
            self._batch(e, batch)

    def _batch(self, e: Emitter, batch: ll.Value) -> None:
        p = self.p
        a, b = self.operands(e)
        self.a = e.at(a, e.b.mul(batch, i64(p.m * p.k)), self.stored)
        self.b = e.at(b, e.b.mul(batch, i64(p.k * p.n)), self.stored)
        if self.by.partial:
            copy = e.b.add(e.b.mul(self.k_part, i64(p.batch)), batch)
            self.c, self.c_type = e.temp(0), self.num.element
        else:
            copy, self.c, self.c_type = batch, e.result(0), self.stored
        self.c = e.at(self.c, e.b.mul(copy, i64(p.m * p.n)), self.c_type)
        first, end = self.k_range
        if self.by.depth >= -(-p.k // self.by.parts[3]):
            self._pass(e, first, e.b.sub(end, first), None)
            return
        with e.loop(first, end, self.by.depth, "depth") as start:
            count = smaller(e, i64(self.by.depth), e.b.sub(end, start))
            self._pass(e, start, count, e.b.icmp_signed(">", start, first))

    def _panels(self, e: Emitter):  # type: ignore[no-untyped-def]
        """Loops over the panels of this chunk: (registers, panel, first column, lanes of the last)."""
        cut, lanes = self.by.columns, self.num.lanes
        tail = self.p.n - (-(-self.p.n // lanes) - 1) * lanes
        for width, low, high in cut.spans():
            odd = tail < lanes and high == cut.parts
            for first, end, last in ((low, high - odd, lanes), (high - odd, high, tail)):
                if first == end:
                    continue
                with e.loop(larger(e, self.first_panel, i64(first)), smaller(e, self.end_panel, i64(end)),
                            name="panel") as panel:
                    yield width, panel, e.b.mul(cut.start(e, panel), i64(lanes)), last

    def _pass(self, e: Emitter, start: ll.Value, count: ll.Value, again: ll.Value | None) -> None:
        """All of this chunk's C for ``count`` steps of k; ``again`` adds to what is there."""
        if self.by.pack_b:
            self._pack_b(e, start, count)
        if not self.by.pack_a:
            self._tiles(e, self.first_tile, self.end_tile, start, count, again, None)
            return
        with e.loop(self.first_tile, self.end_tile, self.by.a_tiles, "block") as tile:
            end = smaller(e, self.end_tile, e.b.add(tile, i64(self.by.a_tiles)))
            rows = self.by.rows
            first_row = rows.start(e, tile)
            self._pack_a(e, first_row, e.b.sub(rows.start(e, end), first_row), start, count)
            self._tiles(e, tile, end, start, count, again, first_row)

    def _pack_b(self, e: Emitter, start: ll.Value, count: ll.Value) -> None:
        by_k, by_n = self.p.b_strides
        for width, panel, column, last in self._panels(e):
            source = e.at(self.b, e.b.add(e.b.mul(start, i64(by_k)), e.b.mul(column, i64(by_n))), self.stored)
            pack = pack_columns_transposed if self.p.transpose_b else pack_columns
            pack(e, self.num, source, max(by_k, by_n), count, self._slot(e, panel), width, last, self.stored)

    def _slot(self, e: Emitter, panel: ll.Value) -> ll.Value:
        return e.at(e.scratch, e.b.mul(e.b.sub(panel, self.first_panel), i64(self.slot)), self.num.element)

    def _pack_a(self, e: Emitter, row: ll.Value, rows: ll.Value, start: ll.Value, count: ll.Value) -> None:
        by_m, by_k = self.p.a_strides
        source = e.at(self.a, e.b.add(e.b.mul(row, i64(by_m)), e.b.mul(start, i64(by_k))), self.stored)
        lines = (count, rows) if self.p.transpose_a else (rows, count)
        stride = self.a_rows if self.p.transpose_a else self.by.depth
        copy_rows(e, self.num, source, max(by_m, by_k), self._packed_a(e), stride, *lines, self.stored)

    def _packed_a(self, e: Emitter) -> ll.Value:
        return e.at(e.scratch, self.b_bytes // self.num.bytes, self.num.element)

    def _tiles(self, e: Emitter, first: ll.Value, end: ll.Value, start: ll.Value, count: ll.Value,
               again: ll.Value | None, packed_row: ll.Value | None) -> None:
        for height, _, row in self.by.rows.walk(e, first, end):
            a = self._rows(e, height, row, start, packed_row)
            for width, panel, column, last in self._panels(e):
                b = self._columns(e, width, panel, column, start, last)
                tile = accumulate(e, self.num, zeros(self.num, height, width), a, b, count)
                target = e.at(self.c, e.b.add(e.b.mul(row, i64(self.p.n)), column), self.c_type)
                self._finish(e, tile, target, last, again)

    def _rows(self, e: Emitter, height: int, row: ll.Value, start: ll.Value, packed_row: ll.Value | None) -> Rows:
        by_m, by_k = self.p.a_strides
        if packed_row is None:
            base = e.at(self.a, e.b.add(e.b.mul(row, i64(by_m)), e.b.mul(start, i64(by_k))), self.num.element)
        else:
            by_m, by_k = (1, self.a_rows) if self.p.transpose_a else (self.by.depth, 1)
            base = e.at(self._packed_a(e), e.b.mul(e.b.sub(row, packed_row), i64(by_m)), self.num.element)
        return Rows(base, [r * by_m for r in range(height)], by_k)

    def _columns(self, e: Emitter, width: int, panel: ll.Value, column: ll.Value, start: ll.Value,
                 last: int) -> Columns:
        lanes = self.num.lanes
        offsets = [v * lanes for v in range(width)]
        if self.by.pack_b:
            return Columns(self._slot(e, panel), offsets, width * lanes, lanes, lanes * self.num.bytes)
        base = e.at(self.b, e.b.add(e.b.mul(start, i64(self.p.n)), column), self.num.element)
        return Columns(base, offsets, self.p.n, last, self.num.bytes)

    def _finish(self, e: Emitter, tile: Tile, target: ll.Value, last: int, again: ll.Value | None) -> None:
        if again is None:
            self._store(e, tile, target, last, add=False)
            return
        with e.b.if_else(again) as (then, otherwise):
            with then:
                self._store(e, tile, target, last, add=True)
            with otherwise:
                self._store(e, tile, target, last, add=False)

    def _store(self, e: Emitter, tile: Tile, target: ll.Value, last: int, add: bool) -> None:
        for r, row in enumerate(tile):
            for v, value in enumerate(row):
                lanes = last if v == len(row) - 1 else self.num.lanes
                address = e.at(target, r * self.p.n + v * self.num.lanes, self.c_type)
                if add:
                    value = self.num.add(e, load_lanes(e, address, self.num, lanes), value)
                store_lanes(e, value, address, self.num, lanes, self.c_type)


def _split(e: Emitter, index: ll.Value, parts: int) -> tuple[ll.Value, ll.Value]:
    """Quotient and remainder of an index by a constant."""
    if parts == 1:
        return index, i64(0)
    return e.b.udiv(index, i64(parts)), e.b.urem(index, i64(parts))


def combine_phase(num: Numeric, size: int, copies: int, stored: ll.Type) -> Phase:
    """Adds ``copies`` partial results of ``size`` elements in temp 0, in order, into result 0."""
    vectors = -(-size // num.lanes)
    chunks = max(1, min(_MOST_CHUNKS, size * copies * num.bytes // (256 << 10)))

    def emit(e: Emitter) -> None:
        first, end = range_of_part(e, e.chunk, vectors, chunks)
        whole = size // num.lanes
        with e.loop(first, smaller(e, end, i64(whole)), name="sum") as index:
            add_up(e, e.b.mul(index, i64(num.lanes)), num.lanes)
        if size % num.lanes:
            with e.b.if_then(e.b.icmp_signed("==", end, i64(vectors))):
                add_up(e, i64(whole * num.lanes), size % num.lanes)

    def add_up(e: Emitter, at: ll.Value, lanes: int) -> None:
        base = e.at(e.temp(0), at, num.element)
        with e.loop_carried(1, copies, 1, [load_lanes(e, base, num, lanes)], "copy") as (copy, now, after):
            address = e.at(base, e.b.mul(copy, i64(size)), num.element)
            after[0] = num.add(e, now[0], load_lanes(e, address, num, lanes))
        store_lanes(e, after[0], e.at(e.result(0), at, stored), num, lanes, stored)

    return Phase(chunks, emit)


def zero_kernel(node: Node, isa: Isa, key: str) -> Kernel:
    """Writes zeros: the value of a sum over nothing; nothing at all where the result is empty."""
    num, size = numeric(node.results[0].type.dtype, isa), node.results[0].type.size
    stored = stored_type(node.results[0].type.dtype)

    def emit(e: Emitter) -> None:
        whole = size - size % num.lanes
        with e.loop(0, whole, num.lanes) as index:
            store_lanes(e, num.zero, e.at(e.result(0), index, stored), num, num.lanes, stored)
        if size > whole:
            store_lanes(e, num.zero, e.at(e.result(0), whole, stored), num, size - whole, stored)

    return Kernel(node, (Phase(1, emit),), key, label="zero")


def lower_matmul(node: Node, isa: Isa) -> Kernel:
    """The kernel of a matmul node."""
    p, dtype = product_of(node), node.results[0].type.dtype
    key, num, stored = kernel_key(node, isa), numeric(dtype, isa), stored_type(dtype)
    if node.results[0].type.size == 0 or p.k == 0:
        return zero_kernel(node, isa, key)
    swapped = p.n == 1 and p.m > 1
    if swapped:
        p = p.as_row()

    def operands(e: Emitter) -> tuple[ll.Value, ll.Value]:
        return (e.operand(1), e.operand(0)) if swapped else (e.operand(0), e.operand(1))

    label = f"matmul {p.m}x{p.k}x{p.n}"
    if p.m <= 2 and p.transpose_b and (p.m == 1 or not p.transpose_a) and not is_half(dtype):
        return Kernel(node, (dot_phase(p, num, operands),), key, label=label)
    gemm = Gemm(p, block(p, num, isa, is_half(dtype)), num, stored, operands)
    phases = [Phase(gemm.by.chunks, gemm.emit)]
    if gemm.by.partial:
        phases.append(combine_phase(num, p.batch * p.m * p.n, gemm.by.parts[3], stored))
    temps = (gemm.temp_bytes,) if gemm.by.partial else ()
    return Kernel(node, tuple(phases), key, temps, gemm.scratch, label)


LOWERINGS = {"matmul": lower_matmul}
