"""Operations that hold other graphs."""

from __future__ import annotations

from collections.abc import Sequence
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

    A loop may come in ``pieces``, each of which is all turns on a part of the batch: the first axis of the state and of
    stacked rows, of rows of sliced tensors and of captured ones, is as many times as long outside as in the body.

    Attributes:
        steps: how many turns, one at least.
        sliced: for each sliced tensor whether its last row comes first.
        stacked: for each stacked result whether the first turn writes its last row.
        body: one turn, of one piece.
        pieces: how many parts of the batch there are.
        whole: where there are several, for each sliced and captured tensor whether every piece is given all of it.
    """

    steps: int
    sliced: tuple[bool, ...]
    stacked: tuple[bool, ...]
    body: Graph = field(repr=False)
    pieces: int = 1
    whole: tuple[bool, ...] = ()

    __eq__, __hash__ = object.__eq__, object.__hash__  # as above

    @property
    def carried(self) -> int:
        """How many values the state has."""
        return len(self.body.outputs) - len(self.stacked)

    @property
    def captured(self) -> tuple[Value, ...]:
        """What the body sees of captured tensors."""
        return tuple(i.value for i in self.body.inputs[self.carried + len(self.sliced):])

    @property
    def runs(self) -> int:
        """How often the body is run."""
        return self.steps * self.pieces

    def is_whole(self, operand: int) -> bool:
        """Whether every piece is given all of an operand, or of a row of it."""
        return self.pieces == 1 or operand >= self.carried and self.whole[operand - self.carried]

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        require(self.steps >= 1, f"{self.steps} steps")
        require(self.pieces >= 1, f"{self.pieces} pieces")
        inputs, outputs, carried = self.body.input_types, self.body.output_types, self.carried
        require(0 <= carried and carried + len(self.sliced) <= len(inputs), "the body has too few inputs or outputs")
        require(not any(i.state for i in self.body.inputs), "the body has variables")
        require(all(o.updates is None and o.check is None for o in self.body.outputs), "the body has updates or checks")
        require(inputs[:carried] == outputs[:carried], f"the state is {inputs[:carried]}, then {outputs[:carried]}")
        require(len(self.whole) == (len(inputs) - carried) * (self.pieces > 1), "whole does not fit the operands")
        end = carried + len(self.sliced)
        given = [t if self.is_whole(i) else self._joined(t) for i, t in enumerate(inputs)]
        expected = (*given[:carried], *map(self._rows, given[carried:end]), *given[end:])
        require(types == expected, f"the operands should be {expected}")
        made = [self._joined(t) for t in outputs]
        return (*made[:carried], *map(self._rows, made[carried:]))

    def _rows(self, type_: TensorType) -> TensorType:
        return TensorType(type_.dtype, (self.steps, *type_.shape))

    def _joined(self, type_: TensorType) -> TensorType:
        if self.pieces == 1:
            return type_
        require(type_.rank > 0, "a piece of a scalar")
        return TensorType(type_.dtype, (self.pieces * type_.shape[0], *type_.shape[1:]))

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        if self.pieces == 1:
            return self._evaluate(arrays)
        end = self.carried + len(self.sliced)
        parts = []
        for piece in range(self.pieces):
            given = [a if self.is_whole(i) else np.split(a, self.pieces, int(self.carried <= i < end))[piece]
                     for i, a in enumerate(arrays)]
            parts.append(self._evaluate(given))
        return tuple(np.concatenate(made, int(i >= self.carried)) for i, made in enumerate(zip(*parts, strict=True)))

    def _evaluate(self, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The results of one piece."""
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
        return self.runs * sum(n.op.flops(tuple(v.type for v in n.operands), tuple(r.type for r in n.results))
                               for n in self.body.nodes)
