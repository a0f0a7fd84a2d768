"""Kernels after compilation: object code and what is needed to run it, as bytes that a cache can keep."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from llvmlite import ir as ll

from ..ir import Graph, Node
from . import jit
from .emitter import PTR
from .isa import Isa
from .kernel import Kernel
from .module import KernelModule

_FUNCTIONS = "functions"  # the table of all phase functions in an object


@dataclass(frozen=True)
class CompiledKernel:
    """What remains of a kernel once its code is compiled.

    Attributes:
        node: what is computed.
        first: position of its first phase in the object's table of functions.
        chunks: pieces of work of each phase.
        temps: sizes in bytes of buffers shared by all workers while the kernel runs.
        scratch: bytes of memory private to each worker.
        label: what ``explain`` calls it.
    """

    node: Node
    first: int
    chunks: tuple[int, ...]
    temps: tuple[int, ...]
    scratch: int
    label: str


def needs_kernel(node: Node) -> bool:
    """Whether a node is computed at all: views and constants are not."""
    return not (node.op.view or node.op.name == "constant")


def compile_kernels(kernels: Sequence[Kernel], isa: Isa) -> bytes:
    """Compile kernels, one for each node that needs one, in the graph's order; see ``Code``."""
    module = KernelModule(isa)
    symbols: list[str] = []
    firsts: dict[str, int] = {}
    rows = []
    for kernel in kernels:
        if kernel.key not in firsts:
            firsts[kernel.key] = len(symbols)
            symbols.extend(module.add(kernel))
        chunks = [p.chunks for p in kernel.phases]
        rows.append((firsts[kernel.key], chunks, kernel.temps, kernel.scratch, kernel.label))
    type_ = ll.ArrayType(PTR, len(symbols))
    table = ll.GlobalVariable(module.llvm, type_, _FUNCTIONS)
    table.global_constant = True
    table.initializer = ll.Constant(type_, [module.llvm.globals[s] for s in symbols])
    head = json.dumps({"functions": len(symbols), "kernels": rows}, separators=(",", ":")).encode()
    return len(head).to_bytes(8, "little") + head + jit.compile_object(str(module.llvm), isa)


class Code:
    """Compiled kernels linked into this process; their code is freed with this object.

    Attributes:
        kernels: one for each node that needs one, in the graph's order.
        functions: addresses of all phase functions.
    """

    def __init__(self, raw: bytes, nodes: Iterable[Node], isa: Isa) -> None:
        size = int.from_bytes(raw[:8], "little")
        head = json.loads(raw[8: 8 + size])
        self.kernels = tuple(
            CompiledKernel(node, first, tuple(chunks), tuple(temps), scratch, label)
            for node, (first, chunks, temps, scratch, label) in zip(nodes, head["kernels"], strict=True))
        self._library = jit.Library(raw[8 + size:], isa)
        address = self._library.load((_FUNCTIONS,))[_FUNCTIONS]
        self.functions = tuple((ctypes.c_uint64 * head["functions"]).from_address(address))


def computed(graph: Graph) -> list[Node]:
    """The nodes of a graph that need a kernel, in order."""
    return [node for node in graph.nodes if needs_kernel(node)]
