"""Which operations we take: a flattened function cut into stages, ours and TensorFlow's in turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

import tensorflow as tf

from ..report import BETWEEN
from .flatten import FlatGraph, FlatOp, FlatTensor

MIN_OPS = 3  # a function of fewer compiled operations is not worth a call of ours
Reason = Callable[[FlatOp], str | None]
IsHost = Callable[[FlatOp], bool]


class Kind(IntEnum):
    """Who runs a stage."""

    STOCK = 0  # TensorFlow
    NATIVE = 1  # compiled by us
    HOST = 2  # a loop or branch around compiled parts: one operation, interpreted by us


@dataclass(eq=False)
class Stage:
    """Operations that run together.

    Attributes:
        kind: who runs them.
        ops: in program order.
        inputs: data tensors made outside.
        resources: resource tensors that come from outside (variables, iterators).
        outputs: tensors that later stages or the caller read.
    """

    kind: Kind
    ops: list[FlatOp] = field(default_factory=list)
    inputs: list[FlatTensor] = field(default_factory=list)
    resources: list[FlatTensor] = field(default_factory=list)
    outputs: list[FlatTensor] = field(default_factory=list)

    @property
    def native(self) -> bool:
        """Whether it is compiled."""
        return self.kind is Kind.NATIVE


@dataclass(frozen=True)
class Partition:
    """Stages in the order they run, and why each operation was left to TensorFlow."""

    stages: tuple[Stage, ...]
    left: tuple[tuple[FlatOp, str], ...]

    @property
    def native_ops(self) -> int:
        """Operations taken, constants not counted."""
        return sum(op.type != "Const" for s in self.stages if s.native for op in s.ops)


def why_too_few(cut: Partition, taken: int, seen: int) -> str:
    """What the report says of a function that is left because too few of its operations can be compiled."""
    if taken == seen:
        return f"it has only {seen} operation{'s' if seen != 1 else ''}, too few to gain anything"
    whys = [f" ({op.type}: {why})" for op, why in cut.left[:1]]
    return f"only {taken} of {seen} operations can be compiled{''.join(whys)}"


def partition(flat: FlatGraph, reason: Reason, is_host: IsHost = lambda op: False,
              most_stages: int | None = None) -> Partition:
    """Cut a function into as few alternating stages as its dependences allow.

    Args:
        flat: the function.
        reason: why an operation is not taken; None if it is.
        is_host: whether an operation that is not taken is a loop or branch we interpret.
        most_stages: where there would be more, compiled stages of few operations are given back to TensorFlow.
    """
    reasons = {op: _reason(op, reason) for op in flat.ops}
    live = _live(flat)
    while True:
        cut = _cut(flat, reasons, live, is_host)
        if outside := _with_lists_from_outside(cut.stages):
            reasons.update(dict.fromkeys(outside, "a list of tensors that another part of the function has"))
        elif given_back := _smallest(cut, most_stages):
            reasons.update(dict.fromkeys(given_back, BETWEEN))
        else:
            return cut


def _cut(flat: FlatGraph, reasons: dict[FlatOp, str | None], live: set[FlatOp], is_host: IsHost) -> Partition:
    kinds = {op: _kind(op, why, is_host) for op, why in reasons.items()}
    level = _levels([op for op in flat.ops if op in live], kinds)
    by_level: dict[int, list[FlatOp]] = defaultdict(list)
    for op in flat.ops:
        if op in live and op.type != "Const":
            by_level[level[op]].append(op)
    stages: list[Stage] = []
    for number in sorted(by_level):
        kind = Kind(number % len(Kind))
        groups = [[op] for op in by_level[number]] if kind is Kind.HOST else [by_level[number]]
        stages += [Stage(kind, group) for group in groups]
    for stage in stages:
        stage.ops = _with_constants(stage.ops)
    _connect(stages, flat)
    left = tuple((op, why) for op, why in reasons.items()
                 if why is not None and op in live and kinds[op] is Kind.STOCK)
    return Partition(tuple(stages), left)


def _with_lists_from_outside(stages: Iterable[Stage]) -> list[FlatOp]:
    """Operations of compiled stages that take or give lists of tensors which only the stage knows."""
    found: list[FlatOp] = []
    for stage in stages:
        if stage.native:
            crossing = {t for t in (*stage.inputs, *stage.outputs) if t.dtype == tf.variant}
            found += [op for op in stage.ops if not crossing.isdisjoint((*op.inputs, *op.outputs))]
    return found


def _smallest(cut: Partition, most_stages: int | None) -> list[FlatOp]:
    """Operations of the compiled stage that has fewest, where there are too many stages and other compiled ones."""
    native = [[op for op in s.ops if op.type != "Const"] for s in cut.stages if s.native]
    if most_stages is None or len(cut.stages) <= most_stages or len(native) < 2:
        return []
    return min(native, key=len)


def _reason(op: FlatOp, reason: Reason) -> str | None:
    why = reason(op)
    if why is not None:
        return why
    for tensor in op.inputs:
        if tensor.dtype == tf.resource and tensor.op is not None and tensor.op.type != "Identity":
            return "a resource made inside the function"
    return None


def _kind(op: FlatOp, why: str | None, is_host: IsHost) -> Kind:
    if why is None:
        return Kind.NATIVE
    return Kind.HOST if is_host(op) else Kind.STOCK


def _live(flat: FlatGraph) -> set[FlatOp]:
    """Operations that an output or an effect needs."""
    live: set[FlatOp] = set()
    work = [t.op for t in flat.outputs if t.op is not None]
    work += [op for op in flat.ops if op.stateful and op.type != "ReadVariableOp"]
    while work:
        op = work.pop()
        if op in live:
            continue
        live.add(op)
        work += [t.op for t in op.inputs if t.op is not None]
        work += op.control
    return live


def _levels(ops: Sequence[FlatOp], kinds: dict[FlatOp, Kind]) -> dict[FlatOp, int]:
    """Stage number of every operation, its kind modulo the number of kinds; none before what it needs,
    and a host operation behind every host operation it needs."""
    level: dict[FlatOp, int] = {}
    for op in ops:
        kind = kinds[op]
        needs = [t.op for t in op.inputs if t.op is not None] + list(op.control)
        lowest = 0
        for need in needs:
            if need.type != "Const" and need in level:
                both_host = kind is Kind.HOST and kinds[need] is Kind.HOST
                lowest = max(lowest, level[need] + (1 if both_host else 0))
        level[op] = lowest + (kind - lowest) % len(Kind)
    return level


def _with_constants(ops: Iterable[FlatOp]) -> list[FlatOp]:
    """Constants belong to every stage that reads them."""
    result: list[FlatOp] = []
    seen: set[FlatOp] = set()
    for op in ops:
        for tensor in op.inputs:
            if tensor.op is not None and tensor.op.type == "Const" and tensor.op not in seen:
                seen.add(tensor.op)
                result.append(tensor.op)
        result.append(op)
    return result


def _connect(stages: Sequence[Stage], flat: FlatGraph) -> None:
    """Fill in what each stage takes from outside and what it must give."""
    home: dict[FlatTensor, Stage] = {}
    for stage in stages:
        for op in stage.ops:
            if op.type != "Const":
                home.update(dict.fromkeys(op.outputs, stage))
    wanted: dict[Stage, dict[FlatTensor, None]] = defaultdict(dict)
    for stage in stages:
        inside = {t for op in stage.ops for t in op.outputs}
        outside = dict.fromkeys(t for op in stage.ops for t in op.inputs if t not in inside)
        for tensor in outside:
            (stage.resources if tensor.dtype == tf.resource else stage.inputs).append(tensor)
            if tensor in home:
                wanted[home[tensor]][tensor] = None
    for tensor in flat.outputs:
        if tensor in home:
            wanted[home[tensor]][tensor] = None
    for stage in stages:
        stage.outputs = [t for t in wanted[stage] if t.dtype != tf.resource]
        stage.outputs += [t for t in wanted[stage] if t.dtype == tf.resource]
