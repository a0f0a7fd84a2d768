"""Matrix products against float64 and wrap-around integers, every layout and instruction set."""

from dataclasses import replace

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import few_rows, matmul
from afterburner.cpu.kernels.gemm import numeric
from afterburner.ir import DTYPES, Builder, Node, TensorType
from afterburner.ir.ops.matmul import Matmul

LAYOUTS = [(False, False), (True, False), (False, True), (True, True)]


def node_of(a, b, dtype, transpose_a, transpose_b):
    builder = Builder()
    x = builder.input(TensorType(DTYPES[dtype], a), "a")
    y = builder.input(TensorType(DTYPES[dtype], b), "b")
    return builder.emit(Matmul(transpose_a, transpose_b), x, y).node


def operands_of(m, k, n, dtype, transpose_a, transpose_b, batch=()):
    rng = np.random.default_rng(m * 10007 + k * 101 + n)
    shapes = [(*batch, *((k, m) if transpose_a else (m, k))), (*batch, *((n, k) if transpose_b else (k, n)))]
    kind = DTYPES[dtype]
    if kind.is_float:
        return [rng.standard_normal(s).astype(kind.numpy) for s in shapes]
    return [rng.integers(-2**40, 2**40, s).astype(kind.numpy) for s in shapes]


def check(m, k, n, dtype, layout, isa_name, batch=()):
    operands = operands_of(m, k, n, dtype, *layout, batch)
    node = node_of(operands[0].shape, operands[1].shape, dtype, *layout)
    isa = isas.host(isa_name)
    kernel = matmul.lower_matmul(node, isa)
    got, = run_guarded(kernel, operands, isa)
    again, = run_kernel(kernel, operands, isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    want, = node.op.evaluate(*operands)
    if not DTYPES[dtype].is_float:
        np.testing.assert_array_equal(got, want)
        return
    assert error(got, operands, layout) <= 2 * plain_error(operands, layout, dtype) + 1e-30


def exact(operands, layout):
    a, b = (np.swapaxes(x.astype(np.longdouble), -1, -2) if t else x.astype(np.longdouble)
            for x, t in zip(operands, layout, strict=True))
    return a @ b


def error(got, operands, layout):
    return float(np.linalg.norm((got.astype(np.longdouble) - exact(operands, layout)).ravel()))


def plain_error(operands, layout, dtype):
    """The error of adding the products one after another in the accumulation type, or of the final rounding."""
    wide = np.float64 if dtype == "f64" else np.float32
    a, b = (np.swapaxes(x.astype(wide), -1, -2) if t else x.astype(wide)
            for x, t in zip(operands, layout, strict=True))
    total = np.zeros((*a.shape[:-1], b.shape[-1]), wide)
    for k in range(a.shape[-1]):
        total += a[..., k, None] * b[..., k, None, :]
    return error(total.astype(DTYPES[dtype].numpy), operands, layout)


SIZES = [(1, 1, 1), (3, 5, 7), (32, 784, 128), (8, 64, 10), (1, 300, 33), (2, 129, 17), (33, 1, 9), (50, 70, 1),
         (97, 301, 75), (128, 40, 260), (40, 512, 100)]


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=["nn", "tn", "nt", "tt"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_f32(size, layout, isa_name):
    check(*size, "f32", layout, isa_name)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nn", "tn", "nt", "tt"])
@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16", "i8", "u8", "i16", "i32", "u32", "i64", "u64"])
def test_other_types(dtype, layout):
    for size in ((3, 5, 7), (20, 130, 37), (1, 70, 9)):
        check(*size, dtype, layout, isas.available()[0])


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ["i8", "u8", "i16", "i32", "u32", "i64", "u64"])
def test_few_rows_of_integers(dtype, isa_name):
    """LLVM may join the sums of two registers' lanes."""
    for size in ((1, 5, 5), (2, 16, 6), (1, 32, 3), (2, 64, 2)):
        check(*size, dtype, (False, True), isa_name)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "i32"])
@pytest.mark.parametrize("size", [(40, 512, 1100), (33, 600, 2500), (48, 330, 1030), (17, 1024, 70),
                                  (5, 512, 1100), (6, 100, 1030)], ids=str)
def test_few_rows_meet_whole_rows(size, dtype, isa_name, monkeypatch):
    isa = isas.host(isa_name)
    with monkeypatch.context() as patch:
        patch.setattr(matmul, "_LARGE_BYTES", 0)
        patch.setattr(matmul, "pairs", lambda *_: None)
        check(*size, dtype, LAYOUTS[0], isa_name)
    num = numeric(DTYPES["f32"], isa)
    for m in (4, 5, 13, 40, 48, 49):
        by = matmul.block(matmul.Product(1, m, 2048, 1024, False, False), num, isa, False, False)
        assert by.whole_rows == (5 <= m <= 48)
        assert by.parts[3] * m <= 512 or not by.whole_rows, "more sums than half of B has elements"


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16", "i8", "i32"])
@pytest.mark.parametrize("size", [(1, 700, 1000), (1, 33, 7), (2, 129, 17), (3, 64, 100), (4, 530, 4100), (1, 40, 50)],
                         ids=str)
def test_few_rows_read_a_large_matrix_once(size, dtype, isa_name, monkeypatch):
    monkeypatch.setattr(few_rows, "LARGE_BYTES", 0)
    monkeypatch.setattr(few_rows, "_CHUNK_BYTES", 64 << 10)
    monkeypatch.setattr(matmul, "pairs", lambda *_: None)
    for layout in LAYOUTS[:2]:
        check(*size, dtype, layout, isa_name)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "i8", "u64"])
def test_few_rows_meet_the_columns_of_a_large_matrix(dtype, isa_name, monkeypatch):
    monkeypatch.setattr(matmul, "LARGE_BYTES", 0)
    monkeypatch.setattr(matmul, "pairs", lambda *_: None)
    for size in ((3, 70, 50), (5, 129, 17), (8, 300, 33)):
        check(*size, dtype, (False, True), isa_name)


def test_few_rows_are_taken_apart_for_large_matrices_only():
    assert few_rows.few_rows(matmul.Product(1, 4, 2048, 1024, False, False), 4)
    for other in (matmul.Product(1, 5, 2048, 1024, False, False), matmul.Product(2, 1, 2048, 1024, False, False),
                  matmul.Product(1, 1, 2048, 1024, False, True), matmul.Product(1, 1, 512, 1024, False, False)):
        assert not few_rows.few_rows(other, 4)


@pytest.mark.parametrize("layout", LAYOUTS, ids=["nn", "tn", "nt", "tt"])
def test_batches(layout):
    check(5, 9, 11, "f32", layout, None, batch=(2, 3))
    check(1, 64, 20, "f32", layout, None, batch=(4,))
    check(40, 64, 40, "f32", layout, None, batch=(50,))


@pytest.mark.parametrize("layout", [(False, False), (True, True)])
def test_long_inner_axis_is_summed_in_parts(layout):
    check(20, 9216, 30, "f32", layout, None)
    check(1, 9216, 128, "f32", layout, None)
    check(20, 4000, 130, "bf16", layout, None)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16"])
@pytest.mark.parametrize("size", [(256, 17, 70), (259, 256, 50), (261, 600, 70), (517, 1030, 40)], ids=str)
def test_transposed_rows_in_blocks(size, dtype, isa_name):
    for layout in ((True, False), (True, True)):
        check(*size, dtype, layout, isa_name)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
def test_transposed_rows_are_summed_few_steps_at_a_time(isa_name):
    num = numeric(DTYPES["f32"], isas.host(isa_name))

    def blocked(m, n, k, finished):
        return matmul.block(matmul.Product(1, m, n, k, True, False), num, isas.host(isa_name), False, finished)

    assert blocked(1024, 256, 2048, finished=False).depth <= 256
    long, short = blocked(1024, 256, 2048, finished=True), blocked(1024, 256, 512, finished=True)
    assert long.depth <= 256 and long.partial
    assert short.depth == 512 and not short.partial, "a pass of its own would cost what is gained"


@pytest.mark.parametrize("size", [(0, 3, 4), (3, 0, 4), (3, 4, 0)], ids=str)
def test_empty(size):
    m, k, n = size
    node = node_of((m, k), (k, n), "f32", False, False)
    isa = isas.host()
    got, = run_kernel(matmul.lower_matmul(node, isa), [np.ones((m, k), "f4"), np.ones((k, n), "f4")], isa)
    np.testing.assert_array_equal(got, np.zeros((m, n), "f4"))


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(32, 40, 100), (13, 700, 130), (40, 1500, 33)], ids=str)
@pytest.mark.parametrize("dtype", ["f32", "bf16", "f64"])
def test_the_same_bits_where_b_is_packed_by_itself(size, layout, dtype, isa_name):
    isa = isas.host(isa_name)
    operands = operands_of(*size, dtype, *layout)
    node = node_of(operands[0].shape, operands[1].shape, dtype, *layout)
    kept = Node(replace(node.op, kept=True), node.operands)
    kernels = [matmul.lower_matmul(n, isa) for n in (node, kept)]
    (plain,), (packed,) = (run_guarded(kernel, operands, isa) for kernel in kernels)
    assert plain.tobytes() == packed.tobytes()
    assert kernels[1].kept == (1, 1) or isa_name != "avx2" or dtype != "f32"
