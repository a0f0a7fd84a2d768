"""Code for nodes, from other processes where there can be any: this one then never loads LLVM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from ..ir import Node
from ..runtime.team import available_cpus
from .batches import Made, Parcels
from .crew import CREW, Answer, NoWorkers
from .isa import Isa
from .kernel import Unsupported

_BATCHES_A_WORKER = 2  # for less work another process is not worth its start

Progress = Callable[[int, int], None]  # kernels compiled, of how many
Done = Callable[[int, Made, str], None]  # a batch's number, what it became, LLVM's text


class CodeError(RuntimeError):
    """Code could not be generated; the message says why, and for which operations."""


class _Elsewhere(Exception):
    """The traceback of another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def compile_nodes(nodes: Sequence[Node], isa: Isa, dump: Path | None = None,
                  progress: Progress | None = None) -> bytes:
    """Compile kernels, one for each node, in order; see ``compiled.Code``.

    Args:
        nodes: what is to be computed.
        isa: for what machine.
        dump: a file for LLVM's text.
        progress: called now and then.

    Raises:
        Unsupported: a node has no kernel; the message says which and why.
        CodeError, WorkerDied: the code generator failed.
    """
    parcels = Parcels(nodes)
    made: dict[int, Made] = {}
    texts: dict[int, str] = {}

    def done(number: int, part: Made, text: str) -> None:
        made[number], texts[number] = part, text
        if progress is not None:
            progress(sum(len(m.rows) for m in made.values()), sum(map(len, parcels.batches)))

    if parcels.batches:
        try:
            _elsewhere(parcels, isa, dump is not None, done)
        except NoWorkers:
            _here(parcels, isa, done)
    if dump is not None:
        dump.parent.mkdir(parents=True, exist_ok=True)
        dump.write_text("\n".join(texts[i] for i in sorted(texts)), encoding="utf-8")
    return parcels.join([made[i] for i in sorted(made)])


def compile_text(text: str, isa: Isa) -> bytes:
    """Object code of an LLVM module.

    Raises:
        CodeError, WorkerDied: the code generator failed.
    """
    try:
        head, body = CREW.ask({"do": "object", "isa": asdict(isa)}, text.encode())
    except NoWorkers:
        from .jit import compile_object

        return compile_object(text, isa)
    if "failed" in head:
        raise CodeError(head["failed"]["message"]) from _Elsewhere(head["failed"]["trace"])
    return body


def useful_workers(batches: int) -> int:
    """How many processes are worth having for so many batches of kernels."""
    return max(1, min(available_cpus(), batches // _BATCHES_A_WORKER))


def _elsewhere(parcels: Parcels, isa: Isa, dump: bool, done: Done) -> None:
    def answered(number: int, answer: Answer) -> None:
        head, code = answer
        if "failed" in head:
            raise _failure(parcels, number, **head["failed"])
        done(number, Made(head["rows"], code), head["text"])

    requests = [({"do": "kernels", "isa": asdict(isa), "number": number, "dump": dump, "kernels": batch}, b"")
                for number, batch in enumerate(parcels.batches)]
    CREW.run(requests, useful_workers(len(requests)), answered)


def _here(parcels: Parcels, isa: Isa, done: Done) -> None:
    from .generate import KernelFailure, compile_batches, kernel_of

    batches = [[partial(kernel_of, text, isa) for text in batch] for batch in parcels.batches]
    try:
        compile_batches(batches, isa, done)
    except KernelFailure as error:
        cause = error.__cause__
        raise _failure(parcels, error.batch, type(cause).__name__, str(cause), "", error.index) from cause


def _failure(parcels: Parcels, batch: int, kind: str, message: str, trace: str, index: int | None) -> Exception:
    """What to raise where a kernel of a batch failed, or, without an index, all of the batch."""
    if kind == Unsupported.__name__:
        return Unsupported(message)
    indices = range(len(parcels.batches[batch])) if index is None else (index,)
    nodes = [parcels.node(batch, i) for i in indices]
    what = "; ".join(f"{node.op.name} at {node.loc}" if str(node.loc) else node.op.name for node in nodes)
    error = CodeError(f"{kind}: {message} (in the code of {what})")
    error.__cause__ = _Elsewhere(trace)
    return error
