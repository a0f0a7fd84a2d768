"""Small kernels made by hand and helpers to run executables on arrays, for tests of the machinery."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from cpu_harness import aligned
from llvmlite import ir as ll

from afterburner.cpu.emitter import F32, Emitter
from afterburner.cpu.generate import compile_kernels
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel, Phase, Unsupported
from afterburner.ir import Node

_BINARY = {"add": ll.IRBuilder.fadd, "sub": ll.IRBuilder.fsub, "mul": ll.IRBuilder.fmul}


def lower(node: Node, isa: Isa) -> Kernel:
    """Scalar code for binary operations on f32 in 8 chunks, and for a full reduce_sum in two phases."""
    if node.op.name in _BINARY:
        return _binary(node)
    if node.op.name == "reduce_sum" and node.results[0].shape == ():
        return _sum(node)
    raise Unsupported(f"no kernel for {node.op.name}")


def compile_nodes(nodes: Sequence[Node], isa: Isa, dump: Path | None = None, progress: object = None) -> bytes:
    """In place of ``build.compile_nodes``."""
    return compile_kernels([lower(node, isa) for node in nodes], isa)


def _binary(node: Node) -> Kernel:
    size = node.results[0].type.size
    chunks = 8 if size >= 64 else 1

    def emit(e: Emitter) -> None:
        start, end = e.range_of_chunk(size, chunks)
        with e.loop(start, end) as i:
            a, b = (e.load(e.at(e.operand(k), i, F32), F32, 4) for k in (0, 1))
            e.store(_BINARY[node.op.name](e.b, a, b), e.at(e.result(0), i, F32), 4)

    return Kernel(node, (Phase(chunks, emit),), f"{node.op.name} {node.results[0].type}")


def _sum(node: Node) -> Kernel:
    """Chunk sums into a temporary, through private scratch, then one chunk adds them in order."""
    size, chunks = node.operands[0].type.size, 8

    def partial(e: Emitter) -> None:
        start, end = e.range_of_chunk(size, chunks)
        e.store(ll.Constant(F32, 0.0), e.scratch, 4)
        with e.loop(start, end) as i:
            total = e.b.fadd(e.load(e.scratch, F32, 4), e.load(e.at(e.operand(0), i, F32), F32, 4))
            e.store(total, e.scratch, 4)
        e.store(e.load(e.scratch, F32, 4), e.at(e.temp(0), e.chunk, F32), 4)

    def combine(e: Emitter) -> None:
        zero = ll.Constant(F32, 0.0)
        with e.loop_carried(0, chunks, 1, [zero]) as (i, (total,), following):
            following[0] = e.b.fadd(total, e.load(e.at(e.temp(0), i, F32), F32, 4))
        e.store(following[0], e.result(0), 4)

    phases = (Phase(chunks, partial), Phase(1, combine))
    return Kernel(node, phases, f"sum {node.operands[0].type}", temps=(4 * chunks,), scratch=64)


def run(executable: object, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of an executable for arrays."""
    arrays = [np.ascontiguousarray(a) for a in inputs]
    outputs = [aligned(t.shape, t.dtype.numpy) for t in executable.output_types]
    executable.run([a.ctypes.data for a in arrays], [o.ctypes.data for o in outputs])
    return outputs


def misaligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts one element behind a cache line."""
    raw = aligned((array.nbytes + array.itemsize,), np.dtype(np.uint8))
    copy = raw[array.itemsize:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def resident_bytes() -> int:
    """Bytes of this process's memory that are in use."""
    import psutil

    return psutil.Process().memory_info().rss


