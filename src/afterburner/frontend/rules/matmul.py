"""Matrix products and Einstein sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from ...ir import Value
from ...ir.ops.matmul import Matmul
from ...ir.ops.reduce import ReduceSum
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .reduce import reduce

_HIDDEN = 0x100  # labels from here on stand for axes under an ellipsis, which alone are repeated


def _matmul(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    return (ctx.emit(Matmul(bool(ctx.attr("transpose_a")), bool(ctx.attr("transpose_b"))), *inputs),)


def _batch_matmul(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Leading axes broadcast."""
    a, b = inputs
    if op.type == "BatchMatMulV3":
        dtype = ctx.dtype("Tout")
        a, b = ctx.cast(a, dtype), ctx.cast(b, dtype)
    try:
        batch = tuple(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]))
    except ValueError:
        raise ctx.refuse(f"batch axes of {a.type} and {b.type} do not fit") from None
    a = ctx.broadcast_to(a, (*batch, *a.shape[-2:]))
    b = ctx.broadcast_to(b, (*batch, *b.shape[-2:]))
    return (ctx.emit(Matmul(bool(ctx.attr("adj_x")), bool(ctx.attr("adj_y"))), a, b),)


@dataclass(frozen=True)
class _Term:
    """A tensor and the label of each of its axes."""

    value: Value
    labels: str


def _einsum(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Sums over labels of one operand, then one batched matrix product, then a transpose."""
    sources, result = _labels(ctx, inputs)
    terms = [_Term(v, s) for v, s in zip(inputs, sources, strict=True)]
    if len(terms) == 1:
        return (_arranged(ctx, _summed(ctx, terms[0], result), result),)
    first, second = terms
    first = _summed(ctx, first, result + second.labels)
    second = _summed(ctx, second, result + first.labels)
    return (_arranged(ctx, _contracted(ctx, first, second, result), result),)


def _labels(ctx: Importer, inputs: list[Value]) -> tuple[list[str], str]:
    """Labels per operand and of the result; axes under an ellipsis get capital labels from the right."""
    left, arrow, result = ctx.attr("equation").replace(" ", "").partition("->")
    sources = left.split(",")
    if not arrow or len(sources) != len(inputs):
        raise ctx.refuse(f"the equation {ctx.attr('equation')!r}")
    hidden = [v.type.rank - len(s.replace("...", "")) for v, s in zip(inputs, sources, strict=True)]
    spare = [chr(_HIDDEN + i) for i in range(32)]
    most = max((h for h, s in zip(hidden, sources, strict=True) if "..." in s), default=0)
    sources = [s.replace("...", "".join(spare[most - h: most])) for h, s in zip(hidden, sources, strict=True)]
    result = result.replace("...", "".join(spare[:most]))
    for source, value in zip(sources, inputs, strict=True):
        if len(set(source)) != len(source) or len(source) != value.type.rank:
            raise ctx.refuse("einsum with a repeated label or another rank")
    if len(set(result)) != len(result) or not set(result) <= set("".join(sources)):
        raise ctx.refuse("einsum with a repeated or unknown result label")
    return sources, result


def _summed(ctx: Importer, term: _Term, kept: str) -> _Term:
    axes = tuple(i for i, label in enumerate(term.labels) if label not in kept)
    if not axes:
        return term
    labels = "".join(label for label in term.labels if label in kept)
    return _Term(reduce(ctx, ReduceSum, term.value, axes), labels)


def _arranged(ctx: Importer, term: _Term, labels: str) -> Value:
    return ctx.transpose(term.value, [term.labels.index(label) for label in labels])


def _contracted(ctx: Importer, a: _Term, b: _Term, result: str) -> _Term:
    """The product, its axes labelled batch, free of one operand, free of the other: of the one whose axes come first
    in the result."""
    sizes: dict[str, int] = {}
    axes = (*zip(a.labels, a.value.shape, strict=True), *zip(b.labels, b.value.shape, strict=True))
    for label, size in axes:
        stretches = ord(label) >= _HIDDEN and 1 in (size, sizes.get(label, size))
        if sizes.get(label, size) != size and not stretches:
            raise ctx.refuse(f"einsum label {label} has sizes {sizes[label]} and {size}")
        sizes[label] = size if sizes.get(label, 1) == 1 else sizes[label]
    shared = [label for label in a.labels if label in b.labels]
    batch = "".join(label for label in shared if label in result)
    inner = "".join(label for label in shared if label not in result)
    rows = "".join(label for label in a.labels if label not in shared)
    columns = "".join(label for label in b.labels if label not in shared)
    if result == batch + columns + rows != batch + rows + columns:
        a, b, rows, columns = b, a, columns, rows
    turned = a.labels == batch + inner + rows, b.labels == batch + columns + inner
    left = _matrix(ctx, a, sizes, batch, *((inner, rows) if turned[0] else (rows, inner)))
    right = _matrix(ctx, b, sizes, batch, *((columns, inner) if turned[1] else (inner, columns)))
    product = ctx.emit(Matmul(*turned), left, right)
    shape = [sizes[label] for label in batch + rows + columns]
    return _Term(ctx.reshape(product, shape), batch + rows + columns)


def _matrix(ctx: Importer, term: _Term, sizes: dict[str, int], batch: str, rows: str, columns: str) -> Value:
    labels = batch + rows + columns
    value = ctx.broadcast_to(_arranged(ctx, term, labels), tuple(sizes[label] for label in labels))
    lead = [prod(sizes[label] for label in batch)] if batch else []
    return ctx.reshape(value, [*lead, prod(sizes[x] for x in rows), prod(sizes[x] for x in columns)])


RULES: dict[str, Rule] = {
    "BatchMatMul": _batch_matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "Einsum": _einsum,
    "MatMul": _matmul,
}
