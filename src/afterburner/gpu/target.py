"""The GPU target: an optimised graph to an executable that MLX runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from ..ir import Graph, Node, TensorType
from ..options import Options
from ..options import options as current_options
from ..runtime.buffers import HandoverCode
from ..runtime.executable import KernelInfo, Part, UnsupportedNow
from .backend import TF32, check_types, mx, mx_dtype
from .devices import Device, choose
from .narrow import narrow
from .program import Program
from .transfer import Reader, Writers


class PlantedFault(RuntimeError):
    """The failure that ``AFTERBURNER_FAULT`` asks for."""


def compile_graph(graph: Graph, options: Options | None = None, device: Device | None = None,
                  fuse: bool | None = None, handover: HandoverCode | None = None) -> GpuExecutable:
    """Make an executable of a graph.

    Args:
        graph: optimised without the passes that are for generated CPU code.
        options: the settings; None for those of the process.
        device: where it runs; None for the first GPU, or what emulates it where the options ask for that.
        fuse: whether MLX joins operations into kernels of its own; None for yes on a GPU, no where it is
            emulated: MLX's CPU device would call a C++ compiler for every kernel, a second or two each.
        handover: native code that copies results to the caller.

    Raises:
        NoGpu: there is no such device.
        Unsupported: MLX cannot compute a node, or not as exactly as asked for, or no GPU has an element type; the
            message says which.
    """
    chosen = options or current_options()
    where = device or choose(chosen.gpu_emulate)
    if chosen.fault == "codegen":
        raise PlantedFault("planted failure of code generation")
    if TF32 and not (chosen.fast or where.emulated):
        raise UnsupportedNow("MLX was loaded with fast precision, and multiplies float32 with fewer digits until the "
                             "process ends")
    graph = narrow(graph)
    _check_types(graph)
    return GpuExecutable(graph, where, not where.emulated if fuse is None else fuse, chosen, handover)


def _check_types(graph: Graph) -> None:
    for node in graph.nodes:
        check_types(tuple(v.type for v in (*node.operands, *node.results)))
        for region in node.op.regions():
            _check_types(region)
    check_types((*graph.input_types, *graph.output_types))


class GpuExecutable:
    """A compiled graph (see ``runtime.executable.Executable``)."""

    def __init__(self, graph: Graph, device: Device, fuse: bool, settings: Options,
                 handover: HandoverCode | None) -> None:
        self.input_types: tuple[TensorType, ...] = graph.input_types
        self.output_types: tuple[TensorType, ...] = graph.output_types
        self.arena_bytes = 0  # MLX allocates what lies between
        self.cached = False
        self.device = str(device)
        self.threads = 1
        updates = tuple(i for i, o in enumerate(graph.outputs) if o.updates is not None)
        self.parts: tuple[Part, ...] = (Part((0, 1), tuple(range(len(graph.outputs))), updates),)
        self._fault = settings.fault == "run"
        self._where = device.mlx
        self._states = sum(item.state for item in graph.inputs)
        self._version: object = None
        self._variables: list[mx.array] = []  # of that version
        self._lock = threading.Lock()
        self._program = program = Program(graph)
        self.kernels: tuple[KernelInfo, ...] = tuple(_info(node) for node in program.nodes)
        self._profile = _Profile(len(self.kernels)) if settings.profile else None
        self._readers = [Reader(t).read for t in self.input_types]
        self._writers = Writers(self.output_types, handover)
        self._function: Callable[..., list[mx.array]] = mx.compile(program) if fuse else program
        with self._lock, mx.stream(self._where):  # what MLX cannot do is found now
            program.check([mx.zeros(t.shape, mx_dtype(t.dtype)) for t in self.input_types])

    def run(self, inputs: Sequence[int], outputs: Sequence[int], version: object = None) -> None:
        """Compute outputs from inputs, given as addresses."""
        self.run_keeping(inputs, outputs, (None,) * self._states, version)

    def run_keeping(self, inputs: Sequence[int], outputs: Sequence[int], kept: Sequence[mx.array | None],
                    version: object = None) -> Sequence[mx.array]:
        """``run``, with variables where they are (see ``runtime.executable.KeepingExecutable``)."""
        if self._fault:
            raise PlantedFault("planted failure of a run")
        with self._lock, mx.stream(self._where):
            # MLX may write into what nobody else holds: these are held until all is computed.
            fresh = len(inputs) - self._states
            arrays = [read(address) for read, address in zip(self._readers, inputs[:fresh], strict=False)]
            if version is None or version != self._version:
                self._variables = [
                    read(address) if value is None else value
                    for read, address, value in zip(self._readers[fresh:], inputs[fresh:], kept, strict=True)]
            arrays += self._variables
            self._version = version
            results = self._computed(arrays)
            if version is None:
                self._variables = []
            self._writers.write(results, outputs)
        return results

    def _computed(self, arrays: list[mx.array]) -> list[mx.array]:
        if self._profile is not None:
            return self._program.timed(arrays, self._profile.add)
        results = self._function(*arrays)
        mx.eval(results)
        return results

    def run_in_parts(self, inputs: Sequence[int], begin: Callable[[Sequence[int]], Sequence[int]],
                     finish: Callable[[Sequence[int]], None]) -> None:
        """``run``: there is one part."""
        (part,) = self.parts
        self.run(inputs, begin(part.begun))
        finish(part.finished)

    def kernel_seconds(self) -> tuple[float, ...]:
        """Mean measured seconds of each operation in profiled runs; empty where none was profiled."""
        return () if self._profile is None else self._profile.means()

    def peak_fractions(self) -> tuple[float, ...]:
        """Zeros, one an operation that was profiled: a GPU's peak is not measured."""
        return (0.0,) * len(self.kernel_seconds())


class _Profile:
    """Sums the time of each operation, computed by itself."""

    def __init__(self, count: int) -> None:
        self._sums = [0.0] * count
        self._runs = 0

    def add(self, index: int, seconds: float) -> None:
        self._sums[index] += seconds
        self._runs += index == len(self._sums) - 1

    def means(self) -> tuple[float, ...]:
        return tuple(s / self._runs for s in self._sums) if self._runs else ()


def _info(node: Node) -> KernelInfo:
    types, results = tuple(v.type for v in node.operands), tuple(r.type for r in node.results)
    read = {v: v.type.bytes for v in (*node.operands, *node.results)}
    return KernelInfo(label=node.op.name, fused=(node.op.name,), nodes=(node.loc.node,) if node.loc.node else (),
                      flops=node.op.flops(types, results), bytes=sum(read.values()), chunks=(1,))
