"""Kernels whose outputs have one element for every point of the space."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import gcd, prod

from llvmlite import ir as ll

from ....ir import DTYPES, DType
from ... import halves, scalar
from ...emitter import I8, Emitter, i64
from ...index import Index, Range
from ...isa import Isa
from ..gemm import LINE, PAST_CACHES
from .expr import Apply, Expr, Load, topological
from .nest import (
    COSTLY,
    MOST_CHUNKS,
    Flat,
    Loop,
    all_indices,
    chunks_for,
    flatten,
    merged_loops,
    sweep,
    vector_lanes,
    vector_spans,
)
from .turns import Turned, turned_loads
from .values import LoopValues, Piece, Place

Prepare = Callable[[LoopValues], None]
_LEAST_ROWS = 8
_MOST_VECTORS = 96  # vector values in the unrolled code of a row
_TABLE_BYTES = 32768  # scratch memory for rows computed once: in the first-level cache
_TILE = 1024  # elements; tiles of a cut inner loop are a multiple of this


@dataclass(frozen=True)
class Stored:
    """One output: result ``number`` of the kernel, of ``size`` elements in all, gets ``expr`` at ``index``."""

    number: int
    expr: Expr
    index: Index
    size: int

    def place(self, e: Emitter, inner: Loop, lanes: int) -> Place:
        """Where it is stored by registers of ``lanes`` along a loop."""
        return Place(e.result(self.number), self.index, self.expr.dtype, self._goes_past_caches(inner, lanes, e.isa))

    def _goes_past_caches(self, inner: Loop, lanes: int, isa: Isa) -> bool:
        """Whether it is large and every register a line; it may be a row of whole lines itself."""
        others = [step for axis, step in enumerate(self.index.coefs) if axis not in inner.axes]
        starts = (self.size, self.index.const, inner.first, *others)
        return (isa.name == "avx512" and lanes * self.expr.dtype.bytes == LINE and bool(inner.axes)
                and self.size * self.expr.dtype.bytes >= PAST_CACHES and self.index.coefs[inner.lead] == 1
                and all(start % lanes == 0 for start in starts))


@dataclass(frozen=True)
class MapNest:
    """A box of the space, the outputs over it, and the loops that run through it.

    Attributes:
        across: the loop that is blocked with the inner one because ``turned`` operands are
            contiguous along it.
        spans: (offset, lanes) of the vectors of a short inner loop that goes outside the others, so
            that what varies along it alone stays in registers.
        tables: what varies along a long inner loop alone, and the offset in scratch memory where
            it is put before the first row.
    """

    stored: tuple[Stored, ...]
    flat: Flat
    middle: tuple[Loop, ...]
    inner: Loop
    chunks: int
    lanes: int
    unroll: int
    across: Loop | None = None
    turned: tuple[Load, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()
    tables: tuple[tuple[Expr, int], ...] = ()

    @property
    def scratch(self) -> int:
        """Bytes of private memory that the tables take."""
        return max((at + self.inner.end * table_type(x).bytes for x, at in self.tables), default=0)


@dataclass(frozen=True)
class Maps:
    """The nests of one phase.

    Attributes:
        nests: in the order in which they are written out.
        together: chunks that each take their part of every nest; 0 where nests have chunks of their own, numbered one
            nest after another.
    """

    nests: tuple[MapNest, ...]
    together: int = 0

    @property
    def chunks(self) -> int:
        return self.together or max(1, sum(nest.chunks for nest in self.nests))

    @property
    def scratch(self) -> int:
        """Bytes of private memory, which one nest leaves to the next."""
        return max((nest.scratch for nest in self.nests), default=0)


def register_bytes(exprs: Sequence[Expr]) -> list[int]:
    """Sizes of the elements that vector code handles; half floats are f32 in registers."""
    return [4 if x.dtype.name in ("f16", "bf16") else x.dtype.bytes for x in exprs if x.axes]


def plan_map(stored: Sequence[Stored], order: Sequence[int], box: Sequence[Range], sizes: Sequence[int],
             isa: Isa, more_bytes: int = 0, chunks: int = 0) -> MapNest:
    """Choose loops, vector length and, where ``chunks`` is 0, chunks for one box; a point moves ``more_bytes`` besides
    what its expressions and outputs do."""
    exprs = topological(s.expr for s in stored)
    indices = [*all_indices(exprs), *(s.index for s in stored)]
    loops = merged_loops(order, box, sizes, indices) or [Loop((), 0, 1)]
    points = prod(loop.trips for loop in loops)
    wanted = chunks or chunks_for(points, exprs, more_bytes + sum(s.expr.dtype.bytes for s in stored))
    lanes = vector_lanes(isa.vector_bytes, register_bytes(exprs) or [s.expr.dtype.bytes for s in stored])
    lanes = min(lanes, 1 << (loops[-1].trips.bit_length() - 1)) if loops[-1].trips else 1
    number, turned = turned_loads(exprs, loops, lanes)
    if turned:
        across, rest = loops[number], [*loops[:number], *loops[number + 1:-1]]
        flat, middle = flatten(rest, across, wanted, lanes)
        flat = Flat((*flat.loops, *middle), flat.tiles, flat.tile)
        chunks = min(wanted, flat.trips)
        return MapNest(tuple(stored), flat, (), loops[-1], chunks, lanes, 1, across, tuple(turned))
    flat, middle = flatten(loops[:-1], loops[-1], wanted, _TILE)
    costly = any(isinstance(x, Apply) and x.op.name in COSTLY for x in exprs)
    unroll = 1 if costly or len(exprs) > 12 else 2  # costly ones keep the units busy as they are
    chunks = min(wanted, max(flat.trips, 1))
    spans = () if flat.tiles > 1 else _spans(exprs, loops, lanes, isa)
    tables = () if spans or flat.tiles > 1 else _tables(stored, exprs, loops, chunks)
    return MapNest(tuple(stored), flat, tuple(middle), loops[-1], chunks, lanes, unroll,
                   spans=spans, tables=tables)


def chunks_together(nests: Sequence[MapNest]) -> int:
    """Chunks that each take their part of every nest, where all of these go through the same rows, such as those of
    a concatenation along columns; 0 where they do not. Whoever computes with the result reads whole rows, and had
    better find in its own core's cache what it wrote."""
    rows = {next((loop for loop in nest.flat.loops if loop.trips > 1), None) for nest in nests}
    first, *others = rows
    wanted = sum(nest.chunks for nest in nests)
    if len(nests) == 1 or others or first is None or first.trips < min(wanted, _LEAST_ROWS):
        return 0
    return min(wanted, first.trips, MOST_CHUNKS)


def table_type(expr: Expr) -> DType:
    """How a table holds an expression: half floats as they are in registers."""
    return DTYPES["f32"] if halves.is_half(expr.dtype) else expr.dtype


def _tables(stored: Sequence[Stored], exprs: Sequence[Expr], loops: Sequence[Loop],
            chunks: int) -> tuple[tuple[Expr, int], ...]:
    """What every row would compute again: the largest expressions of the inner axis alone."""
    inner = loops[-1]
    if prod(loop.trips for loop in loops[:-1]) < _LEAST_ROWS * chunks:
        return ()
    axes = frozenset(inner.axes)
    own = {x for x in exprs if isinstance(x, Apply) and x.axes and x.axes <= axes}
    used = [a for x in exprs if not x.axes <= axes for a in x.args] + [s.expr for s in stored]
    found, at = [], 0
    for expr in dict.fromkeys(used):
        size = -(-inner.end * table_type(expr).bytes // 64) * 64
        if expr in own and at + size <= _TABLE_BYTES:
            found.append((expr, at))
            at += size
    return tuple(found)


def _spans(exprs: Sequence[Expr], loops: Sequence[Loop], lanes: int, isa: Isa) -> tuple[tuple[int, int], ...]:
    """The vectors of a short inner loop, if what they share between rows fits in half the registers."""
    inner = frozenset(loops[-1].axes)
    own = sum(bool(x.axes) and x.axes <= inner for x in exprs)
    spans = vector_spans(loops[-1].trips, lanes)
    vectors = len(spans) * sum(bool(x.axes & inner) for x in exprs)
    rows = prod(loop.trips for loop in loops[:-1])
    if not own or rows < _LEAST_ROWS or own * len(spans) > isa.registers // 2 or vectors > _MOST_VECTORS:
        return ()
    return tuple(spans)


def emit_maps(e: Emitter, maps: Maps, prepare: Prepare | None = None) -> None:
    """Emit the nests of a phase; ``prepare`` is shown their values."""
    if maps.together or len(maps.nests) == 1:
        for nest in maps.nests:
            emit_map(e, nest, prepare)
        return
    chunk, first = e.chunk, 0
    for nest in maps.nests:
        mine = e.b.and_(e.b.icmp_signed(">=", chunk, i64(first)),
                        e.b.icmp_signed("<", chunk, i64(first + nest.chunks)))
        with e.b.if_then(mine):
            e.chunk = e.b.sub(chunk, i64(first))
            emit_map(e, nest, prepare)
        first += nest.chunks
    e.chunk = chunk


def emit_map(e: Emitter, nest: MapNest, prepare: Prepare | None = None) -> None:
    """Emit the chunk ``e.chunk`` of a nest."""
    tables = _fill_tables(e, nest)
    values = map_values(e, nest, tables)
    if prepare:
        prepare(values)
    if nest.spans:
        _emit_rows(e, values, nest)
        return
    with values.enter(), counted(e, values, nest.flat, nest.chunks) as tile:
        with_loops(e, values, nest.middle, lambda: inner_loop(e, values, nest, tile))


def _emit_rows(e: Emitter, values: LoopValues, nest: MapNest) -> None:
    """The short inner loop outside, unrolled; the others inside."""
    pieces = [Piece(n, lanes, i64(nest.inner.first + offset)) for n, (offset, lanes) in enumerate(nest.spans)]

    def row() -> None:
        for piece in pieces:
            values.piece = piece
            _store_all(values, nest, piece.lanes)

    with values.enter(), values.enter(pieces), counted(e, values, nest.flat, nest.chunks):
        with_loops(e, values, nest.middle, row)


def _store_all(values: LoopValues, nest: MapNest, lanes: int) -> None:
    """All outputs at the current piece: all loads come before the stores."""
    values.settle(lanes)
    computed = [values.stored(s.expr, lanes) for s in nest.stored]
    for place, value in zip(values.places, computed, strict=True):
        values.store(place, value)


def _fill_tables(e: Emitter, nest: MapNest) -> dict[Expr, Place]:
    """Compute the tables; where each is."""
    if not nest.tables:
        return {}
    rank = len(nest.stored[0].index.coefs)
    position = Index(0, tuple(int(axis == nest.inner.lead) for axis in range(rank)))
    places = {x: Place(e.at(e.scratch, at, I8), position, table_type(x)) for x, at in nest.tables}
    values = LoopValues(e, places, places.values(), [[nest.inner.axes]], nest.inner.axes, nest.lanes)

    def step(at: ll.Value, lanes: int, number: int) -> None:
        values.piece = Piece(number, lanes, at)
        with values.enter([values.piece]):
            for expr, place in places.items():
                values.store(place, scalar.to_memory(e, values.value(expr, lanes), place.dtype))

    with values.enter():
        sweep(e, nest.inner.first, nest.inner.end, 1, nest.lanes, 1, step)
    return places


def map_values(e: Emitter, nest: MapNest, tables: dict[Expr, Place]) -> LoopValues:
    outer = [loop.axes for loop in nest.flat.loops]
    middle = (nest.across,) if nest.across else nest.middle
    levels = [outer, *([loop.axes] for loop in middle)]
    levels.insert(0 if nest.spans else len(levels), [nest.inner.axes])
    places = [s.place(e, nest.inner, nest.lanes) for s in nest.stored]
    return LoopValues(e, [s.expr for s in nest.stored], places, levels, nest.inner.axes, nest.lanes, tables)


class counted:
    """The loop over a flat counter's share of this chunk (over all of it for 0 chunks): sets loop
    variables, enters the level, yields the tile."""

    def __init__(self, e: Emitter, values: LoopValues, flat: Flat, chunks: int) -> None:
        self.e, self.values, self.flat, self.chunks = e, values, flat, chunks
        self._stack = ExitStack()

    def __enter__(self) -> ll.Value:
        e = self.e
        tile: ll.Value = i64(0)
        if self.flat.trips > 1:
            start, stop = e.range_of_chunk(self.flat.trips, self.chunks) if self.chunks else \
                (i64(0), i64(self.flat.trips))
            counter = self._stack.enter_context(e.loop(start, stop, 1, "f"))
            ivs, tile = self.flat.digits(e, counter)
        else:
            ivs = [i64(loop.first) for loop in self.flat.loops]
        self.values.iv.update({loop.lead: iv for loop, iv in zip(self.flat.loops, ivs, strict=True)})
        self._stack.enter_context(self.values.enter())
        return tile

    def __exit__(self, *exc: object) -> None:
        self._stack.__exit__(*exc)  # type: ignore[arg-type]


def with_loops(e: Emitter, values: LoopValues, loops: Sequence[Loop], body: Callable[[], None]) -> None:
    """``body`` inside ordinary loops, a level each."""
    if not loops:
        body()
        return
    with e.loop(loops[0].first, loops[0].end, 1, "m") as iv:
        values.iv[loops[0].lead] = iv
        with values.enter():
            with_loops(e, values, loops[1:], body)


def tile_range(e: Emitter, flat: Flat, inner: Loop, tile: ll.Value) -> tuple[ll.Value | int, ll.Value | int]:
    """The part of the inner loop that a tile covers."""
    if flat.tiles == 1:
        return inner.first, inner.end
    start = e.b.add(e.b.mul(tile, i64(flat.tile)), i64(inner.first))
    stop = e.b.add(start, i64(flat.tile))
    return start, e.b.select(e.b.icmp_signed("<", stop, i64(inner.end)), stop, i64(inner.end))


def inner_loop(e: Emitter, values: LoopValues, nest: MapNest, tile: ll.Value) -> None:
    """The vector loop of a nest."""

    def step(at: ll.Value, lanes: int, number: int) -> None:
        piece = Piece(number, lanes, at)
        values.piece = piece
        with values.enter([piece]):
            _store_all(values, nest, lanes)

    if nest.across:
        rows = tile_range(e, nest.flat, nest.across, tile)
        Turned(e, values, nest.across, nest.inner, nest.turned, nest.lanes).emit(*rows, step)
        return
    start, stop = tile_range(e, nest.flat, nest.inner, tile)
    sweep(e, start, stop, gcd(nest.inner.trips, _TILE), nest.lanes, nest.unroll, step)
