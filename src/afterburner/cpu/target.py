"""The CPU target: an optimised graph to an executable."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from llvmlite import ir as ll

from ..ir import Graph, Input, TensorType
from ..ir.text import print_graph
from ..options import Options
from ..options import options as current_options
from ..runtime.cache import ObjectCache
from ..runtime.executable import KernelInfo
from ..runtime.team import available_cpus
from . import jit
from .emitter import PTR
from .engine import Engine, cached_object, engine
from .isa import Isa, host
from .kernel import Kernel
from .kernels import lower
from .module import KernelModule
from .place import Placement, place
from .program import ARENA, COPY_CHUNK, FRAME_BASES, NULL, Frame, Item, Program, Slot
from .schedule import RATE, Segment, cost, segments, waves

_ALONE_SECONDS = 50e-6  # programs shorter than this (estimated) run on the caller alone
_FUNCTIONS = "functions"


class PlantedFault(RuntimeError):
    """The failure that ``AFTERBURNER_FAULT`` asks for."""


def compile_graph(graph: Graph, options: Options | None = None, threads: int = 0) -> CpuExecutable:
    """Compile a graph, or load its object code from the cache.

    Args:
        graph: optimised; every node has a kernel or is a view or a constant.
        options: the settings; None for those of the process.
        threads: workers where ``options.threads`` is 0; 0 for as many as the process has processors.

    Raises:
        Unsupported: a node has no kernel; the message says which and why.
        ArenaError: no memory for the intermediate values.
    """
    chosen = options or current_options()
    if chosen.fault == "codegen":
        raise PlantedFault("planted failure of code generation")
    isa = host(chosen.isa or None)
    kernels = [lower(n, isa) for n in graph.nodes if not (n.op.view or n.op.name == "constant")]
    return compile_kernels(graph, kernels, isa, chosen, threads)


def compile_kernels(graph: Graph, kernels: Sequence[Kernel], isa: Isa, chosen: Options,
                    threads: int = 0) -> CpuExecutable:
    """Compile a graph whose kernels, in the order of its nodes, are given."""
    cache = ObjectCache(chosen.cache_path / "objects", chosen.cache_limit << 20) if chosen.cache else None
    shared = engine(cache)
    wave_of = waves(kernels, apart=chosen.profile)
    placement = place(graph, kernels, wave_of)
    code, cached = cached_object(_identity(graph), isa, lambda: _llvm_text(kernels, isa), cache)
    workers = chosen.threads or threads or available_cpus()
    steps = segments(kernels, wave_of, apart=chosen.profile)
    return CpuExecutable(graph, kernels, placement, steps, _Code(code, kernels, isa), shared,
                         _Settings(isa.name, workers, chosen.profile, cached, chosen.fault == "run"))


@dataclass(frozen=True)
class _Settings:
    isa: str
    workers: int
    profile: bool
    cached: bool
    fault: bool


def _identity(graph: Graph) -> str:
    """What is computed, without the names that TensorFlow numbers anew in every process."""
    inputs = tuple(Input(item.value, f"a{i}", item.state) for i, item in enumerate(graph.inputs))
    outputs = tuple(replace(o, check=None) for o in graph.outputs)
    return print_graph(Graph("program", inputs, graph.nodes, outputs), locations=False)


def _llvm_text(kernels: Sequence[Kernel], isa: Isa) -> str:
    """One module: every kernel once, and a table of all phase functions in the order of first use."""
    module = KernelModule(isa)
    symbols = [s for k in _distinct(kernels) for s in module.add(k)]
    type_ = ll.ArrayType(PTR, len(symbols))
    table = ll.GlobalVariable(module.llvm, type_, _FUNCTIONS)
    table.global_constant = True
    table.initializer = ll.Constant(type_, [module.llvm.globals[s] for s in symbols])
    return str(module.llvm)


def _distinct(kernels: Sequence[Kernel]) -> list[Kernel]:
    """The first kernel of every key."""
    return list({k.key: k for k in reversed(kernels)}.values())[::-1]


class _Code:
    """Linked object code and the addresses of its phase functions."""

    def __init__(self, code: bytes, kernels: Sequence[Kernel], isa: Isa) -> None:
        self._library = jit.Library(code, isa)
        distinct = _distinct(kernels)
        count = sum(len(k.phases) for k in distinct)
        address = self._library.load((_FUNCTIONS,))[_FUNCTIONS]
        functions = list((ctypes.c_uint64 * count).from_address(address))
        self._functions: dict[str, list[int]] = {}
        for kernel in distinct:
            self._functions[kernel.key] = functions[:len(kernel.phases)]
            del functions[:len(kernel.phases)]

    def function(self, kernel: Kernel, phase: int) -> int:
        """Address of a phase's function."""
        return self._functions[kernel.key][phase]


class CpuExecutable:
    """A compiled graph (see ``runtime.executable.Executable``). Dropping it frees its code and memory."""

    def __init__(self, graph: Graph, kernels: Sequence[Kernel], placement: Placement,
                 steps: Sequence[Segment], code: _Code, shared: Engine, settings: _Settings) -> None:
        self.input_types: tuple[TensorType, ...] = graph.input_types
        self.output_types: tuple[TensorType, ...] = graph.output_types
        self.kernels: tuple[KernelInfo, ...] = tuple(_info(k) for k in kernels)
        self.arena_bytes = placement.arena_bytes
        self.cached = settings.cached
        self._fault = settings.fault
        self._engine = shared
        self._code = code
        self._constants = placement.constants
        self._workers = _useful_workers(kernels, steps, placement, settings.workers)
        self.device = f"cpu ({settings.isa}, {self._workers} thread{'s' if self._workers > 1 else ''})"
        stride = -(-max((k.scratch for k in kernels), default=0) // 128) * 128
        self._frame = _frame(kernels, placement, steps, code, shared, stride, settings.profile)
        self._profile = _Profile(len(kernels), steps) if settings.profile else None
        count = len(graph.inputs) + len(graph.outputs)
        self._pack = struct.Struct(f"={count + 1}Q").pack_into
        self._address = self._frame.words.ctypes.data
        self._words = (ctypes.c_uint64 * self._frame.words.size).from_address(self._address)
        with shared.lock:
            shared.arena.lease(self, placement.arena_bytes + stride * self._workers)

    def run(self, inputs: Sequence[int], outputs: Sequence[int]) -> None:
        """Compute outputs from inputs, given as addresses."""
        if self._fault:
            raise PlantedFault("planted failure of a run")
        shared, workers = self._engine, self._workers
        with shared.lock:
            team = shared.team(workers).address if workers > 1 else 0
            self._pack(self._words, 8 * (FRAME_BASES + ARENA), shared.arena.address, *inputs, *outputs)
            shared.run(team, self._address, workers)
            if self._profile is not None:
                self._profile.add(self._frame)

    def kernel_seconds(self) -> tuple[float, ...]:
        """Mean measured seconds of each kernel in profiled runs; empty where none was profiled."""
        return () if self._profile is None else self._profile.means()


class _Profile:
    """Sums the time between the stamps of segments, each of which belongs to one kernel."""

    def __init__(self, kernels: int, steps: Sequence[Segment]) -> None:
        owners = [step[0].parts[0].kernel for step in steps if len(step) == 1 and len(step[0].parts) == 1]
        self._owners = np.array(owners, np.int64)
        self._sums = np.zeros(kernels)
        self._runs = 0

    def add(self, frame: Frame) -> None:
        if frame.stamps is None:
            return
        spent = np.diff(frame.stamps)[:len(self._owners)]
        np.add.at(self._sums, self._owners, spent * 1e-9)
        self._runs += 1

    def means(self) -> tuple[float, ...]:
        return tuple((self._sums / self._runs).tolist()) if self._runs else ()


def _frame(kernels: Sequence[Kernel], placement: Placement, steps: Sequence[Segment], code: _Code,
           shared: Engine, stride: int, profile: bool) -> Frame:
    program = Program()
    positions = [program.buffers(placement.buffers(kernel)) for kernel in kernels]
    for step in steps:
        items = []
        for work in step:
            calls = [(code.function(kernels[p.kernel], p.phase), positions[p.kernel]) for p in work.parts]
            items.append(Item(tuple(calls), work.chunks))
        program.segments.append(tuple(items))
    if placement.copies:
        items = []
        for from_, to, size in placement.copies:
            position = program.buffers((from_, to, Slot(NULL, size)))
            items.append(Item(((shared.copy, position),), -(-size // COPY_CHUNK)))
        program.segments.append(tuple(items))
    return program.frame(placement.externals, placement.constants.ctypes.data, placement.arena_bytes, stride,
                         profile)


def _useful_workers(kernels: Sequence[Kernel], steps: Sequence[Segment], placement: Placement,
                    workers: int) -> int:
    """At most one worker a chunk of the widest segment, and one alone for little work."""
    copied = sum(size for *_, size in placement.copies)
    if sum(cost(k.node) for k in kernels) + copied / RATE < _ALONE_SECONDS:
        return 1
    widest = max((sum(w.chunks for w in step) for step in steps), default=1)
    return max(1, min(workers, max(widest, copied // COPY_CHUNK)))


def _info(kernel: Kernel) -> KernelInfo:
    node = kernel.node
    inner = [n for region in node.op.regions() for n in region.nodes]
    names = dict.fromkeys(n.loc.node for n in (node, *inner) if n.loc.node)
    types, results = tuple(v.type for v in node.operands), tuple(r.type for r in node.results)
    read = {v: v.type.bytes for v in (*node.operands, *node.results)}
    return KernelInfo(
        label=kernel.label or node.op.name,
        fused=tuple(n.op.name for n in inner if n.op.name != "constant") or (node.op.name,),
        nodes=tuple(names),
        flops=node.op.flops(types, results),
        bytes=sum(read.values()),
        chunks=tuple(p.chunks for p in kernel.phases),
    )
