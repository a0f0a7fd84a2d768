"""Leaves in loops what has to be there.

A loop that was imported takes along all that TensorFlow's has: counters that only count, the length of the sequence as
a captured scalar, stacks that nobody reads. While these are operands of the loop, nothing folds in its body.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..ir import Builder, Graph, Location, Node, Op, Output, Value
from ..ir.ops.control import Scan
from ..ir.ops.shape import Broadcast, Constant, Reshape, Reverse
from .rewriter import uniform

MOST_ELEMENTS = 1024  # of a constant that moves into a body

Emit = Callable[..., Value]  # adds an operation with one result


def simplify_scans(graph: Graph) -> Graph:
    """Drop what no result needs; give bodies their constants, and what stays the same as a captured value.

        %0: i32[], %1: f32[9,4] = scan(%zero, %x, %two) {steps=9, …} with      %0: f32[9,4] = scan(%x) {steps=9, …} with
          graph turn(%n: i32[], %x: f32[4], %by: f32[4]) {                       graph turn(%x0: f32[4]) {
            %0: i32[] = add(%n, %n)                                        ->      %0: f32[4] = constant() {value=…}
            %1: f32[4] = mul(%x, %by)                                              %1: f32[4] = mul(%x0, %0)
            return %0, %1                                                          return %1

    A loop of one turn is its body. Stacks of what is the same in all turns are made outside, and those that are equal
    once. Inputs are named by what they are, so that equal loops have one text.
    """
    read = {*graph.users(), *(o.value for o in graph.outputs)}
    new: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        operands = tuple(new.get(v, v) for v in node.operands)
        results = None
        if isinstance(node.op, Scan) and any(r in read for r in node.results):
            results = _Simpler(node.op, operands, [r in read for r in node.results], nodes, node.loc).results()
        if results is not None:
            new.update((node.results[i], v) for i, v in results.items())
            continue
        current = node if operands == node.operands else Node(node.op, operands, node.loc)
        nodes.append(current)
        if current is not node:
            new.update(zip(node.results, current.results, strict=True))
    if not new:
        return graph
    outputs = tuple(Output(new.get(o.value, o.value), o.updates, o.check) for o in graph.outputs)
    return Graph(graph.name, graph.inputs, tuple(nodes), outputs)


@dataclass(frozen=True)
class _State:
    operand: Value
    inside: Value
    following: Value
    result: int


@dataclass(frozen=True)
class _Sliced:
    operand: Value
    inside: Value
    backwards: bool


@dataclass(frozen=True)
class _Stacked:
    value: Value
    backwards: bool
    result: int


class _Simpler:
    """What becomes of one scan."""

    def __init__(self, op: Scan, operands: Sequence[Value], wanted: Sequence[bool], nodes: list[Node],
                 loc: Location) -> None:
        self.op, self.wanted, self._nodes, self._loc = op, wanted, nodes, loc
        self._inputs = [i.value for i in op.body.inputs]
        following = [o.value for o in op.body.outputs]
        end = op.carried + len(op.sliced)
        self.state = [_State(*item, i) for i, item in enumerate(zip(operands, self._inputs, following[:op.carried],
                                                                     strict=False))]
        self.sliced = [_Sliced(*item) for item in zip(operands[op.carried: end], self._inputs[op.carried: end],
                                                      op.sliced, strict=True)]
        self.captured = list(zip(operands[end:], self._inputs[end:], strict=True))
        self.stacked = [_Stacked(value, backwards, i) for i, (value, backwards) in
                        enumerate(zip(following[op.carried:], op.stacked, strict=True), op.carried)]
        self.found: dict[int, Value] = {}  # results that need no loop
        self.same: dict[int, int] = {}  # stacks that are equal to others
        self.constants: dict[Value, np.ndarray] = {}  # inputs of the body that are known
        self.instead: dict[Value, Value] = {}  # inputs of the body that are equal to others

    def results(self) -> dict[int, Value] | None:
        """The results that are wanted, by their positions; None where the scan stays as it is."""
        if self.op.steps == 1:
            return self._inlined()
        before = (len(self.state), len(self.sliced), len(self.captured), len(self.stacked))
        self.stacked = [s for s in self.stacked if self.wanted[s.result]]
        self._drop_unneeded()
        self._capture_what_stays()
        self._move_constants()
        self._merge()
        self._stack_outside()
        self._drop_unneeded()
        if before == (len(self.state), len(self.sliced), len(self.captured), len(self.stacked)) and self._is_named():
            return None
        if self.state or self.stacked:
            self._loop()
        self.found.update((result, self.found[other]) for result, other in self.same.items())
        return {i: v for i, v in self.found.items() if self.wanted[i]}

    def _emit(self, op: Op, *operands: Value) -> Value:
        node = Node(op, operands, self._loc)
        self._nodes.append(node)
        return node.results[0]

    def _inlined(self) -> dict[int, Value]:
        values = {s.inside: s.operand for s in self.state} | {inside: v for v, inside in self.captured}
        for item in self.sliced:
            values[item.inside] = self._emit(Reshape(item.inside.shape), item.operand)
        for node in self.op.body.nodes:
            current = Node(node.op, [values[v] for v in node.operands], node.loc)
            self._nodes.append(current)
            values.update(zip(node.results, current.results, strict=True))
        found = {s.result: values[s.following] for s in self.state}
        found.update((s.result, self._emit(Reshape((1, *s.value.shape)), values[s.value])) for s in self.stacked)
        return found

    def _drop_unneeded(self) -> None:
        """State, sliced and captured values that no result needs."""
        needed: set[Value] = set()
        pending = [s.value for s in self.stacked] + [s.following for s in self.state if self.wanted[s.result]
                                                     and s.result not in self.found]
        following = {s.inside: s.following for s in self.state}
        while pending:
            value = pending.pop()
            if value in needed:
                continue
            needed.add(value)
            if value.node is not None:
                pending += value.node.operands
            elif value in self.instead:
                pending.append(self.instead[value])
            elif value in following:
                pending.append(following[value])
        self.needed = needed
        wanted = {s.result for s in self.state if self.wanted[s.result] and s.result not in self.found}
        self.state = [s for s in self.state if s.inside in needed or s.result in wanted]
        self.sliced = [s for s in self.sliced if s.inside in needed]
        self.captured = [(operand, inside) for operand, inside in self.captured if inside in needed]

    def _capture_what_stays(self) -> None:
        for state in [s for s in self.state if s.following is s.inside]:
            self.state.remove(state)
            self.captured.append((state.operand, state.inside))
            self.found[state.result] = state.operand

    def _move_constants(self) -> None:
        known = {inside: uniform(operand) if operand.constant is None or operand.type.size > MOST_ELEMENTS
                 else operand.constant for operand, inside in self.captured}
        known.update((s.inside, uniform(s.operand)) for s in self.sliced)
        self.constants = {inside: array for inside, array in known.items() if array is not None}

    def _merge(self) -> None:
        """What is given several times, or made several times, once."""
        rows: dict[tuple[Value, bool], Value] = {}
        whole: dict[Value, Value] = {}
        stacks: dict[tuple[Value, bool], int] = {}
        for item in self.sliced:
            self.instead[item.inside] = rows.setdefault((item.operand, item.backwards), item.inside)
        for operand, inside in self.captured:
            self.instead[inside] = whole.setdefault(operand, inside)
        for stack in self.stacked:
            first = stacks.setdefault((stack.value, stack.backwards), stack.result)
            if first != stack.result:
                self.same[stack.result] = first
        gone = {inside for inside, other in self.instead.items() if other is not inside} | self.constants.keys()
        self.instead = {inside: other for inside, other in self.instead.items() if other is not inside}
        self.sliced = [s for s in self.sliced if s.inside not in gone]
        self.captured = [(operand, inside) for operand, inside in self.captured if inside not in gone]
        self.stacked = [s for s in self.stacked if s.result not in self.same]

    def _stack_outside(self) -> None:
        """Stacks of captured values and of rows of sliced ones."""
        captured = {inside: operand for operand, inside in self.captured}
        sliced = {s.inside: s for s in self.sliced}
        for stack in list(self.stacked):
            value = self.instead.get(stack.value, stack.value)
            shape = (self.op.steps, *value.shape)
            if value in captured or value in self.constants or value.constant is not None:
                one = captured[value] if value in captured else self._constant(self._emit, value)
                self.found[stack.result] = self._emit(Broadcast(shape, tuple(range(1, len(shape)))), one)
            elif value in sliced:
                whole = sliced[value].operand
                turned = sliced[value].backwards != stack.backwards
                self.found[stack.result] = self._emit(Reverse((0,)), whole) if turned else whole
            else:
                continue
            self.stacked.remove(stack)

    def _constant(self, emit: Emit, value: Value) -> Value:
        """A known value of the body, made by ``emit``."""
        array = value.constant if value.constant is not None else self.constants[value]
        made = emit(Constant(array))
        return made if made.type == value.type else emit(Broadcast(value.shape, ()), made)

    def _is_named(self) -> bool:
        return [i.name for i in self.op.body.inputs] == self._names() and self.op.body.name == "turn"

    def _names(self) -> list[str]:
        groups = (("state", self.state), ("row", self.sliced), ("same", self.captured))
        return [f"{name}{i}" for name, items in groups for i in range(len(items))]

    def _loop(self) -> None:
        builder, new = Builder("turn"), {}
        inside = [*(s.inside for s in self.state), *(s.inside for s in self.sliced), *(v for _, v in self.captured)]
        for value, name in zip(inside, self._names(), strict=True):
            new[value] = builder.input(value.type, name)
        for value in self.constants:
            if value in self.needed:
                new[value] = self._constant(builder.emit, value)
        new.update((value, new[other]) for value, other in self.instead.items() if other in new)
        for node in self.op.body.nodes:
            if any(r in self.needed for r in node.results):
                results = builder.add(node.op, *(new[v] for v in node.operands), loc=node.loc)
                new.update(zip(node.results, results, strict=True))
        for value in (*(s.following for s in self.state), *(s.value for s in self.stacked)):
            builder.output(new[value])
        op = replace(self.op, sliced=tuple(s.backwards for s in self.sliced),
                     stacked=tuple(s.backwards for s in self.stacked), body=builder.build())
        operands = [*(s.operand for s in self.state), *(s.operand for s in self.sliced), *(v for v, _ in self.captured)]
        node = Node(op, operands, self._loc)
        self._nodes.append(node)
        kept = [*(s.result for s in self.state), *(s.result for s in self.stacked)]
        self.found.update((result, value) for result, value in zip(kept, node.results, strict=True))
