"""Products of bfloat16 pairs against float64 on the rounded operands; the instruction stands in the assembly."""

import sys
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
import test_conv
import test_matmul
import test_prologue
from cpu_harness import run_kernel
from guarded import run_guarded
from test_epilogue import fused

from afterburner.cpu import isa as isas
from afterburner.cpu import llvm
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel
from afterburner.cpu.kernels import (
    conv_direct,
    conv_filter_grad,
    filter_grad_plan,
    lower,
    pairs,
    winograd,
    winograd_filter_grad,
    winograd_whole_filter_grad,
)
from afterburner.cpu.kernels.epilogue import contraction_of
from afterburner.cpu.kernels.gemm import Numeric
from afterburner.cpu.module import KernelModule
from afterburner.ir import Node, interpret
from afterburner.ir.ops.elementwise import Maximum, Mul

UNIT = {"f32": 2.0**-24, "bf16": 2.0**-8}
CASES = ["valid", "same", "asymmetric", "strided stem", "strided 1x1", "plain 1x1", "dilated", "dilated and strided",
         "groups", "strided groups", "halved", "middle tap", "padding beyond window", "many channels"]
PRODUCTS = [(3, 5, 7), (32, 784, 128), (8, 64, 10), (1, 300, 33), (2, 129, 17), (50, 70, 1), (97, 301, 75),
            (40, 512, 100), (64, 4096, 40)]
BATCHED = [(3, 5, 7), (2, 129, 17), (50, 70, 1), (64, 4096, 40)]  # small, few rows, a column, sums in parts

pytestmark = pytest.mark.skipif("avx512" not in test_conv.INSTRUCTION_SETS, reason="an instruction of AVX-512")


HAS_INSTRUCTION = "+avx512bf16" in isas.host("avx512").features.split(",")
written_out = False  # by every test in turn, where this machine has the instruction


@pytest.fixture(params=["instruction", "written out"] if HAS_INSTRUCTION else ["written out"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "written_out", request.param == "written out")


def paired(dtype: str) -> Isa:
    """AVX-512 with the instruction, or with what is written out in its place."""
    isa = replace(isas.host("avx512", "fast" if dtype == "f32" else "default"), bf16_dot=True)
    return replace(isa, features=isa.features.replace("+avx512bf16", "-avx512bf16")) if written_out else isa


def with_instruction() -> Isa:
    """A processor that has it, whatever this machine has."""
    features = "+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512bf16,+fma,+avx2,+f16c"
    return replace(isas.host("avx512"), bf16_dot=True, cpu="znver5", features=features)


@pytest.fixture(autouse=True)
def whatever_pairing_takes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "what_pairing_takes" not in request.fixturenames:
        monkeypatch.setattr(pairs.Layout, "cycles", lambda self, stored, num: -1.0)


@pytest.fixture
def what_pairing_takes() -> None:
    """The estimate as it is."""


def _only_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("scheme_that_pays", "streamed_winograd_pays", "narrow_pays"):
        monkeypatch.setattr(conv_direct, name, lambda *given: None)
    for name in ("pairs_pay", "streamed_pairs_pay", "pairs_2x2_pay"):
        monkeypatch.setattr(conv_direct, name, lambda *given: None)
    for name in ("filter_scheme_that_pays", "whole_filter_grad_pays", "pairs_pay", "pairs_of_tiles_pay"):
        monkeypatch.setattr(conv_filter_grad, name, lambda *given: None)


def rounded(array: np.ndarray) -> np.ndarray:
    return array.astype(ml_dtypes.bfloat16).astype(np.float64)


def run(node: Node, arrays: list[np.ndarray], isa: Isa, way: str = "(bfloat16 pairs)") -> np.ndarray:
    """The result; nothing beyond the buffers is touched, and chunks may run in any order."""
    kernel = _lowered(node, isa, way)
    got, = run_guarded(kernel, arrays, isa)
    again, = run_kernel(kernel, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    return got


def _lowered(node: Node, isa: Isa, way: str = "(bfloat16 pairs)") -> Kernel:
    kernel = lower(node, isa)
    assert way in kernel.label
    return kernel


def check(got: np.ndarray, exact: np.ndarray, magnitude: np.ndarray, dtype: str) -> None:
    bound = 4 * UNIT["f32"] * magnitude + UNIT[dtype] * np.abs(exact) * 1.01
    assert np.all(np.abs(got.astype(np.float64) - exact) <= bound)


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", test_conv.NAMES)
def test_convolutions(name: str, case: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _only_pairs(monkeypatch)
    node, arrays = test_conv.build(name, test_conv.CASES[case], dtype)
    got = run(node, arrays, paired(dtype))
    wide = [rounded(a) for a in arrays]
    check(got, node.op.evaluate(*wide)[0], node.op.evaluate(*(np.abs(a) for a in wide))[0], dtype)


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("layout", test_matmul.LAYOUTS)
@pytest.mark.parametrize(("size", "batch"), [*((size, ()) for size in PRODUCTS), *((size, (3,)) for size in BATCHED)])
def test_products(size: tuple[int, int, int], layout: tuple[bool, bool], dtype: str, batch: tuple[int, ...]) -> None:
    arrays = test_matmul.operands_of(*size, dtype, *layout, batch)
    node = test_matmul.node_of(arrays[0].shape, arrays[1].shape, dtype, *layout)
    got = run(node, arrays, paired(dtype))
    wide = [rounded(a) for a in arrays]
    check(got, node.op.evaluate(*wide)[0], node.op.evaluate(*(np.abs(a) for a in wide))[0], dtype)


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("root", ["matmul", "row", "column", "long", "large", "conv2d_input_grad"])
def test_an_epilogue(root: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _only_pairs(monkeypatch)
    node, arrays = fused(root, dtype, lambda b, y: [b.emit(Maximum(), y, b.emit(Mul(), y, y))])
    got = run(node, arrays, paired(dtype))
    wide = [rounded(a) for a in arrays]
    sums, magnitude = (contraction_of(node).root.op.evaluate(*given)[0] for given in (wide, [np.abs(a) for a in wide]))
    doubt = 4 * UNIT["f32"] * magnitude + UNIT[dtype] * np.abs(sums)
    slack = 2 * UNIT[dtype] * sums**2 + doubt * (1 + 3 * np.abs(sums))
    assert np.all(np.abs(got.astype(np.float64) - np.maximum(sums, sums**2)) <= slack)


def test_what_is_not_finite_stays_so() -> None:
    arrays = test_matmul.operands_of(8, 64, 40, "f32", False, False)
    arrays[0][2, 5], arrays[0][3, 6] = np.inf, np.nan
    node = test_matmul.node_of(arrays[0].shape, arrays[1].shape, "f32", False, False)
    got = run(node, arrays, paired("f32"))
    assert np.isinf(got[2]).all() and np.isnan(got[3]).all()
    assert np.isfinite(np.delete(got, (2, 3), 0)).all()


@pytest.mark.parametrize("dtype", UNIT)
def test_the_instruction_stands_in_the_assembly(dtype: str) -> None:
    isa = replace(with_instruction(), precision="fast" if dtype == "f32" else "default")
    node, _ = test_conv.build("conv2d", test_conv.CASES["plain 1x1"], dtype)
    module = KernelModule(isa)
    module.add(_lowered(node, isa))
    machine = llvm.new_machine(isa)
    text = machine.emit_assembly(llvm.parse(str(module.llvm), machine))
    assert text.count("vdpbf16ps") >= 8
    assert "vfmadd" not in text


def _label(name: str, case: tuple, isa: Isa) -> str:
    return lower(test_conv.build(name, case, "f32")[0], isa).label


@pytest.mark.usefixtures("what_pairing_takes")
@pytest.mark.parametrize("channels, taken", [(256, True), (8, False)])
def test_fast_precision_takes_it_where_it_saves_more_than_rounding_takes(channels: int, taken: bool) -> None:
    case = ((1, 14, 14, 64), (1, 1, 64, channels), (1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert ("(bfloat16 pairs)" in _label("conv2d", case, paired("f32"))) == taken


@pytest.mark.usefixtures("what_pairing_takes")
def test_winograd_s_algorithm_comes_first() -> None:
    case = ((2, 28, 28, 128), (3, 3, 128, 128), (1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    assert "Winograd 2x2 of bfloat16 pairs" in _label("conv2d", case, paired("f32"))


@pytest.mark.parametrize("dtype, precision", [("f32", "default"), ("f64", "fast"), ("f16", "fast")])
def test_other_types_and_precisions_do_not_take_it(dtype: str, precision: str) -> None:
    assert pairs.pairs(test_matmul.DTYPES[dtype], replace(paired("f32"), precision=precision)) is None


@pytest.mark.parametrize("dtype", UNIT)
def test_nor_do_processors_without_it(dtype: str) -> None:
    assert pairs.pairs(test_matmul.DTYPES[dtype], replace(paired(dtype), bf16_dot=False)) is None


@pytest.mark.parametrize("dtype", UNIT)
@pytest.mark.parametrize("panel, inputs, chunk", [(1 << 11, 1 << 10, 200), (1 << 14, 1 << 12, 1000)])
@pytest.mark.parametrize("case", ["same", "strided stem", "strided 1x1", "plain 1x1", "groups", "many channels"])
def test_a_filter_gradient_in_many_pieces(case: str, panel: int, inputs: int, chunk: int, dtype: str,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("_PANEL_BYTES", panel), ("_INPUT_BYTES", inputs), ("_COPIED_PIXELS", 8),
                       ("CHUNK_CYCLES", chunk)):
        monkeypatch.setattr(filter_grad_plan, name, size)
    test_convolutions("conv2d_filter_grad", case, dtype, monkeypatch)


@pytest.mark.parametrize("beside", [0, 3])
@pytest.mark.parametrize("name", ["one row", "wide", "many blocks", "long sums", "chunks of channels", "often zero"])
def test_an_image_that_is_made_is_rounded_as_it_is_made(name: str, beside: int) -> None:
    made, (z, filter_, x, scale, shift) = test_prologue.convolution(name, made=True, beside=beside)
    plain, _ = test_prologue.convolution(name, made=False)
    got = run_guarded(_lowered(made, paired("f32")), [z, filter_, x, scale, shift], paired("f32"))
    inside = slice(beside, -beside or None)
    image = np.maximum(x[..., inside] * scale + shift, np.float32(0))
    same = run_guarded(_lowered(plain, paired("f32")), [z[..., inside], filter_, image], paired("f32"))
    assert got[0].tobytes() == same[0].tobytes()
    operands = [z[..., inside], *(rounded(a).astype(np.float32) for a in (filter_, image))]
    for value, exact in zip(got, interpret(plain.op.body, operands), strict=True):
        np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("name", ["odd", "3x3", "3x3 by Winograd", "3x3 strided", "no channels in a register"])
def test_other_images_that_are_made(name: str) -> None:
    """Of an odd number of channels, and of filters of several taps: in float32, or by Winograd's algorithm on pairs."""
    made, (z, filter_, x, scale, shift) = test_prologue.convolution(name, made=True)
    kernel = lower(made, paired("f32"))
    assert "(bfloat16 pairs)" not in kernel.label
    got = run_guarded(kernel, [z, filter_, x, scale, shift], paired("f32"))
    for value, exact in zip(got, interpret(made.op.body, [z, filter_, x, scale, shift]), strict=True):
        assert np.linalg.norm(value - exact) <= 6e-3 * np.linalg.norm(exact)


@pytest.mark.parametrize("name", test_prologue.SHAPES)
def test_a_filter_gradient_of_an_image_that_is_made(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _only_pairs(monkeypatch)
    node, arrays = test_prologue.fused(name, "f32")
    got, = run_guarded(_lowered(node, paired("f32")), arrays, paired("f32"))
    plain, operands = test_prologue.made_before(node, arrays)
    exact, = plain.op.evaluate(*(rounded(a) for a in operands))
    magnitude, = plain.op.evaluate(*(np.abs(rounded(a)) for a in operands))
    check(got, exact, magnitude, "f32")


def test_multiply_adds_that_start_in_a_cycle() -> None:
    one = replace(with_instruction(), cpu="znver4")
    assert (one.multiply_adds, with_instruction().multiply_adds) == (1, 2)
    assert replace(one, name="avx2").multiply_adds == 2


SQUARES = {  # image, output channels
    "whole tiles": ((2, 8, 12, 64), 48),
    "cut tiles": ((3, 7, 9, 32), 40),
    "one pixel": ((2, 1, 1, 64), 64),
    "one row": ((1, 1, 13, 96), 17),
    "many tiles": ((3, 28, 30, 64), 128),
    "an odd number of tiles": ((1, 5, 5, 64), 32),
    "panels in parts": ((1, 14, 14, 128), 320),
}
PADDINGS = {"same": ((1, 1), (1, 1)), "valid": ((0, 0), (0, 0)), "asymmetric": ((2, 0), (0, 1))}


@pytest.fixture
def squares_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """3x3 filters by Winograd's algorithm on pairs wherever that is provided for."""
    monkeypatch.setattr(conv_direct, "pairs_pay",
                        lambda c, num, *_: winograd.fits(c) and c.depth % (2 * num.lanes) == 0)
    monkeypatch.setattr(conv_filter_grad, "pairs_pay", lambda op, *_: winograd_filter_grad.fits(op))


def _whole_numbers(node: Node, arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Operands whose factors and sums all are exact: small whole numbers, those of the filter multiples of four."""
    rng = np.random.default_rng(5)
    filters = {"conv2d": 1, "conv2d_input_grad": 0}.get(node.op.name)
    return [(rng.integers(-2, 3, a.shape) * (4 if i == filters else 1)).astype(np.float32)
            for i, a in enumerate(arrays)]


def _square(name: str, image: tuple[int, ...], width: int, padding: tuple) -> tuple[Node, list[np.ndarray]]:
    """A 3x3 node whose sums are over the channels of ``image``, and arrays for it."""
    if name == "conv2d_input_grad":
        image, width = (*image[:3], width), image[3]
    return test_conv.build(name, (image, (3, 3, image[3], width), (1, 1), padding, (1, 1), 1), "f32")


@pytest.mark.usefixtures("squares_of_pairs")
@pytest.mark.parametrize(("case", "padding"), [*((case, "same") for case in SQUARES), ("whole tiles", "valid"),
                                               ("cut tiles", "valid"), ("cut tiles", "asymmetric")])
@pytest.mark.parametrize("name", test_conv.NAMES)
def test_winograds_algorithm(name: str, case: str, padding: str) -> None:
    node, arrays = _square(name, *SQUARES[case], PADDINGS[padding])
    operands = _whole_numbers(node, arrays)
    got = run(node, operands, paired("f32"), "Winograd 2x2 of bfloat16 pairs")
    exact, = node.op.evaluate(*(a.astype(np.float64) for a in operands))
    np.testing.assert_array_equal(got, exact)


@pytest.mark.usefixtures("squares_of_pairs")
@pytest.mark.parametrize("name", test_conv.NAMES)
def test_errors_of_winograds_algorithm(name: str) -> None:
    """Up to twice those of direct sums of rounded products."""
    error, of_direct = _errors(*_square(name, (4, 20, 20, 64), 64, PADDINGS["same"]))
    assert of_direct / 2 < error < 2 * of_direct


def _errors(node: Node, arrays: list[np.ndarray]) -> tuple[float, float]:
    """Lengths of the errors of the kernel, and of direct sums of rounded products."""
    exact, direct = (node.op.evaluate(*operands)[0] for operands in (
        [a.astype(np.float64) for a in arrays], [rounded(a) for a in arrays]))
    got, = run_guarded(lower(node, paired("f32")), arrays, paired("f32"))
    error, of_direct = (float(np.linalg.norm(value - exact)) for value in (got, direct))
    return error, of_direct


@pytest.mark.usefixtures("squares_of_pairs")
@pytest.mark.parametrize("what", [np.inf, np.nan])
@pytest.mark.parametrize("name", test_conv.NAMES)
def test_winograds_algorithm_of_what_is_not_finite(name: str, what: float) -> None:
    node, arrays = _square(name, (2, 12, 12, 64), 64, PADDINGS["same"])
    arrays[1 if name == "conv2d_input_grad" else 0][1, 5, 6, 7] = what
    _check_not_finite(node, arrays)


def _check_not_finite(node: Node, arrays: list[np.ndarray]) -> None:
    """Infinities and NaN are where they are in float64."""
    got, = run_guarded(lower(node, paired("f32")), arrays, paired("f32"))
    with np.errstate(invalid="ignore"):
        exact, = node.op.evaluate(*(a.astype(np.float64) for a in arrays))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(exact))
    np.testing.assert_array_equal(np.isinf(got), np.isinf(exact))


@pytest.mark.usefixtures("squares_of_pairs")
def test_unequal_taps_are_summed_directly() -> None:
    node, arrays = _square("conv2d", (2, 12, 12, 64), 64, PADDINGS["same"])
    arrays[1][0, 0] *= 1000
    got = run(node, arrays, paired("f32"), "of bfloat16 pairs")
    exact, = node.op.evaluate(*(rounded(a) for a in arrays))
    np.testing.assert_allclose(got, exact, rtol=1e-5, atol=0.1)


@pytest.mark.usefixtures("squares_of_pairs")
@pytest.mark.parametrize("name", ["3x3", "3x3 wide", "3x3 often zero"])
def test_winograds_filter_gradient_of_an_image_that_is_made(name: str) -> None:
    node, arrays = test_prologue.fused(name, "f32")
    kernel = lower(node, paired("f32"))
    assert "Winograd 2x2 of bfloat16 pairs" in kernel.label
    got, = run_guarded(kernel, arrays, paired("f32"))
    plain, operands = test_prologue.made_before(node, arrays)
    exact, = plain.op.evaluate(*(a.astype(np.float64) for a in operands))
    assert np.linalg.norm(got - exact) < 6e-3 * np.linalg.norm(exact)


RUNS = {  # image, output channels, stride, padding
    "stride 2": ((2, 12, 14, 64), 40, 2, "same"), "stride 1": ((1, 9, 11, 32), 24, 1, "same"),
    "cut tiles": ((3, 13, 11, 32), 33, 2, "valid"), "asymmetric": ((1, 15, 10, 96), 16, 2, "asymmetric"),
    "many channels": ((1, 8, 6, 288), 70, 2, "same"), "many tiles": ((2, 46, 40, 32), 20, 2, "same"),
}


@pytest.fixture(params=["streamed", "in blocks"])
def runs_of_pairs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Winograd's algorithms of pairs for 4x4 filters wherever they are possible, whatever they cost."""
    def possible(parts: list, num: Numeric, isa: Isa) -> bool:
        return all(winograd.scheme_of(c, winograd.EXACT) and c.depth % (2 * num.lanes) == 0 for c in parts)

    monkeypatch.setattr(conv_direct, "narrow_pays", lambda *_: False)
    monkeypatch.setattr(conv_direct, "streamed_pairs_pay", possible)
    monkeypatch.setattr(conv_direct, "pairs_2x2_pay", possible if request.param == "in blocks" else lambda *_: False)
    monkeypatch.setattr(conv_filter_grad, "pairs_of_tiles_pay",
                        lambda op, *_: winograd_whole_filter_grad.scheme_of(op, winograd_whole_filter_grad.EXACT))


def _run(name: str, case: str) -> tuple[Node, list[np.ndarray]]:
    """A 4x4 filter whose summed channels fill pairs of registers in each of an operation's directions."""
    image, width, stride, padding = RUNS[case]
    if name == "conv2d_input_grad":
        image, width = (*image[:3], width), image[3]
    strides = (stride, stride)
    return test_conv.build(name, (image, (4, 4, image[3], width), strides, PADDINGS[padding], (1, 1), 1), "f32")


@pytest.mark.usefixtures("runs_of_pairs")
@pytest.mark.parametrize("case", RUNS)
@pytest.mark.parametrize("name", test_conv.NAMES)
def test_runs_of_taps(name: str, case: str) -> None:
    node, arrays = _run(name, case)
    operands = _whole_numbers(node, arrays)
    got = run(node, operands, paired("f32"), "of bfloat16 pairs")
    exact, = node.op.evaluate(*(a.astype(np.float64) for a in operands))
    np.testing.assert_array_equal(got, exact)
    error, of_direct = _errors(node, arrays)
    assert of_direct / 2 < error < 2.5 * of_direct


@pytest.mark.usefixtures("runs_of_pairs")
@pytest.mark.parametrize("name", test_conv.NAMES)
def test_runs_of_taps_with_what_is_not_finite(name: str) -> None:
    node, arrays = _run(name, "stride 2")
    arrays[1 if name == "conv2d_input_grad" else 0][1, 5, 4, 7] = np.inf
    _check_not_finite(node, arrays)


@pytest.mark.usefixtures("what_pairing_takes")
@pytest.mark.parametrize("name", test_conv.NAMES)
def test_runs_of_taps_where_they_pay(name: str) -> None:
    case = ((1, 64, 64, 128), (4, 4, 128, 256), (2, 2), ((1, 1), (1, 1)), (1, 1), 1)
    assert "of bfloat16 pairs)" in _label(name, case, paired("f32"))
    assert "Winograd" in _label(name, case, paired("f32"))
    assert "pairs" not in _label(name, case, replace(paired("f32"), bf16_dot=False))
