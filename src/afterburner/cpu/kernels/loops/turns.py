"""Map nests that read across memory: square blocks are transposed in registers.

A transposed operand is contiguous along a loop other than the innermost one, so that each lane of a
vector would be a load of its own. Here blocks of lanes x lanes are loaded along that other loop and
turned, and every row of the block is then computed like any other vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir as ll

from ... import scalar
from ...emitter import I32, Emitter, i64
from .expr import Expr, Load
from .nest import Loop
from .values import LoopValues, Piece

Step = Callable[[ll.Value, int, int], None]
_MOST_EXPRESSIONS = 16  # a block's code is the body as often as there are lanes


def turned_loads(exprs: Sequence[Expr], loops: Sequence[Loop], lanes: int) -> tuple[int, list[Load]]:
    """Which outer loop to take beside the innermost one, and the loads that are contiguous along it.

    Returns (-1, []) where nothing is gained.
    """
    if lanes < 4 or len(loops) < 2 or len(exprs) > _MOST_EXPRESSIONS or loops[-1].trips < lanes:
        return -1, []
    inner = loops[-1].lead
    strided = [x for x in exprs if isinstance(x, Load) and not x.index.terms
               and x.index.coefs[inner] not in (0, 1, -1)]
    for n, loop in enumerate(loops[:-1]):
        found = [x for x in strided if x.index.coefs[loop.lead] == 1]
        if found and loop.trips >= lanes:
            return n, found
    return -1, []


class Turned:
    """Emits the two innermost loops of such a nest.

    Args:
        e: the emitter.
        values: whose last two levels are ``across`` and ``inner``.
        across: the loop along which ``loads`` are contiguous.
        inner: the innermost loop.
        loads: what is turned.
        lanes: side of a block.
    """

    def __init__(self, e: Emitter, values: LoopValues, across: Loop, inner: Loop, loads: Sequence[Load],
                 lanes: int) -> None:
        self.e, self.values, self.across, self.inner = e, values, across, inner
        self.loads, self.lanes = loads, lanes

    def emit(self, start: ll.Value | int, stop: ll.Value | int, step: Step) -> None:
        """Rows ``start`` to ``stop`` of the outer of the two loops; ``step(at, lanes, number)``
        computes and stores a vector of the inner one."""
        e, lanes = self.e, self.lanes
        first, end = (i64(v) if isinstance(v, int) else v for v in (start, stop))
        whole = e.b.add(first, e.b.and_(e.b.sub(end, first), i64(-lanes)))
        columns = self.inner.first + self.inner.trips // lanes * lanes
        with e.loop(first, whole, lanes, "rows") as row:
            with e.loop(self.inner.first, columns, lanes, "columns") as column:
                self._block(row, column, step)
            if columns < self.inner.end:
                with e.loop(row, e.b.add(row, i64(lanes)), 1, "row") as one:
                    self._row(one, columns, 1, step)
        if isinstance(start, int) and isinstance(stop, int) and (stop - start) % lanes == 0:
            return
        with e.loop(whole, end, 1, "row") as row:
            self._row(row, self.inner.first, 1, step)

    def _row(self, row: ll.Value, start: int, lanes: int, step: Step) -> None:
        self.values.iv[self.across.lead] = row
        with self.values.enter(), self.e.loop(start, self.inner.end, lanes, "s") as at:
            step(at, lanes, 0)

    def _block(self, row: ll.Value, column: ll.Value, step: Step) -> None:
        values, lanes = self.values, self.lanes
        turned = {(load, n): value for load in self.loads
                  for n, value in enumerate(self._turn(load, row, column))}
        with values.given(turned):
            for n in range(lanes):
                values.iv[self.across.lead] = self.e.b.add(row, i64(n)) if n else row
                with values.enter():
                    step(column, lanes, n)

    def _turn(self, load: Load, row: ll.Value, column: ll.Value) -> list[ll.Value]:
        """The vectors of a load for the rows of a block."""
        e, lanes, element = self.e, self.lanes, scalar.memory_type(load.dtype)
        self.values.iv[self.across.lead] = row
        with self.values.enter(), self.values.enter():
            self.values.piece = Piece(0, lanes, column)
            corner = self.values.pointer(load)
        stride = load.index.coefs[self.inner.lead]
        vectors = [e.load(e.at(corner, n * stride, element), ll.VectorType(element, lanes), load.dtype.bytes)
                   for n in range(lanes)]
        return [scalar.from_memory(e, v, load.dtype) for v in transposed(e, vectors)]


def transposed(e: Emitter, vectors: Sequence[ll.Value]) -> list[ll.Value]:
    """Lane j of vector i to lane i of vector j, for as many vectors as lanes: a power of two."""
    rows, lanes = list(vectors), len(vectors)
    bit = 1
    while bit < lanes:
        low = [lane if not lane & bit else lanes + (lane ^ bit) for lane in range(lanes)]
        high = [lane ^ bit if not lane & bit else lanes + lane for lane in range(lanes)]
        for i in range(lanes):
            if not i & bit:
                pair = rows[i], rows[i | bit]
                rows[i], rows[i | bit] = _shuffled(e, pair, low), _shuffled(e, pair, high)
        bit *= 2
    return rows


def _shuffled(e: Emitter, pair: tuple[ll.Value, ll.Value], order: list[int]) -> ll.Value:
    mask = ll.Constant(ll.VectorType(I32, len(order)), [ll.Constant(I32, j) for j in order])
    return e.b.shuffle_vector(*pair, mask)

