"""Large results of convolutions are stored past the caches: every store that does so is a whole, aligned line."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cpu_harness import run_kernel
from test_conv import CASES, build
from test_conv import check as check_conv
from test_epilogue import ROOTS, bias_relu, fused, masked, residual_tanh

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels import conv, epilogue, lower
from afterburner.cpu.module import KernelModule
from afterburner.ir import interpret
from afterburner.ir.ops.conv import Conv2d, Conv2dInputGrad

NAMES = ("conv2d", "conv2d_input_grad")
ONES = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)  # strides, padding, dilation, groups
LINES = {
    "1x1": ((2, 6, 7, 32), (1, 1, 32, 48), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "strided 1x1": ((2, 9, 8, 16), (1, 1, 16, 32), (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "3x3": ((1, 28, 28, 64), (3, 3, 64, 64), *ONES),
    "strided": ((2, 12, 13, 16), (4, 4, 16, 32), (2, 2), ((1, 1), (1, 2)), (1, 1), 1),
    "dilated": ((1, 13, 15, 16), (3, 3, 16, 16), (1, 1), ((2, 2), (2, 2)), (2, 2), 1),
    "depthwise": ((2, 9, 10, 32), (3, 3, 1, 32), (1, 1), ((1, 1), (1, 1)), (1, 1), 32),
    "depthwise strided": ((1, 11, 10, 48), (5, 5, 1, 48), (2, 2), ((2, 2), (1, 2)), (1, 1), 48),
    "few pixels": ((1, 2, 2, 64), (3, 3, 64, 128), *ONES),
}
WITHIN_LINES = {  # whose channels are whole lines, but not those of a group
    "groups": ((1, 8, 9, 48), (3, 3, 24, 48), (1, 1), ((1, 1), (1, 1)), (1, 1), 2),
    "depthwise multiplier": ((1, 8, 7, 8), (3, 3, 1, 32), (1, 1), ((1, 1), (1, 1)), (1, 1), 8),
}


@pytest.fixture(autouse=True)
def small_results_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epilogue, "PAST_CACHES", 1)


def streams(kernel) -> bool:
    """Whether any code of a kernel stores past the caches."""
    module = KernelModule(isas.host("avx512"))
    module.add(kernel)
    return "!nontemporal" in str(module.llvm)


@pytest.mark.parametrize("dtype, case", [*(("f32", case) for case in (*LINES, *WITHIN_LINES)),
                                         ("f64", "1x1"), ("f64", "depthwise strided")])
@pytest.mark.parametrize("name", NAMES)
def test_whole_lines(name: str, dtype: str, case: str) -> None:
    of = {**LINES, **WITHIN_LINES}[case]
    check_conv(name, of, dtype, "avx512")
    kernel = conv.LOWERINGS[name](build(name, of, dtype)[0], isas.host("avx512"))
    assert streams(kernel) == (case in LINES)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", NAMES)
def test_any_channels(name: str, case: str) -> None:
    check_conv(name, CASES[case], "f32", "avx512")


@pytest.mark.parametrize("case", ["1x1", "3x3", "strided"])
@pytest.mark.parametrize("name", NAMES)
def test_fast_precision(name: str, case: str) -> None:
    isa = replace(isas.host("avx512", "fast"), bf16_dot=isas.host().bf16_dot)
    node, arrays = build(name, LINES[case], "f32")
    kernel = conv.LOWERINGS[name](node, isa)
    found, expected = run_kernel(kernel, arrays, isa)[0], node.op.evaluate(*(a.astype(np.float64) for a in arrays))[0]
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


@pytest.mark.parametrize("finish", [bias_relu, residual_tanh, masked], ids=lambda f: f.__name__)
@pytest.mark.parametrize("root", [
    (Conv2d((1, 1), ((1, 1), (1, 1)), (1, 1), 1), (2, 5, 9, 8), (3, 3, 8, 32)),
    (Conv2dInputGrad((1, 1), ((1, 1), (1, 1)), (1, 1), 1, (2, 5, 9, 16)), (3, 3, 16, 8), (2, 5, 9, 8)),
], ids=lambda root: root[0].name)
def test_what_rides_on_the_result(root, finish, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ROOTS, "lines", root)
    node, arrays = fused("lines", "f32", finish)
    kernel = lower(node, isas.host("avx512"))
    assert streams(kernel)
    for found, expected in zip(run_kernel(kernel, arrays, isas.host("avx512")),
                               interpret(node.op.regions()[0], arrays), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_other_instruction_sets_keep_to_the_caches() -> None:
    kernel = conv.LOWERINGS["conv2d"](build("conv2d", LINES["1x1"], "f32")[0], isas.host("avx2"))
    module = KernelModule(isas.host("avx2"))
    module.add(kernel)
    assert "!nontemporal" not in str(module.llvm)
