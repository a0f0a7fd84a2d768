"""Times 3x3 and 4x4 convolutions and their gradients by Winograd's algorithms beside those by their products.

    python benchmarks/winograd.py [--isa avx2] [--turns 5] [part of a case's name ...]

All ways take turns in one process, on two pinned threads; printed are the best times in milliseconds: all products,
zeros left out ("-" where that has no plan), the algorithm of default precision ("-" where none is taken), the sample of
its exactness, which is part of that, that of fast precision, and, where the processor has an instruction for them,
bfloat16 pairs: all products, and the algorithm on them. Half of the image's elements are zero; 3x3 filters have stride
1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import numpy as np
from kernels import direct_kernel, node_of, ticks_per_second
from native import Bench

from afterburner.cpu import isa as isas
from afterburner.cpu.kernel import Kernel
from afterburner.cpu.kernels import conv_direct, conv_filter_grad, lower
from afterburner.cpu.kernels.winograd import F2X2, F4X4
from afterburner.cpu.kernels.winograd_lines import Scheme
from afterburner.ir import Node
from afterburner.ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad

PADDING = ((1, 1), (1, 1))
CASES = {  # image, output channels
    "56² 64->64": ((16, 56, 56, 64), 64), "28² 128->128": ((16, 28, 28, 128), 128),
    "14² 256->256": ((16, 14, 14, 256), 256), "7² 512->512": ((16, 7, 7, 512), 512),
    "56² 128->32": ((16, 56, 56, 128), 32), "14² 128->32": ((16, 14, 14, 128), 32),
    "256² 64->64": ((1, 256, 256, 64), 64), "64² 256->256": ((1, 64, 64, 256), 256),
    "32² 512->512": ((1, 32, 32, 512), 512),
    "one 56² 64->64": ((1, 56, 56, 64), 64), "one 28² 128->128": ((1, 28, 28, 128), 128),
}
HALVED = {  # 4x4 filters: image, output channels, stride
    "128² 64->128": ((1, 128, 128, 64), 128, 2), "64² 128->256": ((1, 64, 64, 128), 256, 2),
    "32² 256->512": ((1, 32, 32, 256), 512, 2), "32² 256->1024": ((1, 32, 32, 256), 1024, 2),
    "16² 512->1024": ((1, 16, 16, 512), 1024, 2), "32² 256->512, stride 1": ((1, 32, 32, 256), 512, 1),
}
KINDS = {"": Conv2d, " input gradient": Conv2dInputGrad, " filter gradient": Conv2dFilterGrad}


def by(scheme: Scheme, node: Node, isa: isas.Isa) -> Kernel:
    """The kernel by an algorithm, whether it pays or not."""
    with patch.object(conv_direct, "scheme_that_pays", return_value=scheme), \
            patch.object(conv_filter_grad, "filter_scheme_that_pays", return_value=scheme):
        return lower(node, isa)


def of_pairs(node: Node, isa: isas.Isa, transformed: bool) -> Kernel | None:
    """The kernel on bfloat16 pairs, by F(2x2, 3x3) or not, whether it pays or not."""
    fast = replace(isa, precision="fast")
    if not isa.bf16_dot:
        return None
    with patch.object(conv_direct, "pairs_pay", return_value=transformed), \
            patch.object(conv_filter_grad, "pairs_pay", return_value=transformed), \
            patch.object(conv_filter_grad, "whole_filter_grad_pays", return_value=False), \
            patch.object(conv_filter_grad, "pairs_of_tiles_pay", return_value=False), \
            patch.object(conv_direct, "streamed_pairs_pay", return_value=False), \
            patch.object(conv_direct, "pairs_2x2_pay", return_value=False), \
            patch.object(conv_direct, "streamed_winograd_pays", return_value=False), \
            patch.object(conv_direct, "scheme_that_pays", return_value=None), \
            patch.object(conv_filter_grad, "filter_scheme_that_pays", return_value=None):
        return lower(node, fast)


def sample_of(kernel: Kernel, gradient: bool) -> Kernel:
    """The phase of a kernel by F(2x2, 3x3) that decides whether it is to be trusted, alone."""
    return replace(kernel, phases=(kernel.phases[0 if gradient else 1],), key=f"sample of {kernel.key}")


def of_3x3(image: tuple[int, ...], outputs: int, gradient: bool, isa: isas.Isa) -> tuple[list[Kernel | None], Node]:
    """All ways to compute a convolution or filter gradient."""
    def node(sparse: bool) -> Node:
        return node_for(" filter gradient" if gradient else "", image, (3, 3, image[3], outputs), 1, sparse)

    checked, sparse = by(F2X2, node(False), isa), direct_kernel(node(True), isa)
    return [direct_kernel(node(False), isa), sparse if "(zeros left out)" in sparse.label else None,
            checked, sample_of(checked, gradient), by(F4X4, node(False), isa),
            *(of_pairs(node(False), isa, transformed) for transformed in (False, True))], node(False)


def of_4x4(kind: str, image: tuple[int, ...], outputs: int, stride: int,
           isa: isas.Isa) -> tuple[list[Kernel | None], Node]:
    """All ways to compute a convolution or one of its gradients."""
    node = node_for(kind, image, (4, 4, image[3], outputs), stride)
    checked, fast = lower(node, isa), lower(node, replace(isa, precision="fast", bf16_dot=False))
    paired = lower(node, replace(isa, precision="fast")) if isa.bf16_dot else None
    paired = paired if paired is not None and "Winograd" in paired.label and "pairs" in paired.label else None
    taken = checked.key.startswith("winograd checked")
    first = checked.key.startswith(("winograd checked streamed", "winograd checked whole"))
    return [direct_kernel(node, isa), None, checked if taken else None, sample_of(checked, first) if taken else None,
            fast if "(Winograd)" in fast.label else None, of_pairs(node, isa, False), paired], node


def node_for(kind: str, image: tuple[int, ...], filter_: tuple[int, ...], stride: int, sparse: bool = False) -> Node:
    """A convolution or one of its gradients."""
    attributes = dict(strides=(stride, stride), padding=PADDING, dilation=(1, 1), groups=1, sparse=sparse)
    result = Conv2d(**attributes).output_shape(image, filter_)
    extra, shapes = {"": ({}, [image, filter_]), " input gradient": (dict(input_shape=image), [filter_, result]),
                     " filter gradient": (dict(filter_shape=filter_), [image, result])}[kind]
    return node_of(KINDS[kind](**attributes, **extra), shapes)[0]


def milliseconds(kernels: list[Kernel | None], node: Node, isa: isas.Isa, turns: int, rate: float) -> str:
    """The best times of all ways."""
    operands = node_of(node.op, [v.shape for v in node.operands])[1]
    image = int(isinstance(node.op, Conv2dInputGrad))
    operands[image] = np.maximum(operands[image], 0)
    benches = [None if kernel is None else Bench(kernel, operands, isa) for kernel in kernels]
    best = [float("inf")] * len(benches)
    for _ in range(turns):
        best = [b if bench is None else min(b, float(bench.cycles(3).min()))
                for b, bench in zip(best, benches, strict=True)]
    return "  ".join("     -" if np.isinf(b) else f"{b / rate * 1e3:6.2f}" for b in best)


def main() -> None:
    """Run the cases whose names hold one of the given texts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("names", nargs="*")
    words = parser.parse_args()
    isa, rate = isas.host(words.isa), ticks_per_second()
    print(f"{'ms':44s} products  zeros  default  sample  fast   pairs  algorithm on them")

    def show(title: str, ways: Callable[[], tuple[list[Kernel | None], Node]]) -> None:
        if not words.names or any(n in title for n in words.names):
            print(f"{title:44s}  {milliseconds(*ways(), isa, words.turns, rate)}", flush=True)

    for name, (image, outputs) in CASES.items():
        for gradient in (False, True):
            show(f"3x3 {name}{' filter gradient' * gradient}", partial(of_3x3, image, outputs, gradient, isa))
    for name, (image, outputs, stride) in HALVED.items():
        for kind in KINDS:
            show(f"4x4 {name}{kind}", partial(of_4x4, kind, image, outputs, stride, isa))


if __name__ == "__main__":
    main()
