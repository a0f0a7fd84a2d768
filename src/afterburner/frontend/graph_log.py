"""A function as ``AFTERBURNER_LOG_GRAPHS`` shows it: its graph before it is cut, after it, and each part."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .flatten import FlatGraph, FlatOp, FlatTensor
from .partition import Kind, Partition, Stage

_WORDS = {Kind.STOCK: "TensorFlow", Kind.NATIVE: "compiled", Kind.HOST: "loop or branch around compiled parts"}


def lines(flat: FlatGraph, cut: Partition) -> Iterator[str]:
    """The lines to log."""
    parts = [stage for stage in cut.stages if stage.native]
    counts = ", ".join(str(_count(stage)) for stage in parts) or "none"
    yield f"{flat.name}: {len(parts)} compiled sub-graphs of {len(flat.ops)} ops; ops in each: {counts}"
    yield f"{flat.name}: graph before:"
    yield from map(_line, flat.ops)
    yield f"{flat.name}: graph after:"
    for number, stage in enumerate(cut.stages):
        yield f"  stage {number} = {_WORDS[stage.kind]}, {_count(stage)} ops: {_signature(stage)}"
    for number, stage in enumerate(cut.stages):
        if stage.native:
            yield f"{flat.name}: sub-graph of stage {number}:"
            yield from map(_line, stage.ops)


def _count(stage: Stage) -> int:
    return sum(op.type != "Const" for op in stage.ops)


def _line(op: FlatOp) -> str:
    return f"  {op.name} = {op.type}({', '.join(map(_name, op.inputs))})"


def _signature(stage: Stage) -> str:
    return f"({_names([*stage.inputs, *stage.resources])}) -> ({_names(stage.outputs)})"


def _names(tensors: Sequence[FlatTensor]) -> str:
    return ", ".join(map(_name, tensors))


def _name(tensor: FlatTensor) -> str:
    return f"argument {tensor.index}" if tensor.op is None else f"{tensor.op.name}:{tensor.index}"
