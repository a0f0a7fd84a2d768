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
from ..emitter import BF16, F32, I16, I32, Emitter, const, i64, like
from ..isa import Isa
from ..kernel import Phase
from .gemm import LINE, MOST_CHUNKS, Numeric, load_lanes, load_part, range_of_part, shuffle, store_lanes
from .packing import FAR, ROWS_AHEAD, load_scalar, transpose

_CHUNK_ELEMENTS = 65536
_ROUNDING, _JOINING = 8.0, 3.0  # cycles for a register of pairs: of f32, of bfloat16 from two lines


@dataclass(frozen=True)
class Pairs(Numeric):
    """Sums in f32 of products of bfloat16 pairs, which registers hold as f32 of the same bits.

    Attributes:
        instruction: the processor has it; else it is written out, which differs in denormals alone: the instruction
            takes them for zero, in operands and sums.
        starts: multiply-adds, of pairs as of f32, that start in a cycle.
    """

    instruction: bool
    starts: int = 2

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
    return Pairs(F32, 4, isa.lanes(4), isa.fma, "+avx512bf16" in isa.features.split(","),
                 isa.multiply_adds)


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
    pairing its operands takes."""
    saved = products * (1 - halved(depth) / depth) / num.lanes / num.starts
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
        e.store(join_adjacent(e, num, given, 2 * num.lanes, stored), e.at(target, k, F32), num.bytes)
    with e.loop(whole, count, name="rest") as k:
        given = e.at(source, e.b.mul(k, i64(2)), stored)
        low, high = (load_scalar(e, num, e.at(given, i, stored), stored) for i in range(2))
        e.store(join(e, num, low, high), e.at(target, k, F32), num.bytes)


def _pair_odd_run(e: Emitter, num: Pairs, source: ll.Value, target: ll.Value, depth: int, stored: ll.Type) -> None:
    """Pairs of an odd number of adjacent elements."""
    _pair_run(e, num, source, target, i64(depth // 2), stored)
    last = load_scalar(e, num, e.at(source, depth - 1, stored), stored)
    e.store(join(e, num, last, const(F32, 0.0)), e.at(target, depth // 2, F32), num.bytes)


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
        second = e.at(e.at(low, inner, stored), at, stored) if followed else None
        joined = join_stored(e, num, e.at(low, at, stored), second, lanes, stored)
        store_lanes(e, joined, e.at(target, at, F32), num, lanes)

    whole = inner - inner % num.lanes
    with e.loop(0, whole, num.lanes, "pairs") as j:
        pair(j, num.lanes)
    if whole < inner:
        pair(whole, inner - whole)


def pack_pairs(e: Emitter, num: Pairs, source: ll.Value, stride: int, depth: ll.Value, target: ll.Value, vectors: int,
               last_lanes: int, stored: ll.Type) -> None:
    """As ``packing.pack_columns``: rows 2k and 2k + 1 of ``depth`` as pairs, an odd last one with zeros."""
    row, size = vectors * num.lanes, 2 if stored is BF16 else 4
    asked = range(0, row * size, LINE) if stride * size >= FAR else ()

    def pair(first: ll.Value, second: ll.Value | None, into: ll.Value) -> None:
        for v in range(vectors):
            at, lanes = v * num.lanes, last_lanes if v == vectors - 1 else num.lanes
            high = None if second is None else e.at(second, at, stored)
            value = join_stored(e, num, e.at(first, at, stored), high, lanes, stored)
            e.store(value, e.at(into, at, F32), num.lanes * num.bytes)

    whole = e.b.udiv(depth, i64(2))
    with e.loop_carried(0, whole, 1, [source, target], "pack") as (_, now, after):
        following = e.at(now[0], stride, stored)
        for at in asked:
            for first in (now[0], following):
                e.prefetch(e.at(first, ROWS_AHEAD * stride + at // size, stored))
        pair(now[0], following, now[1])
        after[:] = [e.at(following, stride, stored), e.at(now[1], row, F32)]
    with e.loop(whole, e.b.udiv(e.b.add(depth, i64(1)), i64(2)), name="odd"):
        pair(after[0], None, after[1])


def pack_pairs_transposed(e: Emitter, num: Pairs, source: ll.Value, stride: int, depth: int, target: ll.Value,
                          vectors: int, last_lanes: int, stored: ll.Type) -> None:
    """As ``pack_pairs`` where column j is the contiguous row j of ``source``: squares of pairs are transposed."""
    whole, row = (vectors if last_lanes == num.lanes else vectors - 1), vectors * num.lanes
    with e.loop(0, whole, name="register") as v:
        lines = e.at(source, e.b.mul(v, i64(num.lanes * stride)), stored)
        _pair_transposed(e, num, lines, stride, depth, e.at(target, e.b.mul(v, i64(num.lanes)), F32), row, num.lanes,
                         stored)
    if whole < vectors:
        lines = e.at(source, whole * num.lanes * stride, stored)
        _pair_transposed(e, num, lines, stride, depth, e.at(target, whole * num.lanes, F32), row, last_lanes, stored)


def _pair_transposed(e: Emitter, num: Pairs, lines: ll.Value, stride: int, depth: int, into: ll.Value, row: int,
                     count: int, stored: ll.Type) -> None:
    """Make ``count`` lines the first columns of a register's width of pairs; ``row`` of them from one step on."""
    square = 2 * num.lanes  # elements

    def transposed(first: ll.Value | int, elements: int, at: ll.Value) -> None:
        block = [join_adjacent(e, num, e.at(e.at(lines, first, stored), j * stride, stored), elements, stored)
                 if j < count else num.zero for j in range(num.lanes)]
        for j, column in enumerate(transpose(e, block)[:halved(elements)]):
            e.store(column, e.at(at, j * row, F32), num.lanes * num.bytes)

    whole = depth // square * square
    with e.loop(0, whole, square, "square") as k:
        transposed(k, square, e.at(into, e.b.mul(e.b.udiv(k, i64(2)), i64(row)), F32))
    if whole < depth:
        transposed(whole, depth - whole, e.at(into, whole // 2 * row, F32))


def join_adjacent(e: Emitter, num: Pairs, address: ll.Value, count: int, stored: ll.Type) -> ll.Value:
    """A register of pairs of up to twice as many adjacent elements in memory, rounded; those after them are zero."""
    if stored is BF16:
        return e.b.bitcast(load_part(e, address, I16, 2 * num.lanes, count, 2), num.vector)
    low = load_lanes(e, address, num, min(count, num.lanes), stored)
    high = load_lanes(e, e.at(address, num.lanes, stored), num, count - num.lanes, stored) if count > num.lanes \
        else num.zero
    return in_order(e, num, low, high)


def in_order(e: Emitter, num: Pairs, low: ll.Value, high: ll.Value) -> ll.Value:
    """Pairs of adjacent f32, rounded: those of a register, then those of another."""
    if num.instruction:
        return e.b.bitcast(_round_two(e, low, high), num.vector)
    return e.b.bitcast(halves.narrow_to(e, shuffle(e, low, high, range(2 * num.lanes)), BF16), num.vector)


def join(e: Emitter, num: Pairs, low: ll.Value, high: ll.Value) -> ll.Value:
    """Pairs, as f32 of the same bits, of f32 rounded to bfloat16."""
    if num.instruction and isinstance(low.type, ll.VectorType):
        lanes = low.type.count
        return e.b.bitcast(_interleaved(e, _round_two(e, low, high), lanes), low.type)
    return _side_by_side(e, *(_half_bits(e, value) for value in (low, high)))


def join_stored(e: Emitter, num: Pairs, low: ll.Value | None, high: ll.Value | None, lanes: int,
                stored: ll.Type) -> ll.Value:
    """A register of pairs of ``lanes`` adjacent elements in memory each, rounded; those after them, and those of no
    address, are zero."""
    if stored is BF16:
        return _side_by_side(e, *(_stored_bits(e, num, address, lanes) for address in (low, high)))
    values = [num.zero if address is None else load_lanes(e, address, num, lanes, stored) for address in (low, high)]
    return join(e, num, *values)


def _stored_bits(e: Emitter, num: Pairs, address: ll.Value | None, lanes: int) -> ll.Value:
    if address is None:
        return const(e.vector(I16, num.lanes), 0)
    return load_part(e, address, I16, num.lanes, lanes, 2)


def round_register(e: Emitter, num: Pairs, value: ll.Value) -> ll.Value:
    """A register of f32 as half a register of bfloat16."""
    if not num.instruction:
        return halves.narrow_to(e, value, BF16)
    lanes = value.type.count
    result, name = ll.VectorType(BF16, lanes), f"llvm.x86.avx512bf16.cvtneps2bf16.{32 * lanes}"
    function = e.module.globals.get(name) or ll.Function(e.module, ll.FunctionType(result, [value.type]), name)
    return e.b.call(function, [value])


def _round_two(e: Emitter, low: ll.Value, high: ll.Value) -> ll.Value:
    """bfloat16 of ``low``, then of ``high``, by the instruction; denormals become zero, as its products take them."""
    lanes = low.type.count
    result, name = ll.VectorType(BF16, 2 * lanes), f"llvm.x86.avx512bf16.cvtne2ps2bf16.{32 * lanes}"
    function = e.module.globals.get(name) or ll.Function(
        e.module, ll.FunctionType(result, [high.type, low.type]), name)
    return e.b.call(function, [high, low])


def _interleaved(e: Emitter, value: ll.Value, lanes: int) -> ll.Value:
    return shuffle(e, value, value, [i // 2 + i % 2 * lanes for i in range(2 * lanes)])


def _side_by_side(e: Emitter, low: ll.Value, high: ll.Value) -> ll.Value:
    """Pairs, as f32 of the same bits, of the bits of halves."""
    wide = like(low, I32)
    bits = [e.b.zext(value, wide) for value in (low, high)]
    return e.b.bitcast(e.b.or_(bits[0], e.b.shl(bits[1], const(wide, 16))), like(low, F32))


def _half_bits(e: Emitter, value: ll.Value) -> ll.Value:
    return e.b.bitcast(halves.narrow_to(e, value, BF16), like(value, I16))
