"""Contractions that make their first operand as they copy it: the same bits as with the operand made before."""

from dataclasses import replace

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.kernel import Unsupported
from afterburner.cpu.kernels import lower
from afterburner.cpu.made_images import makes_image
from afterburner.ir import DTYPES, Builder, Graph, Node, TensorType, Value, interpret
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.conv import Conv2d, Conv2dFilterGrad
from afterburner.ir.ops.elementwise import Add, Maximum, Mul
from afterburner.ir.ops.reduce import ReduceSum
from afterburner.ir.ops.shape import Broadcast, Constant, Slice

SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
SHAPES = {
    "1x1": (Conv2dFilterGrad((1, 1), NONE, (1, 1), 1, (1, 1, 37, 20)), (2, 7, 9, 37)),
    "1x1 strided": (Conv2dFilterGrad((2, 2), NONE, (1, 1), 1, (1, 1, 24, 9)), (2, 7, 9, 24)),
    "3x3": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (3, 3, 21, 17)), (2, 6, 5, 21)),
    "3x3 wide": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (3, 3, 16, 8)), (1, 30, 30, 16)),
    "3x3 often zero": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (3, 3, 16, 64), True), (2, 9, 28, 16)),
    "3x3 strided": (Conv2dFilterGrad((2, 2), SAME, (1, 1), 1, (3, 3, 8, 33)), (3, 9, 8, 8)),
    "4x4 strided": (Conv2dFilterGrad((2, 2), SAME, (1, 1), 1, (4, 4, 21, 17)), (2, 9, 8, 21)),
    "4x4": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (4, 4, 16, 20)), (1, 9, 12, 16)),
    "groups": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 2, (3, 3, 9, 10)), (2, 6, 5, 18)),
    "few channels": (Conv2dFilterGrad((1, 1), SAME, (1, 1), 1, (3, 3, 3, 12)), (2, 8, 8, 3)),
    "1x1 often zero": (Conv2dFilterGrad((1, 1), NONE, (1, 1), 1, (1, 1, 128, 256), True), (2, 9, 10, 128)),
    "long": (Conv2dFilterGrad((1, 1), NONE, (1, 1), 1, (1, 1, 40, 24)), (8, 28, 28, 40)),
}


def fused(name: str, dtype: str, beside: int = 0) -> tuple[Node, list[np.ndarray]]:
    """max(x * scale + shift, 0) under a filter gradient, and arrays for the node's operands."""
    op, shape = SHAPES[name]
    kind = DTYPES[dtype]
    builder = Builder("body")
    dy_shape = op.output_shape(shape, op.filter_shape)
    dy = builder.input(TensorType(kind, dy_shape), "dy")
    builder.output(builder.emit(op, normalized(builder, TensorType(kind, shape), beside), dy))
    return outer(op.name, builder.build())


def normalized(builder: Builder, type_: TensorType, beside: int = 0) -> Value:
    """max(x * scale + shift, 0) of new inputs; x may be columns with so many others at either side of them."""
    x = columns(builder, type_, beside, "x")
    rows = [builder.emit(Broadcast(type_.shape, (3,)), builder.input(TensorType(type_.dtype, type_.shape[3:]), name))
            for name in ("scale", "shift")]
    zero = builder.emit(Broadcast(type_.shape, ()), builder.emit(Constant(np.zeros((), type_.dtype.numpy))))
    return builder.emit(Maximum(), builder.emit(Add(), builder.emit(Mul(), x, rows[0]), rows[1]), zero)


def columns(builder: Builder, type_: TensorType, beside: int, name: str) -> Value:
    """An input of a type, or columns of one with ``beside`` more at either side."""
    if not beside:
        return builder.input(type_, name)
    *outer_, width = type_.shape
    wide = builder.input(TensorType(type_.dtype, (*outer_, width + 2 * beside)), name)
    return builder.emit(Slice((0, 0, 0, beside), (*outer_, beside + width), (1, 1, 1, 1)), wide)


def outer(kind: str, body: Graph) -> tuple[Node, list[np.ndarray]]:
    """A fusion of a body, and arrays for its operands."""
    builder = Builder("outer")
    values = [builder.input(t, f"v{i}") for i, t in enumerate(body.input_types)]
    rng = np.random.default_rng(3)
    arrays = [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in body.input_types]
    return Node(Fusion(kind, body), values), arrays


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


POINTWISE = Conv2d((1, 1), NONE, (1, 1), 1)
SQUARE = Conv2d((1, 1), SAME, (1, 1), 1)
IMAGES = {  # shape, output channels, filter's taps, operation
    "one row": ((3, 1, 5, 16), 16, 1, POINTWISE),
    "odd": ((2, 7, 9, 37), 20, 1, POINTWISE),
    "wide": ((1, 6, 31, 64), 33, 1, POINTWISE),
    "many blocks": ((2, 28, 28, 128), 48, 1, POINTWISE),
    "long sums": ((1, 18, 19, 640), 40, 1, POINTWISE),
    "no channels in a register": ((2, 5, 5, 3), 7, 1, POINTWISE),
    "chunks of channels": ((1, 14, 14, 256), 512, 1, POINTWISE),
    "often zero": ((2, 12, 20, 128), 128, 1, replace(POINTWISE, sparse=True)),
    "3x3": ((2, 7, 10, 21), 12, 3, SQUARE),
    "3x3 by Winograd": ((2, 13, 12, 64), 48, 3, SQUARE),
    "3x3 strided": ((1, 11, 12, 16), 24, 3, Conv2d((2, 2), ((0, 1), (1, 0)), (1, 1), 1)),
    "3x3 dilated": ((1, 40, 12, 16), 24, 3, Conv2d((1, 1), ((2, 2), (0, 0)), (2, 2), 1)),
    "no pixel inside": ((1, 2, 2, 16), 8, 1, Conv2d((1, 1), ((3, 0), (0, 3)), (1, 1), 1)),
}


def convolution(name: str, made: bool, beside: int = 0) -> tuple[Node, list[np.ndarray]]:
    """max(x * scale + shift, 0), or what is given in its place, under a convolution that adds ``z``, and the sums of
    the result; and arrays for its operands, of which ``z`` and the filter are the first two. ``x`` and ``z`` may be
    columns of others."""
    shape, width, taps, op = IMAGES[name]
    filter_type = TensorType(DTYPES["f32"], (taps, taps, shape[3], width))
    (result,) = op.infer(TensorType(DTYPES["f32"], shape), filter_type)
    builder = Builder("body")
    z = columns(builder, result, beside, "z")
    filter_ = builder.input(filter_type, "filter")
    type_ = TensorType(DTYPES["f32"], shape)
    image = normalized(builder, type_, beside) if made else builder.input(type_, "image")
    sum_ = builder.emit(Add(), builder.emit(op, image, filter_), z)
    builder.output(sum_)
    builder.output(builder.emit(ReduceSum((0, 1, 2)), sum_))
    return outer("conv2d", builder.build())


ON_ALL = ("odd", "often zero", "3x3 by Winograd")  # the others are cut in the same ways by all instruction sets


@pytest.mark.parametrize(("name", "isa_name"), [(name, isa) for name in IMAGES
                                                for isa in (INSTRUCTION_SETS if name in ON_ALL else (None,))])
def test_image_of_a_convolution(name: str, isa_name: str | None) -> None:
    """With an operand of the image's shape among those of the epilogue ("one row"), which is not what is made."""
    isa = isas.host(isa_name)
    node, arrays = convolution(name, made=True)
    got = run_guarded(lower(node, isa), arrays, isa)
    plain, _ = convolution(name, made=False)
    z, filter_, x, scale, shift = arrays
    same = run_guarded(lower(plain, isa), [z, filter_, np.maximum(x * scale + shift, np.float32(0))], isa)
    for a, b, c in zip(got, same, interpret(node.op.body, arrays), strict=True):
        np.testing.assert_allclose(a, c, rtol=1e-4, atol=1e-2)
        if a.ndim == 4:  # sums over pixels are taken by chunks, which are cut in another way
            assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("what", ["an unequal filter", "an infinity"])
def test_image_where_winograds_algorithm_is_in_doubt(what: str) -> None:
    """What computes directly then makes the image too, with the rows around a block."""
    isa = isas.host()
    node, (z, filter_, x, scale, shift) = convolution("3x3 by Winograd", made=True)
    if what == "an infinity":
        x[1, 5, 6, 7] = np.inf
    else:
        filter_[0, 0] *= 1000
    image = np.maximum(x * scale + shift, np.float32(0))
    plain, _ = convolution("3x3 by Winograd", made=False)
    got, _ = run_guarded(lower(node, isa), [z, filter_, x, scale, shift], isa)
    same, _ = run_guarded(lower(plain, isa), [z, filter_, image], isa)
    assert got.tobytes() == same.tobytes()


@pytest.mark.parametrize("beside", [3, 16])
@pytest.mark.parametrize(("name", "isa_name"), [(name, isa) for name in IMAGES
                                                for isa in (INSTRUCTION_SETS if name in ON_ALL else (None,))])
def test_image_from_columns_of_wider_rows(name: str, isa_name: str | None, beside: int) -> None:
    """The same bits as from a copy of the columns, which an epilogue reads from wider rows as well."""
    isa = isas.host(isa_name)
    wide, arrays = convolution(name, made=True, beside=beside)
    narrow, _ = convolution(name, made=True)
    got, sums = run_guarded(lower(wide, isa), arrays, isa)
    z, filter_, x, scale, shift = arrays
    z, x = (np.ascontiguousarray(a[..., beside:-beside]) for a in (z, x))
    same, summed = run_guarded(lower(narrow, isa), [z, filter_, x, scale, shift], isa)
    np.testing.assert_allclose(sums, summed, rtol=1e-4, atol=1e-2)
    if name == "3x3 by Winograd":  # whose patches are made of adjacent pixels only
        np.testing.assert_allclose(got, same, rtol=1e-4, atol=1e-3)
    else:
        assert got.tobytes() == same.tobytes()


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("name", ["1x1", "1x1 strided", "3x3 often zero", "groups", "1x1 often zero", "long"])
def test_filter_gradient_from_columns_of_wider_rows(name: str, isa_name: str) -> None:
    isa = isas.host(isa_name)
    wide, arrays = fused(name, "f32", beside=5)
    narrow, _ = fused(name, "f32")
    dy, x, *rows = arrays
    (got,) = run_guarded(lower(wide, isa), arrays, isa)
    (same,) = run_guarded(lower(narrow, isa), [dy, np.ascontiguousarray(x[..., 5:-5]), *rows], isa)
    assert got.tobytes() == same.tobytes()


@pytest.mark.parametrize(("dtype", "groups"), [("bf16", 1), ("f32", 2)])
def test_refuses_other_images(dtype: str, groups: int) -> None:
    builder = Builder("body")
    filter_ = builder.input(TensorType(DTYPES[dtype], (3, 3, 8 // groups, 8)), "filter")
    made = normalized(builder, TensorType(DTYPES[dtype], (1, 6, 6, 8)))
    builder.output(builder.emit(Conv2d((1, 1), SAME, (1, 1), groups), made, filter_))
    node, _ = outer("conv2d", builder.build())
    with pytest.raises(Unsupported, match=f"{dtype} in {groups} groups"):
        lower(node, isas.host())


def test_image_is_made_where_it_gains() -> None:
    other = isas.host("avx512")
    skylake = replace(other, cpu="skylake-avx512")

    def asked(shape: tuple[int, ...], width: int, isa: isas.Isa = other, taps: int = 1, sparse: bool = False,
              stride: int = 1) -> bool:
        builder = Builder("g")
        x = builder.input(TensorType(DTYPES["f32"], shape), "x")
        w = builder.input(TensorType(DTYPES["f32"], (taps, taps, shape[3], width)), "w")
        op = Conv2d((stride, stride), SAME if taps == 3 else NONE, (1, 1), 1, sparse)
        node = builder.emit(op, x, w).node
        assert node is not None
        return makes_image(node, isa)

    large = (16, 28, 28, 128)
    assert asked(large, 64)
    assert not asked(large, 64, stride=2) and not asked(large, 64, taps=2)
    assert asked(large, 64, taps=3, sparse=True)
    assert not asked(large, 16, taps=3) and not asked(large, 160, taps=3)
    assert asked(large, 128, taps=3) and not asked(large, 128, isas.host("avx2"), taps=3)
    assert not asked(large, 64, replace(other, precision="fast"), taps=3)
    assert not asked((1, 28, 28, 16), 64)  # a few bytes
    assert not asked((8, 7, 7, 512), 64)  # few pixels
    assert not asked((4, 1, 4096, 64), 64)  # long rows
    assert not asked(large, 4096)  # many chunks would make it
    assert asked(large, 64, skylake, sparse=True) and asked(large, 64, sparse=True)
    assert not asked(large, 64, isas.host("avx2"), sparse=True) and asked(large, 64, isas.host("avx2"))
    assert asked(large, 64, replace(skylake, bf16_dot=True, precision="fast"))  # and rounded
    assert not asked(large, 64, replace(skylake, library=True))
