"""Results copied from MLX's memory to the caller's."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX has no wheel for this machine", exc_type=ImportError)

from afterburner.cpu.handover import handover_code  # noqa: E402
from afterburner.gpu.backend import mx, mx_dtype  # noqa: E402
from afterburner.gpu.transfer import Writers  # noqa: E402
from afterburner.ir import DTYPES, TensorType  # noqa: E402
from afterburner.runtime.buffers import HandoverCode  # noqa: E402
from tests.ops.test_cpu import aligned  # noqa: E402

NAMES = [name for name in DTYPES if name != "f64"]
SHAPES = [(3, 4), (), (0, 2), (5,)]

pytestmark = pytest.mark.parametrize("handover", [None, handover_code()], ids=["one by one", "at once"])


def copied(results: list[mx.array], types: list[TensorType], handover: HandoverCode | None) -> list[bytes]:
    outputs = [aligned(t) for t in types]
    for output in outputs:
        output.view(np.uint8).fill(0x5A) if output.ndim else output.fill(1)
    Writers(types, handover).write(results, [o.ctypes.data for o in outputs])
    return [o.tobytes() for o in outputs]


def numbers(type_: TensorType, seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).integers(0, 2 if type_.dtype.name == "bool" else 100, type_.shape)
    return values.astype(type_.dtype.numpy)


def test_every_element_type_and_shape(handover: HandoverCode | None) -> None:
    types = [TensorType(DTYPES[name], shape) for name in NAMES for shape in SHAPES]
    arrays = [numbers(t, seed) for seed, t in enumerate(types)]
    results = [mx.array(a.astype(np.float32)).astype(mx_dtype(t.dtype)) for a, t in zip(arrays, types, strict=True)]
    mx.eval(results)
    assert copied(results, types, handover) == [a.tobytes() for a in arrays]


def test_results_that_do_not_lie_row_by_row(handover: HandoverCode | None) -> None:
    f32, bf16 = DTYPES["f32"], DTYPES["bf16"]
    base = mx.arange(12, dtype=mx.float32).reshape(3, 4)
    results = [base.T, base, mx.broadcast_to(base[0], (2, 4)), base[:, ::2], base.astype(mx.bfloat16).T, base]
    mx.eval(results)
    types = [TensorType(bf16 if r.dtype == mx.bfloat16 else f32, tuple(r.shape)) for r in results]
    shown = [np.array(r.astype(mx.float32)) for r in results]
    wanted = [s.astype(t.dtype.numpy).tobytes() for s, t in zip(shown, types, strict=True)]
    assert copied(results, types, handover) == wanted


def test_no_results(handover: HandoverCode | None) -> None:
    Writers([], handover).write([], [])


def test_what_shows_no_memory_is_an_error_and_what_came_before_is_copied(handover: HandoverCode | None) -> None:
    types = [TensorType(DTYPES["f32"], (2,))] * 2
    outputs = [aligned(t) for t in types]
    with pytest.raises((TypeError, ValueError)):
        Writers(types, handover).write([mx.ones(2), object()], [o.ctypes.data for o in outputs])
    assert outputs[0].tolist() == [1, 1]
