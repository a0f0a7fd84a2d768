"""Which nodes may share a kernel: groups of a graph's nodes and the legality of joining two.

A *loop* group walks one index space, its domain. A member is at level PRE if it has a value for
every element of the domain, at level POST if it works on what the group's reductions leave. Data
flows between members of a group only element by element at equal level (or through a reduction
from PRE to POST); reading at another index makes the reader wait for the whole tensor, hence
another kernel. A *contraction* group is a matrix product or convolution with elementwise work on
its result. *Free* nodes (scalars, broadcasts, iotas) are in no group: every reader computes its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..ir import Graph, Node, Shape, Value
from .clusters import Clusters

MAX_NODES, MAX_BUFFERS = 200, 64  # of one kernel's body
MAX_SCALAR_NODES, MAX_SCALAR_BUFFERS = 600, 192  # straight-line code on scalars is cheap

CONTRACTIONS = ("matmul", "conv2d", "conv2d_input_grad", "conv2d_input_grad_pooled")
_REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or")
_CHOICES = ("argmax", "argmin")
_MOVES = ("transpose", "slice", "pad", "concat", "reverse", "gather", "broadcast", "iota")


@dataclass(eq=False)
class Group:
    """Nodes of one kernel to be.

    Attributes:
        members: positions in the graph.
        kind: "loop", the name of the contraction, or "" for what fuses with nothing.
        size: elements of the domain.
        reduction: shape of the domain and axes its reductions run over, if there are any.
        choice: whether the reduction is an argmax or argmin, which share a kernel with no output.
        post: members at level POST that are not reductions themselves.
        inputs: tensors read from outside.
    """

    members: set[int]
    kind: str
    size: int
    reduction: tuple[Shape, Shape] | None = None
    choice: bool = False
    post: set[int] = field(default_factory=set)
    inputs: set[Value] = field(default_factory=set)

    @property
    def rest(self) -> Shape:
        """The shape the reductions leave."""
        shape, axes = self.reduction or ((), ())
        return tuple(s for i, s in enumerate(shape) if i not in axes)


class Grouping:
    """All groups of a graph and the only ways to join them."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes = graph.nodes
        self.index: dict[Value, int] = {r: i for i, n in enumerate(graph.nodes) for r in n.results}
        self.users: list[list[int]] = [[] for _ in graph.nodes]
        self.returned = {o.value for o in graph.outputs}
        self.views = self._find_views()
        self.inlined = self._find_inlined()
        self.sources: list[list[tuple[int, bool, Value]]] = [self._sources(i) for i in range(len(self.nodes))]
        for i, sources in enumerate(self.sources):
            for source in dict.fromkeys(s for s, _, _ in sources):
                if source >= 0:
                    self.users[source].append(i)
        self.clusters = Clusters([{s for s, _, _ in sources if s >= 0} for sources in self.sources])
        self.groups = {i: self._single(i) for i in range(len(self.nodes))}

    def group(self, member: int) -> Group:
        """The group that holds a node."""
        return self.groups[self.clusters.find(member)]

    def is_work(self, member: int) -> bool:
        """Whether a node must become part of a fusion."""
        return self.groups[member].kind == "loop" and member not in self.inlined

    def is_free(self, value: Value) -> bool:
        """Whether readers compute the value themselves rather than read it from memory."""
        if value.node is None:
            return False
        name = value.node.op.name
        return name in ("broadcast", "iota") or (name == "constant" and value.type.size == 1)

    def _find_views(self) -> set[int]:
        """Reshapes of what no loop computes, or that no loop reads: memory under another shape."""
        views: set[int] = set()
        direct = self.graph.users()
        for i, node in enumerate(self.nodes):
            if node.op.name != "reshape":
                continue
            origin = node.operands[0].node
            if origin is None or _kind(origin) != "loop" or origin.op.name == "constant" \
                    or self.index[origin.results[0]] in views:
                views.add(i)
            elif not any(_reads_in_place(u) for u in direct.get(node.results[0], ())) \
                    and not self.is_free(node.operands[0]):
                views.add(i)
        return views

    def _find_inlined(self) -> set[int]:
        """Free nodes that nobody needs in memory: neither the caller nor a node that fuses with nothing."""
        direct = self.graph.users()
        return {i for i, node in enumerate(self.nodes)
                if self.is_free(node.results[0]) and node.results[0] not in self.returned
                and all(_kind(u) == "loop" for u in direct.get(node.results[0], ()))}

    def _sources(self, member: int) -> list[tuple[int, bool, Value]]:
        """What a node waits for: the making node (-1 for none), whether it is read element by
        element, and the tensor that is read."""
        found: list[tuple[int, bool, Value]] = []
        if member in self.inlined:
            return found
        node = self.nodes[member]
        aligned = _reads_in_place(node)
        reads_memory = _kind(node) != "loop"
        stack = [(v, aligned) for v in node.operands]
        while stack:
            value, direct = stack.pop()
            maker = self.index.get(value, -1)
            if maker >= 0 and not reads_memory and self.is_free(value):
                stack.extend((v, False) for v in self.nodes[maker].operands)
            elif maker in self.views:
                origin = value
                while origin in self.index and self.index[origin] in self.views:
                    origin = self.nodes[self.index[origin]].operands[0]
                found.append((self.index.get(origin, -1), False, value))
            else:
                found.append((maker, direct, value))
        return found

    def _single(self, member: int) -> Group:
        node = self.nodes[member]
        kind = _kind(node)
        group = Group({member}, kind, node.results[0].type.size,
                      inputs={v for _, _, v in self.sources[member]})
        if node.results[0].type.size == 0 or member in self.views or node.op.name == "constant":
            group.kind = ""
        axes: Any = None
        if node.op.name in _REDUCTIONS:
            axes = node.op.axes  # type: ignore[attr-defined]
        elif node.op.name in _CHOICES:
            axes, group.choice = (node.op.axis,), True  # type: ignore[attr-defined]
        if axes is not None:
            domain = node.operands[0].type
            group.size, group.reduction = domain.size, (domain.shape, axes)
            if domain.size == node.results[0].type.size or domain.size == 0:
                group.kind = ""  # nothing is reduced: levels could not be told apart
        return group

    def outputs(self, group: Group) -> Iterator[Value]:
        """What a group leaves in memory."""
        for member in group.members:
            for result in self.nodes[member].results:
                if self.is_read_outside(group, member, result):
                    yield result

    def is_read_outside(self, group: Group, member: int, result: Value) -> bool:
        """Whether a member's result is needed by other groups or is an output of the graph."""
        return result in self.returned or any(u not in group.members for u in self.users[member])

    def join(self, a: int, b: int) -> bool:
        """Make the groups of members ``a`` and ``b`` one, if that is legal and within bounds."""
        first, second = self.group(a), self.group(b)
        if first is second:
            return True
        fits, post = self._fits(first, second)
        if not fits or not self._flows(first, second, post) or not self._within_bounds(first, second):
            return False
        return self._merge(a, b, post)

    def absorb(self, contraction: int, member: int) -> bool:
        """Add a node to the group of a contraction, unless a cycle would arise."""
        return self._merge(contraction, member, None)

    def _merge(self, a: int, b: int, post: Group | None) -> bool:
        x, y = self.clusters.find(a), self.clusters.find(b)
        name = self.clusters.merge(x, y)
        if name is None:
            return False
        first, second = self.groups.pop(x), self.groups.pop(y)
        if second.kind in CONTRACTIONS or (first.kind not in CONTRACTIONS and second.reduction is not None):
            first, second = second, first
        first.members |= second.members
        first.post |= second.post | (second.members if post is second else set())
        first.inputs |= second.inputs
        first.inputs = {v for v in first.inputs if self.index.get(v, -1) not in first.members}
        first.choice = first.choice or second.choice
        self.groups[name] = first
        return True

    def _fits(self, a: Group, b: Group) -> tuple[bool, Group | None]:
        """Whether the domains go together, and which group would come after the other's reductions
        (None where both walk one domain)."""
        if a.kind != "loop" or b.kind != "loop":
            return False, None
        if a.size == b.size:
            both = a.reduction is not None and b.reduction is not None
            return not both or (a.reduction == b.reduction and not a.choice and not b.choice), None
        for whole, part in ((a, b), (b, a)):
            if whole.reduction is not None and not whole.choice and part.reduction is None \
                    and all(self._works_on(m, whole.rest) for m in part.members):
                return True, part
        return False, None

    def _works_on(self, member: int, rest: Shape) -> bool:
        """Whether a node may follow a reduction: elementwise, of its shape, beside scalars."""
        node = self.nodes[member]
        if not node.op.elementwise or node.results[0].shape != rest:
            return False
        return all(not self.is_free(v) or _is_scalar(v) for v in node.operands)

    def _flows(self, a: Group, b: Group, post: Group | None) -> bool:
        """Whether data passes between two groups element by element at equal levels only."""
        small, large = (a, b) if len(a.members) <= len(b.members) else (b, a)
        for member in small.members:
            made = self._makes_post(small, member, post)
            for source, aligned, _ in self.sources[member]:
                if source in large.members and not (
                        aligned and self._makes_post(large, source, post) == _is_post(small, member, post)):
                    return False
            for user in self.users[member]:
                if user in large.members and not (
                        all(aligned for source, aligned, _ in self.sources[user] if source == member)
                        and made == _is_post(large, user, post)):
                    return False
        return True

    def _makes_post(self, group: Group, member: int, post: Group | None) -> bool:
        name = self.nodes[member].op.name
        return _is_post(group, member, post) or name in _REDUCTIONS or name in _CHOICES

    def _within_bounds(self, a: Group, b: Group) -> bool:
        scalar = a.size == 1 and b.size == 1
        nodes, buffers = (MAX_SCALAR_NODES, MAX_SCALAR_BUFFERS) if scalar else (MAX_NODES, MAX_BUFFERS)
        if len(a.members) + len(b.members) > nodes:
            return False
        members = a.members | b.members
        inputs = {v for v in a.inputs | b.inputs if self.index.get(v, -1) not in members}
        union = Group(members, "loop", a.size)
        outputs = [v for g in (a, b) for v in self.outputs(g)
                   if self.is_read_outside(union, self.index[v], v)]
        if (a.choice or b.choice) and len(outputs) > 1:
            return False
        return len(inputs) + len(outputs) <= buffers


def _reads_in_place(node: Node) -> bool:
    """Whether a loop node reads its operands at the element it computes."""
    return node.op.elementwise or node.op.reduction or node.op.name in ("reshape", *_CHOICES)


def _is_post(group: Group, member: int, post: Group | None) -> bool:
    return post is group or member in group.post


def _kind(node: Node) -> str:
    op = node.op
    if op.elementwise or op.name in _REDUCTIONS or op.name in _CHOICES or op.name in _MOVES:
        return "loop"
    if op.name in ("reshape", "constant"):
        return "loop"
    return op.name if op.name in CONTRACTIONS else ""


def _is_scalar(value: Value) -> bool:
    """Whether a free value is one scalar repeated."""
    node = value.node
    if node is None or node.op.name == "iota":
        return False
    return node.op.name == "constant" or node.operands[0].type.size == 1
