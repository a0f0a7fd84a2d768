"""Lowering of IR nodes to kernels: one file an operation family."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from ...ir import Node
from ...ir.ops.control import Fusion
from ..isa import Isa
from ..kernel import Kernel, Unsupported

Lowering = Callable[[Node, Isa], Kernel]


@lru_cache(maxsize=1)
def families() -> dict[str, Lowering]:
    """Lowerings by the operation, or the kind of fusion, that they are for."""
    from . import columns, conv, fused, gather, matmul, pool, random, sort

    table: dict[str, Lowering] = {}
    for family in (fused, matmul, conv, pool, gather, columns, random, sort):
        table.update(family.LOWERINGS)
    return table


def lower(node: Node, isa: Isa) -> Kernel:
    """The kernel of a node.

    Raises:
        Unsupported: there is none; the message names the operation and the reason.
    """
    name = node.op.name
    if isinstance(node.op, Fusion) and node.op.kind != "loop":
        name = node.op.kind  # a contraction's family also lowers what rides on its result
    lowering = families().get(name)
    if lowering is None:
        raise Unsupported(f"no kernel for {node.op.name}")
    return lowering(node, isa)
