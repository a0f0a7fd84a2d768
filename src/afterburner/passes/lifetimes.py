"""From where to where in a graph's order each buffer is in use, and how many bytes that makes.

What the memory plan will find, before kernels' temporaries and results in place are known.
"""

from __future__ import annotations

from bisect import bisect_right

import numpy as np

from ..ir import Graph, Value


class Lifetimes:
    """Uses of the values that need room in the arena, by positions of nodes.

    A view belongs to the value whose bytes it shows, and what is made in place to what it is made of. Inputs, outputs
    and constants take no room.

    Attributes:
        uses: the positions that need a value, ascending; the first is where it is made.
        in_use: bytes in use while each node runs.
    """

    def __init__(self, graph: Graph) -> None:
        self._shown: dict[Value, Value] = {}
        self.uses: dict[Value, list[int]] = {}
        self.in_use = np.zeros(len(graph.nodes), np.int64)
        for position, node in enumerate(graph.nodes):
            if node.op.view:
                self._shown[node.results[0]] = self.shown(node.operands[0])
                continue
            for value in dict.fromkeys(self.shown(v) for v in node.operands):
                if value in self.uses:
                    self.uses[value].append(position)
            if node.op.in_place:
                self._shown[node.results[0]] = self.shown(node.operands[0])
            elif node.op.name != "constant":
                self.uses.update((result, [position]) for result in node.results)
        for output in graph.outputs:
            self.uses.pop(self.shown(output.value), None)
        for value, uses in self.uses.items():
            self.in_use[uses[0]: uses[-1] + 1] += value.type.bytes

    def shown(self, value: Value) -> Value:
        """The value whose bytes ``value`` shows: itself unless it is a view, or made in place."""
        return self._shown.get(value, value)

    @property
    def peak(self) -> int:
        """Most bytes in use at once."""
        return int(self.in_use.max(initial=0))

    def at_peak(self) -> list[Value]:
        """What is in use where most bytes are, the largest first."""
        peak = int(self.in_use.argmax()) if self.in_use.size else 0
        alive = (v for v, uses in self.uses.items() if uses[0] <= peak <= uses[-1])
        return sorted(alive, key=lambda v: -v.type.bytes)

    def gap(self, value: Value, position: int) -> tuple[int, int] | None:
        """The uses of ``value`` around a position at which it is only kept; None where it is not."""
        uses = self.uses[value]
        after = bisect_right(uses, position)
        if after in (0, len(uses)) or uses[after - 1] == position:
            return None
        return uses[after - 1], uses[after]
