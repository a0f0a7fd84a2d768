"""Poisoned memory is poisoned, and nothing reads it before it is written. (The op tables and the random graphs of
tests/ops/test_cpu.py and tests/fuzz run in poisoned memory, too.)"""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

import afterburner
from afterburner.options import overridden
from afterburner.runtime.poison import fill


@pytest.mark.parametrize("size", [0, 3, 4, 1000, 1 << 20])
def test_fill(size: int) -> None:
    memory = np.zeros(size + 8, np.uint8)
    fill(memory.ctypes.data + 4, size, -2.5)
    assert np.array_equal(memory[4:4 + size // 4 * 4].view(np.float32), np.full(size // 4, -2.5, np.float32))
    fill(memory.ctypes.data + 4, size, math.nan)
    assert (memory[4:4 + size] == 0xFF).all() and not memory[:4].any() and not memory[4 + size:].any()


def _train() -> list[np.ndarray]:
    """Losses and weights of a small convolutional network, by hand, so that a second run is the same."""
    random = np.random.default_rng(0)
    x = tf.constant(random.normal(size=(8, 12, 12, 3)).astype(np.float32))
    y = tf.constant(random.integers(0, 10, 8))
    shapes = [(3, 3, 3, 16), (400, 10)]
    weights = [tf.Variable(random.normal(size=s).astype(np.float32) * 0.1) for s in shapes]

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            pooled = tf.nn.max_pool2d(tf.nn.relu(tf.nn.conv2d(x, weights[0], 1, "VALID")), 2, 2, "VALID")
            logits = tf.reshape(pooled, (8, -1)) @ weights[1]
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(0.1 * gradient)
        return loss

    return [np.array([step().numpy() for _ in range(5)]), *(w.numpy() for w in weights)]


def test_training_in_poisoned_memory_keeps_every_bit() -> None:
    with afterburner.enabled():
        plain = _train()
        for value in (math.nan, 1e30):
            with overridden(poison=value):
                poisoned = _train()
            assert all(np.array_equal(a, b) for a, b in zip(plain, poisoned, strict=True))


def test_poison_is_in_force() -> None:
    """What a run finds in its results' memory is the poison: it fails where the memory would be left alone."""
    from afterburner.compile import compile_graph
    from afterburner.ir import parse_graph

    graph = parse_graph("graph g(%a: f32[16]) {\n  %0: f32[16] = exp(%a)\n  return %0\n}\n")
    with overridden(poison=math.nan):
        executable = compile_graph(graph)
    found: list[float] = []
    run = executable._engine.run

    class Spy:
        def __getattr__(self, name: str) -> object:
            return getattr(engine, name)

        def run(self, *arguments: object) -> None:
            found.append(float(out[3]))
            run(*arguments)

    engine, executable._engine = executable._engine, Spy()
    raw = np.zeros(32, np.float32)
    out = raw[(-raw.ctypes.data % 64) // 4:][:16]
    executable.run([np.zeros(16, np.float32).ctypes.data], [out.ctypes.data])
    assert math.isnan(found[0]) and (out == 1).all()
