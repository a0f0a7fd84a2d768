"""A compiled program and what is known about it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from ..ir.types import TensorType


class Unsupported(Exception):
    """A target cannot compile a node; the message says which and why."""


class UnsupportedNow(Unsupported):
    """A target cannot compile a graph in this process, but may in another."""


@dataclass(frozen=True)
class KernelInfo:
    """One kernel as ``explain`` shows it.

    Attributes:
        label: what it computes, e.g. "matmul + add + maximum".
        fused: IR operations inside, by name.
        nodes: TensorFlow nodes it comes from.
        flops: floating-point operations of one run.
        bytes: bytes read and written at least, each operand and result once.
        chunks: pieces of work of its phases.
    """

    label: str
    fused: tuple[str, ...]
    nodes: tuple[str, ...]
    flops: int
    bytes: int
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """A stretch of a program, after which the caller may use what is finished.

    Attributes:
        segments: the first of its segments, and the one behind its last.
        begun: positions of the outputs that nothing before it touches.
        finished: positions of the variables' new values that are complete after it, whose old values nothing
            reads any more. All checks are complete where there are any.
    """

    segments: tuple[int, int]
    begun: tuple[int, ...]
    finished: tuple[int, ...]


class Executable(Protocol):
    """A compiled graph. Calls are thread-safe.

    Attributes:
        input_types: of the graph's inputs, in order.
        output_types: of the graph's outputs, in order.
        kernels: in the order they run.
        arena_bytes: planned peak of intermediate memory.
        cached: whether the object code came from the cache on disk.
        device: where it runs, e.g. "cpu (avx2, 2 threads)".
        threads: how many of the processor's threads it uses.
        parts: stretches to run it in; one where its updates of variables are small.
    """

    input_types: tuple[TensorType, ...]
    output_types: tuple[TensorType, ...]
    kernels: tuple[KernelInfo, ...]
    arena_bytes: int
    cached: bool
    device: str
    threads: int
    parts: tuple[Part, ...]

    def run(self, inputs: Sequence[int], outputs: Sequence[int], version: object = None) -> None:
        """Compute outputs from inputs.

        Args:
            inputs: addresses of dense, row-major buffers of the input types; read only.
            outputs: addresses of 64-byte aligned buffers of the output types, disjoint from the
                inputs and from each other; written.
            version: equal in two runs only where the inputs that are variables are the same: what is made of
                them alone then need not be made again. None where that is not known.
        """

    def run_in_parts(self, inputs: Sequence[int], begin: Callable[[Sequence[int]], Sequence[int]],
                     finish: Callable[[Sequence[int]], None]) -> None:
        """``run`` with a stop after each of ``parts``, so that outputs need not all have memory at once.

        Args:
            inputs: as in ``run``; one that is the old value of a variable may go once ``finish`` was given
                the new one.
            begin: called before a part with the positions of the outputs it begins, gives their addresses.
            finish: called after a part with the positions of the new values that are final.
        """

    def kernel_seconds(self) -> tuple[float, ...]:
        """Least measured seconds of each kernel in profiled runs; empty where none was profiled."""

    def peak_fractions(self) -> tuple[float, ...]:
        """How much of the machine's measured peak, of arithmetic or memory, each profiled kernel
        reaches; empty where none was profiled."""


@runtime_checkable
class KeepingExecutable(Protocol):
    """An executable on a device with memory of its own, where a result may stay for the next call to read."""

    def run_keeping(self, inputs: Sequence[int], outputs: Sequence[int], kept: Sequence[Any],
                    version: object = None) -> Sequence[Any]:
        """``Executable.run``; the inputs that are variables come last.

        Args:
            inputs: as in ``run``.
            outputs: as in ``run``.
            kept: for each variable what an earlier call of an executable for this device returned for the output
                that is its value now, if nobody can have written the value since; else None, and it is read.
            version: as in ``run``.

        Returns:
            For each output what may be given for it as ``kept``.
        """
