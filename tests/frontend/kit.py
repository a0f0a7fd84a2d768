"""Runs TensorFlow programs with and without Afterburner and says what was taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from afterburner.compile import compile_graph
from afterburner.cpu.handover import handover_code
from afterburner.frontend import capture
from afterburner.frontend.contest import Choices
from afterburner.frontend.native import Engine
from afterburner.ir import Graph
from afterburner.options import options, overridden
from afterburner.report import FunctionReport, Recorder
from afterburner.runtime.buffers import BufferPool
from tests.interpreter_target import InterpretedExecutable

POOL = BufferPool(handover_code)


TARGET = "interpreter"  # or "cpu", or "gpu"; tests/frontend/conftest.py runs every test with the first two


class Taken:
    """The executables compiled while functions were captured, and the report."""

    def __init__(self, wrap: Callable[[Any], Any], choices: Choices) -> None:
        self.executables: list[Any] = []
        self.recorder = Recorder()
        self._wrap = wrap
        self._make = InterpretedExecutable if TARGET == "interpreter" else partial(compile_graph, device=TARGET)
        self.engine = Engine(self._compile, POOL, self.recorder, choices)

    def _compile(self, graph: Graph, device: str) -> Any:
        # Without a GPU or what emulates it, the cpu stands in for other devices.
        made = compile_graph(graph, device=device) if options().gpu_emulate else self._make(graph)
        made.target = device
        executable = self._wrap(made)
        self.executables.append(executable)
        return executable

    @property
    def count(self) -> int:
        """Number of parts compiled."""
        return len(self.executables)

    def functions(self) -> dict[str, FunctionReport]:
        """Reports by function name."""
        return {f.name: f for f in self.recorder.report().functions}


class Wrapped:
    """An executable behind another one; to be derived from, with a ``run`` of one's own."""

    def __init__(self, executable: Any) -> None:
        self._executable = executable

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executable, name)


@contextmanager
def captured(wrap: Callable[[Any], Any] = lambda e: e, choices: Choices | None = None,
             **changes: Any) -> Iterator[Taken]:
    """Functions are taken inside the block; interpreted, or compiled for the CPU. ``target`` of an executable that is
    handed to ``wrap`` is the device that was asked for."""
    taken = Taken(wrap, choices or Choices())
    with overridden(**{"compile_after": 0, "strict": True, **changes}):
        capture.install(taken.engine)
        try:
            yield taken
        finally:
            capture.uninstall()


def close(ours: Any, stock: Any, tolerance: float = 1e-5) -> None:
    """Assert that nested structures agree: exactly for integers, within tolerance for floats."""
    for a, b in zip(tf.nest.flatten(ours), tf.nest.flatten(stock), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype.kind in "iub":
            np.testing.assert_array_equal(a, b)
        else:
            scale = max(float(np.max(np.abs(b), initial=0)), 1e-3)
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale)


def with_many_stages() -> Any:
    """A function of pictures and a square matrix that an operation of TensorFlow's cuts into 13 stages."""

    @tf.function
    def steps(x, y):
        for _ in range(6):
            x = tf.math.bessel_i0e(tf.clip_by_value(x * 1.01, 0.0, 1.0))
        for _ in range(20):
            y = tf.tanh(y @ y + tf.reduce_sum(x)) * 0.5
        return y

    return steps
