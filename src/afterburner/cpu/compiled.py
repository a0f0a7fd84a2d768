"""Kernels after compilation: object code and what is needed to run it, as bytes that a cache can keep."""

from __future__ import annotations

import ctypes
import gc
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llvmlite import ir as ll

from ..ir import Graph, Node
from ..runtime.collector import paused_collector
from ..runtime.team import available_cpus
from . import jit
from .emitter import PTR
from .isa import Isa
from .kernel import Kernel
from .module import KernelModule

_TABLE = "functions_{}"  # an object's table of phase functions
_BATCH = 6  # kernels compiled as one module
_BATCHES_A_COLLECTION = 8


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


def compile_kernels(kernels: Sequence[Kernel], isa: Isa, dump: Path | None = None) -> bytes:
    """Compile kernels, one for each node that needs one, in the graph's order; see ``Code``.

    LLVM runs in threads of its own while Python is still writing the text of later kernels.

    Args:
        kernels: to compile.
        isa: for what machine.
        dump: a file for LLVM's text.
    """
    rows = []
    firsts: dict[str, int] = {}
    tables: list[int] = []  # sizes of the function tables, one an object
    compiling: list[Future[bytes]] = []
    with paused_collector(), ThreadPoolExecutor(available_cpus(), "afterburner-llvm") as pool:
        for batch in _batches(kernels):
            module = KernelModule(isa)
            symbols: list[str] = []
            for kernel in batch:
                firsts[kernel.key] = sum(tables) + len(symbols)
                symbols.extend(module.add(kernel))
            _add_table(module, symbols, len(tables))
            tables.append(len(symbols))
            text = str(module.llvm)
            if dump is not None:
                _append(dump, text)
            compiling.append(pool.submit(jit.compile_object, text, isa))
            if len(tables) % _BATCHES_A_COLLECTION == 0:
                gc.collect(1)
        objects = [future.result() for future in compiling]
    for kernel in kernels:
        chunks = [p.chunks for p in kernel.phases]
        rows.append((firsts[kernel.key], chunks, kernel.temps, kernel.scratch, kernel.label))
    sizes = [len(o) for o in objects]
    head = json.dumps({"tables": tables, "objects": sizes, "kernels": rows}, separators=(",", ":")).encode()
    return b"".join((len(head).to_bytes(8, "little"), head, *objects))


def _append(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as out:
        out.write(text + "\n")


def _batches(kernels: Sequence[Kernel]) -> Iterator[list[Kernel]]:
    """Kernels with different keys, a few at a time."""
    distinct = list({kernel.key: kernel for kernel in kernels}.values())
    for start in range(0, len(distinct), _BATCH):
        yield distinct[start: start + _BATCH]


def _add_table(module: KernelModule, symbols: Sequence[str], number: int) -> None:
    """An array of the addresses of all phase functions of a module: the one symbol that others see."""
    for item in module.llvm.global_values:
        if getattr(item, "blocks", None) or getattr(item, "initializer", None):
            item.linkage = "internal"
    type_ = ll.ArrayType(PTR, len(symbols))
    table = ll.GlobalVariable(module.llvm, type_, _TABLE.format(number))
    table.global_constant = True
    table.initializer = ll.Constant(type_, [module.llvm.globals[s] for s in symbols])


def kernels_of(raw: bytes, nodes: Iterable[Node]) -> tuple[CompiledKernel, ...]:
    """The kernels in what ``compile_kernels`` made for ``nodes``."""
    head, _ = _head(raw)
    return tuple(CompiledKernel(node, first, tuple(chunks), tuple(temps), scratch, label)
                 for node, (first, chunks, temps, scratch, label) in zip(nodes, head["kernels"], strict=True))


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
        names = tuple(_TABLE.format(i) for i in range(len(head["tables"])))
        found = self._library.load(names)
        self.functions = tuple(
            function for name, count in zip(names, head["tables"], strict=True)
            for function in (ctypes.c_uint64 * count).from_address(found[name]))


def computed(graph: Graph) -> list[Node]:
    """The nodes of a graph that need a kernel, in order."""
    return [node for node in graph.nodes if needs_kernel(node)]
