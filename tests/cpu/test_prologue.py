"""Filter gradients that make their input as they copy it: the same bits as with the input made before."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.kernel import Unsupported
from afterburner.cpu.kernels import lower
from afterburner.ir import DTYPES, Builder, Node, TensorType, interpret
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.conv import Conv2dFilterGrad
from afterburner.ir.ops.elementwise import Add, Maximum, Mul
from afterburner.ir.ops.shape import Broadcast, Constant

SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
SHAPES = {
    "1x1": (Conv2dFilterGrad((1, 1), NONE, (1, 1), 1, (1, 1, 37, 20)), (2, 7, 9, 37)),
    "1x1 strided": (Conv2dFilterGrad((2, 2), NONE, (1, 1), 1, (1, 1, 24, 9)), (2, 7, 9, 24)),
    "3x3": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (3, 3, 21, 17)), (2, 6, 5, 21)),
    "3x3 wide": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (3, 3, 16, 8)), (1, 30, 30, 16)),
    "3x3 often zero": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (3, 3, 16, 64), True), (2, 9, 28, 16)),
    "3x3 strided": (Conv2dFilterGrad((2, 2), SAME, (1, 1), 1, (3, 3, 8, 33)), (3, 9, 8, 8)),
    "groups": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 2, (3, 3, 9, 10)), (2, 6, 5, 18)),
    "few channels": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (3, 3, 3, 12)), (2, 8, 8, 3)),
    "1x1 often zero": (Conv2dFilterGrad((1, 1), NONE, (1, 1), 1, (1, 1, 128, 256), True), (2, 9, 10, 128)),
    "long": (Conv2dFilterGrad((1, 1), NONE, (1, 1), 1, (1, 1, 40, 24)), (8, 28, 28, 40)),
}


def fused(name: str, dtype: str) -> tuple[Node, list[np.ndarray]]:
    """max(x * scale + shift, 0) under a filter gradient, and arrays for the node's operands."""
    op, shape = SHAPES[name]
    kind = DTYPES[dtype]
    builder = Builder("body")
    dy_shape = op.output_shape(shape, op.filter_shape)
    dy = builder.input(TensorType(kind, dy_shape), "dy")
    x = builder.input(TensorType(kind, shape), "x")
    rows = [builder.emit(Broadcast(shape, (3,)), builder.input(TensorType(kind, shape[3:]), name))
            for name in ("scale", "shift")]
    zero = builder.emit(Broadcast(shape, ()), builder.emit(Constant(np.zeros((), kind.numpy))))
    made = builder.emit(Maximum(), builder.emit(Add(), builder.emit(Mul(), x, rows[0]), rows[1]), zero)
    builder.output(builder.emit(op, made, dy))
    body = builder.build()
    outer = Builder("outer")
    values = [outer.input(t, f"v{i}") for i, t in enumerate(body.input_types)]
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in body.input_types]
    return Node(Fusion(op.name, body), values), arrays


def made_before(node: Node, arrays: list[np.ndarray]) -> tuple[Node, list[np.ndarray]]:
    """The filter gradient alone, and arrays for its operands."""
    body = node.op.body
    builder = Builder("plain")
    root = body.nodes[-1]
    values = [builder.input(v.type, f"v{i}") for i, v in enumerate(root.operands)]
    prepared = Builder("prepared")
    inside = {i.value: prepared.input(i.value.type, i.name) for i in body.inputs}
    for inner in body.nodes[:-1]:
        inside.update(zip(inner.results, prepared.add(inner.op, *(inside[v] for v in inner.operands)), strict=True))
    prepared.output(inside[root.operands[0]])
    return Node(root.op, values), [interpret(prepared.build(), arrays)[0], arrays[0]]


def check(name: str, dtype: str, isa_name: str | None) -> None:
    node, arrays = fused(name, dtype)
    isa = isas.host(isa_name)
    (got,) = run_guarded(lower(node, isa), arrays, isa)
    plain, operands = made_before(node, arrays)
    (want,) = interpret(node.op.body, arrays)
    if name != "few channels":  # whose sums are taken in another order where channels are not copied apart
        (same,) = run_guarded(lower(plain, isa), operands, isa)
        assert got.tobytes() == same.tobytes()
    exact = 1e-2 if dtype in ("bf16", "f16") else 1e-4
    np.testing.assert_allclose(got.astype(np.float64), want.astype(np.float64), rtol=exact, atol=exact * 10)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", SHAPES)
def test_f32(name: str, isa_name: str) -> None:
    check(name, "f32", isa_name)


@pytest.mark.parametrize("dtype", ["bf16", "f16", "f64"])
@pytest.mark.parametrize("name", ["1x1", "3x3"])
def test_other_types(name: str, dtype: str) -> None:
    check(name, dtype, None)


def test_refuses_a_prologue_of_two_tensors() -> None:
    op, shape = SHAPES["1x1"]
    builder = Builder("body")
    a, b = (builder.input(TensorType(DTYPES["f32"], shape), n) for n in "ab")
    dy = builder.input(TensorType(DTYPES["f32"], op.output_shape(shape, op.filter_shape)), "dy")
    builder.output(builder.emit(op, builder.emit(Add(), a, b), dy))
    body = builder.build()
    node = Node(Fusion(op.name, body), [Builder("outer").input(t, "v") for t in body.input_types])
    with pytest.raises(Unsupported, match="more than one tensor"):
        lower(node, isas.host())
