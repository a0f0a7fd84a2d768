"""Compares gradients of convolutions that skip the zeros of a max pooling with our dense kernels.

    python benchmarks/pooled.py [--zeros 0.4] [--turns 8] [part of a case's name ...]

All take turns in one process, on one thread; printed are the best processor times. ``--zeros``: the share of the
pooling's gradients that is zero besides, as a rectifier or dropout leaves them. ``fast`` is the dense kernel with
``AFTERBURNER_PRECISION=fast``.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import numpy as np
from native import Bench

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import lower
from afterburner.ir import Builder, Node, Op, TensorType, dtype_of
from afterburner.ir.ops.conv import Conv2dFilterGrad, Conv2dInputGrad
from afterburner.ir.ops.conv_pooled import Conv2dFilterGradPooled, Conv2dInputGradPooled

NONE, ONE = (((n, n), (n, n)) for n in range(2))
TWO = (2, 2), (2, 2)
CASES = {  # image, filter, padding
    "lenet": ((128, 26, 26, 32), (3, 3, 32, 64), NONE),
    "vgg 64": ((1, 256, 256, 64), (3, 3, 64, 64), ONE),
    "vgg 128": ((1, 128, 128, 128), (3, 3, 128, 128), ONE),
    "vgg 256": ((1, 64, 64, 256), (3, 3, 256, 256), ONE),
    "vgg 512": ((1, 32, 32, 512), (3, 3, 512, 512), ONE),
    "digits": ((64, 8, 8, 16), (3, 3, 16, 32), ONE),
    "few channels": ((32, 32, 32, 16), (3, 3, 16, 32), ONE),
}


def node_of(op: Op, arrays: list[np.ndarray]) -> Node:
    """A node for operands like ``arrays``."""
    builder = Builder()
    values = [builder.input(TensorType(dtype_of(a.dtype), a.shape), f"v{i}") for i, a in enumerate(arrays)]
    node = builder.emit(op, *values).node
    assert node is not None
    return node


def pairs(name: str, zeros: float) -> Iterator[tuple[str, Node, list[np.ndarray], Node, list[np.ndarray]]]:
    """For both gradients: its name; the operation that skips zeros and its operands; the dense one and its."""
    image, filter_, padding = CASES[name]
    filter_op = Conv2dFilterGradPooled(padding, *TWO, filter_)
    scatter = filter_op.scatter(filter_op.between(image, filter_))
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(s, np.float32) for s in (image, filter_))
    pooled = scatter.output_shape(scatter.input_shape)
    taps = rng.integers(0, 4, pooled).astype(np.uint8)
    dy = np.where(rng.random(pooled) < zeros, 0, rng.standard_normal(pooled)).astype(np.float32)
    (dense,) = scatter.evaluate(taps, dy)
    for kind, first, op, plain in (
            ("filter", x, filter_op, Conv2dFilterGrad(**filter_op.plain, filter_shape=filter_)),
            ("input", w, Conv2dInputGradPooled(padding, *TWO, image),
             Conv2dInputGrad(**filter_op.plain, input_shape=image))):
        yield (f"{name} {kind}", node_of(op, [first, taps, dy]), [first, taps, dy],
               node_of(plain, [first, dense]), [first, dense])


def compare(name: str, skipping: Node, arrays: list[np.ndarray], dense: Node, operands: list[np.ndarray],
            turns: int) -> str:
    """One line of results."""
    isa, fast = isas.host(), isas.host(precision="fast")
    benches = [Bench(lower(skipping, isa), arrays, isa, 1), Bench(lower(dense, isa), operands, isa, 1),
               Bench(lower(dense, fast), operands, fast, 1)]
    best = [float("inf")] * len(benches)
    for _ in range(turns):
        best = [min(b, float(bench.seconds_of_one_thread(2).min())) for b, bench in zip(best, benches, strict=True)]
    a, b, c = (1e3 * t for t in best)
    error = np.abs(benches[0].results[0] - benches[1].results[0]).max() / np.abs(benches[1].results[0]).max()
    return f"{name:22s} {a:8.2f} {b:8.2f} {c:8.2f} {b / a:6.2f} {error:9.1e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--zeros", type=float, default=0.0, help="share of the pooling's gradients that is zero")
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    print(f"{'':22s} {'skipping':>8s} {'dense':>8s} {'fast':>8s} {'ratio':>6s} {'differ':>9s}   milliseconds")
    for name in CASES:
        for pair in pairs(name, options.zeros):
            if not options.names or any(part in pair[0] for part in options.names):
                print(compare(*pair, options.turns), flush=True)


if __name__ == "__main__":
    main()
