"""How every Winograd kernel is checked."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from cpu_harness import run_kernel
from guarded import run_guarded
from ranges import magnitudes
from test_conv import build
from test_epilogue import fused

from afterburner.cpu import isa as isas
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel
from afterburner.cpu.kernels import conv_direct, conv_filter_grad, lower
from afterburner.ir import Node, interpret

# An output shares its products with its tile: what bounds its error is the largest sum of |x||w| of the tile, here
# of the tensor. 1 to 15 roundings of it were seen, where direct sums stay below 4 of the output's own.
ROUNDINGS = 32
UNIT = 2.0**-24
TYPICAL = 3e-6  # of the root mean square; 0.2 to 1.3e-6 were seen

NAMES = ["conv2d", "conv2d_input_grad", "conv2d_filter_grad"]


def lowered(node: Node, isa_name: str | None) -> tuple[Kernel, Isa]:
    """The kernel of ``precision=fast`` where nothing is rounded to bfloat16, which must be a Winograd one."""
    isa = replace(isas.host(isa_name, "fast"), bf16_dot=False)
    kernel = lower(node, isa)
    assert "(Winograd)" in kernel.label
    return kernel, isa


def checked(node: Node, isa_name: str | None = None) -> tuple[Kernel, Isa]:
    """The kernel of default precision, which must be one by F(2x2, 3x3), F(2x2, 2x2) or F(3x3, 2x2)."""
    isa = isas.host(isa_name)
    kernel = lower(node, isa)
    assert kernel.key.startswith("winograd checked")
    return kernel, isa


def direct(node: Node, arrays: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """What the direct kernel makes of the operands."""
    with monkeypatch.context() as m:
        m.setattr(conv_direct, "scheme_that_pays", lambda *a: None)
        m.setattr(conv_filter_grad, "filter_scheme_that_pays", lambda *a: None)
        m.setattr(conv_direct, "winograd_2x2_pays", lambda *a: False)
        m.setattr(conv_direct, "streamed_winograd_pays", lambda *a: False)
        m.setattr(conv_filter_grad, "whole_filter_grad_pays", lambda *a: False)
        kernel = lower(node, isas.host())
    assert "Winograd" not in kernel.label
    return run_kernel(kernel, arrays, isas.host())[0]


def check_error_within_twice(node: Node, arrays: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's errors, relative to Σ|x||w| and by norm, are at most twice those of the direct kernel."""
    kernel, isa = checked(node)
    exact, magnitude = magnitudes(node, arrays)

    def error(values: np.ndarray) -> tuple[float, float]:
        return float(np.sqrt(np.mean(((values - exact) / magnitude)**2))), float(np.linalg.norm(values - exact))

    ours, theirs = error(run_kernel(kernel, arrays, isa)[0]), error(direct(node, arrays, monkeypatch))
    assert ours[0] <= 2 * theirs[0] and ours[1] <= 2 * theirs[1]


def computed_directly(node: Node, arrays: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the kernel has the direct kernel's bits."""
    kernel, isa = checked(node)
    got, = run_kernel(kernel, arrays, isa)
    return got.tobytes() == direct(node, arrays, monkeypatch).tobytes()


def check_not_finite(node: Node, arrays: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not finite is as in the direct kernel."""
    kernel, isa = checked(node)
    got, expected = run_kernel(kernel, arrays, isa)[0], direct(node, arrays, monkeypatch)
    assert not np.isfinite(expected).all()
    np.testing.assert_array_equal(got, expected)


def check_where_it_pays(name: str) -> None:
    """Default precision takes F(2x2, 3x3) for layers of many pixels and channels, in float32 only."""
    def taken(image: tuple[int, ...], channels: tuple[int, int], dtype: str = "f32") -> bool:
        same = ((1, 1), (1, 1))
        node, _ = build(name, (image, (3, 3, *channels), (1, 1), same, (1, 1), 1), dtype)
        return "(Winograd 2x2)" in lower(node, isas.host()).label

    assert taken((4, 28, 28, 64), (64, 64)) and taken((16, 14, 14, 256), (256, 256))
    assert not any(taken((4, 28, 28, 64), (64, 64), dtype) for dtype in ("f64", "f16", "bf16"))
    assert not taken((4, 28, 28, 3), (3, 4)) and not taken((1, 7, 7, 512), (512, 512))


def check_f32(node: Node, arrays: list[np.ndarray], isa_name: str) -> None:
    """Against float64; nothing beyond the buffers is touched, and chunks may run in any order."""
    kernel, isa = lowered(node, isa_name)
    got, = run_guarded(kernel, arrays, isa)
    again, = run_kernel(kernel, arrays, isa, reverse=True)
    assert got.tobytes() == again.tobytes()
    wide = [a.astype(np.float64) for a in arrays]
    exact, = node.op.evaluate(*wide)
    magnitude, = node.op.evaluate(*(np.abs(a) for a in wide))
    assert np.abs(got - exact).max() <= ROUNDINGS * UNIT * magnitude.max()
    assert np.sqrt(np.mean((got - exact)**2)) <= TYPICAL * np.sqrt(np.mean(exact**2))


def check_epilogue(root: str, epilogue: Callable, isa_name: str) -> None:
    """With other operations fused into it, against the interpreter."""
    node, arrays = fused(root, "f32", epilogue)
    kernel, isa = lowered(node, isa_name)
    for actual, expected in zip(run_guarded(kernel, arrays, isa), interpret(node.op.body, arrays), strict=True):
        np.testing.assert_allclose(actual.astype(np.float64), expected.astype(np.float64), 2e-4, 2e-4)
