"""Moves work out of loops where it can be done for all turns at once.

A recurrent network multiplies its inputs by the same matrix in every turn, and on the way back every turn adds to the
gradients of its weights. One product over the rows of all turns is several times faster than many small ones, since the
matrix is read once; only what depends on the turn before has to be done turn by turn.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Builder, Graph, Node, Value, rewrite
from ..ir.ops.control import Scan
from ..ir.ops.shape import Broadcast
from .batching import is_contraction
from .scan_parts import SAME, Loop, State
from .scan_sums import move_sums


def hoist_from_scans(graph: Graph) -> Graph:
    """Move out of each scan
      - before it, what is the same in every turn, and contractions of rows;
      - behind it, contractions that only its stacked results depend on, and sums over all turns.

    Elementwise work goes along where it has to. What has no state left is no loop.

        %0: f32[2,4] = scan(%h, %x, %w) {steps=9, …} with     %0: f32[18,3] = reshape(%x)
          graph turn(%h: f32[2,4], %x: f32[2,3], %w) {        %1: f32[18,4] = matmul(%0, %w)
            %0: f32[2,4] = matmul(%x, %w)                ->   %2: f32[9,2,4] = reshape(%1)
            %1: f32[2,4] = add(%h, %0)                        %3: f32[2,4] = scan(%h, %2) {steps=9, …} with
            %2: f32[2,4] = tanh(%1)                             graph turn(%h: f32[2,4], %ahead: f32[2,4]) {
            return %2                                             %0: f32[2,4] = add(%h, %ahead)
                                                                  %1: f32[2,4] = tanh(%0)
                                                                  return %1

    Terms of sums over all turns meet in another order. Everything else keeps its bits, if a product's elements do not
    depend on how many rows it has.
    """
    if not any(isinstance(node.op, Scan) for node in graph.nodes):
        return graph
    changed = False

    def replace(builder: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        nonlocal changed
        if not isinstance(node.op, Scan):
            return None
        results = _smaller(builder, node, operands)
        changed |= results is not None
        return results

    rewritten = rewrite(graph, replace)
    return rewritten if changed else graph


def _smaller(builder: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
    """The results of a loop without what can be done outside; None where that is nothing."""
    assert isinstance(node.op, Scan)
    loop = Loop(node.op, operands, node.loc)
    _cut_what_is_the_same(loop)
    _cut_contractions(loop)
    sums = move_sums(loop)
    _move_behind(loop)
    _cut_all(loop)
    if not (sums or loop.cut or loop.moved or len(loop.inside()) < len(loop.stacks)):
        return None
    return loop.build(builder)


def _cut_what_is_the_same(loop: Loop) -> None:
    """What is made of captured tensors, but what only repeats them: this costs nothing where it is read."""
    made: set[Value] = {v for v in loop.outer if loop.kinds[v] == SAME}  # what depends on a captured tensor
    for node in loop.nodes:
        if not made.isdisjoint(node.operands):
            made.update(node.results)
    read = [v for n in loop.live() for v in n.operands if any(loop.kinds[r] != SAME for r in n.results)]
    for value in (*read, *(s.next for s in loop.states if isinstance(s, State))):
        while loop.kinds[value] == SAME and value.node is not None and isinstance(value.node.op, Broadcast):
            (value,) = value.node.operands
        if loop.kinds[value] == SAME and value in made and value not in loop.outer:
            loop.cut.add(value)


def _cut_contractions(loop: Loop) -> None:
    """Contractions of rows with what is the same in every turn, and elementwise work on their results that makes them
    no larger. What they read is computed outside as well, and a second time in the loop where that reads it too."""
    users, returned = loop.users(), set(loop.returned())
    for node in loop.live():
        value = node.results[0]
        kind = loop.kinds[value]
        if not isinstance(kind, bool) or not is_contraction(node.op):
            continue
        while len(readers := users.get(value, [])) == 1 and value not in returned:
            (reader,) = readers
            wider = reader.results[0]
            if not reader.op.elementwise or loop.kinds[wider] is not kind or wider.type.bytes > value.type.bytes:
                break
            value = wider
        if value not in loop.cut and (value not in users or loop.affords(value)):
            loop.cut.add(value)


def _move_behind(loop: Loop) -> None:
    """Contractions that only stacks depend on, with all that depends on them."""
    held = set(loop.leading_to(s.next for s in loop.states if isinstance(s, State)))
    for back in (False, True):
        nodes = _late(loop, held, back)
        made = {n.results[0] for n in nodes}
        read = dict.fromkeys(v for n in nodes for v in n.operands if loop.kinds[v] != SAME and v not in made)
        mark = loop.mark()
        if all(loop.claim(v, back) for v in read):
            loop.moved |= made
        else:
            loop.reset(mark)


def _late(loop: Loop, held: set[Node], back: bool) -> list[Node]:
    """Contractions and what depends on them, where all of it can be done for all turns and is stacked in one order."""
    users, live = loop.users(), loop.live()
    ways: dict[Value, set[bool]] = {}
    for value, way in loop.stacks:
        ways.setdefault(value, set()).add(way)
    able: set[Node] = set()
    for node in reversed(live):
        if node in held or len(node.results) != 1 or not loop.batches(node):
            continue
        (value,) = node.results
        if ways.get(value, {back}) == {back} and all(u in able for u in users.get(value, [])):
            able.add(node)
    late: list[Node] = []
    made: set[Value] = set()
    for node in live:
        if node in able and (is_contraction(node.op) or not made.isdisjoint(node.operands)):
            late.append(node)
            made.update(node.results)
    return late


def _cut_all(loop: Loop) -> None:
    """Without a state, what is made of rows alone needs no loop, if there is nothing else."""
    inside = {value for value, _ in loop.inside()}
    if not any(isinstance(s, State) for s in loop.states) and all(loop.kinds[v] is not None for v in inside):
        loop.cut |= inside
