"""Lists of the elements of a row that are not zero, for products that leave the zeros out."""

from __future__ import annotations

import numpy as np
from llvmlite import ir as ll

from ..emitter import F32, I8, I32, I64, Emitter, const, i64
from .loops.values import table

ENTRY = 8  # bytes: an offset of 32 bits, and the element, each in an array of its own
_VECTOR = 8  # elements that one step of the AVX2 form looks at


def orders() -> np.ndarray:
    """For each mask of 8 bits, the numbers of its bits that are set, then zeros."""
    orders = np.zeros((256, _VECTOR), np.uint8)
    for mask in range(256):
        bits = [b for b in range(_VECTOR) if mask >> b & 1]
        orders[mask, :len(bits)] = bits
    return orders


class Lists:
    """Appends elements that are not zero, and their offsets, to two arrays. May write up to a register more.

    Args:
        e: where to emit; the table that the AVX2 form needs is placed in its module.
        unit: bytes between the offsets of neighbouring elements.
    """

    def __init__(self, e: Emitter, unit: int) -> None:
        self.unit = unit
        # Tests compile AVX2's shapes on Arm, which lacks the instruction.
        has_permute = e.isa.name == "avx2" and e.isa.triple.startswith("x86_64")
        self._orders = table(e, orders()) if has_permute else None

    def append(self, e: Emitter, source: ll.Value, count: int, first: ll.Value, offsets: ll.Value,
               values: ll.Value, size: ll.Value) -> ll.Value:
        """Append those of ``count`` elements at ``source``; the first has the offset ``first``, i32.

        Returns:
            The new size of the lists, i64.
        """
        whole = count - count % _VECTOR if self._orders is not None else 0
        if whole:
            with e.loop_carried(0, whole, _VECTOR, [size], "some") as (k, now, after):
                after[0] = self._append_eight(e, source, k, first, offsets, values, now[0])
            size = after[0]
        if whole == count:
            return size
        with e.loop_carried(whole, count, 1, [size], "one") as (k, now, after):
            value = e.load(e.at(source, k, F32), F32, 4)
            e.store(value, e.at(values, now[0], F32), 4)
            e.store(self._offset(e, first, k), e.at(offsets, now[0], I32), 4)
            differs = e.b.fcmp_unordered("!=", value, const(F32, 0.0))
            after[0] = e.b.add(now[0], e.b.zext(differs, I64))
        return after[0]

    def _offset(self, e: Emitter, first: ll.Value, k: ll.Value) -> ll.Value:
        return e.b.add(first, e.b.mul(e.b.trunc(k, I32), ll.Constant(I32, self.unit)))

    def _append_eight(self, e: Emitter, source: ll.Value, k: ll.Value, first: ll.Value, offsets: ll.Value,
                      values: ll.Value, size: ll.Value) -> ll.Value:
        floats, integers = ll.VectorType(F32, _VECTOR), ll.VectorType(I32, _VECTOR)
        value = e.load(e.at(source, k, F32), floats, 4)
        mask = e.b.bitcast(e.b.fcmp_unordered("!=", value, const(floats, 0.0)), I8)
        index = e.b.zext(mask, I64)
        order = e.load(e.at(self._orders, e.b.mul(index, i64(_VECTOR)), I8), ll.VectorType(I8, _VECTOR), 8)
        order = e.b.zext(order, integers)
        name = "llvm.x86.avx2.permps"
        permute = e.module.globals.get(name) or ll.Function(e.module, ll.FunctionType(floats, [floats, integers]), name)
        e.store(e.b.call(permute, [value, order]), e.at(values, size, F32), 4)
        steps = e.b.mul(order, const(integers, self.unit))
        e.store(e.b.add(e.splat(self._offset(e, first, k), _VECTOR), steps), e.at(offsets, size, I32), 4)
        return e.b.add(size, e.b.zext(e.intrinsic("llvm.ctpop", I8, mask), I64))
