"""The CPU target: an optimised graph to an executable."""

from __future__ import annotations

import ctypes
import struct
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from ..ir import Graph, TensorType
from ..ir.text import anonymous
from ..options import Options
from ..options import options as current_options
from ..passes.pipeline import Dump, optimize
from ..runtime import poison
from ..runtime.arena import Arena
from ..runtime.executable import KernelInfo, Part
from ..runtime.team import available_cpus
from .compiled import Code, CompiledKernel, computed, kernels_of
from .engine import Engine, cached, engine, object_cache
from .isa import Isa
from .isa import chosen as chosen_isa
from .kept import kept_of, schedule
from .loops import ANY, COPY, Segment
from .made_images import makes_image
from .parts import parts
from .place import Placement, place
from .program import ARENA, COPY_CHUNK, FRAME_BASES, NULL, Frame, Item, Program, Slot
from .scans import check_length, steps_of
from .schedule import RATE, cost, moved

_ALONE_SECONDS = 50e-6  # programs shorter than this (estimated) run on the caller alone


class PlantedFault(RuntimeError):
    """The failure that ``AFTERBURNER_FAULT`` asks for."""


def optimize_graph(graph: Graph, options: Options, dump: Dump | None = None) -> Graph:
    """The graph that code is generated for. Arguments and errors are those of ``passes.pipeline.optimize``."""
    return optimize(graph, skip=options.skip_passes, dump=dump, fast=options.precision == "fast",
                    makes_image=partial(makes_image, isa=chosen_isa(options)))


def compile_graph(graph: Graph, options: Options | None = None, threads: int = 0,
                  progress: Callable[[int, int], None] | None = None) -> CpuExecutable:
    """Compile a graph, or load its object code from the cache.

    Args:
        graph: optimised; every node has a kernel or is a view or a constant.
        options: the settings; None for those of the process.
        threads: workers where ``options.threads`` is 0; 0 for as many as the process has processors.
        progress: called now and then with the number of kernels compiled, and of all.

    Raises:
        Unsupported: a node has no kernel, or a loop too many turns; the message says which and why.
        ArenaError: no memory for the intermediate values.
    """
    check_length(graph)
    chosen = options or current_options()
    isa = chosen_isa(chosen)
    dump = None if chosen.dump is None else chosen.dump / f"{graph.name}.{time.time_ns():x}.ll"

    def generate() -> bytes:
        from .build import compile_nodes

        return compile_nodes(computed(graph), isa, dump, progress)

    return assemble(graph, generate, isa, replace(chosen, cache=chosen.cache and dump is None), threads)


def assemble(graph: Graph, generate: Callable[[], bytes], isa: Isa, chosen: Options,
             threads: int = 0) -> CpuExecutable:
    """An executable of a graph whose code, where it is not cached, is made by ``generate``."""
    if chosen.fault == "codegen":
        raise PlantedFault("planted failure of code generation")
    cache = object_cache(chosen)
    shared = engine(cache)
    raw, found = cached(anonymous(graph), isa, generate, cache)
    settings = _Settings(isa.name, chosen.threads or threads or available_cpus(), chosen.profile, found,
                         chosen.fault == "run", chosen.cache_path, isa.precision, chosen.poison)
    return CpuExecutable(graph, kernels_of(raw, computed(graph)), Code(raw, isa), shared, settings)


@dataclass(frozen=True)
class _Settings:
    isa: str
    workers: int
    profile: bool
    cached: bool
    fault: bool
    folder: Path
    precision: str
    poison: float | None


class CpuExecutable:
    """A compiled graph (see ``runtime.executable.Executable``). Dropping it frees its code and memory."""

    def __init__(self, graph: Graph, kernels: Sequence[CompiledKernel], code: Code, shared: Engine,
                 settings: _Settings) -> None:
        steps = steps_of(graph, kernels, apart=settings.profile)
        kept = kept_of(graph, steps)
        wave_of, segments, self._first = schedule(steps, kept, apart=settings.profile)
        placement = place(graph, steps, wave_of, kept)
        self._kept = Arena()
        self._version: object = None
        if placement.kept_bytes:
            self._kept.lease(self, placement.kept_bytes)
            if settings.poison is not None:
                poison.fill(self._kept.address, placement.kept_bytes, settings.poison)
        self.input_types: tuple[TensorType, ...] = graph.input_types
        self.output_types: tuple[TensorType, ...] = graph.output_types
        self.kernels: tuple[KernelInfo, ...] = tuple(
            _info(k, len(rows)) for k, rows in zip(kernels, placement.rows, strict=True))
        self.arena_bytes = placement.arena_bytes
        self.parts: tuple[Part, ...] = parts(graph, segments, placement)
        self.cached = settings.cached
        self._settings = settings
        self._engine = shared
        self._code = code
        self._constants = placement.constants
        self._workers = _useful_workers(kernels, segments, placement, settings.workers)
        self.threads = self._workers
        workers = f"{self._workers} thread{'s' if self._workers > 1 else ''}"
        fast = ", fast precision" if settings.precision == "fast" else ""
        self.device = f"cpu ({settings.isa}, {workers}{fast})"
        stride = -(-max((k.scratch for k in kernels), default=0) // 128) * 128
        self._frame = _frame(kernels, code, placement, segments, shared, self._workers, self._kept.address,
                             stride, settings.profile)
        self._profile = _Profile(len(kernels), segments) if settings.profile else None
        count = len(graph.inputs) + len(graph.outputs)
        self._pack = struct.Struct(f"={count + 1}Q").pack_into
        self._address = self._frame.words.ctypes.data
        self._words = (ctypes.c_uint64 * self._frame.words.size).from_address(self._address)
        # Finalizers run last one first: the arena is told of the dropped lease, then tidied.
        weakref.finalize(self, shared.tidy).atexit = False
        self._leased = placement.arena_bytes + stride * self._workers
        with shared.lock:
            shared.arena.lease(self, self._leased)

    def run(self, inputs: Sequence[int], outputs: Sequence[int], version: object = None) -> None:
        """Compute outputs from inputs, given as addresses (see ``runtime.executable.Executable``)."""
        if self._settings.fault:
            raise PlantedFault("planted failure of a run")
        shared, workers = self._engine, self._workers
        with shared.lock:
            if shared.arena.dropped:
                shared.arena.settle()
            self._poison_arena()
            self._poison_outputs(range(len(outputs)), outputs)
            team = shared.team(workers).address if workers > 1 else 0
            self._pack(self._words, 8 * (FRAME_BASES + ARENA), shared.arena.address, *inputs, *outputs)
            first = self._begin(version)
            shared.run(team, self._address, workers)
            self._version = version
            if self._profile is not None:
                self._profile.note(self._frame, first, self._frame.segments)
                self._profile.add(first)

    def _begin(self, version: object) -> int:
        """Let the next run leave out what is kept where that is still right; the first of its segments."""
        if not self._first:
            return 0
        first = self._first if version is not None and version == self._version else 0
        self._version = None
        self._frame.select(first, self._frame.segments)
        return first

    def run_in_parts(self, inputs: Sequence[int], begin: Callable[[Sequence[int]], Sequence[int]],
                     finish: Callable[[Sequence[int]], None]) -> None:
        """``run`` with stops (see ``runtime.executable.Executable``)."""
        if self._settings.fault:
            raise PlantedFault("planted failure of a run")
        shared, workers, frame = self._engine, self._workers, self._frame
        outputs = [0] * len(self.output_types)
        with shared.lock:
            self._version = None
            if shared.arena.dropped:
                shared.arena.settle()
            self._poison_arena()
            team = shared.team(workers).address if workers > 1 else 0
            try:
                for part in self.parts:
                    for position, address in zip(part.begun, begin(part.begun), strict=True):
                        outputs[position] = address
                    self._poison_outputs(part.begun, outputs)
                    self._pack(self._words, 8 * (FRAME_BASES + ARENA), shared.arena.address, *inputs, *outputs)
                    frame.select(*part.segments)
                    shared.run(team, self._address, workers)
                    if self._profile is not None:
                        self._profile.note(frame, *part.segments)
                    finish(part.finished)
            finally:
                frame.select(0, frame.segments)
            if self._profile is not None:
                self._profile.add(0)

    def _poison_arena(self) -> None:
        if self._settings.poison is not None:
            poison.fill(self._engine.arena.address, self._leased, self._settings.poison)

    def _poison_outputs(self, positions: Sequence[int], outputs: Sequence[int]) -> None:
        if self._settings.poison is not None:
            for position in positions:
                poison.fill(outputs[position], self.output_types[position].bytes, self._settings.poison)

    def kernel_seconds(self) -> tuple[float, ...]:
        """Least measured seconds of each kernel in profiled runs; empty where none was profiled."""
        return () if self._profile is None else self._profile.least()

    def peak_fractions(self) -> tuple[float, ...]:
        """How much of the machine's measured peak each profiled kernel reaches; empty where none was."""
        seconds = self.kernel_seconds()
        if not seconds:
            return ()
        from .peak import machine_peak

        peak = machine_peak(self._settings.folder, self.threads, self._settings.isa)
        return tuple(peak.fraction(k.flops, k.bytes, s) for k, s in zip(self.kernels, seconds, strict=True))


class _Profile:
    """The time between the stamps of segments, each of which belongs to one kernel, or copies: the least of all runs,
    since the first one meets memory that was never touched."""

    def __init__(self, kernels: int, segments: Sequence[Segment]) -> None:
        first = [segment[0].parts[0].kernel for segment in segments]
        self._owners = np.array([kernels if kernel == COPY else kernel for kernel in first], np.int64)
        self._least = np.full(kernels, np.inf)
        self._spent = np.zeros(len(segments) + 1, np.int64)

    def note(self, frame: Frame, first: int, end: int) -> None:
        """Take note of segments [first, end), which have run without a stop."""
        if frame.stamps is not None:
            self._spent[first:end] = np.diff(frame.stamps[first:end + 1])

    def add(self, first: int) -> None:
        """Count a run that began with segment ``first`` and has been noted."""
        spent = self._spent[:len(self._owners)].copy()
        spent[:first] = 0
        sums = np.bincount(self._owners, spent * 1e-9, len(self._least))
        self._least = np.minimum(self._least, sums[:len(self._least)])

    def least(self) -> tuple[float, ...]:
        return tuple(self._least.tolist()) if np.isfinite(self._least).all() else ()


def _frame(kernels: Sequence[CompiledKernel], code: Code, placement: Placement, segments: Sequence[Segment],
           shared: Engine, workers: int, kept: int, stride: int, profile: bool) -> Frame:
    program = Program()
    positions = [[program.buffers(row) for row in rows] for rows in placement.rows]
    inner, outer = ([program.buffers((from_, to, Slot(NULL, size))) for from_, to, size in copies]
                    for copies in (placement.inner, placement.copies))
    for segment in segments:
        items = []
        for work in segment:
            calls = [(shared.copy, inner[p.row], p.chunk) if p.kernel == COPY else
                     (code.functions[kernels[p.kernel].first + p.phase], positions[p.kernel][p.row], p.chunk)
                     for p in work.parts]
            items.append(Item(tuple(calls), work.chunks))
        program.segments.append(tuple(items))
    if placement.copies:
        program.segments.append(tuple(Item(((shared.copy, position, ANY),), -(-size // COPY_CHUNK))
                                      for position, (*_, size) in zip(outer, placement.copies, strict=True)))
    return program.frame(workers, placement.externals, placement.constants.ctypes.data, kept, placement.arena_bytes,
                         stride, profile)


def _useful_workers(kernels: Sequence[CompiledKernel], segments: Sequence[Segment], placement: Placement,
                    workers: int) -> int:
    """At most one worker a chunk of the widest segment, and one alone for little work."""
    copied = sum(size for *_, size in placement.copies)
    seconds = sum(len(rows) * cost(k.node) for k, rows in zip(kernels, placement.rows, strict=True))
    if seconds + copied / RATE < _ALONE_SECONDS:
        return 1
    widest = max((sum(w.chunks for w in segment) for segment in segments), default=1)
    return max(1, min(workers, max(widest, copied // COPY_CHUNK)))


def _info(kernel: CompiledKernel, turns: int) -> KernelInfo:
    node = kernel.node
    inner = [n for region in node.op.regions() for n in region.nodes]
    names = dict.fromkeys(n.loc.node for n in (node, *inner) if n.loc.node)
    types, results = tuple(v.type for v in node.operands), tuple(r.type for r in node.results)
    return KernelInfo(
        label=kernel.label or node.op.name,
        fused=tuple(n.op.name for n in inner if n.op.name != "constant") or (node.op.name,),
        nodes=tuple(names),
        flops=turns * node.op.flops(types, results),
        bytes=turns * moved(node),
        chunks=kernel.chunks,
    )
