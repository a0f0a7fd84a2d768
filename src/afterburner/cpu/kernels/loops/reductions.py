"""Kernels that combine elements along axes, possibly with map outputs over the same space.

Where the innermost axis is reduced, its vectors go to several accumulators (*rows*); where it is
kept, a block of columns is held in registers while the rows go by (*columns*), or a band of them where
rows are longer than a block. If the kept axes do not give enough work to share, the outermost reduced loop
is cut into chunks, whose states are stored and combined in order by a second phase.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import prod

from llvmlite import ir as ll

from ...emitter import F32, F64, I8, Emitter, i64, like
from ...index import Index
from ...isa import Isa
from ...scalar import memory_type
from ..gemm import LINE
from .expr import topological
from .maps import Stored, counted, register_bytes, tile_range
from .nest import (
    Flat,
    Loop,
    all_indices,
    chunks_for,
    code_size,
    flatten,
    merged_loops,
    tail_pieces,
    vector_lanes,
    vector_spans,
)
from .reducers import Reducer, Slots, State
from .values import LoopValues, Piece, Place

_RUN = 256  # turns after which a float accumulator is emptied into the next, so that errors stay small
_LEAST_ROWS = 32
_HEAVY = 24  # code size; a larger body is copied into few vectors and rows
_LEAST_BLOCK_BYTES = 128  # of each row in a block of columns: two cache lines
_BAND_BYTES = 8 << 10  # of an operand in a band: the next one is asked for meanwhile
_LEAST_BAND, _MOST_BAND = 4, 64  # rows
_LEAST_CHUNK_BYTES = 128 << 10  # of an operand in a chunk that is worth bands


@dataclass(frozen=True)
class Reduction:
    """What a reduction kernel computes.

    Attributes:
        sizes: extents of the space.
        reduced: its reduced axes.
        reducers: the reductions.
        maps: outputs with an element a point.
        results: outputs computed from the reductions, over the kept axes.
        position: row-major index over the kept axes.
    """

    sizes: tuple[int, ...]
    reduced: frozenset[int]
    reducers: tuple[Reducer, ...]
    maps: tuple[Stored, ...]
    results: tuple[Stored, ...]
    position: Index

    @property
    def kept_points(self) -> int:
        return prod(size for axis, size in enumerate(self.sizes) if axis not in self.reduced)


@dataclass(frozen=True)
class ReduceNest:
    """The loops of a reduction.

    Attributes:
        columns: whether the innermost axis is kept.
        flat: the kept loops (without the vector one for columns) as one counter.
        inner_kept: the vector loop of columns.
        reduced: the reduced loops, outermost first; the last is the vector loop of rows.
        chunks: of the first phase.
        split: whether chunks cut the outermost reduced loop and leave partial states.
        lanes: of a full vector.
        block: vectors of a column block, or accumulators of a row.
        rows: most rows that a turn takes where a column block is narrow.
        band: rows that all blocks of columns take before the next rows come, so that memory is read in order; 0 where
            a block takes all rows.
    """

    columns: bool
    flat: Flat
    inner_kept: Loop
    reduced: tuple[Loop, ...]
    chunks: int
    split: bool
    lanes: int
    block: int
    rows: int = 1
    band: int = 0


def plan_reduction(work: Reduction, isa: Isa) -> ReduceNest:
    """Choose loops, chunks and vector length."""
    roots = [*(x for r in work.reducers for x in r.inputs), *(s.expr for s in work.maps)]
    exprs = topological(roots)
    box = [(0, size) for size in work.sizes]
    indices = [*all_indices(exprs), *(s.index for s in work.maps), work.position,
               *all_indices(topological(s.expr for s in work.results))]
    kept_axes = [a for a in range(len(work.sizes)) if a not in work.reduced]
    kept = merged_loops(kept_axes, box, work.sizes, indices)
    reduced = merged_loops(sorted(work.reduced), box, work.sizes, indices) or [Loop((), 0, 1)]
    wanted = chunks_for(prod(work.sizes), exprs, sum(s.expr.dtype.bytes for s in work.maps))
    lanes = vector_lanes(isa.vector_bytes, register_bytes(exprs) or [4])
    states = sum(len(r.stored) for r in work.reducers)
    most = max(1, (8 if isa.registers < 32 else 16) // states)
    columns = bool(work.sizes) and len(work.sizes) - 1 not in work.reduced
    heavy = code_size(exprs) > _HEAVY
    if columns:
        least = max(1, _LEAST_BLOCK_BYTES // isa.vector_bytes)
        block = max(least, min(most, 4 if heavy else 8))
        nest = _plan_columns(kept, reduced, wanted, lanes, block, 1 if heavy else 4)
        return replace(nest, band=_band_of(nest, work))
    return _plan_rows(kept, reduced, wanted, lanes, 2 if heavy else min(most, 4))


def _plan_columns(kept: list[Loop], reduced: list[Loop], wanted: int, lanes: int, block: int,
                  rows: int) -> ReduceNest:
    outer, inner = kept[:-1], kept[-1]
    lanes = min(lanes, 1 << (inner.trips.bit_length() - 1))
    units = prod(loop.trips for loop in outer) * -(-inner.trips // (lanes * block))
    pieces = min(wanted, reduced[0].trips, prod(loop.trips for loop in reduced) // _LEAST_ROWS)
    if pieces > 1 and 2 * pieces >= min(wanted, units):  # whole rows are read in order
        return ReduceNest(True, Flat(tuple(outer)), inner, tuple(reduced), pieces, True, lanes, block, rows)
    flat, middle = flatten(outer, inner, wanted, lanes * block)
    flat = Flat((*flat.loops, *middle), flat.tiles, flat.tile)
    chunks = min(wanted, flat.trips)
    return ReduceNest(True, flat, inner, tuple(reduced), chunks, False, lanes, block, rows)


def _band_of(nest: ReduceNest, work: Reduction) -> int:
    """Rows of a band; 0 where a block of columns is a whole row, a chunk's rows lie in the caches together, or
    something else than sums is made of them."""
    rows_only = nest.split and nest.flat.trips == 1 and len(nest.reduced) == 1
    sums_only = all(r.inexact for r in work.reducers)
    columns = nest.inner_kept.trips
    if not rows_only or not sums_only or columns <= nest.lanes * nest.block:
        return 0
    row = columns * work.reducers[0].stored[0].bytes
    if nest.reduced[0].trips * row < nest.chunks * _LEAST_CHUNK_BYTES:
        return 0
    return min(_MOST_BAND, max(_LEAST_BAND, _BAND_BYTES // row))


def _plan_rows(kept: list[Loop], reduced: list[Loop], wanted: int, lanes: int, block: int) -> ReduceNest:
    inner = reduced[-1]
    lanes = min(lanes, 1 << (inner.trips.bit_length() - 1))
    flat = Flat(tuple(kept))
    nothing = Loop((), 0, 1)
    outermost = reduced[0]
    if len(reduced) == 1:
        pieces = min(wanted, -(-outermost.trips // (lanes * block * _LEAST_ROWS)))
    else:
        pieces = min(wanted, outermost.trips)
    if flat.trips < wanted and pieces > flat.trips:
        return ReduceNest(False, flat, nothing, tuple(reduced), pieces, True, lanes, block)
    return ReduceNest(False, flat, nothing, tuple(reduced), min(wanted, flat.trips), False, lanes, block)


class ReduceEmitter:
    """Emits the first (or only) phase of a reduction."""

    def __init__(self, e: Emitter, work: Reduction, nest: ReduceNest) -> None:
        self.e, self.work, self.nest = e, work, nest
        self.inputs = [r.inputs for r in work.reducers]
        roots = [*(x for r in work.reducers for x in r.inputs), *(s.expr for s in work.maps)]
        inner = nest.inner_kept if nest.columns else nest.reduced[-1]
        self.places = [s.place(e, inner, nest.lanes) for s in work.maps]
        kept: list[list[tuple[int, ...]]] = [[loop.axes for loop in nest.flat.loops]]
        vector = nest.inner_kept.axes if nest.columns else nest.reduced[-1].axes
        if nest.columns:
            kept.append([nest.inner_kept.axes])
        levels = [*kept, *([loop.axes] for loop in nest.reduced)]
        self.values = LoopValues(e, roots, self.places, levels, vector, nest.lanes)
        self.partials: list[Place] = []
        self.waiting: list[Place] = []
        results: Sequence[Stored] = () if nest.split else work.results
        self.targets = [Place(e.result(s.number), s.index, s.expr.dtype) for s in results]
        if nest.split:
            self.partials = self._partial_places()
        if nest.band:
            self.waiting = self._waiting_places()
        kept_vector = nest.inner_kept.axes if nest.columns else ()
        self.after = LoopValues(e, [s.expr for s in results], [*self.targets, *self.partials, *self.waiting],
                                kept, kept_vector, nest.lanes)

    def _partial_places(self) -> list[Place]:
        places, temp = [], 0
        offset = self.e.b.mul(self.e.chunk, i64(self.work.kept_points))
        for reducer in self.work.reducers:
            for dtype in reducer.stored:
                base = self.e.at(self.e.temp(temp), offset, memory_type(dtype))
                places.append(Place(base, self.work.position, dtype))
                temp += 1
        return places

    def _waiting_places(self) -> list[Place]:
        """Where sums wait between bands: in private memory."""
        dtypes = [d for r in self.work.reducers for d in r.stored]
        starts, _ = _waiting(self.work)
        return [Place(self.e.at(self.e.scratch, at, I8), self.work.position, dtype)
                for at, dtype in zip(starts, dtypes, strict=True)]

    def emit(self) -> None:
        """The whole phase."""
        nest = self.nest
        with self.values.enter(), self.after.enter():
            chunks = 0 if nest.split else nest.chunks
            with counted(self.e, self.values, nest.flat, chunks) as tile:
                self.after.iv.update(self.values.iv)
                with self.after.enter():
                    if nest.columns:
                        self._bands(tile) if nest.band else self._columns(tile, self._all_rows)
                    else:
                        self._row()

    # rows: the innermost axis is reduced

    def _row(self) -> None:
        inner = self.nest.reduced[-1]
        cut = self.nest.split and len(self.nest.reduced) == 1
        slots = Slots(self.e, self.work.reducers, self._row_slots(inner.trips, cut))
        states = self._reduce(0, slots, slots.identity(), lambda s: self._sweep_row(slots, s, cut))
        self._finish(slots.total(states), None)

    def _row_slots(self, length: int, cut: bool) -> list[int]:
        lanes, block = self.nest.lanes, self.nest.block
        full = length // lanes
        slots = [lanes] * max(1, min(block, full))
        rest = length % lanes
        if not rest:
            return slots
        pieces = tail_pieces(rest, lanes)
        if cut or _scalar_tail(length, lanes):
            return [*slots, 1]
        return [*slots, *(width for _, width in pieces)]

    def _reduce(self, depth: int, slots: Slots, states: State, innermost: Callable[[State], State]) -> State:
        """The reduced loops from ``depth`` on, the last left to ``innermost``."""
        loops = self.nest.reduced
        if depth == len(loops) - 1:
            return innermost(states)
        start, stop = self._reduced_range(depth, 1)

        def turn(iv: ll.Value, current: State) -> State:
            self.values.iv[loops[depth].lead] = iv
            with self.values.enter():
                fresh = self._reduce(depth + 1, slots, slots.identity(), innermost)
            return slots.merge(current, fresh)

        return self._carried(slots, start, stop, 1, states, turn)

    def _reduced_range(self, depth: int, multiple: int) -> tuple[ll.Value | int, ll.Value | int]:
        loop = self.nest.reduced[depth]
        if not self.nest.split or depth:
            return loop.first, loop.end
        per = -(-loop.trips // multiple)
        start, stop = self.e.range_of_chunk(per, self.nest.chunks)
        if multiple == 1:
            return start, stop
        start, stop = (self.e.b.mul(v, i64(multiple)) for v in (start, stop))
        inside = self.e.b.icmp_signed("<", stop, i64(loop.end))
        return start, self.e.b.select(inside, stop, i64(loop.end))

    def _carried(self, slots: Slots, start: ll.Value | int, stop: ll.Value | int, step: int, states: State,
                 turn: Callable[[ll.Value, State], State]) -> State:
        """A loop over ``states``; runs of inexact sums are emptied into a second accumulator."""
        e = self.e
        known = isinstance(start, int) and isinstance(stop, int)
        short = known and stop - start <= 2 * _RUN * step  # type: ignore[operator]
        if short or not any(r.inexact for r in slots.reducers):
            with e.loop_carried(start, stop, step, states, "r") as (iv, current, following):
                following[:] = turn(iv, current)
            return following
        with e.loop_carried(start, stop, step * _RUN, states, "run") as (first, current, following):
            stop_ = i64(stop) if isinstance(stop, int) else stop
            last = e.b.add(first, i64(step * _RUN))
            last = e.b.select(e.b.icmp_signed("<", last, stop_), last, stop_)
            with e.loop_carried(first, last, step, slots.identity(), "r") as (iv, inner, after):
                after[:] = turn(iv, inner)
            following[:] = slots.merge(current, after)
        return following

    def _sweep_row(self, slots: Slots, states: State, cut: bool) -> State:
        """The innermost reduced loop, its vectors dealt to the slots in turn."""
        e, lanes, inner = self.e, self.nest.lanes, self.nest.reduced[-1]
        vectors = [n for n, width in enumerate(slots.lanes) if width == lanes and n < self.nest.block]
        block = lanes * len(vectors)

        def turn(at: ll.Value, current: State) -> State:
            for n in vectors:
                current = self._row_step(slots, current, n, e.b.add(at, i64(n * lanes)) if n else at)
            return current

        if not cut:
            return self._sweep_known(slots, states, vectors, turn, inner)
        start, stop = self._reduced_range(len(self.nest.reduced) - 1, block)
        assert isinstance(start, ll.Value) and isinstance(stop, ll.Value)
        length = e.b.sub(stop, start)
        whole = e.b.add(start, e.b.sub(length, e.b.urem(length, i64(block))))
        states = self._carried(slots, start, whole, block, states, turn)
        if inner.trips % block == 0:
            return states
        full = e.b.add(start, e.b.and_(length, i64(-lanes)))
        with e.loop_carried(whole, full, lanes, states, "v") as (at, current, following):
            following[:] = self._row_step(slots, current, 0, at)
        if inner.trips % lanes == 0:
            return following
        return self._scalar_run(slots, following, full, stop)

    def _scalar_run(self, slots: Slots, states: State, start: ll.Value | int, stop: ll.Value | int) -> State:
        last = len(slots.lanes) - 1
        with self.e.loop_carried(start, stop, 1, states, "s") as (at, current, following):
            following[:] = self._row_step(slots, current, last, at)
        return following

    def _sweep_known(self, slots: Slots, states: State, vectors: list[int],
                     turn: Callable[[ll.Value, State], State], inner: Loop) -> State:
        lanes = self.nest.lanes
        block = lanes * len(vectors)
        at = inner.first + inner.trips // block * block
        if at - inner.first == block:
            states = turn(i64(inner.first), states)
        elif at > inner.first:
            states = self._carried(slots, inner.first, at, block, states, turn)
        slot = 0
        while inner.end - at >= lanes:
            states = self._row_step(slots, states, slot, i64(at))
            at, slot = at + lanes, slot + 1
        if _scalar_tail(inner.trips, lanes):
            return self._scalar_run(slots, states, at, inner.end)
        for n, (offset, _) in enumerate(tail_pieces(inner.end - at, lanes)):
            states = self._row_step(slots, states, len(vectors) + n, i64(at + offset))
        return states

    def _row_step(self, slots: Slots, states: State, slot: int, at: ll.Value) -> State:
        piece = Piece(slot, slots.lanes[slot], at)
        self.values.piece = piece
        with self.values.enter([piece]):
            return self._point(slots, states, slot, piece.lanes)

    def _point(self, slots: Slots, states: State, slot: int, lanes: int) -> State:
        """One element in every lane of the current piece: feed the reductions, store the maps."""
        self.values.settle(lanes)
        values = [[self.values.value(x, lanes) for x in inputs] for inputs in self.inputs]
        computed = [self.values.stored(s.expr, lanes) for s in self.work.maps]
        for place, value in zip(self.places, computed, strict=True):
            self.values.store(place, value)
        return slots.step(states, slot, values)

    # columns: the innermost axis is kept

    def _columns(self, tile: ll.Value, block: Callable[[list[Piece]], None]) -> None:
        """Loops over blocks of columns."""
        nest, e = self.nest, self.e
        width = nest.lanes * nest.block
        start, stop = tile_range(e, nest.flat, nest.inner_kept, tile)
        full = nest.inner_kept.trips // width
        rest = nest.inner_kept.trips % width
        whole = [(n * nest.lanes, nest.lanes) for n in range(nest.block)]
        if full == 1 and nest.flat.tiles == 1:
            block(self._pieces(i64(0), whole))
        elif full:
            last = i64(full * width)
            end = last if isinstance(stop, int) else e.b.select(e.b.icmp_signed("<", stop, last), stop, last)
            with e.loop(start, end, width, "c") as at:
                block(self._pieces(at, whole))
        if not rest:
            return
        pieces = self._pieces(i64(full * width), vector_spans(rest, nest.lanes))
        if isinstance(stop, int):
            block(pieces)
            return
        with e.b.if_then(e.b.icmp_signed("==", stop, i64(nest.inner_kept.end))):
            block(pieces)

    def _pieces(self, start: ll.Value, spans: list[tuple[int, int]]) -> list[Piece]:
        """The pieces of a block of columns: ``spans`` are (offset, lanes) within it."""
        return [Piece(n, lanes, self.e.b.add(start, i64(offset)) if offset else start)
                for n, (offset, lanes) in enumerate(spans)]

    def _all_rows(self, pieces: list[Piece]) -> None:
        """All rows of a block of columns."""
        rows = max(1, min(self.nest.rows, self.nest.block // len(pieces)))
        slots = Slots(self.e, self.work.reducers, [p.lanes for p in pieces] * rows)
        with self.values.enter(pieces):
            states = self._reduce(0, slots, slots.identity(), lambda s: self._rows(slots, s, pieces, rows))
        with self.after.enter(pieces):
            for piece in pieces:
                mine = range(piece.name, len(slots.lanes), len(pieces))
                self._finish(slots.joined(states, list(mine)), piece)

    def _rows(self, slots: Slots, states: State, pieces: list[Piece], unroll: int) -> State:
        """The innermost reduced loop, ``unroll`` rows a turn."""
        start, stop = self._reduced_range(len(self.nest.reduced) - 1, 1)
        e = self.e

        def turn(at: ll.Value, current: State) -> State:
            for n in range(unroll):
                current = self._one_row(slots, current, pieces, e.b.add(at, i64(n)) if n else at, n)
            return current

        if unroll == 1:
            return self._carried(slots, start, stop, 1, states, turn)
        if isinstance(start, int) and isinstance(stop, int):
            whole: ll.Value | int = start + (stop - start) // unroll * unroll
        else:
            length = e.b.sub(stop, start)
            whole = e.b.add(start, e.b.sub(length, e.b.urem(length, i64(unroll))))
        states = self._carried(slots, start, whole, unroll, states, turn)
        if isinstance(whole, int) and whole == stop:
            return states
        with e.loop_carried(whole, stop, 1, states, "rest") as (at, current, following):
            following[:] = self._one_row(slots, current, pieces, at)
        return following

    def _one_row(self, slots: Slots, states: State, pieces: list[Piece], at: ll.Value, n: int = 0) -> State:
        """Row ``at`` of a block of columns, into the ``n``-th set of its slots."""
        lead = self.nest.reduced[-1].axes
        if lead:
            self.values.iv[lead[-1]] = at
        with self.values.enter():
            for piece in pieces:
                self.values.piece = piece
                states = self._point(slots, states, n * len(pieces) + piece.name, piece.lanes)
        return states

    # bands: rows longer than a block

    def _bands(self, tile: ll.Value) -> None:
        """This chunk's rows, a band at a time; after a run of them the sums are emptied into the chunk's."""
        e, band = self.e, self.nest.band
        start, stop = (i64(x) if isinstance(x, int) else x for x in self._reduced_range(0, 1))
        self._columns(tile, lambda pieces: self._hold(self.partials, pieces, self._slots(pieces).identity()))
        with e.loop(start, stop, _RUN, "run") as first:
            last = e.smaller(e.b.add(first, i64(_RUN)), stop)
            self._columns(tile, lambda pieces: self._hold(self.waiting, pieces, self._slots(pieces).identity()))
            with e.loop(first, last, band, "band") as low:
                high = e.smaller(e.b.add(low, i64(band)), last)
                self._columns(tile, lambda pieces: self._band(pieces, low, high))
            self._columns(tile, self._empty)

    def _slots(self, pieces: list[Piece]) -> Slots:
        return Slots(self.e, self.work.reducers, [p.lanes for p in pieces])

    def _band(self, pieces: list[Piece], low: ll.Value, high: ll.Value) -> None:
        """Rows [low, high) of a block of columns."""
        slots, states = self._slots(pieces), self._held(self.waiting, pieces)
        with self.values.enter(pieces), self.e.loop_carried(low, high, 1, states, "r") as (at, current, following):
            self.values.iv[self.nest.reduced[0].lead] = at
            with self.values.enter():
                for piece in pieces:
                    self._ask(piece)
            following[:] = self._one_row(slots, current, pieces, at)
        self._hold(self.waiting, pieces, following)

    def _ask(self, piece: Piece) -> None:
        """Ask for what the next band reads here, once a cache line."""
        self.values.piece = piece
        for place in self.values.streams(self.nest.reduced[0].lead):
            if piece.name * piece.lanes * place.dtype.bytes % LINE == 0:
                ahead = self.nest.band * place.index.coefs[self.nest.reduced[0].lead]
                self.e.prefetch(self.e.at(self.values.pointer(place), ahead, memory_type(place.dtype)))

    def _empty(self, pieces: list[Piece]) -> None:
        """Add what waits to the chunk's sums."""
        sums = self._slots(pieces).merge(self._held(self.partials, pieces), self._held(self.waiting, pieces))
        self._hold(self.partials, pieces, sums)

    def _held(self, places: Sequence[Place], pieces: list[Piece]) -> State:
        """The states of a block of columns."""
        return [self.e.load(at, self.e.vector(memory_type(place.dtype), lanes), place.dtype.bytes)
                for place, lanes, at in self._addresses(places, pieces)]

    def _hold(self, places: Sequence[Place], pieces: list[Piece], states: State) -> None:
        """Store the states of a block of columns."""
        for value, (place, _, at) in zip(states, self._addresses(places, pieces), strict=True):
            self.e.store(value, at, place.dtype.bytes)

    def _addresses(self, places: Sequence[Place], pieces: list[Piece]) -> list[tuple[Place, int, ll.Value]]:
        found = []
        with self.after.enter(pieces):
            for self.after.piece in pieces:
                found += [(place, self.after.piece.lanes, self.after.pointer(place)) for place in places]
        return found

    # results

    def _finish(self, states: list[State], piece: Piece | None) -> None:
        """Store the states, or the results computed from them."""
        self.after.piece = piece
        if self.nest.split:
            flat = [v for state in states for v in state]
            for place, value in zip(self.partials, flat, strict=True):
                self.e.store(value, self.after.pointer(place), place.dtype.bytes)
            return
        finished = [r.finish(self.e, s) for r, s in zip(self.work.reducers, states, strict=True)]
        self.after.reduced = lambda number: finished[number]
        lanes = piece.lanes if piece else 1
        self.after.settle(lanes)
        computed = [self.after.stored(s.expr, lanes) for s in self.work.results]
        for place, value in zip(self.targets, computed, strict=True):
            self.after.store(place, value)


def _scalar_tail(length: int, lanes: int) -> bool:
    """Whether a row's last elements are done one by one: many odd pieces of a long row."""
    return len(tail_pieces(length % lanes, lanes)) > 2 and length > 32 * lanes


def partial_value(e: Emitter, values: LoopValues, work: Reduction, chunks: int, number: int) -> ll.Value:
    """Result of reduction ``number`` at the current point of the second phase: the chunks' states,
    combined in order; inexact ones in f64."""
    reducer = work.reducers[number]
    first = sum(len(r.stored) for r in work.reducers[:number])
    lanes = values.piece.lanes if values.piece and values.vector else 1
    starts = [values.pointer(Place(e.temp(first + n), work.position, dtype))
              for n, dtype in enumerate(reducer.stored)]
    widen = reducer.inexact and reducer.stored[0].name == "f32"
    start_state = [widened(e, v) for v in reducer.identity(lanes)] if widen else reducer.identity(lanes)
    with e.loop_carried(0, chunks, 1, start_state, "p") as (chunk, current, following):
        offset = e.b.mul(chunk, i64(work.kept_points))
        loaded = []
        for start, dtype in zip(starts, reducer.stored, strict=True):
            element = memory_type(dtype)
            type_ = ll.VectorType(element, lanes) if lanes > 1 else element
            loaded.append(e.load(e.at(start, offset, element), type_, dtype.bytes))
        following[:] = reducer.merge(e, current, [widened(e, v) for v in loaded] if widen else loaded)
    if widen:
        following = [e.b.fptrunc(v, like(v, F32)) for v in following]
    return reducer.finish(e, following)


def widened(e: Emitter, value: ll.Value) -> ll.Value:
    """An f32 as f64."""
    return e.b.fpext(value, like(value, F64))


def temp_bytes(work: Reduction, nest: ReduceNest) -> tuple[int, ...]:
    """Sizes of the buffers for partial states."""
    if not nest.split:
        return ()
    return tuple(nest.chunks * work.kept_points * d.bytes for r in work.reducers for d in r.stored)



def scratch_bytes(work: Reduction, nest: ReduceNest) -> int:
    """Private memory of the first phase."""
    return _waiting(work)[1] if nest.band else 0


def _waiting(work: Reduction) -> tuple[list[int], int]:
    """Where the states of each kind wait in private memory, each from a cache line on, and the end of all."""
    *starts, end = accumulate((-(-work.kept_points * d.bytes // LINE) * LINE for r in work.reducers for d in r.stored),
                              initial=0)
    return starts, end
