"""Kernels to object code: the text of LLVM modules, and LLVM's work on them in threads."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from llvmlite import ir as ll

from ..runtime.collector import paused_collector
from ..runtime.team import available_cpus
from . import jit
from .compiled import TABLE
from .emitter import PTR
from .isa import Isa
from .kernel import Kernel
from .module import KernelModule

_BATCH = 6  # kernels compiled as one module
_BATCHES_A_COLLECTION = 8


def compile_kernels(kernels: Sequence[Kernel], isa: Isa, dump: Path | None = None) -> bytes:
    """Compile kernels, one for each node that needs one, in the graph's order; see ``compiled.Code``.

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
    table = ll.GlobalVariable(module.llvm, type_, TABLE.format(number))
    table.global_constant = True
    table.initializer = ll.Constant(type_, [module.llvm.globals[s] for s in symbols])
