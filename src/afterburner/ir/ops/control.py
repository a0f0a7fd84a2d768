"""Operations that hold other graphs."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..graph import Graph, Value
from ..interpret import interpret
from ..op import Op, require
from ..types import TensorType


@dataclass(frozen=True, eq=False)
class Fusion(Op):
    """A graph computed by one kernel. ``kind`` says which: "loop" for elementwise work and
    reductions over one index space, or the name of the contraction its epilogue rides on."""

    kind: str
    body: Graph = field(repr=False)

    __eq__, __hash__ = object.__eq__, object.__hash__  # Op's would take any two of a class for equal

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(types == self.body.input_types, f"the body takes {self.body.input_types}")
        return self.body.output_types

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(interpret(self.body, arrays))

    def regions(self) -> tuple[Graph, ...]:
        return (self.body,)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return sum(n.op.flops(tuple(v.type for v in n.operands), tuple(r.type for r in n.results))
                   for n in self.body.nodes)


@dataclass(frozen=True, eq=False)
class Scan(Op):
    """A loop of a known number of turns: ``body`` applied ``steps`` times.

    Operands are, in the order of the body's inputs:
      - the first values of the state: one for each of the first results of the body, which give its next value;
      - sliced tensors of shape (steps, ...), of which the body is given one row a turn;
      - captured tensors, which are the same in every turn.

    Results are the last values of the state, then for each further result of the body a tensor of shape (steps, ...)
    with the rows of all turns. The body has no state, no updates and no checks.

    Attributes:
        steps: how many turns, one at least.
        sliced: for each sliced tensor whether its last row comes first.
        stacked: for each stacked result whether the first turn writes its last row.
        body: one turn.
    """

    steps: int
    sliced: tuple[bool, ...]
    stacked: tuple[bool, ...]
    body: Graph = field(repr=False)

    __eq__, __hash__ = object.__eq__, object.__hash__  # as above

    @property
    def carried(self) -> int:
        """How many values the state has."""
        return len(self.body.outputs) - len(self.stacked)

    @property
    def captured(self) -> tuple[Value, ...]:
        """What the body sees of captured tensors."""
        return tuple(i.value for i in self.body.inputs[self.carried + len(self.sliced):])

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(self.steps >= 1, f"{self.steps} steps")
        inputs, outputs, carried = self.body.input_types, self.body.output_types, self.carried
        require(0 <= carried and carried + len(self.sliced) <= len(inputs), "the body has too few inputs or outputs")
        require(not any(i.state for i in self.body.inputs), "the body has variables")
        require(all(o.updates is None and o.check is None for o in self.body.outputs), "the body has updates or checks")
        require(inputs[:carried] == outputs[:carried], f"the state is {inputs[:carried]}, then {outputs[:carried]}")
        end = carried + len(self.sliced)
        expected = (*inputs[:carried], *map(self._rows, inputs[carried:end]), *inputs[end:])
        require(types == expected, f"the operands should be {expected}")
        return (*outputs[:carried], *map(self._rows, outputs[carried:]))

    def _rows(self, type_: TensorType) -> TensorType:
        return TensorType(type_.dtype, (self.steps, *type_.shape))

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        carried, end = self.carried, self.carried + len(self.sliced)
        state = list(arrays[:carried])
        types = self.body.output_types[carried:]
        stacks = [np.empty((self.steps, *t.shape), t.dtype.numpy) for t in types]
        for turn in range(self.steps):
            rows = [a[self._row(turn, back)] for a, back in zip(arrays[carried:end], self.sliced, strict=True)]
            results = interpret(self.body, (*state, *rows, *arrays[end:]))
            state = results[:carried]
            for stack, row, back in zip(stacks, results[carried:], self.stacked, strict=True):
                stack[self._row(turn, back)] = row
        return (*state, *stacks)

    def _row(self, turn: int, backwards: bool) -> int:
        return self.steps - 1 - turn if backwards else turn

    def regions(self) -> tuple[Graph, ...]:
        return (self.body,)

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        return self.steps * sum(n.op.flops(tuple(v.type for v in n.operands), tuple(r.type for r in n.results))
                                for n in self.body.nodes)
