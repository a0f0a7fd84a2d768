"""Writes out the turns of loops: which kernels run in each, and where their buffers lie.

The next state is not copied. A value of it lies where it was made: in a row of the stack of which it is part, now or as
the state of the next turn, or in one of two buffers by turns, or, where the state only moves on, where it lay before;
the last turn writes it to the loop's result. A copy is left where a result is no value that the body makes, or the same
as another one.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ir import Graph, Node, Value
from ..ir.ops.control import Scan
from ..passes.plan_memory import Home
from ..runtime.executable import Unsupported
from .compiled import CompiledKernel, computed, needs_kernel
from .kept import packing, packs_of
from .loops import COPY, Copy, Loop, Part, Segment, Step, Work, laid_out, serial
from .place import planned
from .program import COPY_CHUNK, LINE, Slot
from .schedule import joined, segments, waves

MOST_CALLS = 200_000  # of the kernels of a program, those of loops in every turn: its tables have a row for each


def check_length(graph: Graph) -> None:
    """Raise Unsupported where the turns of a graph's loops are too many to be written out."""
    calls = _calls(graph)
    if calls > MOST_CALLS:
        raise Unsupported(f"{calls} kernels in all turns of its loops, more than {MOST_CALLS}")


def _calls(graph: Graph) -> int:
    return sum(n.op.runs * max(1, _calls(n.op.body)) if isinstance(n.op, Scan) else needs_kernel(n)
               for n in graph.nodes)


def steps_of(graph: Graph, kernels: Sequence[CompiledKernel], apart: bool = False) -> list[Step]:
    """What stands for the nodes of a graph in its program.

    Args:
        graph: whose nodes are to be computed.
        kernels: of all nodes that ``compiled.computed`` names, in that order.
        apart: whether each phase of a kernel is a segment of its own.
    """
    found: list[Step] = []
    read = {*graph.users(), *(o.value for o in graph.outputs)}
    at = 0
    for node in graph.nodes:
        if isinstance(node.op, Scan):
            count = len(computed(node.op.body))
            found.append(_Turns(node, node.op, kernels[at: at + count], apart).loop(read))
            at += count
        elif needs_kernel(node):
            found.append(kernels[at])
            at += 1
    return found


class _Turns:
    """A loop in the making."""

    def __init__(self, node: Node, op: Scan, kernels: Sequence[CompiledKernel], apart: bool) -> None:
        self.node, self.op, self.body, self.apart = node, op, op.body, apart
        self.carried = op.carried
        self._given_bytes = [t.bytes for t in self.body.input_types]
        self._made_bytes = [t.bytes for t in self.body.output_types]
        self.kernels = tuple(kernels)
        self.steps = steps_of(self.body, kernels, apart)
        wave_of = waves(self.steps, apart)
        lasting = self._lasting()
        packs = packs_of(self.steps, lasting)
        self.once = packing(self.steps, packs)
        done = frozenset(part for (work,) in self.once for part in work.parts)
        self.turn = segments(self.steps, wave_of, apart, done)
        counts = {self.steps[i].node: count for i, count in packs.items()}
        self.memory = planned(self.body, {s.node: s.temps[counts.get(s.node, 0):] for s in self.steps}, wave_of)
        self._results = len(node.operands)
        self._temp = self._results + len(node.results)
        self._stride = -(-self.memory.arena_bytes // LINE) * LINE  # each piece has its own
        self.bytes = op.pieces * self._stride
        packed = {s.node: tuple(self._room(size) for size in s.temps[:counts.get(s.node, 0)]) for s in self.steps}
        self._packed = packed
        self.constants = (*self.memory.constants,
                          *(v for s in self.steps if isinstance(s, Loop) for v in s.constants))
        self._pool: dict[int, list[Slot]] = {}
        self._stack_of = self._stacks()
        self._written = [i for i in range(len(self.body.outputs)) if self._home(i) == Home("output", i)]
        inputs = {item.value: i for i, item in enumerate(self.body.inputs[:op.carried])}
        self._stack_before = {inputs[o.value]: i for i, o in enumerate(self.body.outputs)
                              if i >= self.carried and o.value in inputs}
        self.copies: list[Copy] = []

    def _lasting(self) -> set[Value]:
        """What is the same in every turn, as long as it needs no kernel."""
        first = self.carried + len(self.op.sliced)
        lasting = {v for i, v in enumerate(self.op.captured, first) if self.op.is_whole(i)}
        for node in self.body.nodes:
            if not needs_kernel(node) and all(v in lasting for v in node.operands):
                lasting.update(node.results)
        return lasting

    def _room(self, size: int) -> Slot:
        """Memory that lasts for all turns."""
        start = self.bytes
        self.bytes += -(-size // LINE) * LINE
        return Slot(self._temp, start)

    def _home(self, output: int) -> Home:
        return self.memory.homes[self.body.outputs[output].value]

    def _stacks(self) -> dict[int, int]:
        """Values of the next state that are rows of a stack too, and of which."""
        found: dict[int, int] = {}
        for output in reversed(range(self.carried, len(self.body.outputs))):
            home = self._home(output)
            if home.kind == "output" and home.index < self.carried:
                found[home.index] = output
        return found

    def loop(self, read: set[Value]) -> Loop:
        """The loop; of its last state only what is ``read`` is there."""
        rows: list[list[tuple[Slot, ...]]] = [[] for _ in self.kernels]
        pieces = [self._turns_of(piece, rows, read) for piece in range(self.op.pieces)]
        phases = list(self.once)
        if len(pieces) == 1:
            phases += pieces[0]
        elif self.apart:  # all pieces do the same, so each kernel has segments of its own
            phases += [tuple(map(serial, zip(same, strict=True))) for same in zip(*pieces, strict=True)]
        else:
            phases.append(tuple(map(serial, pieces)))
        return Loop(self.node, self.kernels, (self.bytes,), tuple(phases if self.apart else joined(phases)),
                    tuple(map(tuple, rows)), tuple(self.copies), self.constants)

    def _turns_of(self, piece: int, rows: Sequence[list[tuple[Slot, ...]]], read: set[Value]) -> list[Segment]:
        """The segments of all turns of a piece; where the kernels' buffers lie goes to ``rows``."""
        op, carried = self.op, self.carried
        self._pool.clear()
        phases: list[Segment] = []
        captured = [self._part(i, piece) for i in range(carried + len(op.sliced), self._results)]
        start = piece * self._stride
        fixed = {v: s for v, h in self.memory.homes.items() if (s := self._fixed(h, start)) is not None}
        temps = {n: (*packed, *(Slot(self._temp, start + at) for at in self.memory.temps.get(n, ())))
                 for n, packed in self._packed.items()}
        inner = [Slot(self._temp + 1 + i) for i in range(len(self.memory.constants), len(self.constants))]
        state = [self._part(i, piece) for i in range(carried)]
        for turn in range(op.steps):
            given = [*state, *(self._given(carried + i, turn, piece) for i in range(len(op.sliced))), *captured]
            made = self._made(turn, piece, state)
            slots = {v: fixed[v] if v in fixed else given[h.index] if h.kind == "input" else made[h.index]
                     for v, h in self.memory.homes.items()}
            once, copies = laid_out(self.steps, slots, temps, inner)
            phases += self._numbered(piece * op.steps + turn, [len(r) for r in once], len(self.copies))
            self.copies += copies
            for row, more in zip(rows, once, strict=True):
                row += more
            phases += self._copied([(slots[o.value], self._stacked(i, turn, piece), self._made_bytes[i])
                                    for i, o in enumerate(self.body.outputs) if i >= carried])
            state = [slots[o.value] for o in self.body.outputs[:carried]]
        return phases + self._copied([(slot, self._last(i, piece), self._made_bytes[i])
                                      for i, slot in enumerate(state) if self.node.results[i] in read])

    def _part(self, operand: int, piece: int) -> Slot:
        """Where a piece finds a value of the first state, or a captured one."""
        return Slot(operand, 0 if self.op.is_whole(operand) else piece * self._given_bytes[operand])

    def _given(self, operand: int, turn: int, piece: int) -> Slot:
        """Where a piece finds its row of a sliced tensor."""
        size, row = self._given_bytes[operand], self._row(turn, self.op.sliced[operand - self.carried])
        return Slot(operand, row * size if self.op.is_whole(operand) else (row * self.op.pieces + piece) * size)

    def _last(self, output: int, piece: int) -> Slot:
        """Where a piece puts a value of the last state."""
        return Slot(self._results + output, piece * self._made_bytes[output])

    def _fixed(self, home: Home, start: int) -> Slot | None:
        """Where a value lies in every turn of the piece whose memory has this start; None where that is not the same
        place."""
        if home.kind == "arena":
            return Slot(self._temp, start + home.index)
        return Slot(self._temp + 1 + home.index) if home.kind == "constant" else None

    def _row(self, turn: int, backwards: bool) -> int:
        return self.op.steps - 1 - turn if backwards else turn

    def _stacked(self, output: int, turn: int, piece: int) -> Slot:
        row = self._row(turn, self.op.stacked[output - self.carried])
        size = self._made_bytes[output]
        return Slot(self._results + output, (row * self.op.pieces + piece) * size)

    def _made(self, turn: int, piece: int, state: Sequence[Slot]) -> dict[int, Slot]:
        """Where a turn of a piece writes the outputs of the body, by their positions."""
        made: dict[int, Slot] = {}
        taken = set(state)
        for output in self._written:
            if output >= self.carried:
                made[output] = self._stacked(output, turn, piece)
            elif output in self._stack_of:
                made[output] = self._stacked(self._stack_of[output], turn, piece)
            elif turn == self.op.steps - 1:
                made[output] = self._last(output, piece)
            elif output in self._stack_before:
                made[output] = self._stacked(self._stack_before[output], turn + 1, piece)
            else:
                made[output] = self._other(self._made_bytes[output], taken)
                taken.add(made[output])
        return made

    def _other(self, size: int, taken: set[Slot]) -> Slot:
        """A buffer for a value of the next state beside those that are in use."""
        pool = self._pool.setdefault(-(-size // LINE), [])
        found = next((s for s in pool if s not in taken), None)
        if found is None:
            found = self._room(size)
            pool.append(found)
        return found

    def _numbered(self, run: int, rows: Sequence[int], copy: int) -> list[Segment]:
        """The segments of a turn, the body's ``run``-th, whose kernels lie in so many rows each, with the numbers of
        these."""
        def numbered(part: Part) -> Part:
            kernel, phase, row, chunk = part
            return Part(kernel, phase, row + (copy if kernel == COPY else run * rows[kernel]), chunk)

        return [tuple(Work(tuple(map(numbered, work.parts)), work.chunks) for work in segment)
                for segment in self.turn]

    def _copied(self, copies: Sequence[Copy]) -> list[Segment]:
        """A segment that copies what lies elsewhere; none where nothing does."""
        works = []
        for from_, to, size in copies:
            if from_ != to and size:
                works.append(Work((Part(COPY, 0, len(self.copies)),), -(-size // COPY_CHUNK)))
                self.copies.append((from_, to, size))
        if all(w.chunks == 1 for w in works):
            works = [Work(tuple(p for w in works for p in w.parts), 1)] if works else []
        return [tuple(works)] if works else []
