"""Puts nodes in the order that needs the least memory.

The order of import follows TensorFlow's graph construction: all gradients, then all updates. A
gradient that is consumed at once never needs to coexist with the others. The memory plan works on
whatever order it is given, so it is chosen here.
"""

from __future__ import annotations

import heapq

from ..ir import Graph, Node, Value, with_nodes

SMALL_BYTES = 4096  # nodes that touch no more than this are cheap and wait to be placed together


class _Memory:
    """What scheduling a node would add to and release from memory."""

    def __init__(self, graph: Graph) -> None:
        outside = {i.value for i in graph.inputs} | {o.value for o in graph.outputs}
        self.home: dict[Value, Value] = {}
        self.readers: dict[Value, int] = {}
        self.bytes: dict[Value, int] = {}
        self.consumers: dict[Value, list[Node]] = {}
        for node in graph.nodes:
            for value in dict.fromkeys(self.home.get(v, v) for v in node.operands):
                if not node.op.view:
                    self.readers[value] = self.readers.get(value, 0) + 1
                    self.consumers.setdefault(value, []).append(node)
            for result in node.results:
                if node.op.view or node.op.in_place:
                    self.home[result] = self.home.get(node.operands[0], node.operands[0])
        for node in graph.nodes:
            for result in node.results:
                external = result in outside or node.op.view or node.op.in_place or node.op.name == "constant"
                self.bytes[result] = 0 if external else result.type.bytes

    def reads(self, node: Node) -> list[Value]:
        """Buffers a node reads, each once."""
        if node.op.view:
            return []
        return list(dict.fromkeys(self.home.get(v, v) for v in node.operands))

    def growth(self, node: Node) -> int:
        """Bytes in use after the node minus bytes in use before it."""
        freed = sum(self.bytes.get(v, 0) for v in self.reads(node) if self.readers[v] == 1)
        return sum(self.bytes[r] for r in node.results) - freed

    def run(self, node: Node) -> list[Value]:
        """Account for a node; returns the buffers that now have one reader left."""
        last: list[Value] = []
        for value in self.reads(node):
            self.readers[value] -= 1
            if self.readers[value] == 1:
                last.append(value)
        return last


def _is_small(node: Node) -> bool:
    return sum(v.type.bytes for v in (*node.operands, *node.results)) <= SMALL_BYTES


def _least_growth(graph: Graph) -> list[Node]:
    """List scheduling: of all ready nodes the one after which least memory is in use; among equals
    the one whose operands are freshest. Small nodes wait until nothing else is ready; constants come
    first."""
    memory, users = _Memory(graph), graph.users()
    position = {node: i for i, node in enumerate(graph.nodes)}
    missing = {node: len({v.node for v in node.operands if v.node is not None}) for node in graph.nodes}
    small = {node: _is_small(node) for node in graph.nodes}
    ready: dict[Node, int] = {}  # ready nodes and when they became so
    heap: list[tuple[int, int, int, int]] = []
    order: list[Node] = []

    def push(node: Node) -> None:
        rank = -1 if node.op.name == "constant" else small[node]
        heapq.heappush(heap, (rank, memory.growth(node), -ready[node], position[node]))

    def make_ready(node: Node) -> None:
        ready[node] = len(order)
        push(node)

    for node in graph.nodes:
        if not missing[node]:
            make_ready(node)
    while heap:
        _, growth, _, index = heapq.heappop(heap)
        node = graph.nodes[index]
        if node not in ready:
            continue
        if growth != memory.growth(node):
            push(node)
            continue
        del ready[node]
        order.append(node)
        for value in memory.run(node):
            for user in memory.consumers[value]:
                if user in ready:
                    push(user)
        done = {user for result in node.results for user in users.get(result, ())}
        for user in sorted(done, key=position.__getitem__):
            missing[user] -= 1
            if not missing[user]:
                make_ready(user)
    return order


def _peak(graph: Graph, nodes: list[Node]) -> int:
    """Most bytes in use at once."""
    memory, used, peak = _Memory(graph), 0, 0
    for node in nodes:
        used += sum(memory.bytes[r] for r in node.results)
        peak = max(peak, used)
        before = {v: memory.readers[v] for v in memory.reads(node)}
        memory.run(node)
        used -= sum(memory.bytes.get(v, 0) for v, n in before.items() if n == 1)
    return peak


def order(graph: Graph) -> Graph:
    """Reorder nodes so that less memory is in use at once; never more than before.

        %0: f32[9] = exp(%x)               %0: f32[9] = exp(%x)
        %1: f32[9] = log(%x)               %1: f32[] = reduce_sum(%0)
        %2: f32[] = reduce_sum(%0)    ->   %2: f32[9] = log(%x)
        %3: f32[] = reduce_sum(%1)         %3: f32[] = reduce_sum(%2)
    """
    nodes = _least_growth(graph)
    if nodes == list(graph.nodes) or _peak(graph, nodes) > _peak(graph, list(graph.nodes)):
        return graph
    return with_nodes(graph, nodes)
