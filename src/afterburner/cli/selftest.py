"""Compiles one small training step and compares it with stock TensorFlow. ``doctor`` runs it as a process.

Ends with one line on stdout and status 0, or with what is wrong and status 1.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np

import afterburner

_STEPS = 4
_TOLERANCE = 1e-5  # relative, of float32 sums of at most 64 terms


def _train(tf: Any) -> list[np.ndarray]:
    """Losses and weights of a few steps of gradient descent on a two-layer network."""
    random = np.random.default_rng(0)
    inputs = tf.constant(random.normal(size=(32, 16)).astype(np.float32))
    targets = tf.constant(random.normal(size=(32, 4)).astype(np.float32))
    initial = [random.normal(size=shape).astype(np.float32) * 0.2 for shape in ((16, 64), (64, 4))]
    weights = [tf.Variable(value) for value in initial]

    @tf.function
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(tf.tanh(x @ weights[0]) @ weights[1] - y))
        for weight, gradient in zip(weights, tape.gradient(loss, weights), strict=True):
            weight.assign_sub(0.1 * gradient)
        return loss

    losses = [step(inputs, targets).numpy() for _ in range(_STEPS)]
    return [np.array(losses), *(weight.numpy() for weight in weights)]


def _relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def main() -> int:
    """Run the test; the exit status."""
    afterburner.disable()  # what `afterburner install` set up: first comes stock TensorFlow
    afterburner.set_options(disable=False, strict=True, verbosity="silent")
    import tensorflow as tf

    expected = _train(tf)
    start = time.perf_counter()
    with afterburner.enabled():
        found = _train(tf)
    seconds = time.perf_counter() - start
    functions = afterburner.report().functions
    parts = [part for function in functions for part in function.parts]
    if not parts:
        reasons = {f.reason or f.status for f in functions} or {"no graph function was seen"}
        print(f"nothing was compiled: {'; '.join(sorted(reasons))}")
        return 1
    error = max(_relative_error(a, b) for a, b in zip(found, expected, strict=True))
    if not error <= _TOLERANCE:
        print(f"wrong numbers: a relative error of {error:.1e} to stock TensorFlow")
        return 1
    ops, kernels = sum(part.ops for part in parts), sum(len(part.kernels) for part in parts)
    print(f"a training step of {ops} ops ran as {kernels} kernels on {parts[0].device}, ready in "
          f"{seconds:.2f} s, within {error:.0e} of stock TensorFlow")
    return 0


if __name__ == "__main__":
    sys.exit(main())
