"""The pipeline on one screen: imported graph → passes → target → executable."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from .hardware import CPU, GPU, devices, label, mlx_version, names, usable_memory
from .ir import Graph, print_graph
from .ir.text import anonymous
from .options import Options, options
from .passes.pipeline import Dump, optimize
from .report import Recorder, say
from .runtime.collector import paused_collector
from .runtime.executable import Executable

if TYPE_CHECKING:
    from .cpu.isa import Isa
    from .frontend.contest import Choices
    from .frontend.native import Engine
    from .runtime.buffers import HandoverCode
    from .runtime.decisions import Decisions

recorder = Recorder()


def compile_graph(graph: Graph, threads: int = 0, device: str = CPU) -> Executable:
    """An executable for this machine.

    Args:
        graph: as it was imported.
        threads: workers where the options do not say; 0 for as many as there are processors.
        device: one of ``hardware.names()``.

    Raises:
        Unsupported: the device cannot compute the graph.
        Exception: whatever a pass or the target finds wrong, with ``graph_text`` set to the text of
            the imported graph, which repeats the failure.
    """
    settings = options()
    dump = _dumper(graph, settings)
    if dump is None:
        settings = replace(settings, dump=None)
    try:
        with paused_collector():
            return _for_gpu(graph, settings, dump) if device == GPU else _for_cpu(graph, settings, dump, threads)
    except Exception as error:
        error.graph_text = print_graph(graph)  # type: ignore[attr-defined]
        raise


def _for_cpu(graph: Graph, settings: Options, dump: Dump | None, threads: int) -> Executable:
    from .cpu.target import compile_graph as compile_for_cpu
    from .cpu.target import optimize_graph as optimize_for_cpu

    optimized = optimize_for_cpu(graph, settings, dump)
    with recorder.progress(graph.name) as progress:
        return compile_for_cpu(optimized, settings, threads, progress)


def _for_gpu(graph: Graph, settings: Options, dump: Dump | None) -> Executable:
    from .gpu.devices import choose

    device = choose(settings.gpu_emulate)  # before mlx is imported: where it is missing, the error says so
    from .gpu.target import compile_graph as compile_for_gpu

    optimized = optimize(graph, skip=settings.skip_passes, dump=dump, lower=False)
    return compile_for_gpu(optimized, settings, device, handover=_handover_code())


def _dumper(graph: Graph, settings: Options) -> Dump | None:
    """Writes the graph after every pass that changed it, with the pass's time, into the dump folder; None where there
    is none, or it cannot be written, which is said once."""
    if settings.dump is None:
        return None
    folder: Path = settings.dump / f"{graph.name}.{time.time_ns():x}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "00.imported.txt").write_text(print_graph(graph), encoding="utf-8")
    except OSError as error:
        _say_once(f"AFTERBURNER_DUMP: nothing is written to {settings.dump}: {error.strerror}; name a folder that can "
                  "be written")
        return None
    written = [0]

    def dump(name: str, after: Graph, seconds: float) -> None:
        written[0] += 1
        header = f"# {name}: {seconds * 1e3:.2f} ms\n"
        (folder / f"{written[0]:02d}.{name}.txt").write_text(header + print_graph(after), encoding="utf-8")

    return dump


_say_once = lru_cache(maxsize=None)(say)


def _handover_code() -> HandoverCode:
    from .cpu.handover import handover_code

    return handover_code()


@lru_cache(maxsize=1)
def engine() -> Engine:
    """The one engine of the process."""
    from .frontend.native import Engine
    from .frontend.stock import intra_op_threads
    from .runtime.buffers import BufferPool

    def compile_for(graph: Graph, device: str) -> Executable:
        return compile_graph(graph, intra_op_threads(), device)

    return Engine(compile_for, BufferPool(_handover_code), recorder, _choices())


def _choices() -> Choices:
    from .cpu.doubt import doubt
    from .frontend.contest import Choices

    return Choices(names, lambda graph: doubt(graph, _isa()), lambda graph: _identity(anonymous(graph)), _decisions,
                   whole=_identity, label=label, room=_has_room)


def _has_room(graph: Graph) -> bool:
    """Whether TensorFlow's intermediate values of an imported graph fit in a quarter of the memory there is; other
    programs, and what this process holds, need the rest. No where the system does not say how much there is."""
    from .passes.lifetimes import Lifetimes

    return Lifetimes(graph).peak <= usable_memory() // 4


def _isa() -> Isa:
    from .cpu.isa import chosen

    return chosen(options())


def _identity(text: str) -> str:
    """All that may change which device is fastest for what a text describes."""
    from .cpu.engine import code_version, object_key
    from .frontend.stock import intra_op_threads, tensorflow_version

    threads = options().threads or intra_op_threads()
    ours = (code_version("gpu"), mlx_version()) if GPU in names() else ()
    about = (str(threads), tensorflow_version(), *map(str, devices()), *ours, text)
    return object_key("\n".join(about), _isa())


def _decisions() -> Decisions | None:
    from .runtime import cache_folder
    from .runtime.decisions import Decisions

    return Decisions(cache_folder.decisions(options())) if options().cache else None
