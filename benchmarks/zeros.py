"""Compares convolutions that leave out zeros of their image with those that do not.

    python benchmarks/zeros.py [--shared | --gradients] [--isa avx512] [--turns 8] [part of a case's name ...]

Both take turns in one process, on one thread, for images of which a share is not zero; printed are GFLOPS of a
direct convolution by the best processor times, without zeros left out and with. ``--shared``: layers that leave out
only what is zero at all pixels of a tile, and images in which that share of the channels is not zero. ``--gradients``:
gradients of filters. ``--isa``: an instruction set by name; by default that of this processor, and then convolutions
leave zeros out only where they gain by it.
"""

from __future__ import annotations

import argparse

import numpy as np
from native import Bench
from pooled import node_of

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import lower
from afterburner.ir import Node
from afterburner.ir.ops.conv import Conv2d, Conv2dFilterGrad

SHARES = (1.0, 0.7, 0.5, 0.4, 0.25, 0.1)
CASES = {  # image, filter, padding
    "lenet": ((32, 26, 26, 32), (3, 3, 32, 64), 0),
    "256² 64->64": ((1, 256, 256, 64), (3, 3, 64, 64), 1),
    "64² 256->256": ((1, 64, 64, 256), (3, 3, 256, 256), 1),
    "28² 128->128": ((4, 28, 28, 128), (3, 3, 128, 128), 1),
    "14² 256->256": ((8, 14, 14, 256), (3, 3, 256, 256), 1),
    "1x1 56² 64->256": ((4, 56, 56, 64), (1, 1, 64, 256), 0),
    "1x1 28² 128->512": ((8, 28, 28, 128), (1, 1, 128, 512), 0),
    "1x1 28² 512->128": ((8, 28, 28, 512), (1, 1, 512, 128), 0),
    "1x1 14² 256->1024": ((8, 14, 14, 256), (1, 1, 256, 1024), 0),
}
GRADIENTS = {
    "1x1 56² 256->64": ((4, 56, 56, 256), (1, 1, 256, 64), 0),
    "1x1 28² 128->512": ((8, 28, 28, 128), (1, 1, 128, 512), 0),
    "1x1 28² 512->128": ((8, 28, 28, 512), (1, 1, 512, 128), 0),
    "1x1 14² 256->1024": ((8, 14, 14, 256), (1, 1, 256, 1024), 0),
    "1x1 14² 1024->256": ((8, 14, 14, 1024), (1, 1, 1024, 256), 0),
}
SHARED = {  # layers of DenseNet121 and ResNet50V2, one image
    "56² 128->32": ((1, 56, 56, 128), (3, 3, 128, 32), 1),
    "14² 128->32": ((1, 14, 14, 128), (3, 3, 128, 32), 1),
    "7² 512->512": ((1, 7, 7, 512), (3, 3, 512, 512), 1),
    "1x1 56² 128->128": ((1, 56, 56, 128), (1, 1, 128, 128), 0),
    "1x1 28² 512->256": ((1, 28, 28, 512), (1, 1, 512, 256), 0),
    "1x1 14² 992->128": ((1, 14, 14, 992), (1, 1, 992, 128), 0),
    "1x1 7² 992->128": ((1, 7, 7, 992), (1, 1, 992, 128), 0),
}


def compare(image: tuple[int, ...], filter_: tuple[int, ...], padding: int, share: float,
            words: argparse.Namespace) -> str:
    """GFLOPS of both."""
    isa, rng = isas.host(words.isa), np.random.default_rng(0)
    zeros = rng.permutation(image[3]) >= share * image[3] if words.shared else rng.random(image) >= share
    x = np.where(zeros, 0, rng.random(image)).astype(np.float32)
    other = (*image[:3], filter_[3]) if words.gradients else filter_
    operands = [x, rng.standard_normal(other, np.float32)]
    pads = ((padding, padding), (padding, padding))

    def node(sparse: bool) -> Node:
        if words.gradients:
            return node_of(Conv2dFilterGrad((1, 1), pads, (1, 1), 1, filter_, sparse), operands)
        return node_of(Conv2d((1, 1), pads, (1, 1), 1, sparse, True), operands)

    nodes = [node(False), node(True)]
    benches = [Bench(lower(node, isa), operands, isa, 1) for node in nodes]
    best = [float("inf")] * 2
    for _ in range(words.turns):
        best = [min(b, float(bench.seconds_of_one_thread(2).min())) for b, bench in zip(best, benches, strict=True)]
    assert words.gradients or np.array_equal(benches[0].results[0], benches[1].results[0])
    flops = nodes[0].op.flops(tuple(v.type for v in nodes[0].operands), tuple(v.type for v in nodes[0].results))
    return " / ".join(f"{flops / seconds / 1e9:3.0f}" for seconds in best)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--shared", action="store_true")
    parser.add_argument("--gradients", action="store_true")
    parser.add_argument("--isa")
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    print(" " * 16, *(f"{share:9.0%}" for share in SHARES), "  of the image not zero")
    for name, case in (SHARED if options.shared else GRADIENTS if options.gradients else CASES).items():
        if not options.names or any(part in name for part in options.names):
            print(f"{name:16s}", *(f"{compare(*case, share, options):>9s}" for share in SHARES),
                  flush=True)


if __name__ == "__main__":
    main()
