"""Loops of recurrent networks, and random ones, compute the same when their work has moved out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from afterburner.ir import DTYPES, Builder, Graph, TensorType, Value, interpret, verify
from afterburner.ir.ops.control import Scan
from afterburner.ir.ops.elementwise import Add, Cast, Maximum, Mul, Neg, Select, Sigmoid, Sub, Tanh
from afterburner.ir.ops.matmul import Matmul
from afterburner.ir.ops.reduce import ReduceSum
from afterburner.ir.ops.shape import Broadcast, Concat, Constant, Pad, Reshape, Slice, Transpose
from afterburner.passes.hoist_from_scans import hoist_from_scans
from afterburner.passes.pipeline import optimize

from .kit import text_of

STEPS, ROWS, FEATURES, UNITS = 4, 3, 5, 2

Parts = list[Value]
Body = Callable[[Builder, Parts, Parts, Parts], tuple[Parts, Parts]]  # of state, rows, captured: next state and stacks


def f32(*shape: int) -> TensorType:
    return TensorType(DTYPES["f32"], shape)


def loop(state: list[TensorType], rows: list[tuple[TensorType, bool]], captured: list[TensorType],
         back: list[bool], body: Body, steps: int = STEPS) -> Graph:
    """A graph of one scan that returns all its results."""
    turn = Builder("turn")
    kinds = [[turn.input(t, f"{name}{i}") for i, t in enumerate(types)] for name, types in
             (("state", state), ("row", [t for t, _ in rows]), ("captured", captured))]
    nexts, stacks = body(turn, *kinds)
    for value in (*nexts, *stacks):
        turn.output(value)
    outer = Builder("g")
    operands = [outer.input(t, f"state{i}") for i, t in enumerate(state)]
    operands += [outer.input(TensorType(t.dtype, (steps, *t.shape)), f"rows{i}") for i, (t, _) in enumerate(rows)]
    operands += [outer.input(t, f"captured{i}") for i, t in enumerate(captured)]
    for value in outer.add(Scan(steps, tuple(b for _, b in rows), tuple(back), turn.build()), *operands):
        outer.output(value)
    return verify(outer.build())


def arguments(graph: Graph, seed: int = 0) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [np.asarray(random.normal(size=t.shape) if t.dtype.is_float else random.integers(0, 2, t.shape)).astype(
        t.dtype.numpy) for t in graph.input_types]


def check_same(graph: Graph, run: Callable[[Graph], Graph] = hoist_from_scans) -> Graph:
    moved = verify(run(graph))
    given = arguments(graph)
    for a, b in zip(interpret(graph, given), interpret(moved, given), strict=True):
        if a.dtype.kind in "iub":
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=2e-4, atol=2e-4)
    return moved


def work(graph: Graph) -> tuple[Counter[str], Counter[str]]:
    """What is computed outside loops, and in them."""
    scans = [n for n in graph.nodes if isinstance(n.op, Scan)]
    return (Counter(n.op.name for n in graph.nodes),
            Counter(n.op.name for s in scans for r in s.op.regions() for n in r.nodes))


def columns(b: Builder, x: Value, parts: int) -> Parts:
    rows, width = x.shape[0], x.shape[1] // parts
    return [b.emit(Slice((0, i * width), (rows, (i + 1) * width), (1, 1)), x) for i in range(parts)]


def dot(b: Builder, x: Value, y: Value, a: bool = False, t: bool = False) -> Value:
    return b.emit(Matmul(a, t), x, y)


def biased(b: Builder, x: Value, bias: Value) -> Value:
    return b.emit(Add(), x, b.emit(Broadcast(x.shape, (1,)), bias))


def lstm(b: Builder, state: Parts, rows: Parts, captured: Parts) -> tuple[Parts, Parts]:
    """As Keras has it; the gates are stacked for the way back."""
    (h, c), (x,), (w, u, bias) = state, rows, captured
    z = biased(b, b.emit(Add(), dot(b, x, w), dot(b, h, u)), bias)
    i, f, g, o = columns(b, z, 4)
    i, f, o = (b.emit(Sigmoid(), v) for v in (i, f, o))
    g = b.emit(Tanh(), g)
    c2 = b.emit(Add(), b.emit(Mul(), f, c), b.emit(Mul(), i, g))
    t = b.emit(Tanh(), c2)
    return [b.emit(Mul(), o, t), c2], [b.emit(Concat(1), i, f, g, o), h, c, t]


def slope(b: Builder, dy: Value, y: Value) -> Value:
    """The gradient behind a sigmoid."""
    return b.emit(Mul(), dy, b.emit(Sub(), y, b.emit(Mul(), y, y)))


def lstm_back(b: Builder, state: Parts, rows: Parts, captured: Parts) -> tuple[Parts, Parts]:
    """Gradients of the state and of all weights; dx is stacked."""
    (dh, dc, dw, du, db), (dy, gates, h, c, t, x), (w, u) = state, rows, captured
    i, f, g, o = columns(b, gates, 4)
    dh = b.emit(Add(), dh, dy)
    dc = b.emit(Add(), dc, b.emit(Mul(), b.emit(Mul(), dh, o), b.emit(Sub(), o, b.emit(Mul(), t, t))))
    di, df = slope(b, b.emit(Mul(), dc, g), i), slope(b, b.emit(Mul(), dc, c), f)
    dg, do = slope(b, b.emit(Mul(), dc, i), g), slope(b, b.emit(Mul(), dh, t), o)
    dz = b.emit(Concat(1), di, df, dg, do)
    sums = [b.emit(Add(), dw, dot(b, x, dz, a=True)), b.emit(Add(), dot(b, h, dz, a=True), du),
            b.emit(Add(), db, b.emit(ReduceSum((0,)), dz))]
    return [dot(b, dz, u, t=True), b.emit(Mul(), dc, f), *sums], [dot(b, dz, w, t=True)]


def gru_back(b: Builder, state: Parts, rows: Parts, captured: Parts) -> tuple[Parts, Parts]:
    """The gates' weights are slices of one tensor, so their gradients are padded and added."""
    (dh, dw, du, db), (dy, z, r, n, h, x), (w, u) = state, rows, captured
    first = b.emit(Slice((0, 0), (UNITS, 2 * UNITS), (1, 1)), u)
    second = b.emit(Slice((0, 2 * UNITS), (UNITS, 3 * UNITS), (1, 1)), u)
    dh = b.emit(Add(), dh, dy)
    dn = slope(b, b.emit(Mul(), dh, z), n)
    drh = dot(b, dn, second, t=True)
    dz, dr = slope(b, b.emit(Mul(), dh, n), z), slope(b, b.emit(Mul(), drh, h), r)
    dzr = b.emit(Concat(1), dz, dr)
    back = b.emit(Add(), dot(b, dzr, first, t=True), b.emit(Mul(), drh, r))
    zero = b.emit(Constant(np.zeros((), np.float32)))
    du1 = b.emit(Pad((0, 0), (0, UNITS), (0, 0)), dot(b, h, dzr, a=True), zero)
    du2 = b.emit(Pad((0, 2 * UNITS), (0, 0), (0, 0)), dot(b, b.emit(Mul(), r, h), dn, a=True), zero)
    all_ = b.emit(Concat(1), dzr, dn)
    return [back, b.emit(Add(), dw, dot(b, x, all_, a=True)), b.emit(Add(), b.emit(Add(), du, du1), du2),
            b.emit(Add(), db, b.emit(ReduceSum((0,)), all_))], [dot(b, all_, w, t=True)]


H, X = f32(ROWS, UNITS), f32(ROWS, FEATURES)


def lstm_graph(back: bool = False) -> Graph:
    return loop([H, H], [(X, back)], [f32(FEATURES, 4 * UNITS), f32(UNITS, 4 * UNITS), f32(4 * UNITS)],
                [back] * 4, lstm)


def lstm_back_graph(back: bool = True) -> Graph:
    wide = 4 * UNITS
    return loop([H, H, f32(FEATURES, wide), f32(UNITS, wide), f32(wide)],
                [(t, back) for t in (H, f32(ROWS, wide), H, H, H, X)], [f32(FEATURES, wide), f32(UNITS, wide)],
                [back], lstm_back)


def gru_back_graph() -> Graph:
    wide = 3 * UNITS
    return loop([H, f32(FEATURES, wide), f32(UNITS, wide), f32(wide)], [(t, True) for t in (H, H, H, H, H, X)],
                [f32(FEATURES, wide), f32(UNITS, wide)], [True], gru_back)


@pytest.mark.parametrize("back", [False, True])
def test_lstm_multiplies_its_inputs_at_once(back: bool) -> None:
    outside, inside = work(check_same(lstm_graph(back)))
    assert (outside["matmul"], inside["matmul"]) == (1, 1)


@pytest.mark.parametrize("back", [False, True])
def test_only_the_gradient_of_the_state_stays_in_the_loop(back: bool) -> None:
    moved = check_same(lstm_back_graph(back))
    outside, inside = work(moved)
    assert (outside["matmul"], inside["matmul"], inside["reduce_sum"]) == (3, 1, 0)
    (scan,) = [n.op for n in moved.nodes if isinstance(n.op, Scan)]
    assert (scan.carried, scan.stacked) == (2, (back,))


def test_gradients_of_slices_of_a_weight_are_sums() -> None:
    moved = check_same(gru_back_graph())
    outside, inside = work(moved)
    assert (outside["matmul"], inside["matmul"], inside["slice"]) == (4, 2, 0)
    (scan,) = [n.op for n in moved.nodes if isinstance(n.op, Scan)]
    assert scan.carried == 1


@pytest.mark.parametrize("make", [lstm_graph, lstm_back_graph, gru_back_graph])
def test_the_pipeline_computes_the_same(make: Callable[[], Graph]) -> None:
    check_same(make(), optimize)


def test_rows_of_two_orders_meet() -> None:
    def body(b: Builder, state: Parts, rows: Parts, captured: Parts) -> tuple[Parts, Parts]:
        (h, dw), (x, y), (w,) = state, rows, captured
        made = b.emit(Tanh(), b.emit(Add(), h, y))
        dw = b.emit(Add(), dw, dot(b, x, b.emit(Add(), y, made), a=True))
        dw = b.emit(Add(), dw, dot(b, x, y, a=True))
        return [made, dw], [dot(b, made, w), dot(b, y, w)]

    moved = check_same(loop([H, f32(FEATURES, UNITS)], [(X, True), (H, False)], [f32(UNITS, 3)], [True, False], body))
    assert work(moved)[1]["matmul"] == 0


def test_stacks_in_two_orders_that_share_a_product() -> None:
    def body(b: Builder, state: Parts, rows: Parts, captured: Parts) -> tuple[Parts, Parts]:
        (h,), (x,), (w,) = state, rows, captured
        h = b.emit(Tanh(), b.emit(Add(), h, x))
        product = dot(b, h, w)
        return [h], [product, b.emit(Neg(), product), dot(b, b.emit(Neg(), h), w)]

    moved = check_same(loop([H], [(H, True)], [f32(UNITS, 3)], [True, False, True], body))
    assert work(moved)[1]["matmul"] == 1


def test_halves_are_summed_in_their_own_type() -> None:
    half = DTYPES["bf16"]
    types = [TensorType(half, s) for s in ((ROWS, UNITS), (UNITS, UNITS))]

    def body(b: Builder, state: Parts, rows: Parts, captured: Parts) -> tuple[Parts, Parts]:
        (h, dw), (x,), _ = state, rows, captured
        h = b.emit(Maximum(), h, x)
        return [h, b.emit(Add(), dw, dot(b, x, h, a=True))], []

    graph = loop(types, [(types[0], True)], [], [], body)
    moved = verify(hoist_from_scans(graph))
    for a, b in zip(interpret(graph, arguments(graph)), interpret(moved, arguments(graph)), strict=True):
        np.testing.assert_allclose(a.astype(np.float32), b.astype(np.float32), rtol=0.03, atol=0.03)


def test_an_inner_loop_stays_or_leaves_whole() -> None:
    inner = loop([H], [(H, False)], [], [False], lambda b, s, r, c: ([b.emit(Add(), s[0], r[0])], [s[0]])).nodes[0].op

    def body(b: Builder, state: Parts, rows: Parts, captured: Parts) -> tuple[Parts, Parts]:
        (h,), _, (start, all_rows) = state, rows, captured
        invariant, _ = b.add(inner, start, all_rows)
        varying, stack = b.add(inner, h, all_rows)
        return [b.emit(Tanh(), b.emit(Add(), varying, invariant))], [stack]

    moved = check_same(loop([H], [], [H, f32(STEPS, *H.shape)], [False], body))
    outside, inside = work(moved)
    assert (outside["scan"], inside["scan"]) == (2, 1)


@pytest.mark.parametrize("seed", range(60))
def test_random_loops(seed: int) -> None:
    graph = random_loop(np.random.default_rng(seed))
    moved = check_same(graph)
    again = verify(hoist_from_scans(moved))
    check_same(again)
    assert text_of(hoist_from_scans(again)) == text_of(again)


def random_loop(random: np.random.Generator) -> Graph:
    """A loop over square matrices, of floats or of integers, with bools between, sums in its state, and results that
    are given through."""
    n = 3
    kind = DTYPES[str(random.choice(["f32", "i32"]))]
    square, vector = TensorType(kind, (n, n)), TensorType(kind, (n,))

    def some(values: Parts) -> Value:
        return values[int(random.integers(len(values)))]

    def body(b: Builder, state: Parts, rows: Parts, captured: Parts) -> tuple[Parts, Parts]:
        sums, held = state[:3], state[3:]
        values = [*held, *rows, *captured[:-1]]
        for _ in range(int(random.integers(3, 18))):
            x, y = some(values), some(values)
            match int(random.integers(10)):
                case 0 | 1 | 2:
                    made = b.emit(Matmul(bool(random.integers(2)), bool(random.integers(2))), x, y)
                case 3:
                    made = b.emit((Add, Sub, Maximum)[int(random.integers(3))](), x, y)
                case 4:
                    made = b.emit(Transpose((1, 0)), x)
                case 5:
                    made = b.emit(Broadcast((n, n), (int(random.integers(2)),)),
                                  b.emit(ReduceSum((int(random.integers(2)),)), x))
                case 6:
                    half = b.emit(Slice((0, 1), (n, n), (1, 1)), x)
                    made = b.emit(Concat(1), half, b.emit(Slice((0, 0), (n, 1), (1, 1)), y))
                case 7:
                    made = b.emit(Select(), b.emit(Cast(DTYPES["bool"]), x), y, x)
                case 8:
                    made = b.emit(Reshape((n, n)), b.emit(Reshape((n * n,)), b.emit(Neg(), x)))
                case _:
                    made = b.emit(Add(), x, b.emit(Broadcast((n, n), (1,)), captured[-1]))
            if kind.is_float:
                made = b.emit(Tanh(), made) if random.integers(3) else b.emit(Mul(), made, some(captured[:-1]))
            values.append(made)
        next_sums = [b.emit(Add(), sums[0], b.emit(Matmul(True, False), some(values), some(values))),
                     b.emit(Add(), b.emit(ReduceSum((0,)), some(values)), sums[1]),
                     b.emit(Add(), b.emit(Add(), sums[2], some(values)), b.emit(Neg(), some(values)))]
        stacks = [some([*values, *sums]) for _ in back]
        return [*next_sums, *(some(values) for _ in held)], stacks

    held = int(random.integers(0, 3))
    rows = [(square, bool(random.integers(2))) for _ in range(int(random.integers(1, 4)))]
    back = [bool(random.integers(2)) for _ in range(int(random.integers(0, 4)))]
    return loop([square, vector, square, *[square] * held], rows, [square, square, vector], back, body,
                int(random.integers(1, 5)))
