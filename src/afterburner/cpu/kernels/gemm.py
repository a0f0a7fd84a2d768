"""What every contraction kernel is made of: the register tile, lane tails, cutting a range into parts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from llvmlite import ir as ll

from ...ir import DType
from .. import halves
from ..emitter import BF16, F16, I8, I16, I32, I64, Emitter, const, i64
from ..isa import Isa

Tile = list[list[ll.Value]]  # accumulators by row and vector

CHUNK_CYCLES = 60_000  # about 20 us: less does not pay for meeting at a barrier
MOST_CHUNKS = 32
_WORTH_HALVING, _MANY = 0.75, 8  # chunks
_UNROLLED = 72  # multiply-adds written out instead of a loop
_WRITTEN_OUT = 48  # of a turn of a loop, whose own instructions weigh little beside so many
LINE = 64  # bytes of a cache line
PAST_CACHES = 8 << 20  # bytes of a result of which a third-level cache has little left when it is read
TALLEST, WIDEST = 14, 12  # rows and registers of a tile


@dataclass(frozen=True)
class Numeric:
    """How elements are multiplied and added.

    Attributes:
        element: LLVM type in which products are accumulated.
        bytes: its size.
        lanes: elements in one vector register.
        fused: multiply-add rounds once.
    """

    element: ll.Type
    bytes: int
    lanes: int
    fused: bool

    @property
    def is_float(self) -> bool:
        return not isinstance(self.element, ll.IntType)

    @property
    def vector(self) -> ll.Type:
        return ll.VectorType(self.element, self.lanes) if self.lanes > 1 else self.element

    @property
    def zero(self) -> ll.Constant:
        """A register of zeros."""
        return const(self.vector, 0.0 if self.is_float else 0)

    def multiply_add(self, e: Emitter, a: ll.Value, b: ll.Value, c: ll.Value) -> ll.Value:
        """``a * b + c``; integers wrap around."""
        if not self.is_float:
            return e.b.add(e.b.mul(a, b), c)
        if self.fused:
            return e.intrinsic("llvm.fma", c.type, a, b, c)
        return e.b.fadd(e.b.fmul(a, b), c)

    def add(self, e: Emitter, a: ll.Value, b: ll.Value) -> ll.Value:
        return e.b.fadd(a, b) if self.is_float else e.b.add(a, b)


def numeric(dtype: DType, isa: Isa) -> Numeric:
    """The arithmetic of a dtype; 16-bit floats are accumulated in f32."""
    size = 4 if halves.is_half(dtype) else dtype.bytes
    return Numeric(halves.compute_type(dtype), size, isa.lanes(size), isa.fma)


@dataclass(frozen=True)
class Cut:
    """``range(size)`` in near-equal parts: the first ``larger`` have one element more than the others."""

    size: int
    parts: int

    @property
    def base(self) -> int:
        return self.size // self.parts if self.parts else 0

    @property
    def larger(self) -> int:
        return self.size % self.parts if self.parts else 0

    @property
    def widest(self) -> int:
        return self.base + (self.larger > 0)

    def spans(self) -> list[tuple[int, int, int]]:
        """(width, first part, end part) of the parts that share a width."""
        spans = [(self.base + 1, 0, self.larger), (self.base, self.larger, self.parts)]
        return [s for s in spans if s[0] > 0 and s[1] < s[2]]

    def start(self, e: Emitter, part: ll.Value) -> ll.Value:
        """First element of a part."""
        return e.b.add(e.b.mul(part, i64(self.base)), smaller(e, part, i64(self.larger)))

    def walk(self, e: Emitter, first: ll.Value, end: ll.Value) -> Iterator[tuple[int, ll.Value, ll.Value]]:
        """Loops over the parts [first, end): yields (width, part, first element) once per width."""
        for width, low, high in self.spans():
            with e.loop(larger(e, first, i64(low)), smaller(e, end, i64(high)), name="part") as part:
                yield width, part, self.start(e, part)


def walk_panels(e: Emitter, panels: Cut, lanes: int, columns: int, first: ll.Value,
                end: ll.Value) -> Iterator[tuple[int, ll.Value, ll.Value, int]]:
    """Loops over panels [first, end) of ``columns`` cut in registers of ``lanes``: yields (registers, panel, first
    column, lanes used of the last register) once per kind of panel."""
    tail = (columns - 1) % lanes + 1
    for width, low, high in panels.spans():
        odd = int(tail < lanes and high == panels.parts)
        for start, stop, last in ((low, high - odd, lanes), (high - odd, high, tail)):
            if start < stop:
                with e.loop(larger(e, first, i64(start)), smaller(e, end, i64(stop)), name="panel") as panel:
                    yield width, panel, e.b.mul(panels.start(e, panel), i64(lanes)), last


def walk_groups(e: Emitter, groups: int, parts: int, first: ll.Value,
                end: ll.Value) -> Iterator[tuple[ll.Value, ll.Value, ll.Value]]:
    """Loops over the groups that own parts [first, end) where each has ``parts``: (group, its first, its end)."""
    if groups == 1:
        yield i64(0), first, end
        return
    stop = e.b.udiv(e.b.add(end, i64(parts - 1)), i64(parts))
    with e.loop(e.b.udiv(first, i64(parts)), stop, name="group") as group:
        start = e.b.mul(group, i64(parts))
        low = larger(e, e.b.sub(first, start), i64(0))
        yield group, low, smaller(e, e.b.sub(end, start), i64(parts))


def chunks_of(cycles: float) -> int:
    """Chunks for work of so many cycles: of about ``CHUNK_CYCLES``; few ones an even number, for two workers."""
    wanted = cycles / CHUNK_CYCLES
    if wanted < _WORTH_HALVING:
        return 1
    return min(MOST_CHUNKS, int(wanted)) if wanted >= _MANY else 2 * math.ceil(wanted / 2)


def cut(size: int, at_most: int) -> Cut:
    """The fewest near-equal parts none of which exceeds ``at_most``."""
    return Cut(size, -(-size // at_most))


def smaller(e: Emitter, a: ll.Value, b: ll.Value) -> ll.Value:
    """Signed minimum of two i64."""
    return e.b.select(e.b.icmp_signed("<", a, b), a, b)


def larger(e: Emitter, a: ll.Value, b: ll.Value) -> ll.Value:
    """Signed maximum of two i64."""
    return e.b.select(e.b.icmp_signed(">", a, b), a, b)


def range_of_part(e: Emitter, part: ll.Value, size: int, parts: int) -> tuple[ll.Value, ll.Value]:
    """First and end element of a part of ``range(size)`` cut in ``parts`` near-equal ones."""
    pieces = Cut(size, parts)
    return pieces.start(e, part), pieces.start(e, e.b.add(part, i64(1)))


def load_part(e: Emitter, address: ll.Value, element: ll.Type, lanes: int, count: int, align: int) -> ll.Value:
    """A vector of ``lanes`` whose first ``count`` come from memory; the others are zero."""
    if count == lanes:
        return e.load(address, e.vector(element, lanes), align)
    register: ll.Value = const(e.vector(element, lanes), 0 if isinstance(element, ll.IntType) else 0.0)
    at = 0
    while at < count:
        width = 1 << ((count - at).bit_length() - 1)
        piece = e.load(e.at(address, at, element), e.vector(element, width), align)
        register = _insert(e, register, piece, at, lanes)
        at += width
    return register


def _insert(e: Emitter, register: ll.Value, piece: ll.Value, at: int, lanes: int) -> ll.Value:
    if not isinstance(piece.type, ll.VectorType):
        return e.b.insert_element(register, piece, ll.Constant(I32, at))
    width = piece.type.count
    spread = shuffle(e, piece, piece, [min(i, width - 1) for i in range(lanes)])
    return shuffle(e, register, spread, [lanes + i - at if at <= i < at + width else i for i in range(lanes)])


def store_part(e: Emitter, value: ll.Value, address: ll.Value, count: int, align: int) -> None:
    """Store the first ``count`` lanes of a vector."""
    if not isinstance(value.type, ll.VectorType):
        e.store(value, address, align)
        return
    at = 0
    while at < count:
        width = 1 << ((count - at).bit_length() - 1)
        if width == value.type.count:
            piece = value
        elif width == 1:
            piece = e.b.extract_element(value, ll.Constant(I32, at))
        else:
            piece = shuffle(e, value, value, range(at, at + width))
        e.store(piece, e.at(address, at, value.type.element), align)
        at += width


def load_lanes(e: Emitter, address: ll.Value, num: Numeric, lanes: int, stored: ll.Type | None = None) -> ll.Value:
    """A register whose first ``lanes`` come from memory, widened from ``stored``; the others are zero."""
    if stored in (F16, BF16):
        raw = load_part(e, address, I16, num.lanes, lanes, 2)
        return halves.widen(e, e.b.bitcast(raw, e.vector(stored, num.lanes)))
    return load_part(e, address, num.element, num.lanes, lanes, num.bytes)


def store_lanes(e: Emitter, value: ll.Value, address: ll.Value, num: Numeric, lanes: int,
                stored: ll.Type | None = None) -> None:
    """Store the first ``lanes`` of a register, rounded to ``stored``."""
    if stored in (F16, BF16):
        raw = e.b.bitcast(halves.narrow_to(e, value, stored), e.vector(I16, num.lanes))
        store_part(e, raw, address, lanes, 2)
        return
    store_part(e, value, address, lanes, num.bytes)


def store_tile(e: Emitter, num: Numeric, tile: Tile, target: ll.Value, stride: int, last: int, add: bool) -> None:
    """Store a register tile to rows ``stride`` elements apart, the first ``last`` lanes of each row's last register; or
    add it to what is there."""
    for r, row in enumerate(tile):
        for v, value in enumerate(row):
            lanes = last if v == len(row) - 1 else num.lanes
            address = e.at(target, r * stride + v * num.lanes, num.element)
            if add:
                value = num.add(e, load_lanes(e, address, num, lanes), value)
            store_lanes(e, value, address, num, lanes)


def store_or_add(e: Emitter, num: Numeric, tile: Tile, target: ll.Value, stride: int, last: int,
                 again: ll.Value) -> None:
    """``store_tile`` the first time, and add to that when it comes ``again``."""
    with e.b.if_else(again) as (then, otherwise):
        with then:
            store_tile(e, num, tile, target, stride, last, add=True)
        with otherwise:
            store_tile(e, num, tile, target, stride, last, add=False)


def shuffle(e: Emitter, a: ll.Value, b: ll.Value, order: Sequence[int]) -> ll.Value:
    """LLVM's shufflevector."""
    mask = ll.Constant(ll.VectorType(I32, len(order)), [ll.Constant(I32, i) for i in order])
    return e.b.shuffle_vector(a, b, mask)


@dataclass(frozen=True)
class Rows:
    """Operand A of a register tile: one element a row and step, read straight from memory.

    Attributes:
        base: address of row 0 at step 0.
        offsets: elements from row 0 to each row.
        step: elements from one step to the next.
    """

    base: ll.Value
    offsets: Sequence[int]
    step: int


@dataclass(frozen=True)
class Columns:
    """Operand B of a register tile: vectors of adjacent columns.

    Attributes:
        base: address of vector 0 at step 0.
        offsets: elements from vector 0 to each vector.
        step: elements from one step to the next.
        lanes: lanes that may be read of the last vector.
        align: known alignment in bytes of every vector.
    """

    base: ll.Value
    offsets: Sequence[int]
    step: int
    lanes: int
    align: int


@dataclass(frozen=True)
class Asked:
    """Memory that is asked for a piece at a time.

    Attributes:
        base: address of the first piece.
        step: bytes from one to the next.
        last: address of the last piece, which then is asked for again and again; None where there is no end.
        lines: where the lines of a piece begin, in bytes from its address.
        written: it will be written.
    """

    base: ll.Value
    step: ll.Value
    last: ll.Value | None
    lines: Sequence[int]
    written: bool = False

    def ask(self, e: Emitter, base: ll.Value) -> ll.Value:
        """Ask for the piece at ``base``; where the next one is."""
        for line in self.lines:
            e.prefetch(e.at(base, line, I8), self.written)
        return self._after(e, base, self.step)

    def later(self, e: Emitter, pieces: ll.Value) -> Asked:
        """What remains after some pieces."""
        return replace(self, base=self._after(e, self.base, e.b.mul(self.step, pieces)))

    def _after(self, e: Emitter, base: ll.Value, step: ll.Value) -> ll.Value:
        following = e.at(base, step, I8)
        if self.last is None:
            return following
        return e.b.select(e.b.icmp_unsigned("<", following, self.last), following, self.last)


@dataclass(frozen=True)
class Ahead:
    """What is asked for while sums are made, a piece of each every few steps: in one go the requests fill the
    processor's queue, and the sums wait for them.

    Attributes:
        asked: what.
        every: steps of the sums between two pieces.
    """

    asked: tuple[Asked, ...]
    every: int

    def later(self, e: Emitter, steps: ll.Value) -> Ahead:
        """What remains after some steps of the sums."""
        return replace(self, asked=tuple(a.later(e, e.b.udiv(steps, i64(self.every))) for a in self.asked))


def lines_ahead(base: ll.Value, lines: int, steps: int) -> Ahead:
    """So many cache lines from ``base``, asked for evenly in ``steps`` of the sums."""
    every = max(2, steps // lines // 2 * 2)  # two steps are written out together
    piece = -(-lines * every // steps)
    return Ahead((Asked(base, i64(piece * LINE), None, range(0, piece * LINE, LINE)),), every)


def zeros(num: Numeric, rows: int, vectors: int) -> Tile:
    """Accumulators at zero."""
    return [[num.zero] * vectors for _ in range(rows)]


def shaped(flat: list[ll.Value], width: int) -> Tile:
    """Accumulators in one list as rows of ``width``."""
    return [flat[i: i + width] for i in range(0, len(flat), width)]


def is_written_out(steps: int, sums: int) -> bool:
    """Whether ``accumulate`` makes no loop of so many steps for so many registers of sums, and asks for nothing."""
    return steps <= 2 or steps * sums <= _UNROLLED


def accumulate(e: Emitter, num: Numeric, tile: Tile, a: Rows, b: Columns, steps: ll.Value | int,
               active: Sequence[int] | None = None, unroll: int = 2, ahead: Ahead | None = None) -> Tile:
    """``tile[r][v] += sum over steps of A[r] * B[v]``, rows not in ``active`` left alone.

    The tile stays in registers; each step reads the vectors of B once and broadcasts one element of A
    a row. A constant number of steps is written out in part (two of the widest tile were up to a third faster than one
    on Cascade Lake; four of a tile for 16 registers up to a sixth faster than two on Zen 3 where another program shares
    the core and its front end), with fences: else operands of later steps are read early, and sums lose their
    registers. ``ahead`` is asked for piece by piece, if the number of steps is known.
    """
    rows = list(range(len(tile))) if active is None else list(active)
    flat = [v for r in rows for v in tile[r]]
    if isinstance(steps, int) and is_written_out(steps, len(flat)):
        for k in range(steps):
            flat = _step(e, num, flat, a.base, b.base, a, b, rows, k)
        return _merged(tile, rows, flat)
    at_once = 1
    if isinstance(steps, int):
        at_once = max(unroll, min(4, _WRITTEN_OUT // len(flat)))
        at_once = at_once if ahead is None else math.gcd(at_once, ahead.every)
    turns = steps // at_once if isinstance(steps, int) else steps
    first, rest = [a.base, b.base, *flat], turns

    def turn(now: list[ll.Value]) -> list[ll.Value]:
        values: Sequence[ll.Value] = now[2:]
        for k in range(at_once):
            if k:
                e.fence()
            values = _step(e, num, values, now[0], now[1], a, b, rows, k)
        return [e.at(now[0], a.step * at_once, num.element), e.at(now[1], b.step * at_once, num.element), *values]

    if ahead is not None and isinstance(turns, int):
        count, every = len(ahead.asked), max(1, ahead.every // at_once)
        with e.loop_carried(0, turns // every, 1, [*(x.base for x in ahead.asked), *first], "piece") as (_, now, after):
            after[:count] = [x.ask(e, at) for x, at in zip(ahead.asked, now, strict=False)]
            if every == 1:
                after[count:] = turn(list(now[count:]))
                following = after[count:]
            else:
                with e.loop_carried(0, every, 1, list(now[count:]), "k") as (_, inner, following):
                    following[:] = turn(inner)
                after[count:] = following
        first, rest = list(after[count:]), turns % every
    with e.loop_carried(0, rest, 1, first, "k") as (_, now, after):
        after[:] = turn(now)
    values = after[2:]
    for k in range(steps % at_once if isinstance(steps, int) else 0):
        values = _step(e, num, values, after[0], after[1], a, b, rows, k)
    return _merged(tile, rows, values)


def accumulate_listed(e: Emitter, num: Numeric, tile: Tile, a: Rows, b: Columns, listed: ll.Value, count: ll.Value,
                      active: Sequence[int], ahead: Ahead | None = None) -> Tile:
    """As ``accumulate``, of the ``count`` steps that are ``listed``, in that order: u16, the number of each times the
    lanes of a register (such an offset takes no register of its own). ``ahead`` goes as if half of all were listed."""
    flat = [v for r in active for v in tile[r]]
    asked = () if ahead is None else ahead.asked

    def entry(k: ll.Value | int) -> ll.Value:
        return e.b.zext(e.load(e.at(listed, k, I16), I16, 2), I64)

    with e.loop_carried(0, count, 1, [entry(0), *(x.base for x in asked), *flat], "k") as (k, now, after):
        a_at = e.at(a.base, e.b.udiv(now[0], i64(num.lanes // a.step)), num.element)
        b_at = e.at(b.base, e.b.mul(now[0], i64(b.step // num.lanes)), num.element)
        following = []
        for x, at in zip(asked, now[1:], strict=False):
            assert ahead is not None
            e.prefetch(at, x.written)
            following.append(e.at(at, e.b.udiv(x.step, i64(max(1, ahead.every // 2))), I8))
        values = _step(e, num, now[1 + len(asked):], a_at, b_at, a, b, active, 0)
        after[:] = [entry(e.b.add(k, i64(1))), *following, *values]
    return _merged(tile, active, after[1 + len(asked):])


def _merged(tile: Tile, rows: Sequence[int], flat: Sequence[ll.Value]) -> Tile:
    vectors = len(tile[0])
    result = [list(row) for row in tile]
    for i, r in enumerate(rows):
        result[r] = list(flat[i * vectors:(i + 1) * vectors])
    return result


def _step(e: Emitter, num: Numeric, flat: Sequence[ll.Value], a_at: ll.Value, b_at: ll.Value, a: Rows, b: Columns,
          rows: Sequence[int], k: int) -> list[ll.Value]:
    """One step: the shorter side of the tile is held in registers, the other passes by."""
    width = len(b.offsets)
    if width <= len(rows):
        vectors = [_vector(e, num, b_at, b, v, k) for v in range(width)]
        following = []
        for i, r in enumerate(rows):
            spread = _broadcast(e, num, a_at, a, r, k)
            following += [num.multiply_add(e, spread, vector, flat[i * width + v]) for v, vector in enumerate(vectors)]
        return following
    spreads = [_broadcast(e, num, a_at, a, r, k) for r in rows]
    following = list(flat)
    for v in range(width):
        vector = _vector(e, num, b_at, b, v, k)
        for i, spread in enumerate(spreads):
            following[i * width + v] = num.multiply_add(e, spread, vector, flat[i * width + v])
    return following


def _vector(e: Emitter, num: Numeric, at: ll.Value, b: Columns, v: int, k: int) -> ll.Value:
    address = e.at(at, b.offsets[v] + k * b.step, num.element)
    if v == len(b.offsets) - 1 and b.lanes < num.lanes:
        return load_lanes(e, address, num, b.lanes)
    return e.load(address, num.vector, b.align)


def _broadcast(e: Emitter, num: Numeric, at: ll.Value, a: Rows, r: int, k: int) -> ll.Value:
    scalar = e.load(e.at(at, a.offsets[r] + k * a.step, num.element), num.element, num.bytes)
    return e.splat(scalar, num.lanes)


def step_cycles(rows: int, vectors: int, isa: Isa) -> float:
    """Estimated cycles of one step of a register tile, infinite where it does not fit the registers.

    Two loads start in a cycle; a multiply-add takes about four, and a chain of them loses a little more than that.
    Wider panels than two registers were slower with 32 registers.
    """
    if rows * vectors + min(rows, vectors) + 1 > isa.registers:
        return float("inf")
    cycles = max(rows * vectors / 2, 4.6, (rows + vectors) / 2) + 0.1
    return cycles * 1.05 if vectors > 2 else cycles


def product_cycles(rows: Cut, panels: Cut, isa: Isa) -> float:
    """Estimated cycles of one step of a matrix product whose result is cut in these register tiles."""
    return sum(step_cycles(height, width, isa) * (last - first) * (end - start)
               for height, first, last in rows.spans() for width, start, end in panels.spans())


@cache
def choose_tile(rows: int, vectors: int, steps: int, isa: Isa, widest: int = WIDEST,
                tallest: int = TALLEST) -> tuple[Cut, Cut]:
    """Cuts of a result of ``rows`` by ``vectors`` registers that cost the fewest estimated cycles; at most ``widest``
    registers a row, and ``tallest`` rows."""
    best: tuple[float, int, Cut, Cut] | None = None
    for high in range(1, min(rows, tallest) + 1):
        for wide in range(1, min(vectors, widest) + 1):
            down, across = cut(rows, high), cut(vectors, wide)
            spans = [(r, v) for r in down.spans() for v in across.spans()]
            cost = sum((steps * step_cycles(r[0], v[0], isa) + 10 + r[0] * v[0]) * (r[2] - r[1]) * (v[2] - v[1])
                       for r, v in spans)
            candidate = (round(cost, 3), len(spans), down, across)
            if best is None or candidate[:2] < best[:2]:
                best = candidate
    assert best is not None
    return best[2], best[3]
