"""Whole graphs that mix all families, optimised and plain, through the CPU target against the interpreter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import program_kit as kit
import pytest
from cpu_harness import INSTRUCTION_SETS

from afterburner.cpu.target import compile_graph
from afterburner.ir import DTYPES, Builder, Graph, Op, TensorType, Value, interpret, verify
from afterburner.ir.ops import conv, elementwise, gather, matmul, pool, random, reduce, shape, sort
from afterburner.options import Options
from afterburner.passes.pipeline import optimize

F32, I32, U32 = DTYPES["f32"], DTYPES["i32"], DTYPES["u32"]
TOLERANCE = {"f64": 1e-12, "f32": 2e-5, "f16": 4e-3, "bf16": 3e-2}
NO_PADS = ((0, 0), (0, 0))


class Net:
    """Short notation for building a graph."""

    def __init__(self, name: str) -> None:
        self.builder = Builder(name)

    def input(self, name: str, *sizes: int, dtype: str = "f32", state: bool = False) -> Value:
        return self.builder.input(TensorType(DTYPES[dtype], sizes), name, state)

    def __call__(self, op: Op, *operands: Value) -> Value:
        return self.builder.emit(op, *operands)

    def number(self, value: float, like: Value) -> Value:
        scalar = self(shape.Constant(np.array(value, like.type.dtype.numpy)))
        return self(shape.Broadcast(like.shape, ()), scalar)

    def along(self, x: Value, like: Value, *axes: int) -> Value:
        return self(shape.Broadcast(like.shape, axes), x)

    def scaled(self, x: Value, factor: float) -> Value:
        return self(elementwise.Mul(), x, self.number(factor, x))

    def relu(self, x: Value) -> Value:
        return self(elementwise.Maximum(), x, self.number(0, x))

    def relu_grad(self, dy: Value, y: Value) -> Value:
        positive = self(elementwise.Greater(), y, self.number(0, y))
        return self(elementwise.Select(), positive, dy, self.number(0, dy))

    def dot(self, a: Value, b: Value, transpose_a: bool = False, transpose_b: bool = False) -> Value:
        return self(matmul.Matmul(transpose_a, transpose_b), a, b)

    def dropout(self, x: Value, key: Value, counter: Value, rate: float) -> tuple[Value, Value]:
        """x and what its gradient is multiplied by: mantissa bits of the stream against the rate."""
        bits = self(random.RandomBits(x.shape), key, counter)
        high = self(elementwise.ShiftRight(), bits, self.number(9, bits))
        one = self(elementwise.BitwiseOr(), high, self.number(0x3F800000, bits))
        uniform = self(elementwise.Sub(), self(elementwise.Bitcast(F32), one), self.number(1, x))
        keep = self(elementwise.GreaterEqual(), uniform, self.number(rate, x))
        scale = self(elementwise.Select(), keep, self.number(1 / (1 - rate), x), self.number(0, x))
        return self(elementwise.Mul(), x, scale), scale

    def softmax_cross_entropy(self, logits: Value, labels: Value) -> tuple[Value, Value]:
        """Mean loss for labels [n] i32, and the gradient of the logits."""
        top = self.along(self(reduce.ReduceMax((1,)), logits), logits, 0)
        shifted = self(elementwise.Sub(), logits, top)
        exp = self(elementwise.Exp(), shifted)
        total = self(reduce.ReduceSum((1,)), exp)
        log = self(elementwise.Sub(), shifted, self.along(self(elementwise.Log(), total), logits, 0))
        classes = self(shape.Iota(I32, logits.shape, 1))
        hot = self(elementwise.Cast(F32), self(elementwise.Equal(), classes, self.along(labels, classes, 0)))
        loss = self(reduce.ReduceSum((0, 1)), self(elementwise.Mul(), hot, log))
        gradient = self(elementwise.Sub(), self(elementwise.Div(), exp, self.along(total, logits, 0)), hot)
        return self.scaled(loss, -1 / labels.shape[0]), self.scaled(gradient, 1 / labels.shape[0])

    def descend(self, parameters: list[Value], gradients: list[Value], results: list[Value]) -> Graph:
        """The graph with the results, and a step against every gradient as the parameter's update."""
        for value in results:
            self.builder.output(value)
        inputs = [i.value for i in self.builder.inputs]
        for parameter, gradient in zip(parameters, gradients, strict=True):
            step = self(elementwise.Sub(), parameter, self.scaled(gradient, 0.1))
            self.builder.output(step, updates=inputs.index(parameter))
        return self.builder.build()


def mlp() -> Graph:
    """A training step with dropout, cross entropy and accuracy."""
    n = Net("mlp")
    x, labels = n.input("x", 33, 20), n.input("labels", 33, dtype="i32")
    seed = n.input("seed", 2, dtype="i32")
    w1, b1 = n.input("w1", 20, 50, state=True), n.input("b1", 50, state=True)
    w2 = n.input("w2", 50, 10, state=True)
    key, counter = n.builder.add(random.RandomKey(), seed)
    product = n.dot(x, w1)
    hidden = n.relu(n(elementwise.Add(), product, n.along(b1, product, 1)))
    dropped, scale = n.dropout(hidden, key, counter, 0.25)
    logits = n.dot(dropped, w2)
    loss, dlogits = n.softmax_cross_entropy(logits, labels)
    dhidden = n(elementwise.Mul(), n.dot(dlogits, w2, transpose_b=True), scale)
    dproduct = n.relu_grad(dhidden, hidden)
    right = n(elementwise.Equal(), n(reduce.Argmax(1, I32), logits), labels)
    correct = n(reduce.ReduceSum((0,)), n(elementwise.Cast(F32), right))
    gradients = [n.dot(x, dproduct, transpose_a=True), n(reduce.ReduceSum((0,)), dproduct),
                 n.dot(dropped, dlogits, transpose_a=True)]
    return n.descend([w1, b1, w2], gradients, [loss, correct, scale])


def convnet() -> Graph:
    """A training step of convolution, max pooling and a dense layer."""
    n = Net("convnet")
    x, labels = n.input("x", 4, 12, 13, 3), n.input("labels", 4, dtype="i32")
    w1, b1 = n.input("w1", 3, 3, 3, 8, state=True), n.input("b1", 8, state=True)
    w2, w3 = n.input("w2", 3, 3, 8, 16, state=True), n.input("w3", 2 * 2 * 16, 10, state=True)
    same = ((1, 1), (1, 1))
    first = n(conv.Conv2d((1, 1), same, (1, 1), 1), x, w1)
    active = n.relu(n(elementwise.Add(), first, n.along(b1, first, 3)))
    pooled = n(pool.MaxPool((2, 2), (2, 2), NO_PADS), active)
    second = n.relu(n(conv.Conv2d((1, 1), NO_PADS, (1, 1), 1), pooled, w2))
    again = n(pool.MaxPool((3, 3), (1, 1), NO_PADS), second)
    flat = n(shape.Reshape((4, 64)), again)
    loss, dlogits = n.softmax_cross_entropy(n.dot(flat, w3), labels)
    dflat = n(shape.Reshape(again.shape), n.dot(dlogits, w3, transpose_b=True))
    dsecond = n.relu_grad(n(pool.MaxPoolGrad((3, 3), (1, 1), NO_PADS), second, again, dflat), second)
    dw2 = n(conv.Conv2dFilterGrad((1, 1), NO_PADS, (1, 1), 1, w2.shape), pooled, dsecond)
    dpooled = n(conv.Conv2dInputGrad((1, 1), NO_PADS, (1, 1), 1, pooled.shape), w2, dsecond)
    dactive = n.relu_grad(n(pool.MaxPoolGrad((2, 2), (2, 2), NO_PADS), active, pooled, dpooled), active)
    dw1 = n(conv.Conv2dFilterGrad((1, 1), same, (1, 1), 1, w1.shape), x, dactive)
    gradients = [dw1, n(reduce.ReduceSum((0, 1, 2)), dactive), dw2, n.dot(flat, dlogits, transpose_a=True)]
    return n.descend([w1, b1, w2, w3], gradients, [loss])


def embedding() -> Graph:
    """Rows of a table averaged and ranked; the gradient is scattered back."""
    n = Net("embedding")
    words, table = n.input("words", 6, 9, dtype="i32"), n.input("table", 40, 24, state=True)
    w = n.input("w", 24, 30, state=True)
    rows = n(gather.Gather(0), table, words)
    mean = n.scaled(n(reduce.ReduceSum((1,)), rows), 1 / 9)
    scores = n(elementwise.Tanh(), n.dot(mean, w))
    best, places = n.builder.add(sort.TopK(5, I32), scores)
    slope = n(elementwise.Sub(), n.number(1, scores), n(elementwise.Mul(), scores, scores))
    dmean = n.scaled(n.dot(slope, w, transpose_b=True), 1 / 9)
    drows = n.along(dmean, rows, 0, 2)
    dtable = n(gather.SegmentSum(40), words, drows)
    moved = n(gather.ScatterAdd(), table, words, n.scaled(drows, -0.1))
    return n.descend([table, w], [dtable, n.dot(mean, slope, transpose_a=True)], [best, places, moved])


def residual() -> Graph:
    """Batch normalisation, average pooling and a shortcut, forward and back."""
    n = Net("residual")
    x, scale = n.input("x", 3, 8, 8, 12), n.input("scale", 12, state=True)
    mean = n.scaled(n(reduce.ReduceSum((0, 1, 2)), x), 1 / 192)
    centred = n(elementwise.Sub(), x, n.along(mean, x, 3))
    variance = n.scaled(n(reduce.ReduceSum((0, 1, 2)), n(elementwise.Mul(), centred, centred)), 1 / 192)
    inverse = n(elementwise.Rsqrt(), n(elementwise.Add(), variance, n.number(1e-3, variance)))
    normal = n(elementwise.Mul(), centred, n.along(n(elementwise.Mul(), inverse, scale), x, 3))
    joined = n(elementwise.Add(), n.relu(normal), x)
    pads = ((1, 1), (0, 1))
    small = n(pool.AvgPool((3, 2), (2, 2), pads), joined)
    dx = n(pool.AvgPoolGrad((3, 2), (2, 2), pads, x.shape), n(elementwise.Sigmoid(), small))
    dscale = n(reduce.ReduceSum((0, 1, 2)), n(elementwise.Mul(), n.relu_grad(dx, normal), centred))
    return n.descend([scale], [dscale], [small, dx])


def halves() -> Graph:
    """A layer in bfloat16 and one in float16 around float32 weights."""
    n = Net("halves")
    x, w = n.input("x", 9, 17, dtype="bf16"), n.input("w", 17, 24)
    v = n.input("v", 24, 5, dtype="f16")
    hidden = n.dot(x, n(elementwise.Cast(DTYPES["bf16"]), w))
    gate = n(elementwise.Sigmoid(), n(elementwise.Cast(F32), hidden))
    out = n.dot(n(elementwise.Cast(DTYPES["f16"]), n(elementwise.Mul(), gate, gate)), v)
    largest = n(reduce.ReduceMax((0,)), out)
    for value in (hidden, gate, out, largest):
        n.builder.output(value)
    return n.builder.build()


def shapes() -> Graph:
    """Moves, joins, running sums and ranks."""
    n = Net("shapes")
    x, y = n.input("x", 4, 6, 5), n.input("y", 6, 4, 5)
    turned = n(shape.Transpose((1, 0, 2)), x)
    joined = n(shape.Concat(2), turned, y)
    zero = n(shape.Constant(np.float32(-1.5)))
    padded = n(shape.Pad((1, 0, 2), (0, 2, 0), (0, 0, 1)), joined, zero)
    cut = n(shape.Slice((0, 1, 3), (7, 5, 19), (2, 1, 3)), padded)
    sums = n(reduce.Cumsum(1, False, True), n(shape.Reverse((0,)), cut))
    flat = n(shape.Reshape((sums.shape[0] * sums.shape[1], sums.shape[2])), sums)
    values, places = n.builder.add(sort.TopK(flat.shape[1], DTYPES["i64"]), flat)
    whole = n(elementwise.Floor(), values)
    first = n(shape.Reshape(flat.shape[1:]), n(shape.Slice((0, 0), (1, flat.shape[1]), (1, 1)), places))
    taken = n(gather.Gather(1), flat, first)
    for value in (padded, sums, values, places, whole, taken):
        n.builder.output(value)
    return n.builder.build()


ZOO: tuple[Callable[[], Graph], ...] = (mlp, convnet, embedding, residual, halves, shapes)


def arguments(graph: Graph) -> list[np.ndarray]:
    """Small numbers; integers are labels, words or seeds."""
    rng = np.random.default_rng(11)
    return [rng.integers(0, 10, t.shape).astype(t.dtype.numpy) if t.dtype.is_integer
            else (rng.standard_normal(t.shape) / 2).astype(t.dtype.numpy) for t in graph.input_types]


def close(got: np.ndarray, want: np.ndarray, tolerance: float) -> bool:
    """Norm of the difference within ``tolerance`` of the norm."""
    a, b = got.astype(np.float64), want.astype(np.float64)
    return bool(np.linalg.norm(a - b) <= tolerance * (np.linalg.norm(b) + 1e-6))


@pytest.mark.parametrize("isa", INSTRUCTION_SETS)
@pytest.mark.parametrize("optimised", (True, False), ids=("optimised", "plain"))
@pytest.mark.parametrize("build", ZOO, ids=lambda build: build.__name__)
def test_agrees_with_the_interpreter(build: Callable[[], Graph], optimised: bool, isa: str, tmp_path: Path) -> None:
    graph = verify(build())
    inputs = [kit.misaligned(a) for a in arguments(graph)]
    runs = []
    for threads in (1, 3):
        settings = Options(cache_dir=tmp_path, isa=isa, threads=threads)
        executable = compile_graph(optimize(graph) if optimised else graph, settings)
        runs.append(kit.run(executable, inputs))
    for i, (got, want, again) in enumerate(zip(runs[0], interpret(graph, inputs), runs[1], strict=True)):
        assert got.tobytes() == again.tobytes(), f"output {i} depends on the number of threads"
        name = graph.outputs[i].value.type.dtype.name
        assert close(got, want, TOLERANCE.get(name, 0)), f"output {i} of {graph}"
