"""Running sums and products along one axis."""

from __future__ import annotations

from math import prod
from typing import Any

from llvmlite import ir as ll

from ....ir import DTYPES, DType, Node, print_graph
from ....ir.ops.elementwise import Add, Mul
from ....ir.ops.reduce import Cumprod
from ... import scalar
from ...emitter import Emitter, i64
from ...isa import Isa
from ...kernel import Kernel, Phase
from .body import body_of

_CHUNK_ELEMENTS = 16384
_MOST_CHUNKS = 64


def lower_cumulative(node: Node, isa: Isa) -> Kernel:
    """The kernel of a running sum or product. Of floats, f32 is summed in f64 and half floats in f32; products are
    rounded after every element. Integers wrap."""
    op: Any = node.op
    shape = node.operands[0].shape
    outer, length, inner = prod(shape[:op.axis]), shape[op.axis], prod(shape[op.axis + 1:])
    size = outer * length * inner
    chunks = max(1, min(_MOST_CHUNKS, size // _CHUNK_ELEMENTS, outer))

    def emit(e: Emitter) -> None:
        if size == 0:
            return
        start, stop = e.range_of_chunk(outer, chunks)
        with e.loop(start, stop, 1, "o") as row:
            base = e.b.mul(row, i64(length * inner))
            lanes = isa.lanes(4)
            whole = inner // lanes * lanes
            if whole:
                with e.loop(0, whole, lanes, "v") as column:
                    _run(e, node, e.b.add(base, column), length, inner, lanes)
            if whole < inner:
                with e.loop(whole, inner, 1, "s") as column:
                    _run(e, node, e.b.add(base, column), length, inner, 1)

    key = f"{op.name} {isa.name} {isa.vector_bytes}\n{print_graph(body_of(node), locations=False)}"
    return Kernel(node, (Phase(chunks, emit),), key, label=op.name)


def _wide(dtype: DType) -> DType:
    if not dtype.is_float:
        return dtype
    return DTYPES["f64" if dtype.bytes >= 4 else "f32"]


def _run(e: Emitter, node: Node, start: ll.Value, length: int, stride: int, lanes: int) -> None:
    """The running sums or products of ``lanes`` neighbouring columns."""
    op: Any = node.op
    dtype = node.operands[0].type.dtype
    product = isinstance(op, Cumprod)
    wide, element = dtype if product else _wide(dtype), scalar.memory_type(dtype)
    type_ = e.vector(element, lanes)
    with e.loop_carried(0, length, 1, [scalar.literal(wide, int(product), lanes)], "k") as (k, current, following):
        step = e.b.sub(i64(length - 1), k) if op.reverse else k
        at = e.b.add(start, e.b.mul(step, i64(stride)))
        x = scalar.from_memory(e, e.load(e.at(e.operand(0), at, element), type_, dtype.bytes), dtype)
        x = scalar.cast(e, x, dtype, wide)
        combine = Mul() if product else Add()
        total = scalar.apply(e, combine, wide, wide, [current[0], x])
        shown = scalar.cast(e, current[0] if op.exclusive else total, wide, dtype)
        e.store(scalar.to_memory(e, shown, dtype), e.at(e.result(0), at, element), dtype.bytes)
        following[0] = total
