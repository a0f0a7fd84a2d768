"""Tensors that are joined along their last axis one after another, each into its columns of the same memory."""

from __future__ import annotations

from math import prod

from llvmlite import ir as ll

from ...ir import Node, TensorType
from ..emitter import Emitter, i64
from ..isa import Isa
from ..kernel import Kernel, Phase, key_of

_CHUNK_BYTES = 1 << 18  # moved by a chunk: about 20 us of one core
_MAX_CHUNKS = 64
_WRITTEN_OUT = 8  # registers of a row


def lower_columns(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``first_columns`` and ``more_columns``, which writes nothing but its own columns: a chunk is a range
    of rows. The result lies where the first of two operands does, which is not read."""
    part, wide = node.operands[-1].type, node.results[0].type
    start = getattr(node.op, "start", 0)
    rows = prod(part.shape[:-1])
    chunks = max(1, min(_MAX_CHUNKS, rows, 2 * part.bytes // _CHUNK_BYTES))

    def emit(e: Emitter) -> None:
        if part.size:
            _emit(e, part, wide.shape[-1], start, e.range_of_chunk(rows, chunks))

    return Kernel(node, (Phase(chunks, emit),), key_of(node, isa), label=node.op.name.replace("_", " "))


LOWERINGS = {"first_columns": lower_columns, "more_columns": lower_columns}


def _emit(e: Emitter, part: TensorType, pitch: int, start: int, rows: tuple[ll.Value, ll.Value]) -> None:
    count, size = part.shape[-1], part.dtype.bytes
    element, lanes = ll.IntType(part.dtype.bits), e.isa.lanes(size)
    given, result = e.operand(len(e.node.operands) - 1), e.result(0)
    whole = count // lanes * lanes
    with e.loop(*rows, name="row") as row:
        source = e.at(given, e.b.mul(row, i64(count)), element)
        target = e.at(result, e.b.add(e.b.mul(row, i64(pitch)), i64(start)), element)

        def copy(at: ll.Value, type_: ll.Type) -> None:
            e.store(e.load(e.at(source, at, element), type_, size), e.at(target, at, element), size)

        if count <= _WRITTEN_OUT * lanes:
            for at in range(0, whole, lanes):
                copy(i64(at), e.vector(element, lanes))
        else:
            with e.loop(0, whole, lanes, "column") as at:
                copy(at, e.vector(element, lanes))
        with e.loop(whole, count, name="rest") as at:
            copy(at, element)
