"""Turns groups of nodes into a graph of ``fusion`` nodes."""

from __future__ import annotations

from ..ir import NOWHERE, Builder, Graph, Location, Node, Output, Shape, Value
from ..ir.ops.control import Fusion
from ..ir.ops.shape import Reshape
from .fusion_groups import CONTRACTIONS, Group, Grouping


def build_fused(grouping: Grouping, recomputed: dict[int, set[int]]) -> Graph:
    """The graph with one node a group.

    Args:
        grouping: the groups, free of cycles.
        recomputed: per group (by name), nodes of other groups it computes for itself.
    """
    return _Emitter(grouping, recomputed).run()


class _Emitter:
    def __init__(self, grouping: Grouping, recomputed: dict[int, set[int]]) -> None:
        self.grouping = grouping
        self.recomputed = recomputed
        self.nodes: list[Node] = []
        self.values: dict[Value, Value] = {i.value: i.value for i in grouping.graph.inputs}
        self.reshaped: dict[tuple[Value, Shape], Value] = {}
        self.wanted = self._wanted()

    def run(self) -> Graph:
        grouping, graph = self.grouping, self.grouping.graph
        for node in graph.nodes:
            if node.op.name == "constant" and node.results[0] in self.wanted:
                self.nodes.append(node)
                self.values[node.results[0]] = node.results[0]
        for name in grouping.clusters.order():
            group = grouping.groups[name]
            if not any(r in self.wanted for m in group.members for r in grouping.nodes[m].results):
                continue
            if group.kind == "loop" or (group.kind in CONTRACTIONS and len(group.members) > 1):
                self._emit_kernel(name, group)
            else:
                for member in sorted(group.members):
                    self._emit_node(member)
        outputs = tuple(Output(self._value(o.value), o.updates, o.check) for o in graph.outputs)
        return Graph(graph.name, graph.inputs, tuple(self.nodes), outputs)

    def _wanted(self) -> set[Value]:
        """Values that some kernel or the caller reads from memory."""
        wanted = {o.value for o in self.grouping.graph.outputs}
        for name, group in self.grouping.groups.items():
            members = group.members | self.recomputed.get(name, set())
            for member in members:
                wanted.update(v for s, _, v in self.grouping.sources[member] if s not in members)
        for value in list(wanted):
            while value in self.grouping.index and self.grouping.index[value] in self.grouping.views:
                value = self.grouping.nodes[self.grouping.index[value]].operands[0]
                wanted.add(value)
        return wanted

    def _emit_node(self, member: int) -> None:
        node = self.grouping.nodes[member]
        if member in self.grouping.views or node.op.name == "constant":
            return  # placed first, or where it is first read
        operands = tuple(self._value(v) for v in node.operands)
        new = node if operands == node.operands else Node(node.op, operands, node.loc)
        self.nodes.append(new)
        self.values.update(zip(node.results, new.results, strict=True))

    def _value(self, value: Value) -> Value:
        """The tensor in the new graph; views are placed here on first use."""
        if value not in self.values:
            node = self.grouping.nodes[self.grouping.index[value]]
            assert node.op.name == "reshape", f"{node} is read before it is computed"
            self.values[value] = self._reshape(self._value(node.operands[0]), value.shape, node.loc)
        return self.values[value]

    def _origin(self, value: Value) -> Value:
        """What has the same elements before any reshape."""
        while value.node is not None and value.node.op.name == "reshape":
            value = value.node.operands[0]
        return value

    def _reshape(self, value: Value, shape: Shape, loc: Location) -> Value:
        if value.node is not None and value.node.op.name == "reshape":
            value = value.node.operands[0]
        if value.shape == shape:
            return value
        if (value, shape) not in self.reshaped:
            self.nodes.append(Node(Reshape(shape), (value,), loc))
            self.reshaped[value, shape] = self.nodes[-1].results[0]
        return self.reshaped[value, shape]

    def _emit_kernel(self, name: int, group: Group) -> None:
        copied = self.recomputed.get(name, set())
        outside = self._outer_reshapes(group, copied)
        members = group.members - outside
        if members:
            self._emit_fusion(group.kind, members, members | copied)
        for member in sorted(outside):
            node = self.grouping.nodes[member]
            self.values[node.results[0]] = self._reshape(
                self._value(node.operands[0]), node.results[0].shape, node.loc)

    def _outer_reshapes(self, group: Group, copied: set[int]) -> set[int]:
        """Reshapes at the rim of a group: views of what it reads or writes, no work for a kernel."""
        grouping = self.grouping
        outside: set[int] = set()
        ordered = sorted(m for m in group.members if grouping.nodes[m].op.name == "reshape")
        for member in ordered:
            if grouping.is_free(grouping.nodes[member].operands[0]):
                continue
            source = grouping.sources[member][0][0]
            if source in outside or (source not in group.members and source not in copied):
                outside.add(member)
        for member in reversed(ordered):
            users = [u for u in grouping.users[member] if u in group.members and u not in outside]
            if not users and not grouping.is_free(grouping.nodes[member].operands[0]):
                outside.add(member)
        return outside

    def _emit_fusion(self, kind: str, members: set[int], inside: set[int]) -> None:
        grouping = self.grouping
        body = Builder(kind)
        local: dict[Value, Value] = {}
        origins: dict[Value, Value] = {}  # one input for all views of one tensor
        operands: list[Value] = []

        def place(value: Value, in_memory: bool = False) -> Value:
            if value in local:
                return local[value]
            member = grouping.index.get(value, -1)
            if member in inside or (grouping.is_free(value) and not in_memory):
                node = grouping.nodes[member]
                contracts = node.op.name in CONTRACTIONS
                results = body.add(node.op, *(place(v, contracts) for v in node.operands), loc=node.loc)
                local.update(zip(node.results, results, strict=True))
            elif (origin := self._origin(value)) in origins and kind == "loop":
                local[value] = body.emit(Reshape(value.shape), origins[origin])
            else:
                operands.append(value)
                local[value] = origins[origin] = body.input(value.type, f"p{len(operands) - 1}")
            return local[value]

        outputs = []
        for member in sorted(members):
            for result in grouping.nodes[member].results:
                place(result)
                if self._leaves(members, member, result):
                    outputs.append(result)
                    body.output(local[result])
        arguments = tuple(self._value(v) for v in operands)
        node = Node(Fusion(kind, body.build()), arguments, self._location(members))
        self.nodes.append(node)
        self.values.update(zip(outputs, node.results, strict=True))

    def _leaves(self, members: set[int], member: int, result: Value) -> bool:
        if result in self.grouping.returned:
            return True
        return any(u not in members and self._reads(u, result) for u in self.grouping.users[member])

    def _reads(self, user: int, value: Value) -> bool:
        """Whether the group of ``user`` reads the value from memory rather than recomputing it."""
        name = self.grouping.clusters.find(user)
        return self.grouping.index[value] not in self.recomputed.get(name, set())

    def _location(self, members: set[int]) -> Location:
        """Where the heart of the group comes from: its contraction, else its last node with a name."""
        nodes = [self.grouping.nodes[m] for m in sorted(members)]
        heart = [n for n in nodes if n.op.name in CONTRACTIONS]
        named = [n.loc for n in (heart or nodes) if n.loc != NOWHERE]
        return named[-1] if named else NOWHERE


