"""The algebra of reductions: what is carried from element to element, and how it is combined."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from llvmlite import ir as ll

from ....ir import DTYPES, DType, Node
from ... import scalar
from ...emitter import I32, Emitter, const, like
from .expr import Expr

_NEVER = (1 << 31) - 1  # the index of lanes that saw nothing: loses every tie
State = list[ll.Value]


@dataclass(frozen=True)
class Reducer:
    """One reduction.

    Attributes:
        name: the operation.
        operand: element type of what is combined.
        result: element type of the result.
        inputs: the value, and for argmax and argmin its position along the axis (i32).
    """

    name: str
    operand: DType
    result: DType
    inputs: tuple[Expr, ...]

    @property
    def positional(self) -> bool:
        return self.name in ("argmax", "argmin")

    @property
    def inexact(self) -> bool:
        """Whether the order of combination changes the result."""
        return self.operand.is_float and self.name in ("reduce_sum", "reduce_prod")

    @property
    def stored(self) -> tuple[DType, ...]:
        """Types of the carried state: half floats accumulate in f32, bools in bytes."""
        value = self.operand
        if value.name in ("f16", "bf16"):
            value = DTYPES["f32"]
        if value.name == "bool":
            value = DTYPES["u8"]
        return (value, DTYPES["i32"]) if self.positional else (value,)

    def identity(self, lanes: int) -> State:
        """The state that has seen nothing."""
        state = [scalar.literal(self.stored[0], self.neutral, lanes)]
        if self.positional:
            state.append(scalar.literal(DTYPES["i32"], _NEVER, lanes))
        return state  # type: ignore[return-value]

    @property
    def neutral(self) -> float | int:
        """What changes nothing when it is combined in."""
        value = self.stored[0]
        if self.name in ("reduce_sum", "reduce_or"):
            return 0
        if self.name in ("reduce_prod", "reduce_and"):
            return 1
        lowest = self.name in ("reduce_max", "argmax")
        if value.is_float:
            return -np.inf if lowest else np.inf
        limits = np.iinfo(value.numpy)
        return int(limits.min if lowest else limits.max)

    def step(self, e: Emitter, state: State, values: Sequence[ll.Value]) -> State:
        """The state after one more element in every lane."""
        value = values[0]
        if self.operand.name == "bool":
            value = e.b.zext(value, like(value, ll.IntType(8)))
        if not self.positional:
            return [self._combine(e, state[0], value)]
        sign = ">" if self.name == "argmax" else "<"
        first = e.b.icmp_signed("==", values[1], const(values[1].type, 0))
        wins = e.b.or_(scalar.compare(e, sign, self.stored[0], value, state[0]), first)
        return [e.b.select(wins, value, state[0]), e.b.select(wins, values[1], state[1])]

    def merge(self, e: Emitter, a: State, b: State) -> State:
        """The state of two runs of elements; a NaN that argmax holds is element 0 and stays."""
        if not self.positional:
            return [self._combine(e, a[0], b[0])]
        sign = ">" if self.name == "argmax" else "<"
        value = self.stored[0]
        tie = e.b.and_(scalar.compare(e, "==", value, b[0], a[0]), e.b.icmp_signed("<", b[1], a[1]))
        wins = e.b.or_(scalar.compare(e, sign, value, b[0], a[0]), tie)
        if value.is_float:
            wins = e.b.or_(wins, e.b.fcmp_unordered("uno", b[0], b[0]))
        return [e.b.select(wins, y, x) for x, y in zip(a, b, strict=True)]

    def _combine(self, e: Emitter, a: ll.Value, b: ll.Value) -> ll.Value:
        value = self.stored[0]
        match self.name:
            case "reduce_sum":
                return e.b.fadd(a, b) if value.is_float else e.b.add(a, b)
            case "reduce_prod":
                return e.b.fmul(a, b) if value.is_float else e.b.mul(a, b)
            case "reduce_and":
                return e.b.and_(a, b)
            case "reduce_or":
                return e.b.or_(a, b)
        larger = self.name == "reduce_max"
        if value.is_float:
            return (scalar.maximum if larger else scalar.minimum)(e, a, b)
        return e.b.select(scalar.compare(e, ">" if larger else "<", value, a, b), a, b)

    def across(self, e: Emitter, state: State) -> State:
        """The lanes of a vector state combined into a scalar one, halving at every step."""
        lanes = scalar.lanes_of(state[0])
        if lanes == 1:
            return state
        if lanes == 2:
            low, high = ([e.b.extract_element(v, ll.Constant(I32, j)) for v in state] for j in (0, 1))
            return self.merge(e, low, high)
        half = lanes // 2
        low, high = ([_lanes(e, v, j, half) for v in state] for j in (0, half))
        return self.across(e, self.merge(e, low, high))

    def finish(self, e: Emitter, state: State) -> ll.Value:
        """The result, in register form."""
        if self.positional:
            return scalar.cast(e, state[1], DTYPES["i32"], self.result)
        if self.operand.name == "bool":
            return e.b.icmp_unsigned("!=", state[0], const(state[0].type, 0))
        return scalar.rounded(e, state[0], self.result)


def _lanes(e: Emitter, vector: ll.Value, first: int, count: int) -> ll.Value:
    mask = ll.Constant(ll.VectorType(I32, count), [ll.Constant(I32, first + j) for j in range(count)])
    return e.b.shuffle_vector(vector, ll.Constant(vector.type, ll.Undefined), mask)


def reducer_of(node: Node, inputs: tuple[Expr, ...]) -> Reducer:
    """The reduction of a node whose operand elements are ``inputs``."""
    return Reducer(node.op.name, node.operands[0].type.dtype, node.results[0].type.dtype, inputs)


class Slots:
    """Several independent accumulators for every reduction: one for each slot, with its lanes."""

    def __init__(self, e: Emitter, reducers: Sequence[Reducer], lanes: Sequence[int]) -> None:
        self.e, self.reducers, self.lanes = e, tuple(reducers), tuple(lanes)
        self._width = [len(r.stored) for r in self.reducers]
        self._stride = sum(self._width)

    def identity(self) -> State:
        """The flat list of all states, having seen nothing."""
        return [v for lanes in self.lanes for r in self.reducers for v in r.identity(lanes)]

    def of(self, states: State, slot: int) -> list[State]:
        """The states of one slot, a list for each reduction."""
        found, at = [], slot * self._stride
        for width in self._width:
            found.append(states[at: at + width])
            at += width
        return found

    def step(self, states: State, slot: int, values: Sequence[Sequence[ll.Value]]) -> State:
        """All states after one more element in every lane of one slot."""
        mine = self.of(states, slot)
        new = [v for r, s, x in zip(self.reducers, mine, values, strict=True) for v in r.step(self.e, s, x)]
        at = slot * self._stride
        return [*states[:at], *new, *states[at + self._stride:]]

    def merge(self, a: State, b: State) -> State:
        """Slot by slot."""
        return [v for slot in range(len(self.lanes))
                for r, x, y in zip(self.reducers, self.of(a, slot), self.of(b, slot), strict=True)
                for v in r.merge(self.e, x, y)]

    def joined(self, states: State, slots: Sequence[int]) -> list[State]:
        """Slots of equal lanes combined pairwise into one."""
        level = [self.of(states, slot) for slot in slots]
        while len(level) > 1:
            pairs = [level[i: i + 2] for i in range(0, len(level), 2)]
            level = [p[0] if len(p) == 1 else self._merged(*p) for p in pairs]
        return level[0]

    def _merged(self, a: list[State], b: list[State]) -> list[State]:
        return [r.merge(self.e, x, y) for r, x, y in zip(self.reducers, a, b, strict=True)]

    def total(self, states: State) -> list[State]:
        """Everything combined into one scalar state for each reduction."""
        by_lanes: dict[int, list[int]] = {}
        for slot, lanes in enumerate(self.lanes):
            by_lanes.setdefault(lanes, []).append(slot)
        parts = [self.joined(states, slots) for slots in by_lanes.values()]
        scalars = [[r.across(self.e, s) for r, s in zip(self.reducers, part, strict=True)] for part in parts]
        total = scalars[0]
        for other in scalars[1:]:
            total = self._merged(total, other)
        return total
