"""Products that TensorFlow makes in float64 between values of float32, made without it: no GPU has float64."""

from __future__ import annotations

import numpy as np

from ..ir import Graph, Node, TensorType, Value
from ..ir.ops.elementwise import Add, Cast, Mul
from ..ir.types import F32, F64
from ..passes.eliminate_dead_code import eliminate_dead_code
from ..passes.everywhere import everywhere
from ..passes.rewriter import Rewriter, made_by, uniform

_LARGEST, _LEAST = 1e30, 1e-22  # of factors whose two parts, and the parts' rounding, are ordinary numbers of float32


def narrow(graph: Graph) -> Graph:
    """Multiply float32 by a number of float64 as by two numbers of float32, where the product is rounded to float32.

    Random normal numbers take such a product, the angle 2πv. It is off by less than a unit in the last place.

        %0: f64[4] = cast(%x) {dtype=f64}           %0: f32[4] = mul(%x, 6.283185)
        %1: f64[4] = mul(%0, 6.283185307179586)  ->  %1: f32[4] = mul(%x, 3.0199159e-07)
        %2: f32[4] = cast(%1) {dtype=f32}           %2: f32[4] = add(%0, %1)
    """
    return everywhere(_narrowed, graph)


def _narrowed(graph: Graph) -> Graph:
    narrower = Rewriter(graph, {"cast": (_product,)}).run()
    return graph if narrower is graph else eliminate_dead_code(narrower)


def _product(rewriter: Rewriter, node: Node) -> Value | None:
    product = made_by(node.operands[0], Mul) if node.results[0].type.dtype == F32 else None
    if product is None or product.results[0].type.dtype != F64:
        return None
    for wide, factor in (product.operands, product.operands[::-1]):
        cast, number = made_by(wide, Cast), uniform(factor)
        if cast is None or number is None or cast.operands[0].type.dtype != F32:
            continue
        if not _LEAST < abs(float(number)) < _LARGEST:
            continue
        x = cast.operands[0]
        products = [rewriter.emit(Mul(), x, rewriter.full(TensorType(F32, x.shape), part))
                    for part in _parts(float(number))]
        return products[0] if len(products) == 1 else rewriter.emit(Add(), *products)
    return None


def _parts(number: float) -> list[np.float32]:
    """What adds up to a number: one number of float32 or two of one sign, so that an infinite product is no NaN."""
    upper = np.float32(number)
    if abs(float(upper)) > abs(number):
        upper = np.nextafter(upper, np.float32(0))
    rest = np.float32(number - float(upper))
    return [upper, rest] if rest else [upper]
