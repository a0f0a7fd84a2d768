"""Expressions to LLVM values inside a loop nest, each computed at the outermost level that can.

A nest is a list of levels, outermost first; each level fixes some axes of the space. One axis may
be the vector axis: what varies along it is a vector for each *piece*, a run of lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir as ll

from ....ir import DType
from ... import halves, scalar
from ...emitter import I32, I64, PTR, Emitter, const, i64, like
from ...index import Index
from ..gemm import LINE
from .expr import (
    INDEX,
    Apply,
    Choose,
    Clamped,
    Expr,
    Inside,
    Literal,
    Load,
    Lookup,
    Position,
    Quotient,
    Reduced,
    Remainder,
    topological,
)


@dataclass(frozen=True)
class Piece:
    """A run of lanes along the vector axis.

    Attributes:
        name: tells the pieces that live at one time apart.
        lanes: how many elements.
        start: position of lane 0 on the vector axis.
    """

    name: int
    lanes: int
    start: ll.Value


@dataclass(frozen=True, eq=False)
class Place:
    """Where a result is stored: element ``index`` of buffer ``base``; with ``past_caches`` each whole register goes
    to a line of its own, past the caches."""

    base: ll.Value
    index: Index
    dtype: DType
    past_caches: bool = False


class LoopValues:
    """Values of expressions at the current point of a nest.

    Args:
        e: the emitter.
        roots: what will be asked for, so that it can be computed at the right level.
        places: where results will be stored, so that addresses can be too.
        levels: for each level the loops it holds, each named by its innermost axis and the axes
            merged into it.
        vector: the axes of the vector loop; empty if all is scalar.
        lanes: the usual lane count, for which scalars are spread ahead of the inner loop.
        tables: expressions that were computed before, and where they are.
    """

    def __init__(self, e: Emitter, roots: Iterable[Expr], places: Iterable[Place],
                 levels: Sequence[Sequence[tuple[int, ...]]], vector: tuple[int, ...], lanes: int,
                 tables: Mapping[Expr, Place] | None = None) -> None:
        self.e = e
        self.lanes = lanes
        self.vector = frozenset(vector)
        self.vector_axis = vector[-1] if vector else -1
        self.piece: Piece | None = None
        self.iv: dict[int, ll.Value] = {}
        self.reduced: Callable[[int], ll.Value] = _no_reductions
        self._level_of_axis = {a: n for n, loops in enumerate(levels) for axes in loops for a in axes}
        self._leads = [{axes[-1] for axes in loops if axes} for loops in levels]
        wanted = list(roots)
        self._tables = dict(tables or {})
        self._order = topological(wanted, self._tables)
        self.places = list(places)
        self._parts_of: dict[Load | Place, list[tuple[int, list[int], list[Any]]]] = {}
        self._vector_level = next((n for n, leads in enumerate(self._leads) if self.vector_axis in leads), -1)
        self._scopes: list[dict[Any, ll.Value]] = []
        self._late: set[Expr] = set()
        for expr in self._order:
            if isinstance(expr, Reduced) or any(c in self._late for c in expr.children()):
                self._late.add(expr)
        readers = [x for x in self._order if self.vector & x.axes]
        used = (*(a for x in readers for a in x.args), *wanted)
        self._spread = {a for a in used if not self.vector & a.axes}

    @property
    def depth(self) -> int:
        """Number of levels entered."""
        return len(self._scopes) - 1

    def level(self, axes: frozenset[int]) -> int:
        """The level at which everything on these axes is fixed; -1 outside all loops."""
        return max((self._level_of_axis.get(a, -1) for a in axes), default=-1)

    @contextmanager
    def enter(self, pieces: Sequence[Piece] = ()) -> Iterator[None]:
        """One level further in; the loop variables of that level are in ``iv``, or are the starts of
        ``pieces`` on the level of the vector axis."""
        self._scopes.append({})
        now = self.depth - 1
        if now + 1 < len(self._leads) or pieces:
            self._prepare(now, pieces)
        yield
        self._scopes.pop()

    def _prepare(self, now: int, pieces: Sequence[Piece]) -> None:
        """Compute what is fixed at level ``now`` and used further in."""
        for expr in self._order:
            if isinstance(expr, Literal) or expr in self._late or self.level(expr.axes) != now:
                continue
            if not self.vector & expr.axes:
                value = self.value(expr)
                if expr in self._spread and self.vector:
                    self._scopes[-1][(expr, self.lanes)] = self.e.splat(value, self.lanes)
                continue
            for piece in pieces:
                self.piece = piece
                self.value(expr, piece.lanes)
        if now + 1 >= len(self._leads):
            return
        moved: list[Load | Place] = [x for x in self._order if isinstance(x, Load)]
        for place in (*moved, *self._tables.values(), *self.places):
            if self.level(place.index.axes) <= now:
                continue
            for item in pieces or (None,):
                self.piece = item or self.piece
                self._pointer(place, now)

    @contextmanager
    def given(self, known: dict[Any, ll.Value]) -> Iterator[None]:
        """Values of (expression, piece name), instead of what would be computed."""
        self._scopes[-1].update(known)
        yield
        for key in known:
            del self._scopes[-1][key]

    def settle(self, lanes: int) -> None:
        """Compute what is fixed only here for the current piece, operands first."""
        now = self.depth - 1
        for expr in self._order:
            if not isinstance(expr, Literal) and (expr in self._late or self.level(expr.axes) == now):
                self.value(expr, lanes if self.vector & expr.axes else 1)

    def value(self, expr: Expr, lanes: int = 1) -> ll.Value:
        """The value of ``expr`` here, in ``lanes`` lanes (of the current piece if it varies there)."""
        if isinstance(expr, Literal):
            return scalar.literal(expr.dtype, expr.value, lanes)
        if lanes > 1 and not self.vector & expr.axes:
            return self._remember((expr, lanes), lambda: self.e.splat(self.value(expr), lanes))
        key = (expr, self.piece.name if self.piece and self.vector & expr.axes else None)
        return self._remember(key, lambda: self._emit(expr, lanes))

    def stored(self, expr: Expr, lanes: int) -> ll.Value:
        """The value of ``expr`` in the form that memory holds; what is only moved is not converted."""
        if not halves.is_half(expr.dtype) or expr in self._tables:
            return scalar.to_memory(self.e, self.value(expr, lanes), expr.dtype)
        if isinstance(expr, Load) and (lanes == 1 or self.vector & expr.axes):
            return self._load(expr, lanes)
        if isinstance(expr, Choose) or isinstance(expr, Apply) and expr.op.name == "select":
            condition, yes, no = expr.args
            branches = self.stored(yes, lanes), self.stored(no, lanes)
            return self.e.b.select(self.value(condition, lanes), *branches)
        if isinstance(expr, Apply) and expr.op.name == "bitcast" and not expr.args[0].dtype.is_float:
            return self.value(expr.args[0], lanes)
        return scalar.to_memory(self.e, self.value(expr, lanes), expr.dtype)

    def store(self, place: Place, raw: ll.Value) -> None:
        """Store at ``place`` what ``stored`` gave, as many lanes as it has."""
        whole = isinstance(raw.type, ll.VectorType) and raw.type.count * place.dtype.bytes == LINE
        if place.past_caches and whole:
            self.e.stream(raw, self.pointer(place))
        else:
            self.e.store(raw, self.pointer(place), place.dtype.bytes)

    def pointer(self, place: Load | Place) -> ll.Value:
        """Address of the element (of lane 0) at the current point, inside all levels."""
        return self._pointer(place, len(self._leads) - 1)

    def streams(self, axis: int) -> list[Load]:
        """The loads of adjacent elements along the vector axis that move with ``axis``."""
        return [x for x in self._order if isinstance(x, Load) and not x.index.terms
                and x.index.coefs[self.vector_axis] == 1 and x.index.coefs[axis]]

    def _remember(self, key: Any, make: Callable[[], ll.Value]) -> ll.Value:
        known = self._known(key)
        if known is not None:
            return known
        value = make()
        self._scopes[-1][key] = value
        return value

    def _emit(self, expr: Expr, lanes: int) -> ll.Value:
        if expr in self._tables:
            place = self._tables[expr]
            type_ = self.e.vector(scalar.memory_type(place.dtype), lanes)
            raw = self.e.load(self._pointer(place, self.depth - 1), type_, place.dtype.bytes)
            return scalar.from_memory(self.e, raw, place.dtype)
        match expr:
            case Apply():
                args = [self.value(a, lanes) for a in expr.args]
                return scalar.apply(self.e, expr.op, expr.args[-1].dtype, expr.dtype, args)
            case Load():
                return scalar.from_memory(self.e, self._load(expr, lanes), expr.dtype)
            case Position():
                return self._position(expr, lanes)
            case Choose():
                return self.e.b.select(*(self.value(a, lanes) for a in expr.args))
            case Inside():
                return self._inside(expr, lanes)
            case Reduced():
                return self.reduced(expr.number)
            case Quotient() | Remainder():
                return self._divided(expr, lanes)
            case Clamped():
                return self._clamp(self._index(expr.index, lanes), expr.high)
            case Lookup():
                position = self.value(expr.args[0], lanes)
                wide = scalar.cast(self.e, position, expr.args[0].dtype, expr.dtype)
                return self._clamp(wide, expr.high)
        raise AssertionError(f"unknown expression {type(expr).__name__}")

    def _clamp(self, x: ll.Value, high: int) -> ll.Value:
        b, zero, last = self.e.b, const(x.type, 0), const(x.type, high)
        x = b.select(b.icmp_signed("<", x, zero), zero, x)
        return b.select(b.icmp_signed(">", x, last), last, x)

    def _index(self, index: Index, lanes: int) -> ll.Value:
        """An i64, or a vector of them along the vector axis."""
        b = self.e.b
        total: ll.Value = i64(index.const)
        for leads in self._leads:
            for axis in leads:
                if index.coefs[axis]:
                    at = self._axis(axis)
                    total = b.add(total, b.mul(at, i64(index.coefs[axis])) if index.coefs[axis] != 1 else at)
        for term, coef in index.terms:
            if not self.vector & term.axes or lanes == 1:
                total = b.add(total, b.mul(self.value(term), i64(coef)))  # type: ignore[arg-type]
        if lanes == 1:
            return total
        result = self.e.splat(total, lanes)
        step = index.coefs[self.vector_axis]
        if step:
            result = b.add(result, ll.Constant(result.type, [i64(step * j) for j in range(lanes)]))
        for term, coef in index.terms:
            if self.vector & term.axes:
                wide = self.value(term, lanes)  # type: ignore[arg-type]
                result = b.add(result, b.mul(wide, const(wide.type, coef)))
        return result

    def _axis(self, axis: int) -> ll.Value:
        if axis == self.vector_axis:
            assert self.piece is not None
            return self.piece.start
        return self.iv[axis]

    def _narrow(self, index: ll.Value, high: int) -> ll.Value:
        """The index in 32 bits where it fits: vector division and conversion are far cheaper there."""
        return self.e.b.trunc(index, like(index, I32)) if high < 1 << 31 else index

    def _divided(self, expr: Quotient | Remainder, lanes: int) -> ll.Value:
        x = self._narrow(self._index(expr.index, lanes), expr.largest)
        by = const(x.type, expr.divisor)
        result = self.e.b.udiv(x, by) if isinstance(expr, Quotient) else self.e.b.urem(x, by)
        return result if result.type == like(x, I64) else self.e.b.zext(result, like(x, I64))

    def _inside(self, expr: Inside, lanes: int) -> ll.Value:
        x = self._index(expr.index, lanes)
        shifted = self.e.b.sub(x, const(x.type, expr.low))
        return self.e.b.icmp_unsigned("<", shifted, const(x.type, expr.high - expr.low))

    def _position(self, expr: Position, lanes: int) -> ll.Value:
        x = self._index(expr.index, lanes)
        return scalar.cast(self.e, x, INDEX, expr.dtype)

    def _base(self, place: Load | Place) -> ll.Value:
        if isinstance(place, Place):
            return place.base
        if isinstance(place.source, int):
            return self.e.operand(place.source)
        array = place.source
        return self._remember(("table", id(array)), lambda: table(self.e, array))

    def _pointer(self, place: Load | Place, level: int) -> ll.Value:
        """Address of lane 0 as far as the axes of levels up to ``level`` fix it."""
        parts = [part for part in self._parts(place) if part[0] <= level]
        pointer, done = None, len(parts)
        while done and pointer is None:
            pointer = self._known(self._pointer_key(place, parts[done - 1][0]))
            done -= pointer is None
        if pointer is None:
            pointer = self._start(place)
        for now, axes, terms in parts[done:]:
            if self.lanes_now > 1:
                terms = [(t, c) for t, c in terms if not self.vector & t.axes]
            if axes or terms:
                pointer = self._advance(place, pointer, axes, terms)
            self._scopes[-1][self._pointer_key(place, now)] = pointer
        return pointer

    def _parts(self, place: Load | Place) -> list[tuple[int, list[int], list[Any]]]:
        """The axes and terms of a place's index by the level that fixes them, outermost first."""
        if place not in self._parts_of:
            found: dict[int, tuple[list[int], list[Any]]] = {}
            for n, leads in enumerate(self._leads):
                axes = [a for a in leads if place.index.coefs[a]]
                if axes:
                    found[n] = (axes, [])
            for term, coef in place.index.terms:
                found.setdefault(self.level(term.axes), ([], []))[1].append((term, coef))
            self._parts_of[place] = [(n, *found[n]) for n in sorted(found)]
        return self._parts_of[place]

    def _pointer_key(self, place: Load | Place, level: int) -> tuple[Any, ...]:
        inside = self.piece is not None and self.vector & place.index.axes and level >= self._vector_level
        return ("ptr", place, level, self.piece.name if inside and self.piece else None)

    def _known(self, key: Any) -> ll.Value | None:
        for scope in reversed(self._scopes):
            if key in scope:
                return scope[key]
        return None

    def _start(self, place: Load | Place) -> ll.Value:
        base, const_ = self._base(place), place.index.const
        return self.e.at(base, const_, scalar.memory_type(place.dtype)) if const_ else base

    @property
    def lanes_now(self) -> int:
        """Lanes of the current piece."""
        return self.piece.lanes if self.piece else 1

    def _advance(self, place: Load | Place, below: ll.Value, axes: list[int], terms: list[Any]) -> ll.Value:
        b = self.e.b
        offset: ll.Value | None = None
        for at, coef in [*((self._axis(a), place.index.coefs[a]) for a in axes),
                         *((self.value(t), c) for t, c in terms)]:
            part = b.mul(at, i64(coef)) if coef != 1 else at
            offset = part if offset is None else b.add(offset, part)
        assert offset is not None
        return self.e.at(below, offset, scalar.memory_type(place.dtype))

    def _load(self, load: Load, lanes: int) -> ll.Value:
        element, align = scalar.memory_type(load.dtype), load.dtype.bytes
        pointer = self._pointer(load, self.depth - 1)
        if lanes == 1:
            return self.e.load(pointer, element, align)
        type_ = ll.VectorType(element, lanes)
        moving = [(t, c) for t, c in load.index.terms if self.vector & t.axes]
        step = load.index.coefs[self.vector_axis]
        if not moving and step == 1:
            return self.e.load(pointer, type_, align)
        if not moving and step == -1:
            last = self.e.at(pointer, -(lanes - 1), element)
            backwards = [ll.Constant(I32, lanes - 1 - j) for j in range(lanes)]
            order = ll.Constant(ll.VectorType(I32, lanes), backwards)
            raw = self.e.load(last, type_, align)
            return self.e.b.shuffle_vector(raw, ll.Constant(type_, ll.Undefined), order)
        return self._collect(load, pointer, lanes, moving)

    def _collect(self, load: Load, pointer: ll.Value, lanes: int, moving: list[Any]) -> ll.Value:
        """Lanes that do not lie side by side, loaded one by one."""
        b, element = self.e.b, scalar.memory_type(load.dtype)
        offsets: ll.Value | None = None
        for term, coef in moving:
            part = self.value(term, lanes)
            part = b.mul(part, const(part.type, coef)) if coef != 1 else part
            offsets = part if offsets is None else b.add(offsets, part)
        step = load.index.coefs[self.vector_axis]
        result: ll.Value = ll.Constant(ll.VectorType(element, lanes), ll.Undefined)
        for lane in range(lanes):
            address = self.e.at(pointer, step * lane, element) if step * lane else pointer
            if offsets is not None:
                address = self.e.at(address, b.extract_element(offsets, ll.Constant(I32, lane)), element)
            one = self.e.load(address, element, load.dtype.bytes)
            result = b.insert_element(result, one, ll.Constant(I32, lane))
        return result


def _no_reductions(number: int) -> ll.Value:
    raise AssertionError(f"reduction {number} is not known here")


def table(e: Emitter, array: np.ndarray) -> ll.Value:
    """Address of a constant array placed in the module."""
    data = np.ascontiguousarray(array).tobytes()
    type_ = ll.ArrayType(ll.IntType(8), len(data))
    name = e.module.get_unique_name("table")
    item = ll.GlobalVariable(e.module, type_, name)
    item.initializer = ll.Constant(type_, bytearray(data))
    item.global_constant, item.linkage, item.align = True, "private", 64
    assert item.type == PTR or item.type.is_pointer
    return e.b.bitcast(item, PTR) if item.type != PTR else item
