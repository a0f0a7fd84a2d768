"""Input gradients to few channels, as products of all taps at once, against the reference meaning in float64."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv, conv_direct, conv_input_grad_narrow
from afterburner.cpu.kernels.conv_input_grad_narrow import narrow_pays, plan_of
from afterburner.cpu.kernels.gemm import numeric
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.control import Fusion
from afterburner.ir.ops.conv import Conv2dInputGrad, output_size
from afterburner.ir.ops.elementwise import Add, Tanh
from afterburner.ir.ops.shape import Broadcast

# shape of dx, filter, strides, padding
CASES = {
    "image": ((2, 21, 18, 3), (3, 3, 3, 20), (1, 1), ((1, 1), (1, 1))),
    "halved": ((1, 40, 24, 3), (4, 4, 3, 64), (2, 2), ((1, 1), (1, 1))),
    "stem": ((2, 29, 23, 3), (7, 7, 3, 33), (2, 2), ((3, 2), (2, 3))),
    "one channel": ((3, 12, 14, 1), (3, 3, 1, 32), (1, 1), ((0, 0), (0, 0))),
    "rows and columns differ": ((1, 17, 30, 2), (5, 4, 2, 9), (3, 2), ((2, 0), (0, 3))),
    "taps beyond the last row": ((1, 14, 13, 3), (3, 3, 3, 8), (4, 4), ((0, 0), (0, 0))),
    "padding beyond the window": ((1, 5, 6, 3), (3, 3, 3, 8), (1, 1), ((4, 3), (3, 5))),
    "sums in blocks": ((1, 9, 7, 4), (4, 4, 4, 1300), (1, 1), ((1, 2), (2, 1))),
    "one row": ((2, 1, 33, 3), (1, 9, 3, 16), (1, 1), ((0, 0), (4, 4))),
    "few rows for the filter": ((1, 6, 40, 3), (6, 6, 3, 16), (1, 1), ((5, 5), (5, 5))),
}


def node_of(case, epilogue=False):
    """The gradient, or a fusion that adds a row and a tensor and takes the hyperbolic tangent; operands."""
    x, w, strides, padding = CASES[case]
    dy = (x[0], *(output_size(x[1 + i], w[i], strides[i], padding[i], 1) for i in (0, 1)), w[3])
    op = Conv2dInputGrad(strides, padding, (1, 1), 1, x)
    rng = np.random.default_rng(3)
    shapes = [w, dy, *([x[3:], x] if epilogue else [])]
    arrays = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    builder = Builder("conv2d_input_grad" if epilogue else "g")
    values = [builder.input(TensorType(DTYPES["f32"], s), f"p{i}") for i, s in enumerate(shapes)]
    result = builder.emit(op, *values[:2])
    if not epilogue:
        return result.node, arrays
    row = builder.emit(Broadcast(x, (3,)), values[2])
    builder.output(builder.emit(Tanh(), builder.emit(Add(), builder.emit(Add(), result, row), values[3])))
    outer = Builder("outer")
    given = [outer.input(v.type, f"v{i}") for i, v in enumerate(values)]
    return outer.emit(Fusion("conv2d_input_grad", builder.build()), *given).node, arrays


def exact(case, arrays):
    """dx in float64, and the sums of absolute values that bound its rounding."""
    x, w, strides, padding = CASES[case]
    filter_, dy = (a.astype(np.float64) for a in arrays[:2])
    results = []
    for f, g in ((filter_, dy), (np.abs(filter_), np.abs(dy))):
        full = np.zeros((x[0], x[1] + sum(padding[0]) + w[0], x[2] + sum(padding[1]) + w[1], x[3]))
        for i in range(w[0]):
            for j in range(w[1]):
                part = np.einsum("nhwk,ck->nhwc", g, f[i, j])
                full[:, i: i + strides[0] * g.shape[1]: strides[0], j: j + strides[1] * g.shape[2]: strides[1]] += part
        results.append(full[:, padding[0][0]: padding[0][0] + x[1], padding[1][0]: padding[1][0] + x[2]])
    return results


@pytest.mark.parametrize("blocks", [1, 3])
@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CASES)
def test_gradient(case, isa_name, blocks, monkeypatch):
    if blocks > 1:
        monkeypatch.setattr(conv_input_grad_narrow, "_BLOCK_BYTES", 2 << 10)
    monkeypatch.setattr(conv_input_grad_narrow, "_WORTH", 0)
    node, arrays = node_of(case)
    isa = isas.host(isa_name)
    kernel = conv.LOWERINGS["conv2d_input_grad"](node, isa)
    assert kernel.key.startswith("narrow")
    got, = run_guarded(kernel, arrays, isa)
    again, = run_kernel(kernel, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    value, magnitude = exact(case, arrays)
    assert (np.abs(got - value) <= 8 * 2.0**-24 * magnitude + 1e-30).all()


def test_blocks_give_the_same_bits(monkeypatch):
    node, arrays = node_of("halved")
    isa = isas.host(isas.available()[0])
    whole, = run_kernel(conv.LOWERINGS["conv2d_input_grad"](node, isa), arrays, isa)
    monkeypatch.setattr(conv_input_grad_narrow, "_BLOCK_BYTES", 1)  # a row each
    rows, = run_kernel(conv.LOWERINGS["conv2d_input_grad"](node, isa), arrays, isa)
    assert whole.tobytes() == rows.tobytes()


@pytest.mark.parametrize("case", ["image", "halved", "one channel"])
def test_epilogue(case, monkeypatch):
    monkeypatch.setattr(conv_direct, "narrow_pays", lambda *a: True)
    node, arrays = node_of(case, epilogue=True)
    isa = isas.host(isas.available()[0])
    kernel = conv.LOWERINGS["conv2d_input_grad"](node, isa)
    assert kernel.key.startswith("narrow")
    got, = run_guarded(kernel, arrays, isa)
    expected = np.tanh(exact(case, arrays)[0] + arrays[2] + arrays[3])
    assert np.abs(got - expected).max() < 1e-5


def test_what_is_not_finite_stays_within_reach():
    node, arrays = node_of("image")
    isa = isas.host(isas.available()[0])
    plain, = run_kernel(conv.LOWERINGS["conv2d_input_grad"](node, isa), arrays, isa)
    arrays[1][0, 7, 9, 4] = np.inf
    got, = run_kernel(conv.LOWERINGS["conv2d_input_grad"](node, isa), arrays, isa)
    reached = np.zeros(got.shape, bool)
    reached[0, 6:9, 8:11] = True
    assert (np.isinf(got) == reached).all()
    assert (got[~reached] == plain[~reached]).all()


def test_where_it_pays():
    def pays(x, w, isa_name="avx512", dtype="f32", groups=1, dilation=(1, 1)):
        op = Conv2dInputGrad((1, 1), ((0, 0), (0, 0)), dilation, groups, x)
        return narrow_pays(op, w, DTYPES[dtype], isas.host(isa_name))

    assert pays((1, 8, 8, 3), (4, 4, 3, 64))
    assert pays((1, 8, 8, 3), (4, 4, 3, 64), "avx2")
    assert not pays((1, 8, 8, 64), (3, 3, 64, 64))
    assert not pays((1, 8, 8, 3), (1, 1, 3, 64))
    assert not pays((1, 8, 8, 3), (4, 4, 3, 64), dtype="bf16")
    assert not pays((1, 8, 8, 3), (4, 4, 3, 64), dilation=(2, 2))


def test_blocks_stay_in_the_cache():
    op = Conv2dInputGrad((2, 2), ((3, 3), (3, 3)), (1, 1), 1, (16, 224, 224, 3))
    n = plan_of(op, (7, 7, 3, 64), (16, 112, 112, 64), numeric(DTYPES["f32"], isas.host("avx2")))
    assert n.rows.widest * n.line * 4 <= 128 << 10
    single = Conv2dInputGrad((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (1, 32, 32, 3))
    n = plan_of(single, (3, 3, 3, 512), (1, 32, 32, 512), numeric(DTYPES["f32"], isas.host("avx2")))
    assert n.blocks >= 2  # for two workers
