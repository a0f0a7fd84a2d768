"""Lowering of IR nodes to kernels: one file an operation family."""

from __future__ import annotations

import importlib
from collections.abc import Callable

from ...ir import Node
from ..isa import Isa
from ..kernel import Kernel, Unsupported

Lowering = Callable[[Node, Isa], Kernel]


def _families() -> dict[str, Lowering]:
    table: dict[str, Lowering] = {}
    for name in ("fused", "matmul", "conv", "pool", "gather", "random", "sort"):
        try:
            table.update(importlib.import_module(f".{name}", __name__).LOWERINGS)
        except ModuleNotFoundError:
            continue
    return table


def lower(node: Node, isa: Isa) -> Kernel:
    """The kernel of a node.

    Raises:
        Unsupported: there is none; the message names the operation and the reason.
    """
    lowering = _families().get(node.op.name)
    if lowering is None:
        raise Unsupported(f"no kernel for {node.op.name}")
    return lowering(node, isa)
