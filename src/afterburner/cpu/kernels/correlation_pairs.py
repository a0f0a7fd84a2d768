"""Direct correlation of bfloat16 pairs of channels: the filter is paired as it is packed, the image where it has to be
rounded, block by block."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir as ll

from ..emitter import Emitter, i64
from .correlation import Correlation, Plan
from .correlator import Correlator
from .epilogue import Streams
from .gemm import Numeric, store_lanes
from .pairs import Pairs, halved, in_order, pack_pairs, pack_pairs_transposed
from .prologue import Blocks, Given, Prologue


class PairedCorrelator(Correlator):
    """Emits the phases of a correlation of pairs, ``c``, which is half as deep as ``given``, what it computes. Only an
    even number of channels may be made."""

    num: Pairs

    def __init__(self, given: Correlation, c: Correlation, plan: Plan, num: Pairs, stored: ll.Type, packed_at: int,
                 filter_columns: int, streams: Streams = lambda e: [], made: Prologue | Given | None = None) -> None:
        self.given = given
        super().__init__(c, plan, num, stored, packed_at, filter_columns, streams, made=made)

    def _blocks(self, made: Prologue | Given) -> Blocks:
        return PairedBlocks(made, self._made_at, self.c.columns.inputs, self.given.depth, self.c.pixel)

    @property
    def filter_of(self) -> Correlation:
        return self.given

    def pack_tap(self, e: Emitter, source: ll.Value, into: ll.Value, width: int, last: int) -> None:
        c = self.given
        if c.transposed:
            pack_pairs_transposed(e, self.num, source, c.depth * c.groups, c.depth, into, width, last, self.stored)
        else:
            pack_pairs(e, self.num, source, c.width * c.groups, i64(c.depth), into, width, last, self.stored)


@dataclass(frozen=True)
class PairedBlocks(Blocks):
    """Rounds what it makes to pairs."""

    def _piece(self, e: Emitter, num: Numeric, source: ll.Value, target: ll.Value, channel: ll.Value,
               count: int) -> None:
        assert isinstance(num, Pairs)
        rows = self.prologue.rows(e, num, channel, count)
        source, target = e.at(source, channel, num.element), e.at(target, e.b.udiv(channel, i64(2)), num.element)
        for at in range(0, count, 2 * num.lanes):
            low, high = (min(max(count - at - first, 0), num.lanes) for first in (0, num.lanes))
            first = rows.made(e, num, source, at, low, num.element)
            second = rows.made(e, num, source, at + num.lanes, high, num.element) if high else num.zero
            store_lanes(e, in_order(e, num, first, second), e.at(target, at // 2, num.element), num, halved(low + high))
