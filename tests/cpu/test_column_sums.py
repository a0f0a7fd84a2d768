"""Sums over all pixels that ride on convolutions, against float64."""

from dataclasses import replace

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded
from test_epilogue import constant, row
from winograd_kit import TYPICAL

from afterburner.cpu import isa as isas
from afterburner.cpu.kernel import Unsupported
from afterburner.cpu.kernels import conv_direct, lower, winograd
from afterburner.ir import DTYPES, Builder, Node, TensorType
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.conv import Conv2d, Conv2dInputGrad
from afterburner.ir.ops.elementwise import Greater, Mul, Select
from afterburner.ir.ops.matmul import Matmul
from afterburner.ir.ops.reduce import ReduceSum

NONE, SAME = ((0, 0), (0, 0)), ((1, 1), (1, 1))
SHAPES = {  # image, filter, stride, padding, marked as often zero
    "3x3": ((3, 9, 14, 8), (3, 3, 8, 20), 1, SAME, False),
    "3x3 wide": ((2, 12, 12, 64), (3, 3, 64, 70), 1, SAME, False),
    "3x3 often zero": ((4, 12, 28, 64), (3, 3, 64, 128), 1, SAME, True),
    "1x1": ((2, 13, 11, 40), (1, 1, 40, 33), 1, NONE, False),
    "1x1 often zero": ((4, 12, 28, 64), (1, 1, 64, 128), 1, NONE, True),
    "few pixels": ((1, 3, 5, 24), (1, 1, 24, 50), 1, NONE, False),
    "strided": ((2, 12, 11, 16), (4, 4, 16, 24), 2, SAME, False),
    "few channels": ((2, 40, 41, 3), (3, 3, 3, 16), 1, SAME, False),
    "streamed": ((1, 4, 4, 256), (4, 4, 256, 120), 1, SAME, False),
    "split": ((1, 4, 4, 256), (4, 4, 256, 130), 1, SAME, False),
    "one pixel": ((1, 1, 1, 5), (3, 3, 5, 3), 1, SAME, False),
}


def node_of(name, gradient, dtype="f32"):
    """A convolution or its input gradient with a mask behind it, its result, two sums of it; and arrays."""
    image, filter_, stride, padding, sparse = SHAPES[name]
    attributes = dict(strides=(stride, stride), padding=padding, dilation=(1, 1), groups=1)
    forward = Conv2d(**attributes, sparse=sparse)
    y = forward.output_shape(image, filter_)
    op = Conv2dInputGrad(**attributes, input_shape=image, sparse=sparse) if gradient else forward
    kind, builder = DTYPES[dtype], Builder("body")
    shapes = (filter_, y) if gradient else (image, filter_)
    result = builder.emit(op, *(builder.input(TensorType(kind, s), f"x{i}") for i, s in enumerate(shapes)))
    other = builder.input(result.type, "other")
    zero = constant(builder, result, 0)
    kept = builder.emit(Select(), builder.emit(Greater(), other, zero), result, zero)
    kept = builder.emit(Mul(), kept, row(builder, result))
    axes = tuple(range(len(result.shape) - 1))
    builder.output(builder.emit(ReduceSum(axes), kept))
    builder.output(kept)
    builder.output(builder.emit(ReduceSum(axes), builder.emit(Mul(), kept, other)))
    builder.output(builder.emit(ReduceSum(axes), result))
    body = builder.build()
    outer, rng = Builder("outer"), np.random.default_rng(2)
    values = [outer.input(t, f"v{i}") for i, t in enumerate(body.input_types)]
    arrays = [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in body.input_types]
    return Node(Fusion(op.name, body), values), arrays


def expected(node, arrays):
    """All results in float64, and the sums of what they add up without signs."""
    *operands, other, scale = (a.astype(np.float64) for a in arrays)
    op = node.op.body.nodes[0].op
    result, = op.evaluate(*operands)
    size, = op.evaluate(*map(np.abs, operands))
    kept = np.where(other > 0, result * scale, 0)
    sums = [x.sum((0, 1, 2)) for x in (kept, kept * other, result)]
    sizes = [(size * factor).sum((0, 1, 2)) for factor in (np.abs(scale), np.abs(other * scale), 1)]
    return [sums[0], kept, *sums[1:]], [sizes[0], size * np.abs(scale), *sizes[1:]]


def check(node, arrays, isa_name, precision="default"):
    isa = isas.host(isa_name, precision)
    kernel = lower(node, isa)
    got = run_guarded(kernel, arrays, isa)
    again = run_kernel(kernel, arrays, isa, reverse=True)
    for actual, same, exact, size in zip(got, again, *expected(node, arrays), strict=True):
        assert actual.tobytes() == same.tobytes()
        assert (np.abs(actual - exact) <= TYPICAL * size).all()
    return kernel


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_f32(name, gradient, isa_name):
    check(*node_of(name, gradient), isa_name)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", ["3x3", "3x3 wide", "strided", "few channels"])
def test_fast_precision(name, gradient, pairs, monkeypatch):
    monkeypatch.setattr(conv_direct, "scheme_that_pays", lambda c, *a: winograd.F4X4 if winograd.fits(c) else None)
    node, arrays = node_of(name, gradient)
    isa = replace(isas.host("avx512", "fast") if pairs else isas.host(None, "fast"), bf16_dot=pairs)
    typical = 2.0**-8 if pairs else 2 * TYPICAL
    for actual, exact, size in zip(run_guarded(lower(node, isa), arrays, isa), *expected(node, arrays), strict=True):
        assert (np.abs(actual - exact) <= typical * size.max()).all()


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("name", "streamed"), [("3x3", False), ("3x3 wide", False), ("strided", False),
                                                ("strided", True)])
def test_checked_winograd_and_what_follows_it_where_there_are_doubts(name, streamed, gradient, monkeypatch):
    monkeypatch.setattr(conv_direct, "scheme_that_pays", lambda c, *a: winograd.F2X2 if winograd.fits(c) else None)
    monkeypatch.setattr(conv_direct, "winograd_2x2_pays", lambda *a: not streamed)
    monkeypatch.setattr(conv_direct, "streamed_winograd_pays", lambda *a: True)
    node, arrays = node_of(name, gradient)
    assert check(node, arrays, None).key.startswith("winograd checked")
    filter_ = arrays[0 if gradient else 1]
    filter_[:, 2] *= 1e-3
    check(node, arrays, None)
    arrays[1 if gradient else 0][0, 2, 2, 1] = np.inf
    isa = isas.host()
    with np.errstate(invalid="ignore"):
        wanted = expected(node, arrays)[0]
        got = run_guarded(lower(node, isa), arrays, isa)
    for actual, exact in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(np.isfinite(actual), np.isfinite(exact))


@pytest.mark.parametrize("dtype", ["f64", "bf16"])
def test_other_types_are_refused(dtype):
    with pytest.raises(Unsupported):
        lower(node_of("1x1", False, dtype)[0], isas.host())


def test_products_are_refused():
    builder = Builder("body")
    a, b = (builder.input(TensorType(DTYPES["f32"], s), n) for n, s in (("a", (8, 9)), ("b", (9, 4))))
    builder.output(builder.emit(ReduceSum((0,)), builder.emit(Matmul(False, False), a, b)))
    body = builder.build()
    outer = Builder("outer")
    node = Node(Fusion("matmul", body), [outer.input(t, f"v{i}") for i, t in enumerate(body.input_types)])
    with pytest.raises(Unsupported):
        lower(node, isas.host())
