"""The end of a dataset in the middle of a step: by then TensorFlow has counted it, and drawn its seeds.

What else needs no data, such as the decay of all weights, TensorFlow may have done or not; it is not done here.
"""

from __future__ import annotations

from collections.abc import Sequence

from .flatten import FlatGraph, FlatOp
from .partition import Kind, Stage

_UPDATES = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp")
_FETCHES = ("IteratorGetNext", "IteratorGetNextSync")


def first_fetch(stages: Sequence[Stage]) -> FlatOp | None:
    """The operation that takes an element of a dataset, where a function begins with that alone."""
    ops = [op for op in stages[0].ops if op.type != "NoOp"] if stages and stages[0].kind is Kind.STOCK else []
    return ops[0] if len(ops) == 1 and ops[0].type in _FETCHES else None


def idle_updates(flat: FlatGraph, fetch: FlatOp) -> list[FlatOp]:
    """The updates of integers that do not wait for an element, with all that they need: a count of steps, seeds.

    None at all where one needs something that has other effects, which we would not make in TensorFlow's order.
    """
    behind = {fetch}
    for op in flat.ops:
        if not behind.isdisjoint(_before(op)):
            behind.add(op)
    needed = {op for op in flat.ops if op not in behind and op.type in _UPDATES and op.inputs[1].dtype.is_integer}
    for op in reversed(flat.ops):
        if op in needed:
            needed.update(_before(op))
    ops = [op for op in flat.ops if op in needed]
    known = (*_UPDATES, "ReadVariableOp")
    return [] if any(op.stateful and op.type not in known for op in ops) else ops


def _before(op: FlatOp) -> list[FlatOp]:
    return [*op.control, *(t.op for t in op.inputs if t.op is not None)]
