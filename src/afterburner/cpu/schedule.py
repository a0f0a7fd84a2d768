"""When each kernel runs: waves of independent kernels, and the segments a program walks through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import groupby

from ..ir import Node, Value
from ..ir.ops.control import Fusion, Scan
from ..ir.ops.shape import FirstColumns, MoreColumns, Slice
from .compiled import CompiledKernel, needs_kernel
from .loops import COPY, Part, Segment, Step, Work, kernels_in, numbers, shifted

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


def source(value: Value) -> Value:
    """The value whose buffer ``value`` lies in: views are followed to what they show."""
    while value.node is not None and value.node.op.view:
        value = value.node.operands[0]
    return value


def cost(node: Node) -> float:
    """A rough guess at the seconds a node takes on one core."""
    if isinstance(node.op, Scan):
        return node.op.runs * sum(cost(n) for n in node.op.body.nodes if needs_kernel(n))
    types = tuple(v.type for v in node.operands)
    results = tuple(r.type for r in node.results)
    dense = node.op.name in _DENSE or getattr(node.op, "kind", "") in _DENSE
    return max(node.op.flops(types, results) / (_DENSE_RATE if dense else RATE), moved(node) / RATE) + _PER_KERNEL


def moved(node: Node) -> int:
    """Bytes that a node reads and writes, each operand once; a scan in all of its turns."""
    if isinstance(node.op, Scan):
        return node.op.runs * sum(moved(n) for n in node.op.body.nodes if needs_kernel(n))
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


def waves(steps: Sequence[Step], apart: bool = False) -> dict[Node, int]:
    """The wave of every node that is computed. All of a wave is over before the next begins.

    Args:
        steps: in an order that can be executed.
        apart: one step a wave, in that order.
    """
    if apart:
        return {s.node: i for i, s in enumerate(steps)}
    chosen: dict[Node, int] = {}
    filled: dict[int, int] = {}
    last = 0
    for step in steps:
        node = step.node
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


def segments(steps: Sequence[Step], wave_of: Mapping[Node, int], apart: bool = False,
             done: Collection[Part] = ()) -> list[Segment]:
    """The segments of a program: phases that may run at once, a barrier after each segment.

    One-chunk parts that follow each other become one piece of work, without barriers between them,
    unless ``apart``. Steps without a wave and the parts that are ``done`` are left out.
    """
    kernels = [k for step in steps for k in kernels_in(step)]
    rows: dict[int, list[list[Segment]]] = {}
    for step, number, copy in numbers(steps):
        if step.node in wave_of:
            rows.setdefault(wave_of[step.node], []).append(_phases(step, number, copy, done))
    found: list[Segment] = []
    for wave in sorted(rows):
        members = rows[wave]
        for phase in range(max(map(len, members))):
            works = [w for m in members for w in (m[phase] if phase < len(m) else ())]
            if works:
                found.append(tuple(works) if apart else _together(works, kernels))
    return found if apart else joined(found)


def joined(found: Iterable[Segment]) -> list[Segment]:
    """Serial segments that follow each other as one."""
    made: list[Segment] = []
    for serial, run in groupby(found, _is_serial):
        if serial:
            made.append((Work(tuple(p for segment in run for p in segment[0].parts), 1),))
        else:
            made.extend(run)
    return made


def _phases(step: Step, number: int, copy: int, done: Collection[Part]) -> list[Segment]:
    """What a step does between barriers; ``number`` and ``copy`` are those of its first kernel and copy."""
    if isinstance(step, CompiledKernel):
        parts = [(Part(number, phase), chunks) for phase, chunks in enumerate(step.chunks)]
        return [(Work((part,), chunks),) if chunks and part not in done else () for part, chunks in parts]
    return [shifted(segment, number, copy) for segment in step.phases]


def _together(works: Sequence[Work], kernels: Sequence[CompiledKernel]) -> Segment:
    if len(works) == 1 or any(w.chunks != 1 for w in works):
        return tuple(works)
    seconds = [_seconds(w, kernels) for w in works]
    if sum(seconds) - max(seconds) >= _WORTH_SHARING:
        return tuple(works)
    return (Work(tuple(p for w in works for p in w.parts), 1),)


def _seconds(work: Work, kernels: Sequence[CompiledKernel]) -> float:
    times = Counter(kernel for kernel, _ in {(p.kernel, p.row) for p in work.parts if p.kernel != COPY})
    return sum(count * cost(kernels[kernel].node) for kernel, count in times.items())


def _is_serial(segment: Segment) -> bool:
    return len(segment) == 1 and segment[0].chunks == 1
