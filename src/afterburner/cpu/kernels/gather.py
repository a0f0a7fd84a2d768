"""Rows read at computed positions, and rows folded into others there in the order of the indices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from llvmlite import ir as ll

from ...ir import DType, Node, TensorType
from ...ir.ops.gather import Gather, SegmentFold
from ...ir.types import F32
from .. import halves, scalar
from ..emitter import I64, Emitter, const, i64, stored_type
from ..isa import Isa
from ..kernel import Kernel, Phase, key_of

_CHUNK_BYTES = 1 << 18  # moved by a chunk: about 20 us of one core
_LINE_BYTES = 32  # what finding a row costs, in bytes moved in that time
_MAX_CHUNKS = 64


def lower_gather(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``gather``: a chunk is a range of rows of the result."""
    op = node.op
    assert isinstance(op, Gather)
    x, indices = (v.type for v in node.operands)
    outer, inner = prod(x.shape[: op.axis]), prod(x.shape[op.axis + 1:])
    rows = outer * indices.size
    moved = rows * (inner * x.dtype.bytes + _LINE_BYTES)
    chunks = max(1, min(_MAX_CHUNKS, rows, moved // _CHUNK_BYTES))
    size = x.shape[op.axis]

    def emit(e: Emitter) -> None:
        if node.results[0].type.size:
            _emit_gather(e, rows, indices, size, inner, chunks)

    return Kernel(node, (Phase(chunks, emit),), key_of(node, isa), label="gather")


def lower_scatter_add(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``scatter_add`` and of segments' sums, products and extremes: a chunk owns a range of rows of the
    result and goes through all indices, so that every row's updates come in their order whoever computes it."""
    result = node.results[0].type
    indices, updates = range(len(node.operands))[-2:]
    start = node.op.start(result.dtype) if isinstance(node.op, SegmentFold) else 0
    scatter = _Scatter(result.shape[0], prod(result.shape[1:]), node.operands[indices].type, result.dtype,
                       indices, updates, start, _FOLDS.get(node.op.name, _add))
    temps = (result.size * 4,) if halves.is_half(result.dtype) else ()
    phase = Phase(scatter.chunks, scatter.emit)
    return Kernel(node, (phase,), key_of(node, isa), temps, label=node.op.name.replace("_", " "))


LOWERINGS = {"gather": lower_gather, "scatter_add": lower_scatter_add, "segment_sum": lower_scatter_add,
             "segment_max": lower_scatter_add, "segment_min": lower_scatter_add, "segment_prod": lower_scatter_add}

Fold = Callable[[Emitter, DType, ll.Value, ll.Value], ll.Value]


def _add(e: Emitter, dtype: DType, total: ll.Value, update: ll.Value) -> ll.Value:
    return e.b.fadd(total, update) if dtype.is_float else e.b.add(total, update)


def _multiply(e: Emitter, dtype: DType, total: ll.Value, update: ll.Value) -> ll.Value:
    return e.b.fmul(total, update) if dtype.is_float else e.b.mul(total, update)


def _better(sign: str) -> Fold:
    """What is there where it compares so with the update, which a NaN never does; else the update."""
    def fold(e: Emitter, dtype: DType, total: ll.Value, update: ll.Value) -> ll.Value:
        return e.b.select(scalar.compare(e, sign, dtype, total, update), total, update)
    return fold


_FOLDS: dict[str, Fold] = {"segment_max": _better(">"), "segment_min": _better("<"), "segment_prod": _multiply}


def _load_index(e: Emitter, base: ll.Value, at: ll.Value, dtype: DType) -> ll.Value:
    type_ = stored_type(dtype)
    value = e.load(e.at(base, at, type_), type_, dtype.bytes)
    if type_ is I64:
        return value
    return e.b.sext(value, I64) if dtype.kind == "int" else e.b.zext(value, I64)


def _bits(dtype: DType) -> ll.Type:
    """The integer type of an element's width: what a copy moves."""
    return ll.IntType(dtype.bits)


def _width(e: Emitter, dtype_bytes: int, elements: int) -> int:
    """Elements moved at once: a register's, or the largest power of two in a shorter row."""
    return min(e.isa.lanes(dtype_bytes), 1 << max(elements.bit_length() - 1, 0))


def _emit_gather(e: Emitter, rows: int, indices: TensorType, size: int, inner: int, chunks: int) -> None:
    b, dtype = e.b, e.node.results[0].type.dtype
    element, width = _bits(dtype), _width(e, dtype.bytes, inner)
    x, index_base, out = e.operand(0), e.operand(1), e.result(0)
    start, stop = e.range_of_chunk(rows, chunks)
    with e.loop(start, stop, name="row") as row:
        block = b.sdiv(row, i64(indices.size)) if rows > indices.size else i64(0)
        index = _load_index(e, index_base, b.sub(row, b.mul(block, i64(indices.size))), indices.dtype)
        index = e.smaller(e.larger(index, i64(0)), i64(size - 1))
        source = b.mul(b.add(b.mul(block, i64(size)), index), i64(inner))
        target = b.mul(row, i64(inner))
        with e.loop(0, inner, width, name="column") as column:
            # The last vector reaches back over the one before it rather than past the row's end.
            at = column if inner % width == 0 else e.smaller(column, i64(inner - width))
            value = e.load(e.at(x, b.add(source, at), element), e.vector(element, width), dtype.bytes)
            e.store(value, e.at(out, b.add(target, at), element), dtype.bytes)


@dataclass(frozen=True)
class _Scatter:
    """Rows of ``inner`` elements folded into ``rows`` rows: into those of operand 0, or into ``start`` where the
    indices are operand 0."""

    rows: int
    inner: int
    indices: TensorType
    dtype: DType
    index_operand: int
    update_operand: int
    start: float | int
    fold: Fold

    @property
    def chunks(self) -> int:
        """Ranges of rows; few where rows are so short that going through the indices would cost
        more than the additions."""
        moved = (self.rows + self.indices.size) * self.inner * self.dtype.bytes
        affordable = self.inner * self.dtype.bytes // _LINE_BYTES
        return max(1, min(_MAX_CHUNKS, self.rows, moved // _CHUNK_BYTES, affordable))

    def emit(self, e: Emitter) -> None:
        """Set this chunk's rows to what they start from, fold the updates into them, and round what was kept in f32."""
        if not self.rows * self.inner:
            return
        half = halves.is_half(self.dtype)
        kept = F32 if half else self.dtype
        sums = e.temp(0) if half else e.result(0)
        first, end = e.range_of_chunk(self.rows, self.chunks)
        begin, stop = (e.b.mul(at, i64(self.inner)) for at in (first, end))
        if self.index_operand:
            self._convert(e, e.operand(0), self.dtype, sums, kept, begin, stop)
        else:
            self._fill(e, sums, kept, begin, stop)
        with e.loop(0, self.indices.size, name="index") as i:
            index = _load_index(e, e.operand(self.index_operand), i, self.indices.dtype)
            mine = e.b.and_(e.b.icmp_signed(">=", index, first), e.b.icmp_signed("<", index, end))
            with e.b.if_then(mine):
                self._fold_row(e, sums, kept, index, i)
        if half:
            self._convert(e, sums, kept, e.result(0), self.dtype, begin, stop)

    def _convert(self, e: Emitter, source: ll.Value, source_type: DType, target: ll.Value, target_type: DType,
                 begin: ll.Value, stop: ll.Value) -> None:
        def piece(at: ll.Value, lanes: int) -> None:
            value = halves.load(e, e.at(source, at, stored_type(source_type)), source_type, lanes)
            halves.store(e, value, e.at(target, at, stored_type(target_type)), target_type)

        _over_span(e, begin, stop, e.isa.lanes(max(source_type.bytes, target_type.bytes)), piece)

    def _fill(self, e: Emitter, sums: ll.Value, kept: DType, begin: ll.Value, stop: ll.Value) -> None:
        start = float(self.start) if kept.is_float else self.start

        def piece(at: ll.Value, lanes: int) -> None:
            value = const(e.vector(stored_type(kept), lanes), start)
            e.store(value, e.at(sums, at, stored_type(kept)), kept.bytes)

        _over_span(e, begin, stop, e.isa.lanes(kept.bytes), piece)

    def _fold_row(self, e: Emitter, sums: ll.Value, kept: DType, index: ll.Value, row: ll.Value) -> None:
        target, source = (e.b.mul(at, i64(self.inner)) for at in (index, row))

        def piece(at: ll.Value, lanes: int) -> None:
            place = e.at(sums, e.b.add(target, at), stored_type(kept))
            total = e.load(place, e.vector(stored_type(kept), lanes), kept.bytes)
            update = e.at(e.operand(self.update_operand), e.b.add(source, at), stored_type(self.dtype))
            e.store(self.fold(e, kept, total, halves.load(e, update, self.dtype, lanes)), place, kept.bytes)

        _over_span(e, i64(0), i64(self.inner), _width(e, kept.bytes, self.inner), piece)


def _over_span(e: Emitter, begin: ll.Value, stop: ll.Value, width: int,
               piece: Callable[[ll.Value, int], None]) -> None:
    """``piece(first element, count)`` over a range: vectors of ``width``, a power of two, then single
    elements."""
    whole = e.b.and_(e.b.sub(stop, begin), i64(-width))
    middle = e.b.add(begin, whole)
    with e.loop(begin, middle, width, name="vector") as at:
        piece(at, width)
    if width > 1:
        with e.loop(middle, stop, name="single") as at:
            piece(at, 1)
