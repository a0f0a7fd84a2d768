"""Random loops of integers, whose results are exact: whatever the state does, passes and programs agree."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import program_kit as kit
import pytest

from afterburner.cpu.target import compile_graph, optimize_graph
from afterburner.ir import DTYPES, Builder, Graph, TensorType, Value, interpret, print_graph, verify
from afterburner.ir.ops.control import Scan
from afterburner.ir.ops.elementwise import Add, Maximum, Neg, Sub
from afterburner.ir.ops.reduce import ReduceSum
from afterburner.ir.ops.shape import Broadcast, Constant, Reshape
from afterburner.options import Options

SHAPES = ((), (3,), (2, 5), (16,), (10,), (0,))


def random_loop(seed: int) -> Graph:
    chosen = random.Random(seed)
    builder = Builder("random")
    known = [builder.input(_type(s), f"x{i}") for i, s in enumerate(chosen.choices(SHAPES, k=3))]
    known.append(builder.emit(Constant(np.arange(3, dtype=np.int32))))
    for _ in range(chosen.randint(1, 3)):
        known += _loop(builder, known, chosen, True)
        known.append(_made(builder, known, chosen))
    for value in chosen.sample(known, chosen.randint(1, len(known))):
        builder.output(value)
    return verify(builder.build())


def _type(shape: tuple[int, ...]) -> TensorType:
    return TensorType(DTYPES["i32"], shape)


def _made(builder: Builder, known: list[Value], chosen: random.Random) -> Value:
    """A value made of known ones."""
    a = chosen.choice(known)
    kind = chosen.randrange(5)
    if kind == 0:
        return builder.emit(Neg(), a)
    if kind == 1 and a.shape:
        return builder.emit(ReduceSum(tuple(range(len(a.shape)))), a)
    if kind == 2:
        return builder.emit(Reshape((*a.shape[::-1],) if chosen.random() < 0.5 else (1, *a.shape)), a)
    if kind == 3 and not a.shape:
        return builder.emit(Broadcast(chosen.choice(SHAPES), ()), a)
    b = chosen.choice([v for v in known if v.shape == a.shape])
    return builder.emit(chosen.choice((Add, Sub, Maximum))(), a, b)


def _loop(builder: Builder, known: list[Value], chosen: random.Random, nested: bool) -> list[Value]:
    """The results of a loop, whose state may be of any of known values, and whose stacks of any that its body has."""
    steps = chosen.randint(1, 6)
    states = [chosen.choice(known) for _ in range(chosen.randint(0, 3))]
    rows = [builder.emit(Broadcast((steps, *v.shape), tuple(range(1, 1 + len(v.shape)))), v)
            for v in chosen.choices(known, k=chosen.randint(0, 2))]
    rows += [v for v in known if v.shape and v.shape[0] == steps][:1]
    same = chosen.choices(known, k=chosen.randint(0, 3))
    body = Builder("body")
    inside = [body.input(v.type, f"s{i}") for i, v in enumerate(states)]
    inside += [body.input(_type(v.shape[1:]), f"r{i}") for i, v in enumerate(rows)]
    inside += [body.input(v.type, f"c{i}") for i, v in enumerate(same)]
    inside.append(body.emit(Constant(np.array(chosen.randint(-3, 3), np.int32))))
    for _ in range(chosen.randint(0, 5)):
        inside.append(_made(body, inside, chosen))
    if nested and chosen.random() < 0.5:
        inside += _loop(body, inside, chosen, False)
    for state in states:
        body.output(chosen.choice([v for v in inside if v.shape == state.shape]))
    stacks = chosen.choices(inside, k=chosen.randint(not states, 3))
    for value in stacks:
        body.output(value)
    op = Scan(steps, tuple(chosen.random() < 0.5 for _ in rows), tuple(chosen.random() < 0.5 for _ in stacks),
              body.build())
    return list(builder.add(op, *states, *rows, *same))


@pytest.mark.parametrize("seed", range(12))
def test_random_loops_are_exact(seed: int, monkeypatch) -> None:
    check(seed, monkeypatch)


def check(seed: int, monkeypatch) -> None:
    monkeypatch.setattr("afterburner.cpu.target._ALONE_SECONDS", 0.0)
    graph = random_loop(seed)
    rng = np.random.default_rng(seed)
    given = [rng.integers(-9, 9, t.shape).astype(np.int32) for t in graph.input_types]
    expected = interpret(graph, given)
    stages: list[tuple[str, Graph]] = []
    options = Options(cache=False, threads=2, poison=math.nan)
    optimized = optimize_graph(graph, options, lambda name, after, seconds: stages.append((name, after)))
    for name, after in stages:
        _equal(interpret(after, given), expected, f"{name}\n{print_graph(after)}")
    again = optimize_graph(optimized, options)
    assert print_graph(again, locations=False) == print_graph(optimized, locations=False)
    for program in (graph, optimized):
        _equal(kit.run(compile_graph(program, options), given), expected, print_graph(program))
    _equal(kit.run(compile_graph(optimized, replace(options, threads=1, profile=True)), given), expected, "profiled")


def _equal(ours: list[np.ndarray], theirs: list[np.ndarray], text: str) -> None:
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert np.array_equal(a, b), f"result {i}: {a} instead of {b}\n{text}"


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        for number in range(10_000):
            print(number, end=" ", flush=True)
            check(number, patch)
