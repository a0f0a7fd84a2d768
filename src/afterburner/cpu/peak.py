"""Measures this machine's peaks with generated code, as programs that run like all others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from llvmlite import ir as ll

from ..ir import Builder, Graph, Node, TensorType
from ..ir.ops.elementwise import Neg
from ..ir.types import F32 as F32_TYPE
from ..options import Options
from ..runtime.cache_folder import PEAK
from ..runtime.measure import MachinePeak, load_peak, save_peak
from .emitter import F32, Emitter
from .engine import object_key
from .generate import compile_kernels
from .isa import Isa, host
from .kernel import Kernel, Phase
from .program import LINE, aligned_words
from .target import CpuExecutable, assemble

_TURNS = 50_000  # of the arithmetic loop in one chunk
_CHUNKS = 64
_ELEMENTS = 16 << 20  # 64 MB: beyond any cache
_REPEATS = 5


def machine_peak(folder: Path, threads: int, isa_name: str = "") -> MachinePeak:
    """The peak with ``threads`` threads, from ``folder`` where it was measured before (else about 0.5 s)."""
    isa = host(isa_name or None)
    machine = object_key(f"peak of {threads} threads", isa)
    path = folder / PEAK
    kept = load_peak(path, machine)
    if kept is None:
        kept = measure_peak(threads, isa)
        save_peak(path, machine, kept)
    return kept


def measure_peak(threads: int, isa: Isa) -> MachinePeak:
    """Measure now: the best of several runs."""
    source, target = (aligned_words(_ELEMENTS // 2).view(np.float32) for _ in range(2))
    source[:] = 0.5
    flops = 2.0 * _accumulators(isa) * isa.lanes(4) * _TURNS * _CHUNKS
    return MachinePeak(
        flops=flops / _seconds(_arithmetic(isa, threads), source, target),
        flops_one=flops / _seconds(_arithmetic(isa, 1), source, target),
        bandwidth=2.0 * source.nbytes / _seconds(_copy(isa, threads), source, target),
        threads=threads,
    )


def _seconds(executable: CpuExecutable, source: np.ndarray, target: np.ndarray) -> float:
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.perf_counter()
        executable.run([source.ctypes.data], [target.ctypes.data])
        best = min(best, time.perf_counter() - began)
    return best


def _copy(isa: Isa, threads: int) -> CpuExecutable:
    builder = Builder("copy")
    builder.output(builder.input(TensorType(F32_TYPE, (_ELEMENTS,)), "x"))
    return _compiled(builder.build(), (), isa, threads)


def _arithmetic(isa: Isa, threads: int) -> CpuExecutable:
    builder = Builder("arithmetic")
    value = builder.emit(Neg(), builder.input(TensorType(F32_TYPE, (_ELEMENTS,)), "x"))
    builder.output(value)
    graph = builder.build()
    return _compiled(graph, (_multiply_adds(graph.nodes[0], isa),), isa, threads)


def _compiled(graph: Graph, kernels: Sequence[Kernel], isa: Isa, threads: int) -> CpuExecutable:
    return assemble(graph, lambda: compile_kernels(kernels, isa), isa, Options(cache=False, threads=threads))


def _accumulators(isa: Isa) -> int:
    """Independent chains: enough to hide the latency of a multiply-add, few enough for the registers."""
    return min(isa.registers - 4, 16)


def _multiply_adds(node: Node, isa: Isa) -> Kernel:
    lanes, count = isa.lanes(4), _accumulators(isa)

    def emit(e: Emitter) -> None:
        vector = e.vector(F32, lanes)
        factor = e.load(e.operand(0), vector, 4)
        start = [e.load(e.at(e.operand(0), i, F32), vector, 4) for i in range(count)]
        with e.loop_carried(0, _TURNS, 1, start) as (_, current, following):
            for i, value in enumerate(current):
                following[i] = _multiply_add(e, value, factor)
        place = e.at(e.result(0), e.b.mul(e.chunk, e.chunk.type(LINE * count)), F32)
        for i, value in enumerate(following):
            e.store(value, e.at(place, i * lanes, F32), 4)

    return Kernel(node, (Phase(_CHUNKS, emit),), f"multiply-adds {isa.name}", label="multiply-adds")


def _multiply_add(e: Emitter, value: ll.Value, factor: ll.Value) -> ll.Value:
    if e.isa.fma:
        return e.intrinsic("llvm.fma", value.type, value, factor, factor)
    return e.b.fadd(e.b.fmul(value, factor), factor)
