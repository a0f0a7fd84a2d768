"""A graph's kernels as work that any process can do: texts, cut into batches, and their results put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from ..ir import Builder, Node, print_graph

BATCH = 6  # kernels compiled as one module

# Phases, chunks, temps, scratch, label of a kernel, and what it keeps.
Row = tuple[int, tuple[int, ...], tuple[int, ...], int, str, tuple[int, int] | None]


@dataclass(frozen=True)
class Made:
    """What became of a batch: a row a kernel, in order, and object code with a table of all their phases."""

    rows: Sequence[Row]
    code: bytes


class Parcels:
    """The different kernels that some nodes need.

    Attributes:
        batches: texts of kernels (see ``text_of``), a few in each.
    """

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes: dict[str, Node] = {}  # by their texts: the first of them
        self._order: list[str] = []
        for node in nodes:
            text = text_of(node)
            self._nodes.setdefault(text, node)
            self._order.append(text)
        distinct = list(self._nodes)
        self.batches = tuple(tuple(distinct[i: i + BATCH]) for i in range(0, len(distinct), BATCH))

    def node(self, batch: int, index: int) -> Node:
        """A node that needs kernel ``index`` of a batch."""
        return self._nodes[self.batches[batch][index]]

    def join(self, made: Sequence[Made]) -> bytes:
        """All that was made of the batches, in their order, as bytes; see ``compiled.Code``."""
        rows: dict[str, tuple[object, ...]] = {}
        tables: list[int] = []  # sizes of the function tables, one an object
        for texts, part in zip(self.batches, made, strict=True):
            first = start = sum(tables)
            for text, (phases, *rest) in zip(texts, part.rows, strict=True):
                rows[text] = (first, *rest)
                first += phases
            tables.append(first - start)
        return joined(tables, [part.code for part in made], [rows[text] for text in self._order])


def joined(tables: Sequence[int], objects: Sequence[bytes], kernels: Sequence[object]) -> bytes:
    """Objects and what is known of them as one string of bytes."""
    head = json.dumps({"tables": tables, "objects": [len(o) for o in objects], "kernels": kernels},
                      separators=(",", ":")).encode()
    return b"".join((len(head).to_bytes(8, "little"), head, *objects))


def text_of(node: Node) -> str:
    """The graph of one node with inputs of its own for operands: all that determines its kernel."""
    builder = Builder("kernel")
    inputs = [builder.input(v.type, f"x{i}") for i, v in enumerate(node.operands)]
    for result in builder.add(node.op, *inputs):
        builder.output(result)
    return print_graph(builder.build(), locations=False)
