"""Running sums along an axis."""

from __future__ import annotations

from math import prod

from llvmlite import ir as ll

from ...ir import Node
from ...ir.ops.reduce import Cumsum
from .. import halves
from ..emitter import Emitter, const, i64, stored_type
from ..isa import Isa
from ..kernel import Kernel, Phase
from .gemm import kernel_key, smaller

_CHUNK_ELEMENTS = 1 << 15  # about 20 us of one core
_MAX_CHUNKS = 64


def lower_cumsum(node: Node, isa: Isa) -> Kernel:
    """Kernel of ``cumsum``: vectors along the axes after the summed one, sums in its order in
    registers, 16-bit floats in f32; a chunk is a range of such columns of vectors."""
    op, shape = node.op, node.operands[0].shape
    assert isinstance(op, Cumsum)
    dtype = node.operands[0].type.dtype
    outer, size, inner = prod(shape[: op.axis]), shape[op.axis], prod(shape[op.axis + 1:])
    lanes = isa.lanes(4 if halves.is_half(dtype) else dtype.bytes)
    width = min(lanes, 1 << max(inner.bit_length() - 1, 0))
    blocks = -(-inner // width)
    chunks = max(1, min(_MAX_CHUNKS, outer * blocks, outer * blocks * size // _CHUNK_ELEMENTS))

    def emit(e: Emitter) -> None:
        if not outer * size * inner:
            return
        start, stop = e.range_of_chunk(outer * blocks, chunks)
        with e.loop(start, stop, name="column") as column:
            block = e.b.sdiv(column, i64(blocks))
            lane = e.b.mul(e.b.sub(column, e.b.mul(block, i64(blocks))), i64(width))
            first = e.b.add(e.b.mul(block, i64(size * inner)), smaller(e, lane, i64(inner - width)))
            _emit_column(e, op, first, size, inner, width)

    return Kernel(node, (Phase(chunks, emit),), kernel_key(node, isa), label="cumulative sum")


def _emit_column(e: Emitter, op: Cumsum, first: ll.Value, size: int, inner: int, width: int) -> None:
    """Sums of ``width`` adjacent columns whose first elements begin at offset ``first``."""
    dtype = e.node.operands[0].type.dtype
    type_ = e.vector(halves.compute_type(dtype), width)
    zero = const(type_, 0.0 if dtype.is_float else 0)
    with e.loop_carried(0, size, 1, [zero], "step") as (step, (total,), following):
        row = e.b.sub(i64(size - 1), step) if op.reverse else step
        offset = e.b.add(first, e.b.mul(row, i64(inner)))
        x = halves.load(e, e.at(e.operand(0), offset, stored_type(dtype)), dtype, width)
        sum_ = e.b.fadd(total, x) if dtype.is_float else e.b.add(total, x)
        target = e.at(e.result(0), offset, stored_type(dtype))
        halves.store(e, total if op.exclusive else sum_, target, dtype)
        following[:] = [sum_]


LOWERINGS = {"cumsum": lower_cumsum}
