"""Kernels after compilation: object code and what is needed to run it, as bytes that a cache can keep."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..ir import Graph, Node
from ..ir.ops.control import Scan
from . import jit
from .isa import Isa

TABLE = "functions_{}"  # an object's table of phase functions


@dataclass(frozen=True)
class CompiledKernel:
    """What remains of a kernel once its code is compiled.

    Attributes:
        node: what is computed.
        first: position of its first phase among all functions.
        chunks: pieces of work of each phase.
        temps: sizes in bytes of buffers shared by all workers while the kernel runs.
        scratch: bytes of memory private to each worker.
        label: what ``explain`` calls it.
        kept: the operand and how many temporaries the first phase makes of it alone (see ``kernel.Kernel``).
    """

    node: Node
    first: int
    chunks: tuple[int, ...]
    temps: tuple[int, ...]
    scratch: int
    label: str
    kept: tuple[int, int] | None = None


def needs_kernel(node: Node) -> bool:
    """Whether a node is computed at all: views and constants are not."""
    return not (node.op.view or node.op.name == "constant")


def kernels_of(raw: bytes, nodes: Iterable[Node]) -> tuple[CompiledKernel, ...]:
    """The kernels in what ``generate.compile_kernels`` made for ``nodes``."""
    head, _ = _head(raw)
    return tuple(CompiledKernel(node, first, tuple(chunks), tuple(temps), scratch, label, kept)
                 for node, (first, chunks, temps, scratch, label, kept) in zip(nodes, head["kernels"], strict=True))


def _head(raw: bytes) -> tuple[dict[str, Any], int]:
    """What is kept beside the objects, and where they begin."""
    size = int.from_bytes(raw[:8], "little")
    return json.loads(raw[8: 8 + size]), 8 + size


class Code:
    """Compiled kernels linked into this process; their code is freed with this object.

    Attributes:
        functions: addresses of all phase functions.
    """

    def __init__(self, raw: bytes, isa: Isa) -> None:
        head, at = _head(raw)
        parts = []
        for length in head["objects"]:
            parts.append(raw[at: at + length])
            at += length
        self._library = jit.Library(parts, isa)
        names = tuple(TABLE.format(i) for i in range(len(head["tables"])))
        found = self._library.load(names)
        self.functions = tuple(
            function for name, count in zip(names, head["tables"], strict=True)
            for function in (ctypes.c_uint64 * count).from_address(found[name]))


def computed(graph: Graph) -> list[Node]:
    """The nodes of a graph that need a kernel, in order; in place of a scan those of its body."""
    found: list[Node] = []
    for node in graph.nodes:
        if isinstance(node.op, Scan):
            found += computed(node.op.body)
        elif needs_kernel(node):
            found.append(node)
    return found
