"""Large matrix products as calls of a library (see ``..blas``), which uses threads of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llvmlite import ir as ll

from ...ir import DType
from .. import blas
from ..emitter import I32, PTR, VOID, Emitter, const, i64, stored_type
from ..isa import Isa

if TYPE_CHECKING:
    from .matmul import Product

_PRODUCTS = 1 << 24  # multiply-adds, 256 cubed: long beside the start of the library's threads (not measured)
_NARROWEST = 64  # of each size
_LARGEST = 1 << 31  # sizes are 32-bit integers
_ROW_MAJOR, _PLAIN, _TRANSPOSED = 101, 111, 112


def pays(p: Product, dtype: DType, isa: Isa) -> bool:
    """Whether the library takes products."""
    if not isa.library or dtype.name not in blas.FUNCTIONS:
        return False
    sizes = (p.m, p.n, p.k)
    return p.m * p.n * p.k >= _PRODUCTS and _NARROWEST <= min(sizes) and max(sizes) < _LARGEST


def emit_call(e: Emitter, p: Product, dtype: DType, a: ll.Value, b: ll.Value, c: ll.Value) -> None:
    """All products of dense, row-major matrices at ``a`` and ``b``, one after the other."""
    element = stored_type(dtype)
    type_ = ll.FunctionType(VOID, [*[I32] * 6, element, PTR, I32, PTR, I32, element, PTR, I32])
    name = blas.symbol(dtype.name)
    function = e.module.globals.get(name) or ll.Function(e.module, type_, name)
    flags = [const(I32, _TRANSPOSED if t else _PLAIN) for t in (p.transpose_a, p.transpose_b)]
    sizes = [const(I32, size) for size in (p.m, p.n, p.k)]
    row_a = const(I32, p.m if p.transpose_a else p.k)
    row_b = const(I32, p.k if p.transpose_b else p.n)
    with e.loop(0, p.batch, name="product") as number:
        a_, b_, c_ = (e.at(base, e.b.mul(number, i64(size)), element) for base, size in (
            (a, p.m * p.k), (b, p.k * p.n), (c, p.m * p.n)))
        e.b.call(function, [const(I32, _ROW_MAJOR), *flags, *sizes, const(element, 1.0), a_, row_a, b_, row_b,
                            const(element, 0.0), c_, const(I32, p.n)])
