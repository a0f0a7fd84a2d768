"""Cuts loops along the batch, so that workers need not meet in every turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..ir import Builder, Graph, Node, Op, Value, rewrite
from ..ir.ops.control import Scan
from ..ir.ops.conv import Conv2d, Conv2dInputGrad
from ..ir.ops.matmul import Matmul
from ..ir.ops.reduce import Argmax, Argmin, Cumprod, Cumsum
from ..ir.ops.shape import Broadcast, Concat, Iota, Pad, Reshape, Reverse, Slice, Transpose

_LEAST_ROWS = 10  # of a piece: a product of fewer reads its matrix for too little
_MOST_PIECES = 64
_MOST_RUNS = 8000  # turns of all pieces: a program has rows in its tables for each, which take time to write out
_MOST_CALLS = 100_000  # operations of the turns of all pieces, as a program has no room for more than twice as many
_MOST_WHOLE_BYTES = 4 << 20  # of what every piece reads in every turn, which should stay in a cache
_LEAST_WORK = 3_000_000  # operations and bytes of all turns: some hundred microseconds
_PER_FLOP = 0.2  # what one costs beside a byte that is written

_PART, _ALL = "part", "all"  # of the rows of a batch
_Wanted = tuple[Value, str]


def split_scans(graph: Graph) -> Graph:
    """Let a loop whose rows do not depend on each other be several ``pieces``, each all turns of some rows.

    Each piece runs from its first turn to its last in one worker, which finds in its caches what it has just written.
    Every element is made of the same operands as before.
    """
    changed = False

    def cut(builder: Builder, node: Node, operands: tuple[Value, ...]) -> Sequence[Value] | None:
        nonlocal changed
        if not isinstance(node.op, Scan) or node.op.pieces > 1:
            return None
        pieces = _pieces(node.op)
        split = _Split(node.op, pieces).loop(operands) if pieces > 1 else None
        if split is None:
            return None
        changed = True
        return builder.add(split[0], *split[1])

    rewritten = rewrite(graph, cut)
    return rewritten if changed else graph


def _pieces(scan: Scan) -> int:
    """How many pieces are worth their while: as many as the batch can be cut into evenly, with enough rows each."""
    states = scan.body.output_types[:scan.carried]
    if not states or any(t.rank == 0 or t.shape[0] != states[0].shape[0] for t in states):
        return 1
    work = sum(sum(r.type.bytes for r in n.results) + _PER_FLOP * n.op.flops(
        tuple(v.type for v in n.operands), tuple(r.type for r in n.results)) for n in scan.body.nodes)
    if scan.steps * work < _LEAST_WORK:
        return 1
    batch = states[0].shape[0]
    most = min(_MOST_PIECES, batch // _LEAST_ROWS, _MOST_RUNS // scan.steps,
               _MOST_CALLS // (scan.steps * len(scan.body.nodes)))
    return max((n for n in range(1, most + 1) if batch % n == 0), default=1)


class _Split:
    """The body of a loop for one piece: of each value the rows of the piece, or all."""

    def __init__(self, scan: Scan, pieces: int) -> None:
        self.scan, self.pieces = scan, pieces
        self.batch = scan.body.output_types[0].shape[0]
        self.rows = self.batch // pieces
        self._able: dict[_Wanted, Sequence[_Wanted]] = {}  # what can be made, and what of
        for i, item in enumerate(scan.body.inputs):
            if item.value.type.rank and item.value.shape[0] == self.batch:
                self._able[item.value, _PART] = ()
            if i >= scan.carried:
                self._able[item.value, _ALL] = ()
        for node in scan.body.nodes:
            self._learn(node)

    def _learn(self, node: Node) -> None:
        if all((v, _ALL) in self._able for v in node.operands):
            self._able.update(((r, _ALL), [(v, _ALL) for v in node.operands]) for r in node.results)
        (value, *others) = node.results
        if others or not value.type.rank or value.shape[0] != self.batch:
            return
        wanted = _parts(node, self.batch)
        if wanted is None:
            return
        needs = list(zip(node.operands, wanted, strict=True))
        if all(need in self._able for need in needs):
            self._able[value, _PART] = needs

    def loop(self, operands: tuple[Value, ...]) -> tuple[Scan, list[Value]] | None:
        """The loop in pieces and its operands; None where rows depend on each other, or not enough is gained."""
        needed = self._needed()
        if needed is None:
            return None
        scan, body = self.scan, self.scan.body
        end = scan.carried + len(scan.sliced)
        given = [(i, way) for i, item in enumerate(body.inputs) for way in (_PART, _ALL)
                 if (item.value, way) in needed or i < scan.carried and way == _PART]
        if sum(body.input_types[i].bytes for i, way in given if way == _ALL) > _MOST_WHOLE_BYTES:
            return None
        builder, new = Builder(body.name), {}
        for i, way in given:
            type_ = body.input_types[i]
            part = replace(type_, shape=(self.rows, *type_.shape[1:])) if way == _PART else type_
            new[body.inputs[i].value, way] = builder.input(part, body.inputs[i].name)
        for node in body.nodes:
            builder.loc = node.loc
            if any((r, _ALL) in needed for r in node.results):
                made = builder.add(node.op, *(new[v, _ALL] for v in node.operands))
                new.update(zip(((r, _ALL) for r in node.results), made, strict=True))
            if (node.results[0], _PART) in needed:
                operation = _of_rows(node.op, self.rows)
                new[node.results[0], _PART] = builder.emit(
                    operation, *(new[need] for need in self._able[node.results[0], _PART]))
        for out in body.outputs:
            builder.output(new[out.value, _PART])
        whole = tuple(way == _ALL for i, way in given if i >= scan.carried)
        sliced = tuple(scan.sliced[i - scan.carried] for i, _ in given if scan.carried <= i < end)
        op = Scan(scan.steps, sliced, scan.stacked, builder.build(), self.pieces, whole)
        return op, [operands[i] for i, _ in given]

    def _needed(self) -> set[_Wanted] | None:
        """What the results of a piece are made of; None where they cannot be."""
        work = [(o.value, _PART) for o in self.scan.body.outputs]
        if any(w not in self._able for w in work):
            return None
        needed: set[_Wanted] = set()
        while work:
            wanted = work.pop()
            if wanted not in needed:
                needed.add(wanted)
                work += self._able[wanted]
        return needed


def _parts(node: Node, batch: int) -> list[str] | None:
    """Of which operands a node needs the same rows as of its result, and of which all; None where its rows depend on
    others."""
    op, operands = node.op, node.operands
    match op:
        case Broadcast() if 0 not in op.axes:
            return [_ALL]
        case Broadcast():
            return [_PART] if op.axes[0] == 0 and operands[0].shape[0] == batch else None
        case Iota():
            return [] if op.axis else None
        case Reshape():
            return [_PART] if operands[0].type.rank and operands[0].shape[0] == batch else None
        case Transpose():
            return [_PART] if op.perm[0] == 0 else None
        case Slice():
            return [_PART] if (op.starts[0], op.limits[0], op.strides[0]) == (0, batch, 1) \
                and operands[0].shape[0] == batch else None
        case Pad():
            return [_PART, _ALL] if (op.low[0], op.high[0], op.interior[0]) == (0, 0, 0) else None
        case Reverse():
            return [_PART] if 0 not in op.axes else None
        case Concat() | Argmax() | Argmin() | Cumprod() | Cumsum():
            return [_PART] * len(operands) if op.axis else None
        case Matmul():
            if node.results[0].type.rank > 2:
                return [_PART, _PART]
            return None if op.transpose_a else [_PART, _ALL]
        case Conv2d():
            return [_PART, _ALL]
        case Conv2dInputGrad():
            return [_ALL, _PART]
    if op.reduction:
        return [_PART] if 0 not in op.axes else None  # type: ignore[attr-defined]
    return [_PART] * len(operands) if op.elementwise else None


def _of_rows(op: Op, rows: int) -> Op:
    """An operation that makes fewer rows."""
    match op:
        case Broadcast() | Iota() | Reshape():
            return replace(op, shape=(rows, *op.shape[1:]))
        case Slice():
            return replace(op, limits=(rows, *op.limits[1:]))
        case Conv2dInputGrad():
            return replace(op, input_shape=(rows, *op.input_shape[1:]))
    return op
