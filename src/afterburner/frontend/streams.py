"""Random operations that are seeded and stateful: their state lives in a kernel of TensorFlow's, so what they draw
depends on how often that kernel ran. A function that holds one is either cut before its first call, and not again, or
left to TensorFlow for good; else numbers would come twice."""

from __future__ import annotations

from collections.abc import Iterable

from .flatten import FlatOp, is_stateful


def draw_from_streams(ops: Iterable[FlatOp]) -> bool:
    """Whether one of the operations goes on in a stream of random numbers that a seed began."""
    return any(map(draws_from_stream, ops))


def draws_from_stream(op: FlatOp) -> bool:
    """Whether an operation goes on in a stream of random numbers that a seed began."""
    attributes = op.source.node_def.attr
    return is_stateful(op.source) and any(name in attributes and attributes[name].i for name in ("seed", "seed2"))
