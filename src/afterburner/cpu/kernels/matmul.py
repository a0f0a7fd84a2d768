"""Matrix products: blocked GEMM on packed panels, and dot products where vectors run along the inner axis."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.matmul import Matmul
from ..emitter import I8, Emitter, i64, stored_type
from ..halves import is_half
from ..isa import Isa
from ..kernel import Kernel, Phase
from . import library
from .dot import dot_phase
from .epilogue import EARLY_STEPS, Contraction, Finish, Streams, ask_early, cold, contraction_of
from .few_rows import LARGE_BYTES, FewRows, few_rows
from .gemm import (
    LINE,
    MOST_CHUNKS,
    Ahead,
    Columns,
    Cut,
    Numeric,
    Rows,
    Tile,
    accumulate,
    choose_tile,
    chunks_of,
    larger,
    lines_ahead,
    load_lanes,
    numeric,
    range_of_part,
    smaller,
    store_lanes,
    walk_panels,
    zeros,
)
from .packing import ROWS_AHEAD, copy_columns, copy_rows, copy_run, pack_columns_transposed
from .pairs import Layout, PairedOperands, Pairs, halved, pairs, pays

_BLOCK_BYTES = 256 << 10  # of packed B: leaves room for A and C in a 512 KB second-level cache
_STREAMS = 8  # panels of B packed at once: ways of a first-level cache, should they fall into the same sets
_ONE_TILE, _FEW_ROWS = 4, 48  # rows of A: for so few B is not packed; up to so many, a large B takes as long to read
_LARGE_BYTES = 8 << 20  # of B
_MOST_DOTS = 8  # rows of A of which each meets each column of a large B at once
_PIECE_BYTES, _PIECES = 4 << 10, 32  # of the rows of such a B that a chunk reads, and how many it packs at once
_STEPS_TOGETHER = 256  # of k, where A is packed: a tile of it and a panel of B then stay in a first-level cache
_A_BYTES = 48 << 10  # of packed A: rows that long are read well from strided memory


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
    def layouts(self) -> tuple[Layout, Layout]:
        """A and B with the axis along which is summed in the middle."""
        a = Layout(self.batch, self.k, self.m) if self.transpose_a else Layout(self.batch * self.m, self.k, 1)
        b = Layout(self.batch * self.n, self.k, 1) if self.transpose_b else Layout(self.batch, self.k, self.n)
        return a, b

    def as_row(self) -> Product:
        """The same product with one column written as one with a single row: C' = B' A'."""
        return Product(self.batch, 1, self.m, self.k, False, not self.transpose_a)


def product_of(node: Node) -> Product:
    """Sizes of a matmul node."""
    op = node.op
    assert isinstance(op, Matmul)
    a, result = node.operands[0].shape, node.results[0].shape
    k = a[-2] if op.transpose_a else a[-1]
    return Product(prod(result[:-2]), result[-2], result[-1], k, op.transpose_a, op.transpose_b)


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
        whole_rows: B is read in long pieces of its rows, those of the next pass while this one is computed.
    """

    rows: Cut
    columns: Cut
    parts: tuple[int, int, int, int]
    depth: int
    pack_a: bool
    pack_b: bool
    a_tiles: int
    partial: bool
    whole_rows: bool

    @property
    def chunks(self) -> int:
        return prod(self.parts)


def block(p: Product, num: Numeric, isa: Isa, half: bool, finished: bool) -> Blocking:
    """Choose tiles, chunks and packing for a product from its sizes alone: ``half``, its operands are widened while
    they are packed; ``finished``, its sums are not the result itself, which so cannot hold a part of them."""
    vectors = -(-p.n // num.lanes)
    rows, columns = choose_tile(p.m, vectors, min(p.k, 512), isa)
    whole_rows = _reads_whole_rows(p, num)
    parts = _parts_in_rows(p, num, columns) if whole_rows else _parts(p, num, rows, columns)
    part_k, part_m = -(-p.k // parts[3]), p.m / parts[1]
    width = -(-columns.parts // parts[2]) * columns.widest * num.lanes
    strided = p.transpose_a and p.k > 16 and p.m * num.bytes >= 1024 and columns.parts > 1
    deepest = max(128, _BLOCK_BYTES // (width * num.bytes))
    if strided and (part_k > deepest or not finished):  # else a pass over C of its own would cost what is gained
        deepest = min(deepest, _STEPS_TOGETHER)
    depth = _even(part_k, _PIECES if whole_rows else deepest)
    contiguous = columns.parts == 1 and p.n % num.lanes == 0
    pack_b = p.transpose_b or half or whole_rows or (part_m > 12 and not contiguous)
    pack_a = half or strided or _aliased(p, num, rows, columns)
    a_tiles = max(1, min(rows.parts, _A_BYTES // (depth * rows.widest * num.bytes)))
    return Blocking(rows, columns, parts, depth, pack_a, pack_b, a_tiles,
                    parts[3] > 1 or (finished and depth < part_k), whole_rows)


def _reads_whole_rows(p: Product, num: Numeric) -> bool:
    """Whether A has so few rows that the product takes about as long as B takes to read: memory gives pieces of a
    panel's width that lie kilobytes apart at half the rate of whole rows and less."""
    large = p.k * p.n * num.bytes >= _LARGE_BYTES
    return large and _ONE_TILE < p.m <= _FEW_ROWS and p.batch == 1 and not p.transpose_a and not p.transpose_b


def _parts_in_rows(p: Product, num: Numeric, columns: Cut) -> tuple[int, int, int, int]:
    """Chunks along k, of which each has sums of its own, half as many as elements of B at most; and along n only as far
    as long pieces of rows are left."""
    wanted = chunks_of(max(p.m * p.n * p.k / num.lanes / 2, num.bytes * p.k * p.n / 8))
    n = max(1, min(columns.parts, p.n * num.bytes // _PIECE_BYTES))
    return (1, 1, n, max(1, min(wanted // n, p.k // _PIECES, p.k // (2 * p.m))))


def _aliased(p: Product, num: Numeric, rows: Cut, columns: Cut) -> bool:
    """More rows of A than a cache set has ways would fall into the same sets of a first-level cache."""
    crowded = not p.transpose_a and rows.widest > 6 and p.k * num.bytes % 2048 == 0
    return crowded and columns.parts > 2 and p.m > 32


def _parts(p: Product, num: Numeric, rows: Cut, columns: Cut) -> tuple[int, int, int, int]:
    touched = num.bytes * (p.m * p.k + p.k * p.n + p.m * p.n)
    cycles = p.batch * max(p.m * p.n * p.k / num.lanes / 2, touched / 8)
    wanted = chunks_of(cycles)
    if p.batch >= wanted:
        return (wanted, 1, 1, 1)
    wanted = -(-wanted // p.batch)
    wide = 256 if p.transpose_a or p.m < 8 else 64  # packed rows of A should meet many panels
    n = max(1, min(wanted, columns.parts, p.n // wide))
    m = max(1, min(-(-wanted // n), rows.parts, p.m // 96))
    if p.m >= 8:
        narrow = 128 if p.transpose_a else 64
        n = max(n, min(-(-wanted // m), columns.parts, p.n // narrow))
    k = max(1, min(wanted // (n * m), p.k // 256))
    return (p.batch, m, n, k)


def _even(size: int, limit: int) -> int:
    """The largest part when ``size`` is cut in the fewest near-equal parts up to ``limit``."""
    return -(-size // -(-size // limit))


Addresses = Callable[[Emitter], tuple[ll.Value, ll.Value]]


class Gemm:
    """Emits one product for a blocking; with B ``kept``, a phase before it packs all of B into temp 0."""

    def __init__(self, p: Product, blocking: Blocking, num: Numeric, stored: ll.Type, operands: Addresses,
                 finish: Finish, streams: Streams, kept: bool) -> None:
        self.p, self.by, self.num, self.stored, self.operands = p, blocking, num, stored, operands
        self.finish, self.streams, self.kept = finish, streams, kept
        even = p.k % (blocking.depth * blocking.parts[3]) == 0
        self.steps = blocking.depth if blocking.whole_rows and even else 0  # of every pass, where they are equally many
        self.slot = (p.k if kept else blocking.depth) * blocking.columns.widest * num.lanes
        self.panels_per_part = -(-blocking.columns.parts // blocking.parts[2])
        self.b_bytes = self.slot * self.panels_per_part * num.bytes if blocking.pack_b and not kept else 0
        self.a_line = blocking.depth + LINE // num.bytes  # packed rows start in different cache sets
        a_rows = blocking.a_tiles * blocking.rows.widest
        self.a_bytes = a_rows * self.a_line * num.bytes if blocking.pack_a else 0

    @property
    def scratch(self) -> int:
        return self.b_bytes + self.a_bytes

    @property
    def temps(self) -> tuple[int, ...]:
        packed = (self.slot * self.by.columns.parts * self.num.bytes,) if self.kept else ()
        copies = self.by.parts[3] * self.p.batch
        return (*packed, copies * self.p.m * self.p.n * self.num.bytes) if self.by.partial else packed

    @property
    def packing(self) -> Phase:
        """Packs B, panel by panel, each with all of its rows."""
        chunks = min(chunks_of(self.p.k * self.p.n * self.num.bytes / 8), self.by.columns.parts)

        def emit(e: Emitter) -> None:
            _, self.b = self.operands(e)
            self.first_panel, self.end_panel = range_of_part(e, e.chunk, self.by.columns.parts, chunks)
            self._pack_b(e, i64(0), i64(self.p.k))

        return Phase(chunks, emit)

    def emit(self, e: Emitter) -> None:
        """The code of one chunk."""
        batches, m, n, k = self.by.parts
        index, n_part = _split(e, e.chunk, n)
        index, m_part = _split(e, index, m)
        batch_part, self.k_part = _split(e, index, k)  # before m: in a filter's gradient, k are the rows of images
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
        copy = e.b.add(e.b.mul(self.k_part, i64(p.batch)), batch) if self.by.partial else batch
        self.origin = e.b.mul(copy, i64(p.m * p.n))
        first, end = self.k_range
        if self.by.depth >= -(-p.k // self.by.parts[3]):
            self._pass(e, first, i64(self.steps) if self.steps else e.b.sub(end, first), None)
            return
        with e.loop(first, end, self.by.depth, "depth") as start:
            count = i64(self.steps) if self.steps else smaller(e, i64(self.by.depth), e.b.sub(end, start))
            self._pass(e, start, count, e.b.icmp_signed(">", start, first))

    def _panels(self, e: Emitter) -> Iterator[tuple[int, ll.Value, ll.Value, int]]:
        """Loops over the panels of this chunk: (registers, panel, first column, lanes of the last)."""
        return walk_panels(e, self.by.columns, self.num.lanes, self.p.n, self.first_panel, self.end_panel)

    def _pass(self, e: Emitter, start: ll.Value, count: ll.Value, again: ll.Value | None) -> None:
        """All of this chunk's C for ``count`` steps of k; ``again`` adds to what is there."""
        if self.by.pack_b and not self.kept:
            self._pack_b(e, start, count)
        if not self.by.pack_a:
            self._tiles(e, self.first_tile, self.end_tile, start, count, again, None)
            return
        with e.loop(self.first_tile, self.end_tile, self.by.a_tiles, "block") as tile:
            end = smaller(e, self.end_tile, e.b.add(tile, i64(self.by.a_tiles)))
            self._pack_a(e, tile, end, start, count)
            self._tiles(e, tile, end, start, count, again, tile)

    def _pack_b(self, e: Emitter, start: ll.Value, count: ll.Value) -> None:
        if not self.p.transpose_b:
            streams = self.panels_per_part if self.by.whole_rows else _STREAMS
            with e.loop(self.first_panel, self.end_panel, streams, "panels") as first:
                end = smaller(e, e.b.add(first, i64(streams)), self.end_panel)
                self._pack_rows(e, first, end, start, count)
            return
        for width, panel, column, last in self._panels(e):
            source = e.at(self.b, e.b.add(start, e.b.mul(column, i64(self.p.k))), self.stored)
            target = self._slot(e, panel)
            pack_columns_transposed(e, self.num, source, self.p.k, count, target, width, last, self.stored)

    def _pack_rows(self, e: Emitter, first: ll.Value, end: ll.Value, start: ll.Value, count: ll.Value) -> None:
        """Copy a few panels row by row, as they lie in memory, and ask for later rows: panel by panel, a processor
        would fetch ahead within a page at best, which is a few rows."""
        lanes = self.num.lanes
        with e.loop(0, count, name="pack") as k:
            line = e.at(self.b, e.b.mul(e.b.add(start, k), i64(self.p.n)), self.stored)
            for width, panel, column, last in walk_panels(e, self.by.columns, self.num.lanes, self.p.n, first, end):
                source = e.at(line, column, self.stored)
                for at in range(0, width * lanes, LINE // self.num.bytes):
                    e.prefetch(e.at(source, ROWS_AHEAD * self.p.n + at, self.stored))
                target = e.at(self._slot(e, panel), e.b.mul(k, i64(width * lanes)), self.num.element)
                copy_columns(e, self.num, source, target, width, last, self.stored)

    def _slot(self, e: Emitter, panel: ll.Value) -> ll.Value:
        if self.kept:
            return e.at(e.temp(0), e.b.mul(panel, i64(self.slot)), self.num.element)
        return e.at(e.scratch, e.b.mul(e.b.sub(panel, self.first_panel), i64(self.slot)), self.num.element)

    def _pack_a(self, e: Emitter, first: ll.Value, end: ll.Value, start: ll.Value, count: ll.Value) -> None:
        """Copy the rows of some register tiles, tile after tile in the order in which they are read."""
        by_m, by_k = self.p.a_strides
        origin = e.at(self.a, e.b.mul(start, i64(by_k)), self.stored)
        if not self.p.transpose_a:
            for height, tile, row in self.by.rows.walk(e, first, end):
                source = e.at(origin, e.b.mul(row, i64(by_m)), self.stored)
                copy_rows(e, self.num, source, by_m, self._packed_a(e, tile, first), self.a_line, height, count,
                          self.stored)
            return
        lanes = self.num.lanes if self.p.m >= self.num.lanes else 1
        before = e.b.sub(count, i64(1))  # what is copied too much belongs to the next step, so the last one is exact
        for low, high, least in ((i64(0), before, lanes), (before, count, 1)):
            with e.loop(low, high, name="k") as k:
                line = e.at(origin, e.b.mul(k, i64(by_k)), self.stored)
                for height, tile, row in self.by.rows.walk(e, first, end):
                    source = e.at(line, row, self.stored)
                    e.prefetch(e.at(source, ROWS_AHEAD * by_k, self.stored))
                    target = e.at(self._packed_a(e, tile, first), e.b.mul(k, i64(height)), self.num.element)
                    copy_run(e, self.num, source, target, -(-height // least) * least, self.stored)

    def _packed_a(self, e: Emitter, tile: ll.Value, first: ll.Value) -> ll.Value:
        slot = e.b.mul(e.b.sub(tile, first), i64(self.by.rows.widest * self.a_line))
        return e.at(e.scratch, e.b.add(slot, i64(self.b_bytes // self.num.bytes)), self.num.element)

    def _tiles(self, e: Emitter, first: ll.Value, end: ll.Value, start: ll.Value, count: ll.Value,
               again: ll.Value | None, packed_from: ll.Value | None) -> None:
        for height, tile_number, row in self.by.rows.walk(e, first, end):
            if packed_from is None:
                by_m, by_k = self.p.a_strides
                base = e.at(self.a, e.b.add(e.b.mul(row, i64(by_m)), e.b.mul(start, i64(by_k))), self.num.element)
            else:
                by_m, by_k = (1, height) if self.p.transpose_a else (self.a_line, 1)
                base = self._packed_a(e, tile_number, packed_from)
            a = Rows(base, [r * by_m for r in range(height)], by_k)
            for width, panel, column, last in self._panels(e):
                b = self._columns(e, width, panel, column, start, last)
                offset = e.b.add(self.origin, e.b.add(e.b.mul(row, i64(self.p.n)), column))
                self._ask(e, offset, height, width)
                turn = e.b.add(e.b.mul(tile_number, i64(self.panels_per_part)), e.b.sub(panel, self.first_panel))
                ahead = self._ahead(e, start, turn) if self.steps else None
                tile = accumulate(e, self.num, zeros(self.num, height, width), a, b, self.steps or count, ahead=ahead)
                self._finish(e, tile, offset, column, last, again)

    def _ahead(self, e: Emitter, start: ll.Value, turn: ll.Value) -> Ahead:
        """What the ``turn``th register tile asks for of the rows of B that are packed after those from ``start``."""
        steps, size = self.steps, self.num.bytes if self.stored == self.num.element else 2
        row = self.panels_per_part * self.by.columns.widest * self.num.lanes * size
        tiles = self.by.rows.parts * self.panels_per_part
        lines = next(n for n in range(1, row // LINE + 2) if tiles // -(-row // (n * LINE)) >= min(steps, tiles))
        across = -(-row // (lines * LINE))
        line = e.b.add(e.b.add(start, i64(steps)), e.b.udiv(turn, i64(across)))
        column = self.by.columns.start(e, self.first_panel)
        base = e.at(self.b, e.b.add(e.b.mul(line, i64(self.p.n)), e.b.mul(column, i64(self.num.lanes))), self.stored)
        base = e.at(base, e.b.mul(e.b.urem(turn, i64(across)), i64(lines * LINE)), I8)
        return lines_ahead(base, lines, steps)

    def _ask(self, e: Emitter, offset: ll.Value, height: int, width: int) -> None:
        if not self.by.partial and self.by.depth >= self.p.k >= EARLY_STEPS:
            streams = cold(self.streams(e), self.p.batch * self.p.m * self.p.n)
            ask_early(e, streams, offset, height, self.p.n, width * self.num.lanes)

    def _columns(self, e: Emitter, width: int, panel: ll.Value, column: ll.Value, start: ll.Value,
                 last: int) -> Columns:
        lanes = self.num.lanes
        offsets = [v * lanes for v in range(width)]
        if self.by.pack_b:
            first = e.b.mul(start, i64(width * lanes)) if self.kept else i64(0)
            base = e.at(self._slot(e, panel), first, self.num.element)
            return Columns(base, offsets, width * lanes, lanes, lanes * self.num.bytes)
        base = e.at(self.b, e.b.add(e.b.mul(start, i64(self.p.n)), column), self.num.element)
        return Columns(base, offsets, self.p.n, last, self.num.bytes)

    def _finish(self, e: Emitter, tile: Tile, offset: ll.Value, column: ll.Value, last: int,
                again: ll.Value | None) -> None:
        if again is None and not self.by.partial:
            self.finish(e, tile, offset, self.p.n, column, last)
            return
        target = e.at(e.temp(int(self.kept)) if self.by.partial else e.result(0), offset, self.num.element)
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
                address = e.at(target, r * self.p.n + v * self.num.lanes, self.num.element)
                if add:
                    value = self.num.add(e, load_lanes(e, address, self.num, lanes), value)
                store_lanes(e, value, address, self.num, lanes)


def _split(e: Emitter, index: ll.Value, parts: int) -> tuple[ll.Value, ll.Value]:
    """Quotient and remainder of an index by a constant."""
    if parts == 1:
        return index, i64(0)
    return e.b.udiv(index, i64(parts)), e.b.urem(index, i64(parts))


def combine_phase(num: Numeric, rows: int, columns: int, copies: int, finish: Finish, temp: int = 0) -> Phase:
    """Adds ``copies`` partial results of ``rows`` by ``columns`` elements in a temporary, in order; of none, zeros."""
    size = rows * columns
    across = -(-columns // num.lanes)
    chunks = max(1, min(MOST_CHUNKS, size * (copies + 1) * num.bytes // (256 << 10)))

    def emit(e: Emitter) -> None:
        first, end = range_of_part(e, e.chunk, rows * across, chunks)
        if rows == 1:
            row(e, i64(0), first, end)
            return
        start, stop = e.b.udiv(first, i64(across)), e.b.udiv(e.b.add(end, i64(across - 1)), i64(across))
        with e.loop(start, stop, name="row") as r:
            begin = e.b.mul(r, i64(across))
            row(e, r, larger(e, i64(0), e.b.sub(first, begin)), smaller(e, i64(across), e.b.sub(end, begin)))

    def row(e: Emitter, r: ll.Value, first: ll.Value, end: ll.Value) -> None:
        whole = columns // num.lanes
        with e.loop(first, smaller(e, end, i64(whole)), name="sum") as index:
            add_up(e, r, e.b.mul(index, i64(num.lanes)), num.lanes)
        if columns % num.lanes:
            with e.b.if_then(e.b.icmp_signed("==", end, i64(across))):
                add_up(e, r, i64(whole * num.lanes), columns % num.lanes)

    def add_up(e: Emitter, r: ll.Value, column: ll.Value, lanes: int) -> None:
        at = e.b.add(e.b.mul(r, i64(columns)), column)
        total: ll.Value = num.zero
        if copies:
            base = e.at(e.temp(temp), at, num.element)
            with e.loop_carried(1, copies, 1, [load_lanes(e, base, num, lanes)], "copy") as (copy, now, after):
                address = e.at(base, e.b.mul(copy, i64(size)), num.element)
                after[0] = num.add(e, now[0], load_lanes(e, address, num, lanes))
            total = after[0]
        finish(e, [[total]], at, 0, column, lanes)

    return Phase(chunks, emit)


def zero_kernel(c: Contraction, isa: Isa) -> Kernel:
    """A contraction over nothing: what its epilogue makes of zeros; writes nothing where the result is empty."""
    shape = c.shapes[-1]
    phase = combine_phase(numeric(c.dtype, isa), prod(shape[:-1]), shape[-1], 0, c.finish(isa))
    if prod(shape) == 0:
        phase = Phase(1, lambda e: None)
    return Kernel(c.node, (phase,), c.key(isa), label=f"{c.root.op.name} of nothing")


def lower_matmul(node: Node, isa: Isa) -> Kernel:
    """The kernel of a matmul node, or of a fusion around one.

    Raises:
        Unsupported: the fusion's epilogue cannot be computed on tiles.
    """
    c = contraction_of(node)
    if c.empty:
        return zero_kernel(c, isa)
    return lower_product(c, product_of(c.root), isa, (0, 1), f"matmul{c.label}")


def lower_product(c: Contraction, p: Product, isa: Isa, order: tuple[int, int], label: str) -> Kernel:
    """The kernel of a product whose A and B are operands ``order`` of the contraction."""
    if p.n == 1 and p.m > 1:
        p, order = p.as_row(), (order[1], order[0])
    paired = pairs(c.dtype, isa)
    if paired is not None and pays(p.batch * p.m * p.n * p.k, p.k, p.layouts, stored_type(c.dtype), paired):
        return _paired_product(c, p, paired, isa, order, f"{label} (bfloat16 pairs)")
    num, stored, half = numeric(c.dtype, isa), stored_type(c.dtype), is_half(c.dtype)

    def operands(e: Emitter) -> tuple[ll.Value, ll.Value]:
        return c.operand(e, order[0]), c.operand(e, order[1])

    if library.pays(p, c.dtype, isa):
        return _by_library(c, p, num, operands, c.finish(isa), f"{c.key(isa)} library", label)
    if _is_dot(p, num) and not half:
        return Kernel(c.node, (dot_phase(p, num, operands, c.finish(isa)),), c.key(isa), label=label)
    if few_rows(p, c.dtype.bytes):
        rows = FewRows(p, num, stored, operands)
        phases = (rows.phase, combine_phase(num, p.m, p.n, rows.copies, c.finish(isa)))
        return Kernel(c.node, phases, c.key(isa), (rows.sums_bytes,), label=label)
    by = block(p, num, isa, half, half or c.body is not None)
    kept = _kept_operand(c, p, by, order)
    kernel = _gemm_kernel(c, p, by, num, stored, operands, isa, label, kept is not None)
    return kernel if kept is None else replace(kernel, kept=(kept, 1))


def _kept_operand(c: Contraction, p: Product, by: Blocking, order: tuple[int, int]) -> int | None:
    """The node's operand that is B, where that is to be packed by itself since it stays the same."""
    marked = isinstance(c.root.op, Matmul) and c.root.op.kept and order == (0, 1)
    return c.given(1) if marked and by.pack_b and not by.whole_rows and p.batch == 1 else None


def _is_dot(p: Product, num: Numeric) -> bool:
    few = p.m <= 2 or (p.m <= _MOST_DOTS and p.batch == 1 and p.k * p.n * num.bytes >= LARGE_BYTES)
    return few and p.transpose_b and (p.m == 1 or not p.transpose_a)


def _gemm_kernel(c: Contraction, p: Product, by: Blocking, num: Numeric, stored: ll.Type, operands: Addresses,
                 isa: Isa, label: str, kept: bool = False) -> Kernel:
    finish = c.finish(isa)
    gemm = Gemm(p, by, num, stored, operands, finish, c.streams, kept)
    phases = [*([gemm.packing] if kept else []), Phase(by.chunks, gemm.emit)]
    if by.partial:
        phases.append(combine_phase(num, p.batch * p.m, p.n, by.parts[3], finish, int(kept)))
    return Kernel(c.node, tuple(phases), c.key(isa), gemm.temps, gemm.scratch, label)


def _paired_product(c: Contraction, p: Product, num: Pairs, isa: Isa, order: tuple[int, int], label: str) -> Kernel:
    """The product of operands in bfloat16 pairs, half as deep."""
    half = replace(p, k=halved(p.k))
    by = block(half, num, isa, False, is_half(c.dtype) or c.body is not None)
    given = [(layout, partial(c.operand, index=index)) for layout, index in zip(p.layouts, order, strict=True)]
    dot = half.m <= 2 and _is_dot(half, num)  # for more rows it was never timed
    paired = PairedOperands(num, stored_type(c.dtype), given, int(by.partial and not dot))

    def operands(e: Emitter) -> tuple[ll.Value, ll.Value]:
        a, b = paired.pointers
        return a(e), b(e)

    if dot:
        kernel = Kernel(c.node, (dot_phase(half, num, operands, c.finish(isa)),), c.key(isa), label=label)
    else:
        kernel = _gemm_kernel(c, half, by, num, num.element, operands, isa, label)
    return replace(kernel, phases=(*paired.phases, *kernel.phases), temps=(*kernel.temps, *paired.temps))


def _by_library(c: Contraction, p: Product, num: Numeric, operands: Addresses, finish: Finish, key: str,
                label: str) -> Kernel:
    """One chunk calls; what rides on the result is a pass of its own over it."""
    fused = c.body is not None

    def emit(e: Emitter) -> None:
        library.emit_call(e, p, c.dtype, *operands(e), e.temp(0) if fused else e.result(0))

    first, rows, label = Phase(1, emit), p.batch * p.m, f"library {label}"
    if not fused:
        return Kernel(c.node, (first,), key, label=label)
    phases = (first, combine_phase(num, rows, p.n, 1, finish))
    return Kernel(c.node, phases, key, (rows * p.n * num.bytes,), label=label)


LOWERINGS = {"matmul": lower_matmul}
