"""Convolutions marked as often reading zeros, beside those that are not, and what must hold for both: the same bits."""

from dataclasses import dataclass

import numpy as np
from cpu_harness import run_kernel
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.emitter import I1, const
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel
from afterburner.cpu.kernels import conv
from afterburner.ir import DTYPES, Builder, Node, TensorType
from afterburner.ir.ops.conv import Conv2d, Conv2dInputGrad, output_size

FIRST = isas.available()[0]
OTHERS = sorted({"avx2", "avx512", "generic"} - {FIRST})
TRUE = const(I1, 1)  # in code: what a check that never doubts answers
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A convolution; its gradient is that of an input with as many channels as the filter has results."""

    image: Shape
    filter: Shape
    strides: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    dilation: tuple[int, int] = (1, 1)
    kept: bool = False

    def shapes(self, gradient: bool) -> tuple[Shape, Shape]:
        """Of the operands."""
        if not gradient:
            return self.image, self.filter
        x, w = self._of_gradient()
        sizes = (output_size(x[1 + i], w[i], self.strides[i], self.padding[i], self.dilation[i]) for i in (0, 1))
        return w, (x[0], *sizes, w[3])

    def _of_gradient(self) -> tuple[Shape, Shape]:
        w = (*self.filter[:2], self.filter[3], self.filter[2])
        return (*self.image[:3], w[2]), w

    def node(self, gradient: bool, sparse: bool) -> Node:
        """The operation in a graph."""
        attributes = dict(strides=self.strides, padding=self.padding, dilation=self.dilation, groups=1,
                          sparse=sparse, kept=self.kept)
        op = Conv2dInputGrad(**attributes, input_shape=self._of_gradient()[0]) if gradient else Conv2d(**attributes)
        builder = Builder()
        operands = [builder.input(TensorType(DTYPES["f32"], shape), f"x{i}")
                    for i, shape in enumerate(self.shapes(gradient))]
        value = builder.emit(op, *operands)
        builder.output(value)
        assert value.node is not None
        return value.node

    def kernels(self, gradient: bool, isa: Isa) -> tuple[Kernel, Kernel]:
        """The dense one and the one that may leave out zeros."""
        name = "conv2d_input_grad" if gradient else "conv2d"
        dense, sparse = (conv.LOWERINGS[name](self.node(gradient, flag), isa) for flag in (False, True))
        return dense, sparse

    def arrays(self, gradient: bool, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
        """Operands without zeros, and that of them which is the image."""
        rng = np.random.default_rng(seed)
        made = [rng.standard_normal(shape).astype(np.float32) for shape in self.shapes(gradient)]
        return made, made[1 if gradient else 0]


def both_ways(cases: dict[str, Case]) -> list[tuple[str, bool]]:
    """Each case and its gradient, but where that is several correlations that write one result: then no zeros are
    left out."""
    return [(name, gradient) for name, case in cases.items() for gradient in (False, True)
            if not (gradient and case.strides != (1, 1))]


def check_bits(dense: Kernel, sparse: Kernel, operands: list[np.ndarray], isa: Isa) -> None:
    """Nothing beyond the buffers is touched, and chunks may run in any order."""
    expected, = run_kernel(dense, operands, isa)
    got, = run_guarded(sparse, operands, isa)
    again, = run_kernel(sparse, operands, isa, reverse=True)
    np.testing.assert_array_equal(got, expected)
    assert got.tobytes() == again.tobytes()


def check_not_finite(kernels: tuple[Kernel, Kernel], operands: list[np.ndarray], isa: Isa) -> None:
    """What is not finite in an operand goes where it goes in the dense kernel."""
    dense, sparse = kernels
    expected, = run_kernel(dense, operands, isa)
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(run_kernel(sparse, operands, isa)[0], expected)
