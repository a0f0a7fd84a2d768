"""Computes large values a second time where that is cheaper than keeping them.

The backward pass of a network reads what the forward pass made: a normalised input of a convolution is kept
for the filter's gradient, though it is one cheap loop over a tensor that is kept anyway. No compiler of loops
could do this: the two uses are hundreds of kernels apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ..ir import Builder, Graph, Node, Op, Value
from ..ir.ops.control import Fusion
from ..ir.ops.shape import Slice
from .fuse_epilogues import TRANSCENDENTALS
from .fuse_prologues import can_make, is_simple, make_inside
from .lifetimes import Lifetimes
from .loop_parts import concatenation, part_of_loop

_BALANCE = 10  # floating-point operations in the time of a byte: 100 GFLOPS beside 10 GB/s on one core
_POLYNOMIAL = 30  # floating-point operations of an exponential and the like


@dataclass(frozen=True)
class Limits:
    """When something is made again.

    Attributes:
        peak: bytes in use at once from which on memory is worth any time.
        bytes: of a value that is made again, at least.
        gain: of the peak that must be saved, or nothing is done.
        time: of the graph's estimated time, for all that is made again.
    """

    peak: int = 64 << 20
    bytes: int = 1 << 20
    gain: float = 0.1
    time: float = 0.01


LIMITS = Limits()


@dataclass(frozen=True, eq=False)
class _Recipe:
    """How a value can be made again.

    Attributes:
        value: what is made.
        op, operands: what makes it.
        time: in bytes of memory traffic.
        inside: its readers make it themselves.
    """

    value: Value
    op: Fusion
    operands: tuple[Value, ...]
    time: float
    inside: bool = False


@dataclass(eq=False)
class _Copy:
    """A value made again before the node at ``at``, in use until the node at ``last``; or by its readers from
    ``at`` on."""

    recipe: _Recipe
    at: int
    last: int


def _time(op: Op, operands: Iterable[Value], results: Iterable[Value]) -> float:
    """Bytes moved, or as many as take the time of the arithmetic. What is written is fetched first."""
    read, made = tuple(operands), tuple(results)
    moved = sum(v.type.bytes for v in dict.fromkeys(read)) + 2 * sum(v.type.bytes for v in made)
    flops = op.flops(tuple(v.type for v in read), tuple(v.type for v in made))
    heavy = sum(n.results[0].type.size for body in op.regions() for n in body.nodes if n.op.name in TRANSCENDENTALS)
    return max(moved, (flops + _POLYNOMIAL * heavy) / _BALANCE)


def _recipes(graph: Graph, lives: Lifetimes, smallest: int) -> list[_Recipe]:
    """Ways to make large values again, cheapest by the bytes they save first."""
    grown = {lives.shown(n.results[0]) for n in graph.nodes if n.op.in_place}
    large = [v for v in lives.uses if v.type.bytes >= smallest and v not in grown]
    found = [*_by_their_makers(large), *_from_longer_concatenations(graph, large)]
    length = {v: lives.uses[v][-1] - lives.uses[v][0] for v in large}
    return sorted(found, key=lambda r: (r.time / r.value.type.bytes, -length[r.value]))


def _by_their_makers(values: Sequence[Value]) -> Iterator[_Recipe]:
    for value in values:
        node = value.node
        if node is not None and isinstance(node.op, Fusion) and node.op.kind == "loop":
            yield from _part_of_loop(value, node)


def _part_of_loop(value: Value, node: Node) -> Iterator[_Recipe]:
    """The part of a loop that makes one result, unless it reduces."""
    part = part_of_loop(node, value)
    if part is None:
        return
    op, operands = part
    yield _Recipe(value, op, operands, _time(op, operands, (value,)))
    if is_simple(op.body):
        yield _Recipe(value, op, operands, 0.0, inside=True)


def _from_longer_concatenations(graph: Graph, values: Sequence[Value]) -> Iterator[_Recipe]:
    """Values of which a concatenation holds a copy: as a slice of that."""
    rows: dict[Value, tuple[int, tuple[Value, ...]]] = {}
    holders: dict[Value, list[Value]] = {}
    for node in graph.nodes:
        for result, axis, operands in _concatenations(node):
            pieces = tuple(p for v in operands for p in (rows[v][1] if rows.get(v, (-1,))[0] == axis else (v,)))
            rows[result] = axis, pieces
            for piece in dict.fromkeys(pieces):
                holders.setdefault(piece, []).append(result)
    for value in values:
        own_axis, row = rows.get(value, (None, (value,)))
        for whole in holders.get(row[0], ()):
            axis, parts = rows[whole]
            start = parts.index(row[0])
            if whole is not value and own_axis in (axis, None) and parts[start: start + len(row)] == row:
                yield _slice(value, whole, axis, sum(p.shape[axis] for p in parts[:start]))


def _concatenations(node: Node) -> Iterator[tuple[Value, int, tuple[Value, ...]]]:
    """Results of a loop that are concatenations of its operands: (result, axis, operands)."""
    if not isinstance(node.op, Fusion):
        return
    body = node.op.body
    read = dict(zip((i.value for i in body.inputs), node.operands, strict=True))
    for output, result in zip(body.outputs, node.results, strict=True):
        op = concatenation(output.value)
        if op is not None and output.value.node is not None and all(v in read for v in output.value.node.operands):
            yield result, op.axis, tuple(read[v] for v in output.value.node.operands)


def _slice(value: Value, whole: Value, axis: int, start: int) -> _Recipe:
    starts = tuple(start if i == axis else 0 for i in range(value.type.rank))
    limits = tuple(s + n for s, n in zip(starts, value.shape, strict=True))
    body = Builder("loop")
    body.output(body.emit(Slice(starts, limits, (1,) * value.type.rank), body.input(whole.type, "p0")))
    return _Recipe(value, Fusion("loop", body.build()), (whole,), 3.0 * value.type.bytes)


class _Search:
    """What has been decided, and the bytes in use that follow from it."""

    def __init__(self, graph: Graph, limits: Limits, fast: bool) -> None:
        self.nodes, self.lives, self.limits, self.fast = graph.nodes, Lifetimes(graph), limits, fast
        self.made = {result: position for position, n in enumerate(graph.nodes) for result in n.results}
        self.copies: dict[Value, _Copy] = {}
        self.needed: set[Value] = set()  # values that copies are made of
        self.time = sum(_time(n.op, n.operands, n.results) for n in graph.nodes if not n.op.view)

    def run(self, recipes: Sequence[_Recipe]) -> None:
        """Take recipes while the peak falls and time is left."""
        left = self.limits.time * self.time
        while True:
            position = int(self.lives.in_use.argmax())
            chosen = next((r for r in recipes if r.time <= left and self._lowers(r, position)), None)
            if chosen is None:
                return
            self._take(chosen, position)
            recipes = [r for r in recipes if r.value is not chosen.value]
            left -= chosen.time

    def _lowers(self, recipe: _Recipe, position: int) -> bool:
        """Whether at least half of the value's bytes are free at ``position`` if it is made again later."""
        value = recipe.value
        gap = self.lives.gap(value, position)
        if gap is None or self._depends(recipe.operands, value):
            return False
        if recipe.inside and not self._can_make(recipe, gap[1]):
            return False
        kept: dict[Value, int] = {}
        for at in self._readings(recipe, gap[1]):
            ranges = self._kept(recipe.operands, at)
            if ranges is None:
                return False
            kept.update((v, v.type.bytes) for v, start, end in ranges if start <= position < end)
        return value.type.bytes >= 2 * sum(kept.values())

    def _readings(self, recipe: _Recipe, at: int) -> tuple[int, ...]:
        """The first and the last node before or in which the operands of a recipe are read."""
        return (at, self.lives.uses[recipe.value][-1]) if recipe.inside else (at,)

    def _can_make(self, recipe: _Recipe, first: int) -> bool:
        """Whether all readers of a value from ``first`` on can make it themselves."""
        value = recipe.value
        if value in self.needed:
            return False
        readers = (self.nodes[p] for p in self.lives.uses[value] if p >= first)
        return all(can_make(node, value, recipe.op.body, self.fast)
                   and not any(v is not value and self.lives.shown(v) is value for v in node.operands)
                   for node in readers)

    def _depends(self, operands: Iterable[Value], value: Value) -> bool:
        """Whether copies of ``operands`` would be made of ``value``."""
        copies = (self.copies[v] for v in map(self.lives.shown, operands) if v in self.copies)
        return any(value in map(self.lives.shown, c.recipe.operands) or self._depends(c.recipe.operands, value)
                   for c in copies)

    def _kept(self, operands: Iterable[Value], at: int) -> list[tuple[Value, int, int]] | None:
        """Ranges in which operands must be kept longer, or made earlier, to be read before the node at
        ``at``; None if one is not made until then."""
        found: list[tuple[Value, int, int]] = []
        for value in dict.fromkeys(map(self.lives.shown, operands)):
            if self.made.get(value, -1) >= at:
                return None
            uses = self.lives.uses.get(value)
            if uses is None or at <= uses[-1]:
                continue
            copy = self.copies.get(value)
            if copy is not None and copy.recipe.inside:
                return None
            if copy is None:
                found.append((value, uses[-1] + 1, at + 1))
            elif at > copy.last:
                found.append((value, copy.last + 1, at + 1))
            elif at < copy.at:
                earlier = self._kept(copy.recipe.operands, at)
                if earlier is None:
                    return None
                found += [(value, at, copy.at), *earlier]
        return found

    def _take(self, recipe: _Recipe, position: int) -> None:
        value, lives = recipe.value, self.lives
        gap = lives.gap(value, position)
        assert gap is not None
        before, at = gap
        for reading in self._readings(recipe, at):
            for other, start, end in self._kept(recipe.operands, reading) or ():
                lives.in_use[start: end] += other.type.bytes
            self._read(recipe.operands, reading)
        uses = lives.uses[value]
        lives.in_use[before + 1: uses[-1] + 1 if recipe.inside else at] -= value.type.bytes
        self.copies[value] = _Copy(recipe, at, uses[-1])
        lives.uses[value] = [u for u in uses if u <= before]

    def _read(self, operands: Iterable[Value], at: int) -> None:
        """Note that copies made before the node at ``at`` read ``operands``."""
        for value in dict.fromkeys(map(self.lives.shown, operands)):
            uses, copy = self.lives.uses.get(value), self.copies.get(value)
            if uses is None:
                continue
            self.needed.add(value)
            if copy is None or at <= uses[-1]:
                uses[:] = sorted({*uses, at})
                continue
            copy.last = max(copy.last, at)
            if at < copy.at:
                copy.at = at
                self._read(copy.recipe.operands, at)


class _Emitter:
    """The graph with the copies that were decided on."""

    def __init__(self, search: _Search) -> None:
        self.copies, self.shown = search.copies, search.lives.shown
        self.nodes: list[Node] = []
        self.new: dict[Value, Value] = {}
        self.again: dict[Value, Value] = {}  # copies, and views of them

    def run(self, graph: Graph) -> Graph:
        due: dict[int, list[Value]] = {}
        for value, copy in self.copies.items():
            if not copy.recipe.inside:
                due.setdefault(copy.at, []).append(value)
        for position, node in enumerate(graph.nodes):
            for value in due.get(position, ()):
                self._copied(value)
            self._emit(node, position)
        outputs = tuple(replace(o, value=self.new.get(o.value, o.value)) for o in graph.outputs)
        return Graph(graph.name, graph.inputs, tuple(self.nodes), outputs)

    def _emit(self, node: Node, position: int) -> None:
        op, read = node.op, node.operands
        for value in dict.fromkeys(node.operands):
            copy = self.copies.get(value)
            if copy is not None and copy.recipe.inside and position >= copy.at:
                op, read = make_inside(op, read, value, copy.recipe.op.body, copy.recipe.operands)
        operands = tuple(self._read(v, position) for v in read)
        current = node if op is node.op and operands == node.operands else Node(op, operands, node.loc)
        self.nodes.append(current)
        self.new.update(zip(node.results, current.results, strict=True))

    def _read(self, value: Value, position: int) -> Value:
        """What the node at ``position`` reads for ``value``."""
        copy = self.copies.get(self.shown(value))
        kept = copy is None or copy.recipe.inside or position < copy.at
        return self.new.get(value, value) if kept else self._copied(value)

    def _copied(self, value: Value) -> Value:
        """The copy of a value, or a view of the copy; made here on first use."""
        if value not in self.again:
            copy, node = self.copies[self.shown(value)], value.node
            assert node is not None
            if node.op.view:
                made = Node(node.op, (self._copied(node.operands[0]),), node.loc)
            else:
                operands = tuple(self._read(v, copy.at) for v in copy.recipe.operands)
                made = Node(copy.recipe.op, operands, node.loc)
            self.nodes.append(made)
            self.again[value] = made.results[0]
        return self.again[value]


def rematerialize(graph: Graph, limits: Limits = LIMITS, fast: bool = False) -> Graph:
    """Make large values again before late uses, where that lowers the peak of memory.

        %0: f32[9] = fusion(%x) {kind='loop'} …     %0: f32[9] = fusion(%x) {kind='loop'} …
        %1: f32[9] = f(%0)                          %1: f32[9] = f(%0)
        …                                     ->    …
                                                    %7: f32[9] = fusion(%x) {kind='loop'} …
        %8: f32[9] = g(%0)                          %8: f32[9] = g(%7)

    What is made again is a loop without reductions over values that are alive, or small beside it; or part of
    a concatenation that is alive. Where all late uses are in contractions that can make it themselves, they do.
    Time is estimated from FLOPs and bytes, so that the same graph is always treated alike.

    Args:
        graph: fused, in the order in which it runs.
        limits: what memory is worth.
        fast: whether the target may compute convolutions by Winograd's largest algorithms, which make no operand.
    """
    search = _Search(graph, limits, fast)
    before = search.lives.peak
    if not before or before < limits.peak:
        return graph
    search.run(_recipes(graph, search.lives, limits.bytes))
    if not search.copies or search.lives.peak > (1 - limits.gain) * before:
        return graph
    return _Emitter(search).run(graph)
