"""How a box of an iteration space becomes loops: merged axes, chunks, vector steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...emitter import Emitter, i64
from ...index import Index, Range
from .expr import Apply, Expr, Load

_CHUNK_NS = 20_000.0  # work per chunk that hides the cost of handing it out
MOST_CHUNKS = 64
_POLYNOMIAL = 30  # operations of an elementary function
_LOAD_BYTES_PER_NS = 10.0
COSTLY = {"exp": 0.15, "expm1": 0.2, "log": 0.2, "log1p": 0.3, "tanh": 0.25, "sigmoid": 0.2, "erf": 0.3,
           "sin": 0.5, "cos": 0.5, "pow": 1.0, "atan2": 0.8, "sqrt": 0.2, "rsqrt": 0.3, "div": 0.1,
           "floor_div": 1.0, "floor_mod": 1.0, "trunc_div": 1.0, "trunc_mod": 1.0}  # ns an element


@dataclass(frozen=True)
class Loop:
    """One loop: axes of the space merged into one, outermost first, and its range."""

    axes: tuple[int, ...]
    first: int
    end: int

    @property
    def trips(self) -> int:
        return self.end - self.first

    @property
    def lead(self) -> int:
        """The axis whose coefficients hold for the merged loop."""
        return self.axes[-1]


def merged_loops(order: Sequence[int], box: Sequence[Range], sizes: Sequence[int],
                 indices: Iterable[Index]) -> list[Loop]:
    """Loops over ``order``; neighbours become one where every index steps evenly through both."""
    all_indices = list(indices)
    loops: list[Loop] = []
    for axis in order:
        inner = Loop((axis,), *box[axis])
        outer = loops[-1] if loops else None
        whole = inner.first == 0 and inner.end == sizes[axis]
        if outer and whole and all(i.coefs[outer.lead] == i.coefs[axis] * inner.trips for i in all_indices):
            loops[-1] = Loop((*outer.axes, axis), outer.first * inner.trips, outer.end * inner.trips)
        else:
            loops.append(inner)
    return loops


def all_indices(exprs: Iterable[Expr]) -> list[Index]:
    """Every index that expressions use."""
    return [index for expr in exprs for index in expr.indices]


def chunks_for(points: int, exprs: Sequence[Expr], stored_bytes: int) -> int:
    """How many chunks ``points`` points of this work are worth; from shapes and types alone."""
    loaded = sum(x.dtype.bytes for x in exprs if isinstance(x, Load) and x.axes)
    work = sum(COSTLY.get(x.op.name, 0.03) for x in exprs if isinstance(x, Apply) and x.axes)
    cost = max((loaded + stored_bytes) / _LOAD_BYTES_PER_NS, work)
    return int(min(max(points * cost // _CHUNK_NS, 1), MOST_CHUNKS))


def code_size(exprs: Iterable[Expr]) -> int:
    """Roughly how many operations a point's code has, elementary functions written out."""
    return sum(_POLYNOMIAL if isinstance(x, Apply) and x.op.name in COSTLY else 1 for x in exprs)


def vector_lanes(vector_bytes: int, dtypes: Iterable[int]) -> int:
    """Lanes for elements of these register sizes in bytes: full registers of the commonest kind,
    where 4-byte elements win if there are any."""
    sizes = set(dtypes)
    for size in (4, 8, 2, 1):
        if size in sizes:
            return vector_bytes // size
    return vector_bytes // 4


@dataclass(frozen=True)
class Flat:
    """Outer loops run as one counter, so that chunks can cut it anywhere.

    Attributes:
        loops: the loops in the counter, outermost first.
        tiles: parts into which the innermost loop of the nest is cut; it is the counter's last digit.
        tile: length of a part.
    """

    loops: tuple[Loop, ...]
    tiles: int = 1
    tile: int = 0

    @property
    def trips(self) -> int:
        return prod(loop.trips for loop in self.loops) * self.tiles

    def digits(self, e: Emitter, counter: ll.Value) -> tuple[list[ll.Value], ll.Value]:
        """The loop variables and the tile number at a value of the counter."""
        rest, tile = counter, i64(0)
        if self.tiles > 1:
            tile, rest = e.b.urem(counter, i64(self.tiles)), e.b.udiv(counter, i64(self.tiles))
        found: list[ll.Value] = []
        for n, loop in enumerate(reversed(self.loops)):
            last = n == len(self.loops) - 1
            digit = rest if last else e.b.urem(rest, i64(loop.trips))
            rest = rest if last else e.b.udiv(rest, i64(loop.trips))
            found.append(e.b.add(digit, i64(loop.first)) if loop.first else digit)
        return found[::-1], tile


def flatten(outer: Sequence[Loop], inner: Loop, chunks: int, multiple: int) -> tuple[Flat, list[Loop]]:
    """The counter that chunks cut, with enough values for ``chunks``, and the loops left inside it.

    Args:
        outer: all loops but the innermost.
        inner: the innermost loop, cut into tiles only if the outer ones are too few.
        chunks: how many pieces of work are wanted.
        multiple: tiles have a multiple of this length.
    """
    count = 1
    for taken, loop in enumerate(outer):
        if count >= 4 * chunks:
            return Flat(tuple(outer[:taken])), list(outer[taken:])
        count *= loop.trips
    if count >= chunks or inner.trips <= multiple:
        return Flat(tuple(outer)), []
    per_tile = -(-inner.trips // -(-chunks // max(count, 1)))
    tile = -(-per_tile // multiple) * multiple
    tiles = -(-inner.trips // tile)
    return Flat(tuple(outer), tiles, tile if tiles > 1 else 0), []


def tail_pieces(length: int, lanes: int) -> list[tuple[int, int]]:
    """(offset, lanes) of the power-of-two vectors that cover fewer than ``lanes`` elements."""
    pieces, at, width = [], 0, lanes // 2
    while width:
        if length & width:
            pieces.append((at, width))
            at += width
        width //= 2
    return pieces


def vector_spans(length: int, lanes: int) -> list[tuple[int, int]]:
    """(offset, lanes) of the full and then the narrower vectors that cover a range."""
    full = [(offset, lanes) for offset in range(0, length - lanes + 1, lanes)]
    return [*full, *((len(full) * lanes + at, width) for at, width in tail_pieces(length % lanes, lanes))]


def sweep(e: Emitter, start: ll.Value | int, stop: ll.Value | int, multiple: int, lanes: int, unroll: int,
          step: Callable[[ll.Value, int, int], None]) -> None:
    """Call ``step(offset, lanes, number)`` to emit code for every element of a range.

    Vectors of ``lanes`` first; then, where the length is known and the rest small, narrower vectors,
    else single elements. The length is a multiple of ``multiple``.
    """
    if isinstance(start, int) and isinstance(stop, int):
        _sweep_known(e, start, stop, lanes, unroll, step)
        return
    if multiple % lanes == 0:
        turns = unroll if multiple % (lanes * unroll) == 0 else 1
        with e.loop(start, stop, lanes * turns, "v") as at:
            for n in range(turns):
                step(e.b.add(at, i64(n * lanes)) if n else at, lanes, n)
        return
    length = e.b.sub(_value(stop), _value(start))
    last = e.b.add(_value(start), e.b.and_(length, i64(-lanes)))
    with e.loop(start, last, lanes, "v") as at:
        step(at, lanes, 0)
    with e.loop(last, stop, 1, "s") as at:
        step(at, 1, 0)


def _value(number: ll.Value | int) -> ll.Value:
    return i64(number) if isinstance(number, int) else number


def _sweep_known(e: Emitter, start: int, stop: int, lanes: int, unroll: int,
                 step: Callable[[ll.Value, int, int], None]) -> None:
    block = lanes * unroll
    at = start + (stop - start) // block * block
    if at - start > block:
        with e.loop(start, at, block, "v") as i:
            for n in range(unroll):
                step(e.b.add(i, i64(n * lanes)) if n else i, lanes, n)
    else:
        for n in range((at - start) // lanes):
            step(i64(start + n * lanes), lanes, n)
    while stop - at >= lanes:
        step(i64(at), lanes, 0)
        at += lanes
    pieces = tail_pieces(stop - at, lanes)
    if len(pieces) > 2 and stop - start > 32 * lanes:
        with e.loop(at, stop, 1, "s") as i:
            step(i, 1, 0)
        return
    for offset, width in pieces:
        step(i64(at + offset), width, 0)
