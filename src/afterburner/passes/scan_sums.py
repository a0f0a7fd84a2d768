"""Sums over the turns of a loop, taken at once behind it."""

from __future__ import annotations

from collections.abc import Callable

from ..ir import Builder, Node, Value
from ..ir.ops.conv import Conv2dFilterGrad
from ..ir.ops.elementwise import Add, Neg, Sub
from ..ir.ops.matmul import Matmul
from ..ir.ops.reduce import ReduceSum
from ..ir.ops.shape import Broadcast, Concat, Pad, Reshape, Reverse, Slice, Transpose
from .batching import flattened, shifted
from .rewriter import is_number, made_by
from .scan_parts import SAME, Loop, Make, State

_SMALL_BYTES = 4 << 20  # terms of this size are kept for all turns, where adding them up is all that is to be done
_MAX_DEPTH = 8  # of operations on what is added up, which are looked through
_LINEAR = (Add, Sub, Neg, Concat, Pad, Reshape, Transpose, Slice, Reverse, Broadcast)


def move_sums(loop: Loop) -> bool:
    """Take what is only added to, turn by turn, out of the state; whether there was any.

    First the sums of products, whose factors have to be there for all turns, then what may use these.
    """
    moved = False
    for small in (0, _SMALL_BYTES):
        users = loop.users()
        for index, state in enumerate(loop.states):
            terms = _terms(loop, state, users) if isinstance(state, State) else None
            if terms is None or not isinstance(state, State):
                continue
            mark = loop.mark()
            sums = [_Sums(loop, small).of(term) for term in terms]
            known = [s for s in sums if s is not None]
            if len(known) == len(sums):
                loop.states[index] = _added(state.first, known)
                moved = True
            else:
                loop.reset(mark)
    return moved


def _added(first: Value, sums: list[Make]) -> Make:
    """The first value of the state and the sums of all terms. The addition stays where the first value is zero, since
    0 + -0 is 0."""
    def make(builder: Builder) -> Value:
        total, *others = [s(builder) for s in sums]
        for other in others:
            total = builder.emit(Add(), total, other)
        return builder.emit(Add(), first, total)

    return make


def _terms(loop: Loop, state: State, users: dict[Value, list[Node]]) -> list[Value] | None:
    """What is added to a part of the state in a turn; None where it is read otherwise."""
    returned = loop.returned()
    terms: list[Value] = []
    current = state.current
    while current is not state.next:
        readers = users.get(current, [])
        if len(readers) != 1 or not isinstance(readers[0].op, Add) or current in returned:
            return None
        first, second = readers[0].operands
        if first is second:
            return None
        terms.append(second if first is current else first)
        (current,) = readers[0].results
    return terms if terms and current not in users and returned.count(current) == 1 else None


class _Sums:
    """Finds how to add up what a value is in all turns; ``small`` is the size of the stacks that are made for no
    contraction."""

    def __init__(self, loop: Loop, small: int) -> None:
        self._loop = loop
        self._small = small

    def of(self, value: Value, depth: int = _MAX_DEPTH) -> Make | None:
        """The sum of a value over all turns; None where it is better made in the loop."""
        return self._structured(value, depth) or self._reduced(value, ())

    def _reduced(self, value: Value, axes: tuple[int, ...]) -> Make | None:
        """The sum over all turns, and along axes of each."""
        loop = self._loop
        if loop.kinds[value] == SAME:
            return None
        back = self._direction(value)
        if not loop.ready(value, back):
            if loop.steps * value.type.bytes > self._small or not loop.claim(value, back):
                return None
        return lambda builder: builder.emit(ReduceSum((0, *shifted(axes))), loop.rows(builder, value, back))

    def _structured(self, value: Value, depth: int) -> Make | None:
        """The sum where a rule for the node that makes the value gives it."""
        node = value.node
        if depth == 0 or node is None or self._loop.kinds[value] == SAME or value in self._loop.cut:
            return None
        match node.op:
            case Matmul():
                return self._product(node, node.op)
            case Conv2dFilterGrad():
                return self._contracted(node, node.op, *node.operands)
            case ReduceSum():
                return self._reduced(node.operands[0], node.op.axes)
            case Pad() if not is_number(node.operands[1], 0) and not is_number(node.operands[1], -0.0):
                return None
        return self._linear(node, depth) if isinstance(node.op, _LINEAR) else None

    def _linear(self, node: Node, depth: int) -> Make | None:
        """Operations of which the sum is the operation on the sums, where one of these is more than additions."""
        loop, mark = self._loop, self._loop.mark()
        added = node.operands[:1] if isinstance(node.op, Pad) else node.operands
        rest = node.operands[len(added):]
        sums = [self._structured(v, depth - 1) for v in added]
        if any(sums):
            sums = [s or self._reduced(v, ()) for s, v in zip(sums, added, strict=True)]
        known = [s for s in sums if s is not None]
        if len(known) < len(sums):
            loop.reset(mark)
            return None
        return lambda builder: builder.emit(node.op, *(s(builder) for s in known),
                                            *(loop.same(builder, v) for v in rest), loc=node.loc)

    def _product(self, node: Node, op: Matmul) -> Make | None:
        """Products of rows: one product of the rows of all turns."""
        a, b = node.operands
        columns, rows = op.transpose_a, not op.transpose_b
        if a.type.rank != 2:
            return None
        if not columns and (turned := made_by(a, Transpose)):
            a, columns = turned.operands[0], turned.op.perm == (1, 0)  # type: ignore[attr-defined]
        if not rows and (turned := made_by(b, Transpose)):
            b, rows = turned.operands[0], turned.op.perm == (1, 0)  # type: ignore[attr-defined]
        return self._contracted(node, Matmul(True, False), a, b) if columns and rows else None

    def _contracted(self, node: Node, op: Matmul | Conv2dFilterGrad, a: Value, b: Value) -> Make | None:
        loop = self._loop
        if SAME in (loop.kinds[a], loop.kinds[b]):
            return None
        back, mark = self._direction(a, b), loop.mark()
        if not (loop.claim(a, back) and loop.claim(b, back)):
            loop.reset(mark)
            return None
        return lambda builder: builder.emit(op, flattened(builder, loop.rows(builder, a, back)),
                                            flattened(builder, loop.rows(builder, b, back)), loc=node.loc)

    def _direction(self, *values: Value) -> bool:
        """The order of turns in which rows of these values are there already, or come in by most bytes."""
        loop = self._loop
        ways: tuple[Callable[[Value, bool], bool], ...] = (
            lambda v, back: loop.kinds[v] is back,
            loop.ready,
        )
        for fits in ways:
            sizes = [sum(v.type.bytes for v in values if fits(v, back)) for back in (False, True)]
            if any(sizes):
                return sizes[1] > sizes[0]
        return loop.backwards()
