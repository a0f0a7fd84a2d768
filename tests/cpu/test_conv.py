"""Convolutions and their gradients against the reference meaning in float64."""

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel
from guarded import run_guarded

from afterburner.cpu import isa as isas
from afterburner.cpu.emitter import Emitter
from afterburner.cpu.kernels import (
    conv,
    conv_correlations,
    conv_direct,
    correlation,
    correlation_split,
    correlation_streamed,
    correlator,
    depthwise,
    epilogue,
    filter_grad_plan,
)
from afterburner.cpu.kernels.gemm import CHUNK_CYCLES, MOST_CHUNKS, chunks_of, numeric, product_cycles
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad, output_size

NAMES = ["conv2d", "conv2d_input_grad", "conv2d_filter_grad"]

# image, filter, strides, padding, dilation, groups
CASES = {
    "first layer": ((3, 12, 11, 1), (3, 3, 1, 32), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "valid": ((2, 9, 14, 8), (3, 3, 8, 20), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "same": ((2, 7, 7, 16), (3, 3, 16, 24), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "wide same": ((1, 5, 40, 4), (5, 5, 4, 9), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
    "asymmetric": ((1, 8, 9, 3), (3, 4, 3, 5), (1, 1), ((0, 3), (2, 1)), (1, 1), 1),
    "strided stem": ((1, 23, 22, 3), (7, 7, 3, 17), (2, 2), ((3, 3), (3, 2)), (1, 1), 1),
    "strided 1x1": ((2, 9, 8, 10), (1, 1, 10, 16), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "plain 1x1": ((2, 6, 7, 10), (1, 1, 10, 33), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "1x1 in other rows": ((2, 14, 14, 20), (1, 1, 20, 64), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "few pixels 1x1": ((1, 1, 4, 300), (1, 1, 300, 40), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "stride beyond window": ((1, 13, 14, 4), (2, 2, 4, 8), (3, 4), ((0, 0), (1, 0)), (1, 1), 1),
    "dilated": ((1, 13, 15, 5), (3, 3, 5, 8), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    "dilated and strided": ((1, 15, 14, 4), (3, 3, 4, 8), (2, 3), ((1, 2), (0, 2)), (3, 2), 1),
    "groups": ((2, 8, 9, 12), (3, 3, 4, 30), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    "strided groups": ((1, 9, 9, 8), (3, 2, 4, 8), (2, 2), ((1, 0), (0, 1)), (1, 1), 2),
    "halved": ((2, 8, 8, 20), (4, 4, 20, 70), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "quarter of the taps": ((1, 2, 2, 16), (4, 4, 16, 24), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "middle tap": ((3, 1, 1, 40), (3, 3, 40, 24), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "middle tap of a strided": ((3, 1, 1, 40), (3, 3, 40, 24), (3, 3), ((1, 1), (1, 1)), (1, 1), 1),
    "middle tap of a row": ((2, 4, 1, 40), (1, 3, 40, 24), (1, 3), ((0, 0), (1, 1)), (1, 1), 1),
    "outer taps dilated": ((2, 3, 2, 8), (3, 3, 8, 9), (1, 1), ((4, 4), (4, 4)), (4, 4), 1),
    "padding beyond window": ((1, 3, 4, 4), (2, 2, 4, 8), (1, 1), ((3, 2), (2, 3)), (1, 1), 1),
    "many channels": ((1, 4, 4, 130), (3, 3, 130, 70), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "depthwise": ((2, 9, 10, 20), (3, 3, 1, 20), (1, 1), ((1, 1), (1, 1)), (1, 1), 20),
    "depthwise strided": ((1, 11, 10, 13), (5, 5, 1, 13), (2, 2), ((2, 2), (1, 2)), (1, 1), 13),
    "depthwise dilated": ((1, 11, 12, 8), (3, 3, 1, 8), (1, 1), ((2, 2), (2, 2)), (2, 2), 8),
    "depthwise multiplier": ((1, 8, 7, 6), (3, 3, 1, 12), (1, 1), ((1, 1), (1, 1)), (1, 1), 6),
    "empty batch": ((0, 8, 7, 6), (3, 3, 6, 12), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
}


def build(name, case, dtype):
    x, w, strides, padding, dilation, groups = case
    y = (x[0], *(output_size(x[1 + i], w[i], strides[i], padding[i], dilation[i]) for i in (0, 1)), w[3])
    attributes = dict(strides=strides, padding=padding, dilation=dilation, groups=groups)
    kinds = {"conv2d": (Conv2d(**attributes), x, w),
             "conv2d_input_grad": (Conv2dInputGrad(**attributes, input_shape=x), w, y),
             "conv2d_filter_grad": (Conv2dFilterGrad(**attributes, filter_shape=w), x, y)}
    op, *shapes = kinds[name]
    builder = Builder()
    values = [builder.input(TensorType(DTYPES[dtype], s), f"v{i}") for i, s in enumerate(shapes)]
    rng = np.random.default_rng(7)
    arrays = [rng.standard_normal(s).astype(DTYPES[dtype].numpy) for s in shapes]
    return builder.emit(op, *values).node, arrays


def check(name, case, dtype, isa_name):
    node, arrays = build(name, case, dtype)
    isa = isas.host(isa_name)
    kernel = conv.LOWERINGS[name](node, isa)
    got, = run_guarded(kernel, arrays, isa)
    again, = run_kernel(kernel, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    magnitude, = node.op.evaluate(*(np.abs(a.astype(np.float64)).astype(np.float32) for a in arrays))
    wide = [a.astype(np.float64) for a in arrays]
    exact = reference(node.op, wide)
    unit = {"f32": 2.0**-24, "f64": 2.0**-53, "f16": 2.0**-11, "bf16": 2.0**-8}[dtype]
    accumulated = min(unit, 2.0**-24)
    bound = 4 * accumulated * magnitude.astype(np.float64) + unit * np.abs(exact) * 1.01 + 1e-7 * (dtype == "f16")
    assert np.all(np.abs(got.astype(np.float64) - exact) <= bound)


def reference(op, arrays):
    return op.evaluate(*arrays)[0]


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_f32(name, case, isa_name):
    check(name, CASES[case], "f32", isa_name)


@pytest.mark.parametrize("dtype", ["f64", "f16", "bf16"])
@pytest.mark.parametrize("case", ["valid", "strided stem", "groups", "dilated and strided", "depthwise"])
@pytest.mark.parametrize("name", NAMES)
def test_other_types(name, case, dtype):
    check(name, CASES[case], dtype, isas.available()[0])


@pytest.mark.parametrize("case", ["same", "strided stem", "plain 1x1", "dilated and strided", "halved",
                                  "depthwise", "depthwise strided"])
@pytest.mark.parametrize("name", NAMES[:2])
def test_input_asked_for_early(name, case, monkeypatch):
    monkeypatch.setattr(conv_direct, "narrow_pays", lambda *_: False)
    node, arrays = build(name, CASES[case], "f32")
    isa = isas.host(isas.available()[0])
    expected, = run_kernel(conv.LOWERINGS[name](node, isa), arrays, isa)
    for module in (correlator, epilogue):
        monkeypatch.setattr(module, "COLD_BYTES", 0)
    asked = []
    ask = Emitter.prefetch
    monkeypatch.setattr(Emitter, "prefetch", lambda e, *at, **how: asked.append(at) or ask(e, *at, **how))
    got, = run_guarded(conv.LOWERINGS[name](node, isa), arrays, isa)
    assert asked
    assert got.tobytes() == expected.tobytes()


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("panel, inputs, chunk", [(1 << 11, 1 << 10, 200), (1 << 14, 1 << 12, 1000)])
@pytest.mark.parametrize("case", ["same", "strided stem", "strided 1x1", "plain 1x1", "groups", "dilated and strided",
                                  "halved", "many channels"])
def test_filter_gradient_in_many_pieces(case, panel, inputs, chunk, isa_name, monkeypatch):
    monkeypatch.setattr(filter_grad_plan, "_PANEL_BYTES", panel)
    monkeypatch.setattr(filter_grad_plan, "_INPUT_BYTES", inputs)
    monkeypatch.setattr(filter_grad_plan, "_COPIED_PIXELS", 8)
    monkeypatch.setattr(filter_grad_plan, "CHUNK_CYCLES", chunk)
    check("conv2d_filter_grad", CASES[case], "f32", isa_name)


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("rows, share", [(2, 1), (3, 1 << 20)])
@pytest.mark.parametrize("case", ["depthwise", "depthwise strided", "depthwise dilated"])
def test_depthwise_filter_gradient_in_many_pieces(case, rows, share, isa_name, monkeypatch):
    monkeypatch.setattr(depthwise, "_BLOCK_ROWS", rows)
    monkeypatch.setattr(depthwise, "_SHARE", share)
    monkeypatch.setattr(depthwise, "CHUNK_CYCLES", 20)
    check("conv2d_filter_grad", CASES[case], "f32", isa_name)


def test_cut_of_a_depthwise_filter_gradient():
    isa = isas.host("avx2")
    num = numeric(DTYPES["f32"], isa)

    def parts(side, channels):
        op = Conv2dFilterGrad(strides=(1, 1), padding=((2, 2), (2, 2)), dilation=(1, 1), groups=channels,
                              filter_shape=(5, 5, 1, channels))
        shape = (32, side, side, channels)
        plan = depthwise.DepthwiseFilterGradient(op, shape, shape, num, num.element, isa).plan
        assert plan.channels.widest == 2  # ten sums: five would wait for each other
        return plan.parts

    assert parts(28, 120) == (32, 1)  # whole pixels
    copies, across = parts(7, 960)
    assert copies < 32 <= copies * across  # 96 KB of sums beside 12 MB of operands


def test_cut_of_a_filter_gradient():
    isa = isas.host("avx2")
    op = Conv2dFilterGrad(strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1,
                          filter_shape=(1, 1, 256, 1024))
    num = numeric(DTYPES["f32"], isa)
    plan = filter_grad_plan.plan_of(op, (16, 14, 14, 256), (16, 14, 14, 1024), num, isa)
    copies, across, down = plan.parts
    assert copies * across * down >= 32
    assert down <= 2  # dy, the wider operand, is copied at most twice
    assert plan.unit == (1, 314)  # pixels of two images


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", ["same", "wide same", "asymmetric", "strided stem", "dilated and strided", "halved",
                                  "padding beyond window", "many channels", "plain 1x1"])
@pytest.mark.parametrize("name", NAMES[:2])
def test_filter_that_passes_once(name, case, isa_name, monkeypatch):
    monkeypatch.setattr(conv_direct, "narrow_pays", lambda *_: False)
    node, arrays = build(name, CASES[case], "f32")
    isa = isas.host(isa_name)
    monkeypatch.setattr(correlation_streamed, "_FILTER_BYTES", 1 << 40)
    packed = conv.LOWERINGS[name](node, isa)
    monkeypatch.setattr(correlation_streamed, "_FILTER_BYTES", 0)
    monkeypatch.setattr(correlation_streamed, "_PANELS", 1)
    streamed = conv.LOWERINGS[name](node, isa)
    assert [len(kernel.phases) for kernel in (packed, streamed)] == [2, 1]
    expected, = run_kernel(packed, arrays, isa)
    got, = run_guarded(streamed, arrays, isa)
    assert got.tobytes() == expected.tobytes()
    again, = run_kernel(streamed, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()


SPLIT = {
    "three taps a block": ((1, 7, 6, 160), (3, 3, 160, 70), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "two taps a block": ((2, 8, 10, 256), (4, 4, 256, 40), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
    "two blocks a tap": ((1, 5, 6, 640), (3, 2, 640, 33), (1, 1), ((2, 1), (0, 2)), (2, 1), 1),
    "dilated columns": ((2, 6, 11, 160), (2, 3, 160, 20), (1, 2), ((1, 0), (2, 3)), (1, 3), 1),
    "pointwise": ((1, 5, 7, 2048), (1, 1, 2048, 40), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "a shorter last block": ((1, 3, 3, 1056), (2, 2, 1056, 24), (1, 1), ((1, 0), (0, 0)), (1, 1), 1),
    "quarter of the taps": ((3, 2, 2, 512), (4, 4, 512, 24), (2, 2), ((1, 1), (1, 1)), (1, 1), 1),
}


@pytest.mark.parametrize("isa_name", INSTRUCTION_SETS)
@pytest.mark.parametrize("case", SPLIT)
def test_filter_that_is_read_as_it_lies(case, isa_name, monkeypatch):
    node, arrays = build("conv2d", SPLIT[case], "f32")
    isa = isas.host(isa_name)
    packed = conv.LOWERINGS["conv2d"](node, isa)
    monkeypatch.setattr(correlation_split, "_FILTER_BYTES", 0)
    monkeypatch.setattr(correlation_split, "_BLOCKS", 1)
    monkeypatch.setattr(conv_direct, "pointwise_product", lambda *_: None)
    split = conv.LOWERINGS["conv2d"](node, isa)
    assert split.temps != packed.temps and len(split.phases) == 2
    expected, = run_kernel(packed, arrays, isa)
    got, = run_guarded(split, arrays, isa)
    assert got.tobytes() == expected.tobytes()
    again, = run_kernel(split, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()


def test_filters_of_many_megabytes_are_read_as_they_lie():
    isa, num = isas.host("avx2"), numeric(DTYPES["f32"], isas.host("avx2"))

    def plan(side, depth, width):
        op = Conv2d(strides=(2, 2), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1)
        c = conv_correlations.forward_correlation(op, (1, 2 * side, 2 * side, depth), (4, 4, depth, width),
                                            (1, side, side, width))
        return correlation_split.split_plan(c, num, isa)

    assert plan(8, 256, 1024) is not None and plan(2, 512, 1024) is not None
    assert plan(16, 256, 512) is None, "each of many pixels reuses the filter"
    assert plan(8, 64, 64) is None, "256 KB stay in the caches"


@pytest.mark.parametrize("name", NAMES[:2])
def test_few_pixels_are_a_product_whose_filter_is_not_packed(name):
    node, _ = build(name, CASES["few pixels 1x1"], "f32")
    kernel = conv.LOWERINGS[name](node, isas.host("avx2"))
    assert kernel.temps == (), "a packed filter is written to memory and read again"


def test_small_work_is_cut_in_two_for_two_workers():
    assert [chunks_of(CHUNK_CYCLES * n) for n in (0.5, 1, 2.5, 5, 9, 100)] == [1, 2, 4, 6, 9, MOST_CHUNKS]


def test_taps_that_no_pixel_reads_are_left_out():
    node, _ = build("conv2d", CASES["quarter of the taps"], "f32")
    x, w, y = (v.shape for v in (*node.operands, *node.results))
    c = conv_correlations.forward_correlation(node.op, x, w, y)
    assert c.rows.taps == correlation.Taps(4, 0, 1, 2, -1, 1)
    assert c.trimmed.rows.taps == c.trimmed.columns.taps == correlation.Taps(2, 1, 1, 2, 0, 1)
    assert c.trimmed.trimmed == c.trimmed
    gradient, _ = build("conv2d_input_grad", CASES["quarter of the taps"], "f32")
    for part in conv_correlations.gradient_correlations(gradient.op, w, y):
        assert part.steps == 4 * 24 and part.trimmed.steps == 24
    beyond = correlation.Axis(3, 1, correlation.Taps(2, 0, 1, 1, -4, 1))
    assert beyond.trimmed == beyond


@pytest.mark.parametrize(("image", "filter_", "parts"), [
    ((1, 14, 14, 128), (3, 3, 128, 32), (14, 1)),  # seven chunks of two rows would leave a worker idle
    ((1, 28, 28, 128), (1, 1, 128, 128), (10, 2)),  # so would ten of three rows and one of them of one
    ((1, 56, 56, 128), (3, 3, 128, 32), (28, 1)),  # even as it is
])
def test_few_chunks_keep_two_and_four_workers_busy(image, filter_, parts):
    pad = filter_[0] // 2
    op = Conv2d((1, 1), ((pad, pad), (pad, pad)), (1, 1), 1)
    isa = isas.host("avx2")
    c = conv_correlations.forward_correlation(op, image, filter_, (*image[:3], filter_[3]))
    plan = conv_direct.balanced(c, conv_direct.plan_of(c, numeric(DTYPES["f32"], isa), isa))
    assert plan.parts == parts
    assert -(-c.rows.outputs // plan.block) * c.images == parts[0]


@pytest.mark.parametrize(("image", "filter_"), [((1, 14, 14, 24), (3, 3, 24, 64)), ((1, 28, 28, 48), (1, 1, 48, 128))])
def test_how_few_chunks_are_cut_does_not_change_bits(image, filter_, monkeypatch):
    pad = filter_[0] // 2
    node, arrays = build("conv2d", (image, filter_, (1, 1), ((pad, pad), (pad, pad)), (1, 1), 1), "f32")
    isa = isas.host("avx2")
    cut, changed, balanced = conv.LOWERINGS["conv2d"](node, isa), [], conv_direct.balanced
    monkeypatch.setattr(conv_direct, "balanced", lambda c, plan: changed.append(balanced(c, plan) != plan) or plan)
    plain = conv.LOWERINGS["conv2d"](node, isa)
    assert changed == [True]
    assert run_guarded(cut, arrays, isa)[0].tobytes() == run_kernel(plain, arrays, isa)[0].tobytes()


def test_1x1_takes_pixels_in_rows_that_tiles_cut_evenly():
    isa = isas.host("avx2")
    num = numeric(DTYPES["f32"], isa)
    x, w, *_ = CASES["1x1 in other rows"]
    op = Conv2d(strides=(1, 1), padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1)
    given = conv_correlations.forward_correlation(op, x, w, (*x[:3], w[3]))
    taken = conv_direct.in_even_rows(given, num, isa)
    plans = [conv_direct.plan_of(c, num, isa) for c in (given, taken)]
    before, after = (product_cycles(p.tiles, p.panels, isa) / p.tiles.size for p in plans)
    assert taken.pixels == given.pixels and after < before
    assert taken.out_strides == (392 * 64, taken.columns.outputs * 64, 64)


def test_strided_1x1_keeps_its_rows():
    isa = isas.host("avx2")
    x, w, strides, *_ = CASES["strided 1x1"]
    op = Conv2dInputGrad(strides=strides, padding=((0, 0), (0, 0)), dilation=(1, 1), groups=1, input_shape=x)
    parts = conv_correlations.gradient_correlations(op, w, (2, 5, 4, 16))
    num = numeric(DTYPES["f32"], isa)
    assert [conv_direct.in_even_rows(c, num, isa) for c in parts] == parts
