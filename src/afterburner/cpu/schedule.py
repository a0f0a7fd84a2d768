"""When each kernel runs: waves of independent kernels, and the segments a program walks through."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ..ir import Node, Value
from ..ir.ops.control import Fusion
from ..ir.ops.shape import FirstColumns, MoreColumns, Slice
from .compiled import CompiledKernel

# How far back a kernel may be moved to join kernels it does not depend on, and how large its results
# may be: what runs earlier holds its memory longer.
_WINDOW = 2  # waves
_MOVED_BYTES = 1 << 20
_WAVE_BYTES = 16 << 20  # results of one wave that are large; more would all be held until its end, for no gain
_WORTH_SHARING = 2e-6  # seconds of serial work that pay for a barrier
RATE = 1e10  # bytes or elementwise operations a second on one core: the order of magnitude
_DENSE_RATE = 5e10  # floating-point operations a second of matrix products and convolutions
_DENSE = ("matmul", "conv2d", "conv2d_input_grad", "conv2d_filter_grad", "conv2d_input_grad_pooled",
          "conv2d_filter_grad_pooled")
_PER_KERNEL = 1e-7  # seconds


@dataclass(frozen=True)
class Part:
    """Phase ``phase`` of kernel number ``kernel``."""

    kernel: int
    phase: int


@dataclass(frozen=True)
class Work:
    """Parts run one after another by one worker a chunk; more than one part only with one chunk."""

    parts: tuple[Part, ...]
    chunks: int


Segment = tuple[Work, ...]


def source(value: Value) -> Value:
    """The value whose buffer ``value`` lies in: views are followed to what they show."""
    while value.node is not None and value.node.op.view:
        value = value.node.operands[0]
    return value


def cost(node: Node) -> float:
    """A rough guess at the seconds a node takes on one core."""
    types = tuple(v.type for v in node.operands)
    results = tuple(r.type for r in node.results)
    dense = node.op.name in _DENSE or getattr(node.op, "kind", "") in _DENSE
    return max(node.op.flops(types, results) / (_DENSE_RATE if dense else RATE), moved(node) / RATE) + _PER_KERNEL


def moved(node: Node) -> int:
    """Bytes that a node reads and writes, each operand once."""
    if isinstance(node.op, FirstColumns | MoreColumns):
        return 2 * node.operands[-1].type.bytes
    read = {v: v.type.bytes for v in node.operands}
    if isinstance(node.op, Fusion):
        users = node.op.body.users()
        for item, value in zip(node.op.body.inputs, node.operands, strict=True):
            readers = users.get(item.value, ())
            if readers and all(isinstance(n.op, Slice) for n in readers):
                read[value] = min(value.type.bytes, sum(n.results[0].type.bytes for n in readers))
    return sum(read.values()) + sum(r.type.bytes for r in node.results)


def waves(kernels: Sequence[CompiledKernel], apart: bool = False) -> dict[Node, int]:
    """The wave of every node that has a kernel. All of a wave is over before the next begins.

    Args:
        kernels: in an order that can be executed.
        apart: one kernel a wave, in that order.
    """
    if apart:
        return {k.node: i for i, k in enumerate(kernels)}
    chosen: dict[Node, int] = {}
    filled: dict[int, int] = {}
    last = 0
    for kernel in kernels:
        node = kernel.node
        producers = (source(v).node for v in node.operands)
        earliest = max((chosen[p] + 1 for p in producers if p in chosen), default=0)
        size = sum(r.type.bytes for r in node.results)
        if size <= _MOVED_BYTES:
            wave = max(earliest, last - _WINDOW)
        else:
            wave = max(earliest, last)
            wave += wave in filled and filled[wave] + size > _WAVE_BYTES
            filled[wave] = filled.get(wave, 0) + size
        chosen[node] = wave
        last = max(last, wave)
    return chosen


def segments(kernels: Sequence[CompiledKernel], wave_of: Mapping[Node, int], apart: bool = False,
             done: Collection[Part] = ()) -> list[Segment]:
    """The segments of a program: phases that may run at once, a barrier after each segment.

    One-chunk parts that follow each other become one piece of work, without barriers between them,
    unless ``apart``. Kernels without a wave and the parts that are ``done`` are left out.
    """
    rows: dict[int, list[int]] = {}
    for index, kernel in enumerate(kernels):
        if kernel.node in wave_of:
            rows.setdefault(wave_of[kernel.node], []).append(index)
    found: list[Segment] = []
    for wave in sorted(rows):
        members = rows[wave]
        for phase in range(max(len(kernels[i].chunks) for i in members)):
            row = [i for i in members if len(kernels[i].chunks) > phase and kernels[i].chunks[phase]
                   and Part(i, phase) not in done]
            if not row:
                continue
            segment = _segment(kernels, row, phase)
            if found and not apart and _is_serial(segment) and _is_serial(found[-1]):
                segment = (Work(found.pop()[0].parts + segment[0].parts, 1),)
            found.append(segment)
    return found


def _segment(kernels: Sequence[CompiledKernel], row: Sequence[int], phase: int) -> Segment:
    works = tuple(Work((Part(i, phase),), kernels[i].chunks[phase]) for i in row)
    if any(w.chunks != 1 for w in works):
        return works
    costs = [cost(kernels[i].node) for i in row]
    if sum(costs) - max(costs) >= _WORTH_SHARING:
        return works
    return (Work(tuple(p for w in works for p in w.parts), 1),)


def _is_serial(segment: Segment) -> bool:
    return len(segment) == 1 and segment[0].chunks == 1
