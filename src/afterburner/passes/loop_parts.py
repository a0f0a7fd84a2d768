"""The parts of a loop that make one or some of its results."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable

from ..ir import Builder, Node, Value
from ..ir.ops.control import Fusion
from ..ir.ops.shape import Concat

_MOVES = frozenset({"broadcast", "concat", "constant", "iota", "pad", "reshape", "reverse", "slice", "transpose"})


def part_of_loop(node: Node, value: Value) -> tuple[Fusion, tuple[Value, ...]] | None:
    """The part of a loop that makes one result, and what it reads; of a concatenation that is another result of the
    loop rather than of its parts. None where it reduces."""
    assert isinstance(node.op, Fusion)
    body = node.op.body
    read = dict(zip((i.value for i in body.inputs), node.operands, strict=True))
    read.update((o.value, result) for o, result in zip(body.outputs, node.results, strict=True)
                if result is not value and concatenation(o.value) is not None)
    wanted = body.outputs[value.index].value
    needed = _ancestors((wanted,), read)
    for inner in body.nodes:
        if not needed.isdisjoint(inner.results) and read.keys().isdisjoint(inner.results) \
                and not (inner.op.elementwise or inner.op.name in _MOVES):
            return None
    return _loop(node, (wanted,), read, needed)


def without_results(node: Node, dropped: Collection[Value]) -> Node | None:
    """A loop that makes all results but these, in their order; None where that is nothing."""
    assert isinstance(node.op, Fusion)
    body = node.op.body
    read = dict(zip((i.value for i in body.inputs), node.operands, strict=True))
    wanted = [o.value for o, r in zip(body.outputs, node.results, strict=True) if r not in dropped]
    if not wanted:
        return None
    op, operands = _loop(node, wanted, read, _ancestors(wanted, read))
    return Node(op, operands, node.loc)


def reading_result(node: Node, value: Value) -> Node | None:
    """A loop that makes all results but ``value``, which it reads; None where that is nothing."""
    assert isinstance(node.op, Fusion)
    body = node.op.body
    read = dict(zip((i.value for i in body.inputs), node.operands, strict=True))
    read[body.outputs[value.index].value] = value
    wanted = [o.value for o, r in zip(body.outputs, node.results, strict=True) if r is not value]
    if not wanted:
        return None
    op, operands = _loop(node, wanted, read, _ancestors(wanted, read))
    return Node(op, operands, node.loc)


def concatenation(value: Value) -> Concat | None:
    """The operation that makes a value if it is a concatenation."""
    op = None if value.node is None else value.node.op
    return op if isinstance(op, Concat) else None


def _loop(node: Node, wanted: Iterable[Value], read: dict[Value, Value],
          needed: set[Value]) -> tuple[Fusion, tuple[Value, ...]]:
    """A loop that makes the values ``wanted`` of a loop's body. ``read``: values of the body that are read instead of
    made, and what they are outside of it; ``needed``: values of the body that are read or made."""
    assert isinstance(node.op, Fusion)
    builder = Builder(node.op.body.name)
    new: dict[Value, Value] = {}
    operands: list[Value] = []
    for inside, outside in read.items():
        if inside in needed:
            new[inside] = builder.input(inside.type, f"p{len(operands)}")
            operands.append(outside)
    for inner in node.op.body.nodes:
        if not needed.isdisjoint(inner.results) and read.keys().isdisjoint(inner.results):
            results = builder.add(inner.op, *(new[v] for v in inner.operands), loc=inner.loc)
            new.update(zip(inner.results, results, strict=True))
    for value in wanted:
        builder.output(new[value])
    return Fusion("loop", builder.build()), tuple(operands)


def _ancestors(values: Iterable[Value], given: Container[Value]) -> set[Value]:
    """Values and all that they are made of, as far as what is given."""
    found, pending = set(values), list(values)
    while pending:
        last = pending.pop()
        node = None if last in given else last.node
        fresh = [v for v in node.operands if v not in found] if node is not None else []
        found.update(fresh)
        pending += fresh
    return found
