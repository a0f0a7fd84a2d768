"""What a kernel is to the program that runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..ir import Node
from ..runtime.executable import Unsupported

if TYPE_CHECKING:
    from .emitter import Emitter
    from .isa import Isa


__all__ = ["Kernel", "Phase", "Unsupported", "key_of"]


@dataclass(frozen=True)
class Phase:
    """A part of a kernel between two barriers.

    Attributes:
        chunks: number of independent pieces; fixed by the shapes alone, never by the number of
            threads, so that results do not depend on who computes what.
        emit: writes the code that computes piece ``emitter.chunk``.
    """

    chunks: int
    emit: Callable[[Emitter], None]


@dataclass(frozen=True)
class Kernel:
    """Native code for one node.

    Attributes:
        node: what is computed.
        phases: run one after another, a barrier between them.
        key: text that determines the emitted code; kernels with one key share it.
        temps: sizes in bytes of buffers shared by all workers while the kernel runs.
        scratch: bytes of memory private to each worker.
        label: what ``explain`` calls it.
        kept: (operand, count): the first phase reads only that operand and makes so many of ``temps``, from the
            first, which later phases only read; so it need not run again while the operand stays the same.
    """

    node: Node
    phases: tuple[Phase, ...]
    key: str
    temps: tuple[int, ...] = ()
    scratch: int = 0
    label: str = ""
    kept: tuple[int, int] | None = None


def key_of(node: Node, isa: Isa) -> str:
    """Text that determines the code of a node without regions."""
    types = ",".join(str(v.type) for v in (*node.operands, *node.results))
    return f"{node.op!r}({types})@{isa.name}"
