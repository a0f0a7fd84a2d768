"""Dense blocks that are joined in one place: random ones, in memory that is poisoned, against the interpreter."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS
from program_kit import run

from afterburner.cpu import made_images, target
from afterburner.ir import DTYPES, Builder, Graph, TensorType, Value, interpret
from afterburner.ir.ops import elementwise as ew
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad
from afterburner.ir.ops.reduce import ReduceSum
from afterburner.ir.ops.shape import Broadcast, Concat, Constant, Slice
from afterburner.options import options, overridden
from afterburner.passes import concatenate_in_place, defer_affine, fuse_epilogues, nest_concatenations

PLAIN = ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)  # strides, padding, dilation, groups


class Block:
    """Layers that read all before them, and gradients of theirs."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.builder = Builder("block")
        self.pixels = (2, int(self.rng.integers(3, 15)), int(self.rng.integers(3, 15)))

    def input(self, *shape: int) -> Value:
        return self.builder.input(TensorType(DTYPES["f32"], shape), f"x{len(self.builder.inputs)}")

    def rows(self, like: Value) -> Value:
        return self.builder.emit(Broadcast(like.shape, (3,)), self.input(like.shape[3]))

    def graph(self) -> Graph:
        emit = self.builder.emit
        x = self.input(*self.pixels, int(self.rng.integers(1, 40)))
        gradients: list[tuple[Value, Value]] = []
        for _ in range(int(self.rng.integers(3, 6))):
            more = int(self.rng.integers(1, 40))
            self.finish(x)
            zero = emit(Broadcast(x.shape, ()), emit(Constant(np.zeros((), np.float32))))
            scaled = emit(ew.Add(), emit(ew.Mul(), x, self.rows(x)), self.rows(x))
            image = emit(ew.Maximum(), scaled, zero)
            filter_ = self.input(1, 1, x.shape[3], more)
            y = emit(Conv2d(*PLAIN), image, filter_)
            dy = self.input(*y.shape)
            self.builder.output(emit(Conv2dFilterGrad(*PLAIN, filter_.shape), image, dy))
            gradient = emit(Conv2dInputGrad(*PLAIN, x.shape), filter_, dy)
            masked = emit(ew.Select(), emit(ew.Greater(), scaled, zero), gradient, zero)
            self.builder.output(emit(ReduceSum((0, 1, 2)), emit(ew.Mul(), masked, x)))
            gradients.append((x, masked))
            x = emit(Concat(3), x, y)
        self.builder.output(emit(ew.Exp(), emit(ew.Neg(), emit(ew.Abs(), x))))
        self.add_up(gradients)
        return self.builder.build()

    def add_up(self, gradients: list[tuple[Value, Value]]) -> None:
        """Gradients of all layers, as if each one normalized what it reads."""
        emit, total = self.builder.emit, None
        for x, gradient in reversed(gradients):
            centred = emit(ew.Mul(), emit(ew.Sub(), x, self.rows(x)), self.rows(x))
            own = emit(ew.Add(), emit(ew.Add(), emit(ew.Mul(), gradient, self.rows(x)), self.rows(x)), centred)
            if total is not None:
                self.read(self.columns(total, x.shape[3], total.shape[3]))
                own = emit(ew.Add(), self.columns(total, 0, x.shape[3]), own)
            total = own
        assert total is not None
        self.builder.output(total)

    def read(self, gradient: Value) -> None:
        """A layer's gradient, alone or where another convolution adds to it."""
        if self.rng.integers(2):
            filter_ = self.input(1, 1, 7, gradient.shape[3])
            result = self.builder.emit(Conv2d(*PLAIN), self.input(*self.pixels, 7), filter_)
            gradient = self.builder.emit(ew.Add(), result, gradient)
        self.builder.output(gradient)

    def columns(self, wide: Value, start: int, end: int) -> Value:
        return self.builder.emit(Slice((0, 0, 0, start), (*wide.shape[:3], end), (1,) * 4), wide)

    def finish(self, x: Value) -> None:
        """Something else that reads ``x``, or nothing."""
        emit = self.builder.emit
        kind = self.rng.integers(4)
        if kind == 0:
            self.builder.output(emit(ReduceSum((1, 2)), emit(ew.Mul(), x, x)))
        elif kind == 1:
            self.builder.output(emit(ew.Tanh(), x))
        elif kind == 2:
            padding = ((1, 1), (1, 1))
            filter_ = self.input(3, 3, x.shape[3], 5)
            self.builder.output(emit(Conv2d((1, 1), padding, (1, 1), 1), x, filter_))


def compute(graph: Graph, arrays: list[np.ndarray], isa: str) -> tuple[Graph, list[np.ndarray]]:
    with overridden(poison=math.nan, isa=isa, threads=2, cache=False):
        optimized = target.optimize_graph(graph, options())
        return optimized, run(target.compile_graph(optimized, options()), arrays)


@pytest.mark.parametrize(("seed", "isa"), [(seed, isa) for seed in (0, 1, 4) for isa in INSTRUCTION_SETS[seed % 2:]])
def test_random_blocks(seed: int, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concatenate_in_place, "MIN_BYTES", 1)
    monkeypatch.setattr(defer_affine, "MIN_BYTES", 1)
    monkeypatch.setattr(fuse_epilogues, "MIN_SUMMED_BYTES", 1)
    monkeypatch.setattr(nest_concatenations, "_LARGE", 1)
    monkeypatch.setattr(made_images, "_SMALLEST_IMAGE", 1)
    monkeypatch.setattr(made_images, "_FEWEST_PIXELS", 1)
    graph = Block(seed).graph()
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(t.shape).astype(np.float32) for t in graph.input_types]
    optimized, got = compute(graph, arrays, isa)
    assert sum(n.op.name == "more_columns" for n in optimized.nodes) >= 3
    bodies = [[m.op.name for m in n.op.body.nodes] for n in optimized.nodes if isinstance(n.op, Fusion)]
    assert sum("conv2d_input_grad" in names and names.count("slice") == 2 for names in bodies) >= 1
    for a, b in zip(got, interpret(graph, arrays), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-3)
