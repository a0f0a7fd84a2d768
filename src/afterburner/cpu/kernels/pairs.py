"""Products of bfloat16 by a processor's dot product of pairs: twice as many multiply-adds an instruction.

Two neighbouring steps of a sum lie side by side in 32 bits: step 2k in the low half, 2k + 1 in the high one. To a
register tile such a pair is an element like any other, in memory as in registers; only the multiply-add knows what it
holds. So a contraction of pairs is one of half the depth whose operands were paired before: [outer, depth, inner]
becomes [outer, ceil(depth / 2), inner], and memory is that already where bfloat16 is paired along its last axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from llvmlite import ir as ll

from ...ir.types import BF16 as BF16_TYPE
from ...ir.types import F32 as F32_TYPE
from ...ir.types import DType
from .. import halves
from ..emitter import BF16, F32, I16, I32, Emitter, const, i64
from ..isa import Isa
from ..kernel import Phase
from .gemm import MOST_CHUNKS, Numeric, load_lanes, range_of_part, store_lanes
from .packing import load_scalar

_CHUNK_ELEMENTS = 65536
_ROUNDING, _JOINING = 8.0, 3.0  # cycles for a register of pairs: of f32, of bfloat16 from two lines


@dataclass(frozen=True)
class Pairs(Numeric):
    """Sums in f32 of products of bfloat16 pairs, which registers hold as f32 of the same bits.

    Attributes:
        instruction: the processor has it; else it is written out, which differs in denormals alone: the instruction
            takes them for zero, in operands and sums.
    """

    instruction: bool

    def multiply_add(self, e: Emitter, a: ll.Value, b: ll.Value, c: ll.Value) -> ll.Value:
        """``c + a.high * b.high``, then ``+ a.low * b.low``: the order of the instruction."""
        if self.instruction:
            return _dot(e, a, b, c)
        for part in (_high, _low):
            c = super().multiply_add(e, part(e, a), part(e, b), c)
        return c


def pairs(dtype: DType, isa: Isa) -> Pairs | None:
    """The arithmetic of pairs where a contraction of ``dtype`` may take it: bfloat16, and in fast precision f32."""
    if not isa.bf16_dot or not (dtype == BF16_TYPE or (dtype == F32_TYPE and isa.precision == "fast")):
        return None
    return Pairs(F32, 4, isa.lanes(4), isa.fma, "+avx512bf16" in isa.features.split(","))


def _dot(e: Emitter, a: ll.Value, b: ll.Value, c: ll.Value) -> ll.Value:
    operand = ll.VectorType(BF16, 2 * c.type.count)
    name = f"llvm.x86.avx512bf16.dpbf16ps.{32 * c.type.count}"
    function = e.module.globals.get(name) or ll.Function(
        e.module, ll.FunctionType(c.type, [c.type, operand, operand]), name)
    return e.b.call(function, [c, e.b.bitcast(a, operand), e.b.bitcast(b, operand)])


def _bits(e: Emitter, value: ll.Value) -> ll.Value:
    return e.b.bitcast(value, e.vector(I32, value.type.count if isinstance(value.type, ll.VectorType) else 1))


def _low(e: Emitter, value: ll.Value) -> ll.Value:
    bits = _bits(e, value)
    return e.b.bitcast(e.b.shl(bits, const(bits.type, 16)), value.type)


def _high(e: Emitter, value: ll.Value) -> ll.Value:
    bits = _bits(e, value)
    return e.b.bitcast(e.b.and_(bits, const(bits.type, 0xFFFF0000)), value.type)


@dataclass(frozen=True)
class Layout:
    """An operand as [outer, depth, inner], summed along ``depth``."""

    outer: int
    depth: int
    inner: int

    @property
    def lines(self) -> int:
        """Of ``inner`` pairs."""
        return self.outer * halved(self.depth)

    @property
    def pairs(self) -> int:
        return self.lines * self.inner

    def ready(self, stored: ll.Type) -> bool:
        """Memory holds pairs as it is."""
        return stored is BF16 and self.inner == 1 and self.depth % 2 == 0

    def cycles(self, stored: ll.Type, num: Numeric) -> float:
        """Estimated cycles of pairing."""
        if self.ready(stored):
            return 0.0
        return self.pairs / num.lanes * (_JOINING if stored is BF16 else _ROUNDING)


def halved(depth: int) -> int:
    """Pairs in so many steps; an odd one is paired with zero."""
    return -(-depth // 2)


def pays(products: int, depth: int, layouts: Sequence[Layout], stored: ll.Type, num: Pairs) -> bool:
    """Whether a contraction of so many products, summed along an axis of ``depth``, saves more cycles by pairs than
    pairing its operands takes. Two multiply-adds start in a cycle, as many as of f32."""
    saved = products * (1 - halved(depth) / depth) / num.lanes / 2
    return saved > sum(layout.cycles(stored, num) for layout in layouts)


Pointer = Callable[[Emitter], ll.Value]


class PairedOperands:
    """Operands of a contraction as pairs, in temporaries from ``first`` on unless memory holds pairs already.

    Attributes:
        phases: make the temporaries.
        temps: their sizes in bytes.
        pointers: of the operands, in order.
    """

    def __init__(self, num: Pairs, stored: ll.Type, operands: Sequence[tuple[Layout, Pointer]], first: int) -> None:
        self.phases: list[Phase] = []
        self.temps: list[int] = []
        self.pointers: list[Pointer] = []
        for layout, pointer in operands:
            if layout.ready(stored):
                self.pointers.append(pointer)
                continue
            target = temporary(first + len(self.temps))
            self.phases.append(pairing_phase(num, stored, layout, pointer, target))
            self.temps.append(layout.pairs * num.bytes)
            self.pointers.append(target)


def temporary(index: int) -> Pointer:
    """Where a kernel's temporary is."""
    return lambda e: e.temp(index)


def pairing_phase(num: Pairs, stored: ll.Type, layout: Layout, source: Pointer, target: Pointer) -> Phase:
    """Writes an operand's pairs, rounding f32 to nearest even."""
    joined = layout.inner == 1 and layout.depth % 2 == 0  # runs follow each other without a gap
    units = layout.pairs if joined else layout.outer if layout.inner == 1 else layout.lines
    chunks = max(1, min(MOST_CHUNKS, units, layout.pairs * 2 // _CHUNK_ELEMENTS))

    def emit(e: Emitter) -> None:
        first, end = range_of_part(e, e.chunk, units, chunks)
        given, into = source(e), target(e)
        if joined:
            _pair_run(e, num, e.at(given, e.b.mul(first, i64(2)), stored), e.at(into, first, F32),
                      e.b.sub(end, first), stored)
            return
        with e.loop(first, end, name="unit") as unit:
            if layout.inner == 1:
                _pair_odd_run(e, num, e.at(given, e.b.mul(unit, i64(layout.depth)), stored),
                              e.at(into, e.b.mul(unit, i64(halved(layout.depth))), F32), layout.depth, stored)
            else:
                _pair_lines(e, num, given, into, unit, layout, stored)

    return Phase(chunks, emit)


def _pair_run(e: Emitter, num: Pairs, source: ll.Value, target: ll.Value, count: ll.Value, stored: ll.Type) -> None:
    """``count`` pairs of adjacent elements."""
    whole = e.b.and_(count, i64(-num.lanes))
    with e.loop(0, whole, num.lanes, "pairs") as k:
        given = e.at(source, e.b.mul(k, i64(2)), stored)
        element, size = (BF16, 2) if stored is BF16 else (F32, 4)
        value = e.load(given, ll.VectorType(element, 2 * num.lanes), size)
        rounded = value if stored is BF16 else halves.narrow_to(e, value, BF16)
        e.store(e.b.bitcast(rounded, num.vector), e.at(target, k, F32), num.bytes)
    with e.loop(whole, count, name="rest") as k:
        given = e.at(source, e.b.mul(k, i64(2)), stored)
        low, high = (load_scalar(e, num, e.at(given, i, stored), stored) for i in range(2))
        e.store(_joined(e, low, high), e.at(target, k, F32), num.bytes)


def _pair_odd_run(e: Emitter, num: Pairs, source: ll.Value, target: ll.Value, depth: int, stored: ll.Type) -> None:
    """Pairs of an odd number of adjacent elements."""
    _pair_run(e, num, source, target, i64(depth // 2), stored)
    last = load_scalar(e, num, e.at(source, depth - 1, stored), stored)
    e.store(_joined(e, last, const(F32, 0.0)), e.at(target, depth // 2, F32), num.bytes)


def _pair_lines(e: Emitter, num: Pairs, source: ll.Value, target: ll.Value, line: ll.Value, layout: Layout,
                stored: ll.Type) -> None:
    """Pairs of two lines of ``inner`` elements, which are ``inner`` apart; an odd last one with zeros."""
    into = e.at(target, e.b.mul(line, i64(layout.inner)), F32)
    count = halved(layout.depth)
    outer, pair = e.b.udiv(line, i64(count)), e.b.urem(line, i64(count))
    step = e.b.add(e.b.mul(outer, i64(layout.depth)), e.b.mul(pair, i64(2)))
    low = e.at(source, e.b.mul(step, i64(layout.inner)), stored)
    if layout.depth % 2 == 0:
        _pair_two(e, num, low, True, into, layout.inner, stored)
        return
    with e.b.if_else(e.b.icmp_signed("<", pair, i64(count - 1))) as (then, otherwise):
        with then:
            _pair_two(e, num, low, True, into, layout.inner, stored)
        with otherwise:
            _pair_two(e, num, low, False, into, layout.inner, stored)


def _pair_two(e: Emitter, num: Pairs, low: ll.Value, followed: bool, target: ll.Value, inner: int,
              stored: ll.Type) -> None:
    def pair(at: ll.Value | int, lanes: int) -> None:
        first = load_lanes(e, e.at(low, at, stored), num, lanes, stored)
        second: ll.Value = num.zero
        if followed:
            second = load_lanes(e, e.at(e.at(low, inner, stored), at, stored), num, lanes, stored)
        store_lanes(e, _joined(e, first, second), e.at(target, at, F32), num, lanes)

    whole = inner - inner % num.lanes
    with e.loop(0, whole, num.lanes, "pairs") as j:
        pair(j, num.lanes)
    if whole < inner:
        pair(whole, inner - whole)


def _joined(e: Emitter, low: ll.Value, high: ll.Value) -> ll.Value:
    """Pairs, as f32 of the same bits, of f32 rounded to bfloat16."""
    bits = [e.b.zext(_half_bits(e, value), _bits(e, value).type) for value in (low, high)]
    return e.b.bitcast(e.b.or_(bits[0], e.b.shl(bits[1], const(bits[1].type, 16))), low.type)


def _half_bits(e: Emitter, value: ll.Value) -> ll.Value:
    lanes = value.type.count if isinstance(value.type, ll.VectorType) else 1
    return e.b.bitcast(halves.narrow_to(e, value, BF16), e.vector(I16, lanes))
