"""A loop taken apart: what of it is the same in every turn, what depends on rows alone, and what is made outside."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from ..ir import Builder, Graph, Input, Location, Node, Output, Shape, Value
from ..ir.ops.control import Scan
from ..ir.ops.shape import Broadcast, Reshape, Reverse, Slice, Transpose
from .batching import batch, batches, shifted, takes_all_rows

SAME: Final = "same in every turn"
Kind = str | bool | None  # SAME; for what is made of rows alone, whether the last one comes first; None if of the state
_Wanted = tuple[Value, Kind]  # outside: what is the same, or rows of all turns in an order
Make = Callable[[Builder], Value]

_FREE_BYTES = 64 << 20  # new tensors with a row for each turn may have this size
_FREE_RATIO = 4  # or be larger than those that a loop has already by this


@dataclass(frozen=True)
class State:
    """A value carried from turn to turn: in the body, its first value, and the body's next one."""

    current: Value
    first: Value
    next: Value


class Loop:
    """A scan whose parts can be moved before or behind it; ``build`` makes what is left of it.

    Values of the body are named as they are in the body. A pass says which of them come from outside:

    Attributes:
        kinds: what each value of the body depends on.
        cut: values that are made before the loop, of the kinds that can be.
        moved: values that are made behind the loop.
        stacks: values with whether the first turn writes the last row: first those of the scan, then what else is
            needed outside.
    """

    def __init__(self, scan: Scan, operands: tuple[Value, ...], loc: Location) -> None:
        self.steps = scan.steps
        self.loc = loc
        self.name = scan.body.name
        self.nodes = scan.body.nodes
        inputs, carried, end = scan.body.inputs, scan.carried, scan.carried + len(scan.sliced)
        returned = [o.value for o in scan.body.outputs]
        self.states: list[State | Make] = [State(i.value, first, next_) for i, first, next_ in
                                           zip(inputs[:carried], operands, returned, strict=False)]
        self.names = {i.value: i.name for i in inputs}
        self.outer = {i.value: o for i, o in zip(inputs[carried:], operands[carried:], strict=True)}
        self.kinds: dict[Value, Kind] = {i.value: SAME for i in inputs[end:]}
        self.kinds |= {i.value: back for i, back in zip(inputs[carried:end], scan.sliced, strict=True)}
        self.kinds |= {i.value: None for i in inputs[:carried]}
        for node in self.nodes:
            self.kinds.update(dict.fromkeys(node.results, self._kind(node)))
        self.cut: set[Value] = set()
        self.moved: set[Value] = set()
        self.stacks = list(zip(returned[carried:], scan.stacked, strict=True))
        self._results = len(self.stacks)
        self._budget = max(_FREE_BYTES, _FREE_RATIO * (
            sum(o.type.bytes for o in operands[carried:end]) + self.steps * sum(v.type.bytes for v, _ in self.stacks)))
        self._made: dict[_Wanted, Value] = {(v, self.kinds[v]): o for v, o in self.outer.items()}

    def _kind(self, node: Node) -> Kind:
        ways = {self.kinds[v] for v in node.operands} - {SAME}
        if not ways:
            return SAME
        (way, *others) = ways
        return way if not others and len(node.results) == 1 and self.batches(node) else None

    def batches(self, node: Node) -> bool:
        """Whether a node can be computed for all turns at once, if its operands are there for all turns."""
        return batches(node, tuple(self.kinds[v] != SAME for v in node.operands))

    def live(self) -> list[Node]:
        """The nodes that still run in the loop."""
        return self.leading_to([s.next for s in self.states if isinstance(s, State)] +
                               [value for value, _ in self.inside()])

    def leading_to(self, values: Iterable[Value]) -> list[Node]:
        """The nodes of the body, in order, that these values need."""
        needed = set(values)
        nodes = []
        for node in reversed(self.nodes):
            if any(r in needed and r not in self.cut for r in node.results):
                needed.update(node.operands)
                nodes.append(node)
        return nodes[::-1]

    def users(self) -> dict[Value, list[Node]]:
        """The nodes in the loop that read each value."""
        users: dict[Value, list[Node]] = {}
        for node in self.live():
            for value in dict.fromkeys(node.operands):
                users.setdefault(value, []).append(node)
        return users

    def returned(self) -> list[Value]:
        """What a turn returns, of which a value may be listed twice."""
        return [s.next for s in self.states if isinstance(s, State)] + [value for value, _ in self.stacks]

    def inside(self) -> list[tuple[Value, bool]]:
        """The stacks that the loop has to write."""
        return [s for s in self.stacks if not (s[0] in self.moved or self.comes_in(s[0]) or self.kinds[s[0]] == SAME)]

    def comes_in(self, value: Value) -> bool:
        """Whether a turn is given a value."""
        return value in self.outer or value in self.cut

    def backwards(self) -> bool:
        """Whether the loop reads most of its rows, the last one first."""
        sizes = {back: sum(v.type.bytes for v in self.outer if self.kinds[v] is back) for back in (False, True)}
        return sizes[True] > sizes[False]

    def affords(self, value: Value) -> bool:
        """Whether there may be another tensor with the rows of ``value``; if so it is counted."""
        if self.steps * value.type.bytes > self._budget:
            return False
        self._budget -= self.steps * value.type.bytes
        return True

    def mark(self) -> tuple[int, int]:
        """Where to ``reset`` to if a plan comes to nothing."""
        return len(self.stacks), self._budget

    def reset(self, mark: tuple[int, int]) -> None:
        """Forget what was claimed since ``mark``."""
        del self.stacks[mark[0]:]
        self._budget = mark[1]

    def ready(self, value: Value, back: bool) -> bool:
        """Whether ``rows`` of a value can be had without another stack, by cheap work on rows that are there."""
        while self.kinds[value] is None and (value, back) not in self.stacks:
            node = value.node
            varying = [v for v in node.operands if self.kinds[v] != SAME] if node is not None else []
            if node is None or len(varying) != 1 or not (
                    node.op.elementwise or isinstance(node.op, Reshape | Slice | Transpose)):
                return False
            (value,) = varying
        kind = self.kinds[value]
        return kind is None or kind == SAME or kind is back

    def claim(self, value: Value, back: bool) -> bool:
        """Have ``rows`` of a value be there later, by another stack if need be; False where that is too large."""
        if self.ready(value, back):
            return True
        if not self.affords(value):
            return False
        if self.kinds[value] is None:
            self.stacks.append((value, back))
        return True

    def same(self, builder: Builder, value: Value) -> Value:
        """What is the same in every turn, outside."""
        return self._get(builder, (value, SAME))

    def rows(self, builder: Builder, value: Value, back: bool) -> Value:
        """The values of all turns, outside; the first turn's is the last row if ``back``."""
        return self._get(builder, (value, back))

    def _get(self, builder: Builder, wanted: _Wanted) -> Value:
        before = builder.loc
        todo = [wanted]
        while todo:
            missing = [w for w in self._read(todo[-1]) if w not in self._made] if todo[-1] not in self._made else []
            if missing:
                todo += reversed(missing)
                continue
            value, way = todo.pop()
            if (value, way) not in self._made:
                builder.loc = value.node.loc if value.node is not None else before
                self._make(builder, value, way)
        builder.loc = before
        return self._made[wanted]

    def _read(self, wanted: _Wanted) -> list[_Wanted]:
        """What something outside is made of."""
        value, way = wanted
        kind, node = self.kinds[value], value.node
        if way != SAME and kind == SAME:
            return [(_repeated(value), SAME)]
        if kind not in (None, way):
            return [(value, kind)]
        assert node is not None
        if way == SAME:
            return [(v, SAME) for v in node.operands]
        return [(v, way if takes_all_rows(node.op) or self.kinds[v] != SAME else SAME) for v in node.operands]

    def _make(self, builder: Builder, value: Value, way: Kind) -> None:
        operands = [self._made[w] for w in self._read((value, way))]
        kind, node = self.kinds[value], value.node
        if way != SAME and kind == SAME:
            shape = (self.steps, *value.shape)
            self._made[value, way] = builder.emit(Broadcast(shape, shifted(_axes(value))), *operands)
        elif kind not in (None, way):
            self._made[value, way] = builder.emit(Reverse((0,)), *operands)
        elif node is not None and way == SAME:
            self._made.update(zip(((r, way) for r in node.results), builder.add(node.op, *operands), strict=True))
        elif node is not None:
            self._made[value, way] = batch(builder, node, operands, self.steps)

    def build(self, builder: Builder) -> list[Value]:
        """The results of the scan: of what is left of it, and of what is made outside."""
        states = [s for s in self.states if isinstance(s, State)]
        stacks = list(dict.fromkeys(self.inside()))
        last: tuple[Value, ...] = ()
        if states or stacks:
            results = self._smaller(builder, states, stacks)
            last = results[:len(states)]
            self._made.update(zip(stacks, results[len(states):], strict=True))
        remaining = iter(last)
        values = [next(remaining) if isinstance(s, State) else s(builder) for s in self.states]
        return values + [self.rows(builder, value, back) for value, back in self.stacks[:self._results]]

    def _smaller(self, builder: Builder, states: list[State], stacks: list[tuple[Value, bool]]) -> tuple[Value, ...]:
        nodes = self.live()
        read = {v for n in nodes for v in n.operands} | {s.next for s in states} | {value for value, _ in stacks}
        given = [v for v in (*self.outer, *(r for n in self.nodes for r in n.results if r in self.cut)) if v in read]
        sliced = [v for v in given if self.kinds[v] != SAME]
        captured = [v for v in given if self.kinds[v] == SAME]
        new = {v: v if v in self.outer else Value(v.type) for v in given}
        inputs = [Input(s.current, self.names[s.current]) for s in states]
        inputs += [Input(new[v], self.names.get(v, "ahead")) for v in (*sliced, *captured)]
        operands = [s.first for s in states]
        operands += [self.rows(builder, v, bool(self.kinds[v])) for v in sliced]
        operands += [self.same(builder, v) for v in captured]
        kept = []
        for node in nodes:
            copy = node if all(new.get(v, v) is v for v in node.operands) else \
                Node(node.op, [new.get(v, v) for v in node.operands], node.loc)
            new.update((old, result) for old, result in zip(node.results, copy.results, strict=True)
                       if old is not result)
            kept.append(copy)
        outputs = [new.get(v, v) for v in (*(s.next for s in states), *(value for value, _ in stacks))]
        body = Graph(self.name, tuple(inputs), tuple(kept), tuple(map(Output, outputs)))
        scan = Scan(self.steps, tuple(bool(self.kinds[v]) for v in sliced), tuple(back for _, back in stacks), body)
        return builder.add(scan, *operands, loc=self.loc)


def _repeated(value: Value) -> Value:
    """What a broadcast repeats; another value itself."""
    return value.node.operands[0] if value.node is not None and isinstance(value.node.op, Broadcast) else value


def _axes(value: Value) -> Shape:
    """Which axes of ``value`` those of what it repeats are."""
    if value.node is not None and isinstance(value.node.op, Broadcast):
        return value.node.op.axes
    return tuple(range(value.type.rank))
