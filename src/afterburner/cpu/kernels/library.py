"""Large matrix products as calls of a library (see ``..blas``), which uses threads of its own."""

from __future__ import annotations

from dataclasses import dataclass

from llvmlite import ir as ll

from ...ir import DType
from .. import blas
from ..emitter import I32, PTR, VOID, Emitter, const, i64, stored_type
from ..isa import Isa

_PRODUCTS = 1 << 24  # multiply-adds, 256 cubed: long beside the start of the library's threads (not measured)
_NARROWEST = 64  # of each size
_LARGEST = 1 << 31  # sizes are 32-bit integers
_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112


@dataclass(frozen=True)
class Call:
    """Products C = A B of ``m`` rows, ``n`` columns and ``k`` steps, ``batch`` of them, dense and row-major."""

    batch: int
    m: int
    n: int
    k: int
    transpose_a: bool
    transpose_b: bool

    def pays(self, dtype: DType, isa: Isa) -> bool:
        """Whether the library takes them."""
        if not isa.library or dtype.name not in blas.FUNCTIONS:
            return False
        sizes = (self.m, self.n, self.k)
        return self.m * self.n * self.k >= _PRODUCTS and _NARROWEST <= min(sizes) and max(sizes) < _LARGEST

    def emit(self, e: Emitter, dtype: DType, a: ll.Value, b: ll.Value, c: ll.Value) -> None:
        """All products, one after the other."""
        element = stored_type(dtype)
        type_ = ll.FunctionType(VOID, [*[I32] * 6, element, PTR, I32, PTR, I32, element, PTR, I32])
        name = blas.symbol(dtype.name)
        function = e.module.globals.get(name) or ll.Function(e.module, type_, name)
        flags = [const(I32, _TRANSPOSED if t else _PLAIN) for t in (self.transpose_a, self.transpose_b)]
        sizes = [const(I32, size) for size in (self.m, self.n, self.k)]
        row_a = const(I32, self.m if self.transpose_a else self.k)
        row_b = const(I32, self.k if self.transpose_b else self.n)
        with e.loop(0, self.batch, name="product") as number:
            a_, b_, c_ = (e.at(base, e.b.mul(number, i64(size)), element) for base, size in (
                (a, self.m * self.k), (b, self.k * self.n), (c, self.m * self.n)))
            e.b.call(function, [const(I32, _ROW_MAJOR), *flags, *sizes, const(element, 1.0), a_, row_a, b_, row_b,
                                const(element, 0.0), c_, const(I32, self.n)])
