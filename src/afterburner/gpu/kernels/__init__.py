"""Lowering of IR operations to MLX's: one file an operation family, one small function an operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from ...ir import Node, Op
from ...runtime.executable import Unsupported
from ..backend import mx, mx_dtype

Lowering = Callable[..., "tuple[mx.array, ...]"]  # of the operation and its operands


@lru_cache(maxsize=1)
def families() -> dict[type[Op], Lowering]:
    """Lowerings by operation."""
    from . import control, conv, conv_pooled, elementwise, gather, matmul, pool, random, reduce, shape, sort

    table: dict[type[Op], Lowering] = {}
    for family in (control, conv, conv_pooled, elementwise, gather, matmul, pool, random, reduce, shape, sort):
        table.update(family.LOWERINGS)
    return table


def lower(node: Node) -> Callable[..., tuple[mx.array, ...]]:
    """A function of a node's operands, which gives its results as MLX will compute them. It raises Unsupported
    where MLX cannot; the message names the operation and the reason.

    Raises:
        Unsupported: there is no lowering.
    """
    lowering = families().get(type(node.op))
    if lowering is None:
        raise Unsupported(f"{node.op.name} has no lowering")
    types = [r.type for r in node.results]
    if all(t.size == 0 for t in types):
        return lambda *operands: tuple(mx.zeros(t.shape, mx_dtype(t.dtype)) for t in types)
    return partial(lowering, node.op)


def check_results(node: Node, results: Sequence[Any]) -> None:
    """Raise TypeError where results are not of the types that the node has."""
    for result, value in zip(results, node.results, strict=True):
        if result.dtype != mx_dtype(value.type.dtype) or tuple(result.shape) != value.shape:
            raise TypeError(f"{node.op.name} gives {result.dtype}{list(result.shape)}, not {value.type}")
