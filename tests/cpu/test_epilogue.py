"""Contractions with elementwise work on their result, against the interpreter."""

import re

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import lower
from afterburner.cpu.module import KernelModule
from afterburner.ir import DTYPES, Builder, Node, TensorType, interpret
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.conv import Conv2d, Conv2dInputGrad
from afterburner.ir.ops.conv_pooled import Conv2dInputGradPooled
from afterburner.ir.ops.elementwise import Add, Cast, Greater, Maximum, Mul, Select, Tanh
from afterburner.ir.ops.matmul import Matmul
from afterburner.ir.ops.shape import Broadcast, Constant

ONE = dict(strides=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
ROOTS = {
    "matmul": (Matmul(False, False), (13, 20), (20, 19)),
    "row": (Matmul(False, True), (1, 20), (19, 20)),
    "column": (Matmul(False, False), (33, 20), (20, 1)),
    "long": (Matmul(True, False), (5000, 12), (5000, 33)),
    "large": (Matmul(True, False), (64, 700), (64, 450)),
    "large conv2d": (Conv2d(**ONE), (2, 64, 64, 8), (3, 3, 8, 41)),
    "large conv2d_input_grad": (Conv2dInputGrad(**ONE, input_shape=(2, 64, 64, 41)), (3, 3, 41, 2), (2, 64, 64, 2)),
    "nothing": (Matmul(False, False), (3, 0), (0, 5)),
    "conv2d": (Conv2d(**ONE), (2, 5, 9, 8), (3, 3, 8, 21)),
    "conv2d_input_grad": (Conv2dInputGrad(**ONE, input_shape=(2, 5, 9, 11)), (3, 3, 11, 8), (2, 5, 9, 8)),
}


def pooled(builder):
    """An input gradient behind a max pooling, of operands of the body."""
    shapes = {"w": (3, 3, 11, 20), "dy": (2, 2, 4, 20)}
    operands = {n: builder.input(TensorType(DTYPES["f32"], s), n) for n, s in shapes.items()}
    taps = builder.input(TensorType(DTYPES["u8"], shapes["dy"]), "taps")
    op = Conv2dInputGradPooled(((1, 1), (1, 1)), (2, 2), (2, 2), (2, 5, 9, 11))
    return builder.emit(op, operands["w"], taps, operands["dy"])


def fused(root, dtype, epilogue):
    """A fusion node around a contraction, and arrays for its inputs."""
    kind, builder = DTYPES[dtype], Builder("body")
    if root == "pooled":
        result = pooled(builder)
    else:
        op, a, b = ROOTS[root]
        result = builder.emit(op, *(builder.input(TensorType(kind, s), f"x{i}") for i, s in enumerate((a, b))))
    for output in epilogue(builder, result):
        builder.output(output)
    body = builder.build()
    outer = Builder("outer")
    values = [outer.input(t, f"v{i}") for i, t in enumerate(body.input_types)]
    rng = np.random.default_rng(3)
    arrays = [(rng.standard_normal(t.shape) if t.dtype.is_float else rng.integers(0, 4, t.shape)).astype(t.dtype.numpy)
              for t in body.input_types]
    return Node(Fusion(result.node.op.name, body), values), arrays


def row(builder, result, name="bias"):
    bias = builder.input(TensorType(result.type.dtype, result.shape[-1:]), name)
    return builder.emit(Broadcast(result.shape, (len(result.shape) - 1,)), bias)


def constant(builder, result, value):
    scalar = builder.emit(Constant(np.array(value, result.type.dtype.numpy)))
    return builder.emit(Broadcast(result.shape, ()), scalar)


def bias_relu(builder, result):
    before = builder.emit(Add(), result, row(builder, result))
    yield before
    yield builder.emit(Maximum(), before, constant(builder, result, 0))


def residual_tanh(builder, result):
    other = builder.input(result.type, "other")
    scale = builder.input(TensorType(result.type.dtype, ()), "scale")
    scaled = builder.emit(Mul(), result, builder.emit(Broadcast(result.shape, ()), scale))
    yield builder.emit(Tanh(), builder.emit(Add(), scaled, other))


def masked(builder, result):
    other = builder.input(result.type, "other")
    mask = builder.emit(Greater(), other, constant(builder, result, 0))
    kept = builder.emit(Select(), mask, result, constant(builder, result, 0))
    yield mask
    yield kept
    yield builder.emit(Cast(DTYPES["f64"]), kept)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("epilogue", [bias_relu, residual_tanh, masked], ids=lambda f: f.__name__)
@pytest.mark.parametrize("root", [*ROOTS, "pooled"])
def test_f32(root, epilogue, isa_name):
    check(root, "f32", epilogue, isa_name)


@pytest.mark.parametrize("root,asked", [
    ("large", True), ("matmul", False), ("long", False), ("large conv2d", True), ("large conv2d_input_grad", True),
    ("conv2d", False)])
def test_what_a_large_product_is_finished_with_is_asked_for_early(root, asked):
    node, _ = fused(root, "f32", masked)
    module = KernelModule(isas.host("avx2"))
    module.add(lower(node, module.isa))
    to_write = re.search(r'call void @"llvm\.prefetch[^\n]*, i32 1, i32 \d, i32 1\)', str(module.llvm))
    assert (to_write is not None) is asked


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f64"])
@pytest.mark.parametrize("root", ["matmul", "conv2d", "row"])
def test_other_types(root, dtype):
    check(root, dtype, bias_relu, None)
    check(root, dtype, residual_tanh, None)


def check(root, dtype, epilogue, isa_name):
    node, arrays = fused(root, dtype, epilogue)
    isa = isas.host(isa_name)
    got = run_guarded(lower(node, isa), arrays, isa)
    want = interpret(node.op.body, arrays)
    tolerance = {"f32": 2e-4, "f64": 1e-9, "f16": 2e-2, "bf16": 1e-1}[dtype]
    for actual, expected in zip(got, want, strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_allclose(actual.astype(np.float64), expected.astype(np.float64), tolerance, tolerance)
