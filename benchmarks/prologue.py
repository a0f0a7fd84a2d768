"""Compares convolutions that make their normalized and rectified image with a loop that makes it before them.

    python benchmarks/prologue.py [--isa avx512] [--turns 12] [part of a case's name ...]

Both take turns in one process, on one thread; between turns other memory is read. Printed are milliseconds of the
loop, the convolution behind it, both together, and the convolution that makes its image, by the best processor times,
and which of the two the processor would be given. The convolutions add up their results, as before a batch
normalization.
"""

from __future__ import annotations

import argparse

import numpy as np
from native import Bench

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import lower
from afterburner.cpu.made_images import makes_image
from afterburner.ir import Builder, Graph, Node, TensorType, Value
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.conv import Conv2d
from afterburner.ir.ops.elementwise import Add, Maximum, Mul
from afterburner.ir.ops.reduce import ReduceSum
from afterburner.ir.ops.shape import Broadcast, Constant
from afterburner.ir.types import F32

BATCH = 16
CASES = [  # taps, pixels along a side, channels in and out
    (1, 56, 64, 256), (1, 56, 160, 128), (1, 56, 256, 64), (1, 28, 128, 512), (1, 28, 320, 128), (1, 28, 512, 128),
    (1, 28, 512, 256), (1, 14, 256, 1024), (1, 14, 640, 128), (1, 14, 1024, 128), (1, 14, 1024, 256), (1, 7, 896, 128),
    (3, 56, 64, 64), (3, 56, 128, 32), (3, 28, 128, 32), (3, 28, 128, 128), (3, 14, 128, 32), (3, 14, 256, 256),
    (3, 7, 128, 32),
]
_OTHER_BYTES = 48 << 20  # read between turns, more than the caches hold


def normalized(builder: Builder, x: Value) -> Value:
    """max(x * scale + shift, 0); scale and shift are new inputs."""
    rows = [builder.emit(Broadcast(x.shape, (3,)), builder.input(TensorType(F32, x.shape[3:]), name))
            for name in ("scale", "shift")]
    zero = builder.emit(Broadcast(x.shape, ()), builder.emit(Constant(np.zeros((), np.float32))))
    return builder.emit(Maximum(), builder.emit(Add(), builder.emit(Mul(), x, rows[0]), rows[1]), zero)


def loop(image: tuple[int, ...]) -> Graph:
    """What makes the image."""
    builder = Builder("loop")
    builder.output(normalized(builder, builder.input(TensorType(F32, image), "x")))
    return builder.build()


def convolution(image: tuple[int, ...], filter_: tuple[int, ...], made: bool) -> Graph:
    """The convolution, of an image that is given or made."""
    builder = Builder("conv2d")
    x, w = builder.input(TensorType(F32, image), "x"), builder.input(TensorType(F32, filter_), "w")
    padding = ((filter_[0] // 2,) * 2,) * 2
    y = builder.emit(Conv2d((1, 1), padding, (1, 1), 1, sparse=True), normalized(builder, x) if made else x, w)
    builder.output(y)
    builder.output(builder.emit(ReduceSum((0, 1, 2)), y))
    return builder.build()


def node_of(body: Graph) -> Node:
    """A fusion of a body."""
    builder = Builder("outer")
    return Node(Fusion(body.name, body), [builder.input(t, f"v{i}") for i, t in enumerate(body.input_types)])


def bench_of(body: Graph, isa: isas.Isa) -> Bench:
    """A bench on operands that are the same for inputs of one shape."""
    operands = [np.random.default_rng(0).standard_normal(t.shape).astype(np.float32) for t in body.input_types]
    return Bench(lower(node_of(body), isa), operands, isa, 1)


def compare(taps: int, side: int, depth: int, width: int, words: argparse.Namespace) -> str:
    """Milliseconds of all."""
    image, filter_ = (BATCH, side, side, depth), (taps, taps, depth, width)
    isa = isas.host(words.isa)
    given = convolution(image, filter_, made=False)
    benches = [bench_of(loop(image), isa), bench_of(given, isa),
               bench_of(convolution(image, filter_, made=True), isa)]
    benches[1].read(0, benches[0].results[0])
    other, best = np.zeros(_OTHER_BYTES, np.uint8), np.full(3, np.inf)
    for _ in range(words.turns):
        spent = []
        for bench in benches:
            if bench is not benches[1]:
                other[::64] += 1
            spent.append(float(bench.seconds_of_one_thread(1).min()))
        best = np.minimum(best, spent)
    assert np.array_equal(benches[1].results[0], benches[2].results[0])
    before, behind, made = best * 1e3
    taken = "made" if makes_image(node_of(given), isa) else "given"
    return f"{before:7.2f} {behind:7.2f} {before + behind:7.2f} {made:7.2f} {(before + behind) / made:6.2f}x  {taken}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--isa")
    parser.add_argument("--turns", type=int, default=12)
    options = parser.parse_args()
    print(f"{'':22s}   loop   conv.  both    making")
    for taps, side, depth, width in CASES:
        name = f"{taps}x{taps} {BATCH}×{side}² {depth}->{width}"
        if not options.names or any(part in name for part in options.names):
            print(f"{name:22s}", compare(taps, side, depth, width, options), flush=True)


if __name__ == "__main__":
    main()
