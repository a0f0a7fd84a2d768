"""Loops whose number of turns is known when they are imported, as one operation of the IR.

Such are the loops of recurrent layers, forward and backward. One turn is imported as a graph of its own. What stays the
same is captured, integers that grow by the same amount each turn are followed, and TensorFlow's lists, in which its
loops keep what each turn reads or makes, become the rows of tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import tensorflow as tf

from ..ir import interpret
from .flatten import FlatGraph, FlatOp, FlatTensor
from .importer import Importer, Refused
from .loop_turns import Counter, Turn, at

_MOST_TURNS = 20_000
_MOST_WRITTEN_OUT = 1000  # operations of loops that are imported turn by turn


def import_loop(ctx: Importer, op: FlatOp, cond: FlatGraph, body: FlatGraph) -> None:
    """Import a while loop; its results are in ``ctx.values`` and ``ctx.lists`` then.

    Raises:
        Refused: the number of turns is not known, or what it does with a list is not followed.
    """
    counters = dict(_counters(ctx, op, body))
    turns = _turns(ctx, op, cond, body, counters)
    if turns == 0:
        _hand_on(ctx, op.inputs, op.outputs)
        return
    if turns > _MOST_TURNS:
        raise ctx.refuse(f"a loop of more than {_MOST_TURNS} turns")
    work = turns * sum(inner.type != "Const" for inner in body.ops)
    if turns == 1:
        _write_out(ctx, op, body, turns)
        return
    try:
        turn = Turn(ctx, op, turns)
        turn.begin(op, body, counters)
        turn.import_ops(body)
        turn.end(op, body)
    except Refused as error:
        ctx.op = op
        if error.unknown or work > _MOST_WRITTEN_OUT:
            raise
        try:
            _write_out(ctx, op, body, turns)
        except Refused:
            raise error from None


def _write_out(ctx: Importer, op: FlatOp, body: FlatGraph, turns: int) -> None:
    """Import the turns one after another."""
    first, given = len(ctx.builder.nodes), list(op.inputs)
    for _ in range(turns):
        _hand_on(ctx, given, body.arguments)
        try:
            for inner in body.ops:
                ctx.import_op(inner)
        except Refused as error:
            raise Refused(op, str(error), error.unknown) from error
        ctx.op, given = op, body.outputs
        if turns > 1 and len(ctx.builder.nodes) - first > _MOST_WRITTEN_OUT:
            raise ctx.refuse("too much to be written out turn by turn")
    _hand_on(ctx, given, op.outputs)


def writes(body: FlatGraph) -> str | None:
    """The first operation of a loop's body that may write a variable."""
    return next((inner.type for inner in body.ops if inner.type not in _READERS
                 and any(t.dtype == tf.resource for t in inner.inputs)), None)


_READERS = ("ReadVariableOp", "ResourceGather", "ResourceGatherNd", "VariableShape", "Identity", "While",
            "StatelessWhile", "If", "StatelessIf", "VarIsInitializedOp")


def may_be_counted(cond: FlatGraph, body: FlatGraph) -> bool:
    """Whether all that decides on another turn is the same in all turns, or grows by the same amount."""
    work, seen = list(cond.outputs), set(cond.outputs)
    while work:
        tensor = work.pop()
        if tensor.op is None:
            old, new = body.arguments[tensor.index], body.outputs[tensor.index]
            if new is not old and _growth(old, new) is None:
                return False
            continue
        more = [t for t in tensor.op.inputs if t not in seen]
        seen.update(more)
        work += more
    return True


def _growth(old: FlatTensor, new: FlatTensor) -> tuple[FlatTensor, int] | None:
    """By what an argument grows, and whether that is added (1) or taken away (-1); None where that is not what a turn
    does to it."""
    made = new.op
    if made is None or not old.dtype.is_integer or old.shape.rank not in (0, None):
        return None
    if made.type in ("AddV2", "Add") and old in made.inputs:
        first, second = made.inputs
        return (second if first is old else first), 1
    if made.type == "Sub" and made.inputs[0] is old:
        return made.inputs[1], -1
    return None


def _counters(ctx: Importer, op: FlatOp, body: FlatGraph) -> Iterator[tuple[int, Counter]]:
    """Positions of the loop's variables that are counters."""
    for i, (outer, old, new) in enumerate(zip(op.inputs, body.arguments, body.outputs, strict=True)):
        growth = _growth(old, new)
        if growth is None or outer not in ctx.values:
            continue
        start, by = ctx.known(ctx.values[outer]), _constant(ctx, op, body, growth[0])
        if start is not None and not start.shape and by is not None:
            yield i, Counter(int(start), growth[1] * by)


def _constant(ctx: Importer, op: FlatOp, body: FlatGraph, tensor: FlatTensor) -> int | None:
    """An integer that is the same in every turn and known."""
    if tensor.op is not None:
        if tensor.op.type != "Const" or tensor.shape.rank != 0:
            return None
        return int(tf.make_ndarray(tensor.op.attr("value")))
    if body.outputs[tensor.index] is not tensor or op.inputs[tensor.index] not in ctx.values:
        return None
    known = ctx.known(ctx.values[op.inputs[tensor.index]])
    return int(known) if known is not None and not known.shape else None


def _turns(ctx: Importer, op: FlatOp, cond: FlatGraph, body: FlatGraph, counters: dict[int, Counter]) -> int:
    """How often the body runs."""
    probe = Turn(ctx, op, 0)
    read = {t for inner in cond.ops for t in inner.inputs} | set(cond.outputs)
    for i, (argument, outer) in enumerate(zip(cond.arguments, op.inputs, strict=True)):
        if argument not in read:
            continue
        if i in counters:
            probe.values[argument] = probe.builder.input(ctx.values[outer].type, f"counter{i}")
        elif outer in ctx.values and body.outputs[i] is body.arguments[i]:
            probe.values[argument] = probe.capture(ctx.values[outer])
    probe.import_ops(cond)
    result = probe.values.get(cond.outputs[0])
    if result is None or result.shape or probe.checks:
        raise ctx.refuse("the number of turns depends on data")
    fixed = {inner: ctx.static(outer, "the number of turns of a loop") for outer, inner in probe.captured.items()}
    probe.builder.output(result)
    graph = probe.builder.build()
    follow = iter([counters[i] for i in sorted(counters) if cond.arguments[i] in read])
    inputs = [None if item.value in fixed else next(follow) for item in graph.inputs]
    for turn in range(_MOST_TURNS + 1):
        arguments = [fixed[item.value] if counter is None else at(counter, turn, item.value.type)
                     for item, counter in zip(graph.inputs, inputs, strict=True)]
        if not interpret(graph, arguments)[0]:
            return turn
    return _MOST_TURNS + 1


def _hand_on(ctx: Importer, given: Sequence[FlatTensor], taken: Sequence[FlatTensor]) -> None:
    """Let tensors be what others are."""
    values = [ctx.values.get(t) for t in given]
    lists = [ctx.list_of(t) if t.dtype == tf.variant else None for t in given]
    handles = [ctx.root(t) if t.dtype == tf.resource else None for t in given]
    for tensor, value, list_, handle in zip(taken, values, lists, handles, strict=True):
        if value is not None:
            ctx.values[tensor] = value
        elif list_ is not None:
            ctx.lists[tensor] = list_
        elif handle is not None:
            ctx.alias(tensor, handle)
        else:
            raise ctx.refuse("a turn gives something that is no tensor of numbers")
