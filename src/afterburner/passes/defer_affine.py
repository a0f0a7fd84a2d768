"""Lets what the batch normalizations of a dense block add to a gradient channel by channel wait until it is read.

Every layer of a dense block adds its gradient to the block's: what its convolution gives, times a factor for each
channel, and the gradients of its mean and variance, ``p + q * (x - mean)``, which are known only when all pixels of
the former are. So each layer would write its gradient, and read it again with the block and the sum so far. But ``x``
is the same for all of them, and so is what they add to each channel, but for ``p`` and ``q``: these are added up as
vectors. The convolution then adds to the sum at once, and writes nothing else.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce

from ..ir import Builder, Graph, Node, Op, Value
from ..ir.ops import elementwise as ew
from ..ir.ops.shape import Broadcast, Concat, Slice
from ..ir.types import F32

MIN_BYTES = 1 << 18  # of a sum; less stays in a second-level cache


@dataclass(frozen=True)
class _Affine:
    """``row + slope * (x - mean)``, where all but ``x`` are vectors, one element a channel."""

    row: Value
    slope: Value
    x: Value
    mean: Value


@dataclass(frozen=True)
class _Sum:
    """A sum of gradients: ``terms``, ``rows``, ``slope * (x - mean)``.

    Attributes:
        additions: the nodes that add all this up.
        terms: tensors of the sum's shape.
        rows: vectors, one element a channel, as ``slope`` and ``mean`` are.
        before: a term more, the first columns of a sum that waits for it.
    """

    additions: tuple[Node, ...]
    terms: tuple[Value, ...]
    rows: tuple[Value, ...]
    slope: Value
    x: Value
    mean: Value
    before: Value | None = None


def defer_affine(graph: Graph) -> Graph:
    """Add up what is affine in ``x``, channel by channel, apart from the rest of a sum, if another sum goes on with its
    first columns and those of ``x``.

        %s = %d + %p + %q * (%x - %m)                        %t = %d[6:8] + %p[6:8] + %q[6:8] * (%x[6:8] - %m[6:8])
        %t = %s[6:8]                                    ->   %p'' = %p[0:6] + %p' + %q' * (%m[0:6] - %m')
        %u = %s[0:6] + %e + %p' + %q' * (%y - %m')           %u = %d[0:6] + %e + %p'' + (%q[0:6] + %q') * (%y - %m[0:6])

    The numbers in brackets are columns, and ``y`` is ``x[0:6]``. Terms meet in another order, so results are rounded in
    another way. The means that a block's normalizations take of one channel are equal: what their difference is
    multiplied with adds nothing, but is right whatever they are.

    Args:
        graph: simplified.
    """
    sums = _chains(graph)
    return _Emitter(sums).run(graph) if sums else graph


def _chains(graph: Graph) -> dict[Value, _Sum]:
    """Sums that wait for another one, and those that go on with them."""
    users, outside = graph.users(), {o.value for o in graph.outputs}
    inner = {v for v, by in users.items() if len(by) == 1 and _adds_once(by[0], v) and v not in outside}
    sums: dict[Value, _Sum] = {}
    chains: dict[Value, _Sum] = {}
    for node in graph.nodes:
        sum_ = _sum(node, inner)
        if sum_ is None:
            continue
        for term in sum_.terms:
            first = _begins_with(term)
            if first in sums and first not in outside and term in inner and _goes_on(sum_.x, sums[first].x) \
                    and all(_columns(user) for user in users[first]):
                terms = tuple(t for t in sum_.terms if t is not term)
                sum_ = chains[node.results[0]] = replace(sum_, terms=terms, before=term)
                chains.setdefault(first, sums[first])
                break
        sums[node.results[0]] = sum_
    return chains


def _adds_once(node: Node, value: Value) -> bool:
    return isinstance(node.op, ew.Add) and node.operands.count(value) == 1


def _sum(node: Node, inner: Container[Value]) -> _Sum | None:
    """The whole sum that ends with a node, if one of its terms is ``slope * (x - mean)``.

    Args:
        inner: what one addition reads once, and nobody else.
    """
    result = node.results[0]
    if not isinstance(node.op, ew.Add) or result in inner:
        return None
    if result.type.dtype != F32 or result.type.rank < 2 or result.type.bytes < MIN_BYTES:
        return None
    additions, leaves = _added_up(node, inner)
    affine = [found for found in map(_centred, leaves) if found is not None]
    rows = tuple(row for row in map(_row, leaves) if row is not None)
    terms = tuple(v for v in leaves if _centred(v) is None and _row(v) is None)
    return _Sum(additions, terms, rows, *affine[0]) if len(affine) == 1 and rows and terms else None


def _added_up(node: Node, inner: Container[Value]) -> tuple[tuple[Node, ...], tuple[Value, ...]]:
    """The additions that make one sum, which ends with a node, and what they add up, in order."""
    additions, leaves, pending = [node], [], list(node.operands[::-1])
    while pending:
        value = pending.pop()
        if value in inner and value.node is not None and isinstance(value.node.op, ew.Add):
            additions.append(value.node)
            pending += value.node.operands[::-1]
        else:
            leaves.append(value)
    return tuple(additions), tuple(leaves)


def _row(value: Value) -> Value | None:
    """The vector, one element a channel, that is repeated for every row."""
    node = value.node
    if node is None or not isinstance(node.op, Broadcast) or node.op.axes != (value.type.rank - 1,):
        return None
    return node.operands[0] if node.operands[0].shape == value.shape[-1:] else None


def _centred(value: Value) -> tuple[Value, Value, Value] | None:
    """``slope``, ``x`` and ``mean`` where a value is ``slope * (x - mean)``."""
    if value.node is None or not isinstance(value.node.op, ew.Mul):
        return None
    for factor, difference in (value.node.operands, value.node.operands[::-1]):
        slope, node = _row(factor), difference.node
        mean = _row(node.operands[1]) if node is not None and isinstance(node.op, ew.Sub) else None
        if slope is not None and node is not None and mean is not None:
            return slope, node.operands[0], mean
    return None


def _columns(node: Node) -> tuple[int, int] | None:
    """The first column and that behind the last one, where a node takes some of all rows."""
    return node.op.columns(node.operands[0].shape) if isinstance(node.op, Slice) else None


def _begins_with(value: Value) -> Value | None:
    """What a value is the first columns of."""
    columns = None if value.node is None else _columns(value.node)
    return value.node.operands[0] if value.node is not None and columns is not None and columns[0] == 0 else None


def _goes_on(x: Value, longer: Value) -> bool:
    """Whether ``x`` is the first columns of ``longer``."""
    parts, all_ = _joined(x), _joined(longer)
    return len(parts) < len(all_) and all_[:len(parts)] == parts


def _joined(x: Value) -> tuple[Value, ...]:
    node = x.node
    return node.operands if node is not None and isinstance(node.op, Concat) and node.op.axis == x.type.rank - 1 \
        else (x,)


class _Emitter:
    """The graph with the sums of chains taken apart."""

    def __init__(self, sums: Mapping[Value, _Sum]) -> None:
        self.sums = sums
        self.waiting = {_begins_with(s.before) for s in sums.values() if s.before is not None}
        self.additions = {n for s in sums.values() for n in s.additions}
        self.firsts = {s.before.node for s in sums.values() if s.before is not None}
        self.totals: dict[Value, Value] = {}  # of sums: the terms
        self.rests: dict[Value, _Affine] = {}  # of sums: the rest
        self.new: dict[Value, Value] = {}
        self.builder = Builder()

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            self.builder.loc = node.loc
            self._add(node)
        outputs = tuple(replace(o, value=self._now(o.value)) for o in graph.outputs)
        return Graph(graph.name, graph.inputs, tuple(self.builder.nodes), outputs)

    def _add(self, node: Node) -> None:
        value, columns = node.results[0], _columns(node)
        if value in self.sums:
            self.totals[value], self.rests[value] = self._apart(self.sums[value])
            if value not in self.waiting:
                self.new[value] = self._whole(value, 0, value.shape[-1])
        elif columns is not None and node.operands[0] in self.waiting:
            if node not in self.firsts:
                self.new[value] = self._whole(node.operands[0], *columns)
        elif node not in self.additions:
            operands = tuple(map(self._now, node.operands))
            current = node if operands == node.operands else Node(node.op, operands, node.loc)
            self.builder.nodes.append(current)
            self.new.update(zip(node.results, current.results, strict=True))

    def _now(self, value: Value) -> Value:
        return self.new.get(value, value)

    def _apart(self, sum_: _Sum) -> tuple[Value, _Affine]:
        """The sum of a sum's terms, and the rest of it."""
        terms, rows = list(map(self._now, sum_.terms)), list(map(self._now, sum_.rows))
        slope, x, mean = map(self._now, (sum_.slope, sum_.x, sum_.mean))
        first = _begins_with(sum_.before) if sum_.before is not None else None
        if first is not None:
            before, width = self.rests[first], x.shape[-1]
            shared, row, steepness = (self._cut(v, 0, width) for v in (before.mean, before.row, before.slope))
            moved = self._emit(ew.Mul(), slope, self._emit(ew.Sub(), shared, mean))
            terms.insert(0, self._cut(self.totals[first], 0, width))
            rows = [row, *rows, moved]
            slope, mean = self._added([steepness, slope]), shared
        return self._added(terms), _Affine(self._added(rows), slope, x, mean)

    def _whole(self, value: Value, start: int, end: int) -> Value:
        """Some columns of a sum."""
        rest, repeated = self.rests[value], Broadcast(value.shape, (value.type.rank - 1,))
        vectors = (self._emit(repeated, v) for v in (rest.row, rest.slope, rest.mean))
        total, x, row, slope, mean = (self._cut(v, start, end) for v in (self.totals[value], rest.x, *vectors))
        centred = self._emit(ew.Mul(), slope, self._emit(ew.Sub(), x, mean))
        return self._added([total, row, centred])

    def _added(self, values: Sequence[Value]) -> Value:
        return reduce(partial(self._emit, ew.Add()), values)

    def _cut(self, value: Value, start: int, end: int) -> Value:
        """The columns from ``start`` to before ``end``."""
        shape, rest = value.shape, value.type.rank - 1
        if (start, end) == (0, shape[-1]):
            return value
        return self._emit(Slice((0,) * rest + (start,), (*shape[:-1], end), (1,) * (rest + 1)), value)

    def _emit(self, op: Op, *operands: Value) -> Value:
        return self.builder.emit(op, *operands)
