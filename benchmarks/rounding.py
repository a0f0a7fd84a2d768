"""Compares what sums of many products lose by rounding: stock TensorFlow's and ours, from the float64 result.

    python benchmarks/rounding.py

Printed is ‖error‖ / ‖result‖ of each operation on the same seeded numbers; what is promised is at most twice stock's,
or 2·10⁻⁶.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import tensorflow as tf

import afterburner

Operation = Callable[..., tf.Tensor]
MAPS = (16, 56, 56, 64)


def _convolve(stride: int) -> Operation:
    return lambda image, filters: tf.nn.conv2d(image, filters, stride, "SAME")


def _input_gradient(stride: int, sizes: tuple[int, ...]) -> Operation:
    return lambda filters, gradient: tf.raw_ops.Conv2DBackpropInput(
        input_sizes=sizes, filter=filters, out_backprop=gradient, strides=[1, stride, stride, 1], padding="SAME")


def _filter_gradient(sizes: tuple[int, ...]) -> Operation:
    return lambda image, gradient: tf.raw_ops.Conv2DBackpropFilter(
        input=image, filter_sizes=sizes, out_backprop=gradient, strides=[1, 1, 1, 1], padding="SAME")


CASES: dict[str, tuple[Operation, tuple[int, ...], tuple[int, ...]]] = {
    "matmul of 1,024 products": (tf.matmul, (64, 1024), (1024, 64)),
    "matmul of 65,536 products": (tf.matmul, (64, 65536), (65536, 64)),
    "convolution 1x1 of 2,048 channels": (_convolve(1), (4, 7, 7, 2048), (1, 1, 2048, 512)),
    "convolution 3x3 of 512 channels": (_convolve(1), (2, 14, 14, 512), (3, 3, 512, 256)),
    "convolution 4x4, stride 2, of 512 channels": (_convolve(2), (1, 16, 16, 512), (4, 4, 512, 512)),
    "input gradient 3x3 of 512 channels": (
        _input_gradient(1, (2, 14, 14, 256)), (3, 3, 256, 512), (2, 14, 14, 512)),
    "input gradient 4x4, stride 2, of 512 channels": (
        _input_gradient(2, (1, 32, 32, 512)), (4, 4, 512, 512), (1, 16, 16, 512)),
    "filter gradient 3x3 over 50,176 pixels": (_filter_gradient((3, 3, 64, 64)), MAPS, MAPS),
}


def errors(operation: Operation, operands: list[np.ndarray]) -> tuple[float, float]:
    """Relative errors of stock and ours."""
    exact = operation(*[tf.constant(v, tf.float64) for v in operands]).numpy()
    inputs = [tf.constant(v) for v in operands]
    stock = operation(*inputs).numpy()
    function = tf.function(lambda *values: operation(*values) * 1.0 + 0.0)
    with afterburner.enabled():
        for _ in range(3):  # the first calls may be TensorFlow's
            ours = function(*inputs).numpy()
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(stock - exact)) / norm, float(np.linalg.norm(ours - exact)) / norm


def main() -> None:
    """Print a row for each case."""
    rng = np.random.default_rng(0)
    print("| operation | stock | ours | ratio |\n| --- | ---: | ---: | ---: |")
    for name, (operation, first, second) in CASES.items():
        operands = [rng.uniform(-1, 1, shape).astype(np.float32) for shape in (first, second)]
        stock, ours = errors(operation, operands)
        print(f"| {name} | {stock:.1e} | {ours:.1e} | {ours / stock:.1f} |", flush=True)


if __name__ == "__main__":
    main()
