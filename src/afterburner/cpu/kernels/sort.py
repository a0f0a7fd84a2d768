"""The largest elements of rows, in order.

A few of many are kept in a short list, into which an element is put when it beats the last one there;
otherwise the row is sorted by merging. Both put equal elements in the order of their positions.
"""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir as ll

from ...ir import DType, Node
from ...ir.ops.sort import TopK
from .. import halves
from ..emitter import I32, I64, Emitter, i64, stored_type
from ..isa import Isa
from ..kernel import Kernel, Phase, key_of

_LONGEST_LIST = 32
_CHUNK_ELEMENTS = 1 << 13  # about 20 us of one core
_MAX_CHUNKS = 64
_NOBODY = -1  # position of an empty place in the list: everyone beats it


def lower_top_k(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``top_k``: a chunk is a range of rows."""
    op = node.op
    assert isinstance(op, TopK)
    x = node.operands[0].type
    rows = x.size // x.shape[-1] if x.size else 0
    chunks = max(1, min(_MAX_CHUNKS, rows, x.size // _CHUNK_ELEMENTS))
    ranking = _Ranking(x.dtype, op.dtype, x.shape[-1], op.k)
    listed = op.k <= _LONGEST_LIST and op.k < x.shape[-1]

    def emit(e: Emitter) -> None:
        if not rows or not op.k:
            return
        start, stop = e.range_of_chunk(rows, chunks)
        with e.loop(start, stop, name="row") as row:
            (ranking.emit_list if listed else ranking.emit_sort)(e, row)

    places = (op.k + 1 if listed else 2 * x.shape[-1]) * 16
    return Kernel(node, (Phase(chunks, emit),), key_of(node, isa), scratch=places, label="top k")


LOWERINGS = {"top_k": lower_top_k}

Entry = tuple[ll.Value, ll.Value]  # an element in its compute type and its position, i32


@dataclass(frozen=True)
class _Ranking:
    """Rows of ``size`` elements of which ``k`` are wanted, positions as ``index``."""

    dtype: DType
    index: DType
    size: int
    k: int

    @property
    def type(self) -> ll.Type:
        return halves.compute_type(self.dtype)

    def beats(self, e: Emitter, a: ll.Value, b: ll.Value) -> ll.Value:
        """Whether a is larger; NaN is larger than all numbers."""
        if self.dtype.is_float:
            nan = e.b.and_(e.b.fcmp_unordered("uno", a, a), e.b.fcmp_ordered("ord", b, b))
            return e.b.or_(e.b.fcmp_ordered(">", a, b), nan)
        return e.b.icmp_signed(">", a, b) if self.dtype.kind == "int" else e.b.icmp_unsigned(">", a, b)

    def element(self, e: Emitter, row: ll.Value, at: ll.Value) -> ll.Value:
        """x[row, at]."""
        offset = e.b.add(e.b.mul(row, i64(self.size)), at)
        return halves.load(e, e.at(e.operand(0), offset, stored_type(self.dtype)), self.dtype, 1)

    def write(self, e: Emitter, row: ll.Value, at: ll.Value, entry: Entry) -> None:
        """One element of both results."""
        offset = e.b.add(e.b.mul(row, i64(self.k)), at)
        halves.store(e, entry[0], e.at(e.result(0), offset, stored_type(self.dtype)), self.dtype)
        target = stored_type(self.index)
        position = entry[1]
        if target.width > 32:
            position = e.b.sext(position, target)
        elif target.width < 32:
            position = e.b.trunc(position, target)
        e.store(position, e.at(e.result(1), offset, target), self.index.bytes)

    # In scratch an entry takes two words of 8 bytes, whatever its type.

    def load(self, e: Emitter, at: ll.Value) -> Entry:
        slot = e.at(e.scratch, e.b.mul(at, i64(2)), I64)
        return e.load(slot, self.type, 8), e.load(e.at(slot, 1, I64), I32, 8)

    def store(self, e: Emitter, at: ll.Value, entry: Entry) -> None:
        slot = e.at(e.scratch, e.b.mul(at, i64(2)), I64)
        e.store(entry[0], slot, 8)
        e.store(entry[1], e.at(slot, 1, I64), 8)

    def emit_list(self, e: Emitter, row: ll.Value) -> None:
        """Keep the k best so far, in order."""
        b, nothing = e.b, ll.Constant(self.type, 0.0 if self.dtype.is_float else 0)
        with e.loop(0, self.k, name="place") as place:
            self.store(e, place, (nothing, ll.Constant(I32, _NOBODY)))
        with e.loop(0, self.size, name="element") as at:
            new = self.element(e, row, at), b.trunc(at, I32)
            with b.if_then(self._enters(e, new, self.load(e, i64(self.k - 1)))):
                self._insert(e, new)
        with e.loop(0, self.k, name="place") as place:
            self.write(e, row, place, self.load(e, place))

    def _enters(self, e: Emitter, new: Entry, old: Entry) -> ll.Value:
        empty = e.b.icmp_signed("<", old[1], ll.Constant(I32, 0))
        return e.b.or_(empty, self.beats(e, new[0], old[0]))

    def _insert(self, e: Emitter, new: Entry) -> None:
        """From the last place up: those that ``new`` beats move down by one, it takes the place left."""
        with e.loop(0, self.k - 1, name="place") as i:
            place = e.b.sub(i64(self.k - 1), i)
            above, here = self.load(e, e.b.sub(place, i64(1))), self.load(e, place)
            self.store(e, place, self._choose(e, self._enters(e, new, above), above,
                                              self._choose(e, self._enters(e, new, here), new, here)))
        first = self.load(e, i64(0))
        self.store(e, i64(0), self._choose(e, self._enters(e, new, first), new, first))

    def _choose(self, e: Emitter, condition: ll.Value, a: Entry, b: Entry) -> Entry:
        return e.b.select(condition, a[0], b[0]), e.b.select(condition, a[1], b[1])

    def emit_sort(self, e: Emitter, row: ll.Value) -> None:
        """Merge runs of 1, 2, 4… entries, from one half of scratch to the other."""
        b = e.b
        with e.loop(0, self.size, name="element") as at:
            self.store(e, at, (self.element(e, row, at), b.trunc(at, I32)))
        passes = max(self.size - 1, 0).bit_length()
        with e.loop(0, passes, name="pass") as pass_:
            length = b.shl(i64(1), pass_)
            odd = b.and_(pass_, i64(1))
            source = b.mul(odd, i64(self.size))
            target = b.sub(i64(self.size), source)
            pairs = b.lshr(b.add(i64(self.size - 1), b.shl(length, i64(1))), b.add(pass_, i64(1)))
            with e.loop(0, pairs, name="pair") as pair:
                first = b.shl(pair, b.add(pass_, i64(1)))
                middle = e.smaller(b.add(first, length), i64(self.size))
                end = e.smaller(b.add(middle, length), i64(self.size))
                self._merge(e, source, target, first, middle, end)
        result = i64((passes % 2) * self.size)
        with e.loop(0, self.k, name="place") as place:
            self.write(e, row, place, self.load(e, b.add(result, place)))

    def _merge(self, e: Emitter, source: ll.Value, target: ll.Value, first: ll.Value, middle: ll.Value,
               end: ll.Value) -> None:
        """Merge [first, middle) and [middle, end) of the source; the left entry wins among equals."""
        b, last = e.b, i64(self.size - 1)
        with e.loop_carried(first, end, 1, [first, middle], "merged") as (at, (left, right), following):
            # Past its end a side is read, within the row, but not chosen.
            one = self.load(e, b.add(source, e.smaller(left, last)))
            two = self.load(e, b.add(source, e.smaller(right, last)))
            left_empty = b.icmp_signed(">=", left, middle)
            right_wins = b.and_(b.icmp_signed("<", right, end), self.beats(e, two[0], one[0]))
            takes_right = b.or_(left_empty, right_wins)
            self.store(e, b.add(target, at), self._choose(e, takes_right, two, one))
            step = b.zext(takes_right, I64)
            following[:] = [b.add(left, b.sub(i64(1), step)), b.add(right, step)]
