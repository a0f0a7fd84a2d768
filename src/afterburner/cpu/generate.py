"""Kernels to object code: the text of LLVM modules, and LLVM's work on them in threads."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

from llvmlite import ir as ll

from ..ir import parse_graph
from ..runtime.collector import paused_collector
from ..runtime.team import available_cpus
from . import jit
from .batches import Made, Row, joined
from .compiled import TABLE
from .emitter import PTR
from .isa import Isa
from .kernel import Kernel
from .kernels import lower
from .module import KernelModule

_BATCHES_A_COLLECTION = 8


class KernelFailure(Exception):
    """Code cannot be generated; raised from the cause.

    Attributes:
        batch: the number of the batch.
        index: which kernel of the batch; None where LLVM refuses them together.
    """

    def __init__(self, batch: int, index: int | None) -> None:
        super().__init__(batch, index)
        self.batch, self.index = batch, index


@dataclass(frozen=True)
class Text:
    """A batch as LLVM's text, and a row for each of its kernels."""

    rows: Sequence[Row]
    text: str


def text_of_batch(kernels: Sequence[Callable[[], Kernel]], isa: Isa, number: int) -> Text:
    """LLVM's text of a batch of kernels.

    Args:
        kernels: make the kernels.
        isa: for what machine.
        number: of the batch among those of its graph.

    Raises:
        KernelFailure: from what went wrong.
    """
    module = KernelModule(isa)
    symbols: list[str] = []
    rows: list[Row] = []
    for index, make in enumerate(kernels):
        try:
            kernel = make()
            added = module.add(kernel)
        except Exception as error:
            raise KernelFailure(number, index) from error
        symbols.extend(added)
        chunks = tuple(phase.chunks for phase in kernel.phases)
        rows.append((len(added), chunks, kernel.temps, kernel.scratch, kernel.label, kernel.kept))
    _add_table(module, symbols, number)
    return Text(rows, str(module.llvm))


def kernel_of(text: str, isa: Isa) -> Kernel:
    """The kernel that ``batches.text_of`` described."""
    return lower(parse_graph(text).nodes[0], isa)


def compile_batches(batches: Sequence[Sequence[Callable[[], Kernel]]], isa: Isa,
                    done: Callable[[int, Made, str], None]) -> None:
    """Compile in this process.

    LLVM runs in threads of its own while Python is still writing the text of later kernels.

    Args:
        batches: make the kernels, a few in each batch.
        isa: for what machine.
        done: called with a batch's number, what it became, and LLVM's text.

    Raises:
        KernelFailure: from what went wrong.
    """
    waiting: list[tuple[Text, Future[bytes]]] = []
    with paused_collector(), ThreadPoolExecutor(available_cpus(), "afterburner-llvm") as pool:
        for number, batch in enumerate(batches):
            text = text_of_batch(batch, isa, number)
            waiting.append((text, pool.submit(jit.compile_object, text.text, isa)))
            if len(waiting) % _BATCHES_A_COLLECTION == 0:
                gc.collect(1)
        for number, (text, future) in enumerate(waiting):
            try:
                code = future.result()
            except RuntimeError as error:
                raise KernelFailure(number, None) from error
            done(number, Made(text.rows, code), text.text)


def compile_kernels(kernels: Sequence[Kernel], isa: Isa) -> bytes:
    """Compile kernels in this process, which need not be those of nodes; see ``compiled.Code``."""
    batch = text_of_batch([partial(_same, kernel) for kernel in kernels], isa, 0)
    firsts = accumulate((row[0] for row in batch.rows), initial=0)
    rows = [(first, *row[1:]) for first, row in zip(firsts, batch.rows, strict=False)]
    return joined([sum(row[0] for row in batch.rows)], [jit.compile_object(batch.text, isa)], rows)


def _same(kernel: Kernel) -> Kernel:
    return kernel


def _add_table(module: KernelModule, symbols: Sequence[str], number: int) -> None:
    """An array of the addresses of all phase functions of a module: the one symbol that others see."""
    for item in module.llvm.global_values:
        if getattr(item, "blocks", None) or getattr(item, "initializer", None):
            item.linkage = "internal"
    type_ = ll.ArrayType(PTR, len(symbols))
    table = ll.GlobalVariable(module.llvm, type_, TABLE.format(number))
    table.global_constant = True
    table.initializer = ll.Constant(type_, [module.llvm.globals[s] for s in symbols])
