"""Images scaled and moved, by kernels that widen where the image shrinks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ...ir import Value
from ...ir.types import F32
from ..flatten import FlatOp
from ..importer import Importer, Rule
from .resize import matrix_of, of_taps, transposed

Kernel = Callable[[np.ndarray], np.ndarray]  # of distances in f32, not negative


def _lanczos(radius: float) -> Kernel:
    def kernel(x: np.ndarray) -> np.ndarray:
        pi, size = np.float32(np.pi), np.float32(radius)
        inner = np.maximum(x, np.float32(1e-3))
        wave = size * np.sin(pi * inner) * np.sin(pi * inner / size) / (pi * pi * inner * inner)
        return np.where(x > size, 0, np.where(x <= 1e-3, 1, wave))
    return kernel


def _gaussian(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 1.5, 0, np.exp(-x * x / 0.5))


def _box(x: np.ndarray) -> np.ndarray:
    return np.where(x < 0.5, 1.0, np.where(x == 0.5, 0.5, 0.0))


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1 - x, 0)


def _keys_cubic(x: np.ndarray) -> np.ndarray:
    return np.where(x >= 2, 0, np.where(x >= 1, ((-0.5 * x + 2.5) * x - 4) * x + 2, (1.5 * x - 2.5) * x * x + 1))


def _mitchell_cubic(x: np.ndarray) -> np.ndarray:
    outer = ((-7 / 18 * x + 2) * x - 10 / 3) * x + 16 / 9
    return np.where(x >= 2, 0, np.where(x >= 1, outer, (7 / 6 * x - 2) * x * x + 8 / 9))


_KERNELS: dict[str, tuple[Kernel, float]] = {  # with their radius
    "lanczos1": (_lanczos(1), 1), "lanczos3": (_lanczos(3), 3), "lanczos5": (_lanczos(5), 5),
    "gaussian": (_gaussian, 1.5), "box": (_box, 1), "triangle": (_triangle, 1), "keyscubic": (_keys_cubic, 2),
    "mitchellcubic": (_mitchell_cubic, 2),
}


def _taps(ctx: Importer, old: int, new: int, scale: np.float32, shift: np.float32) -> tuple[np.ndarray, np.ndarray]:
    """For each of ``new`` positions its sources, and their shares, which add up to 1, or 0 outside of the image."""
    if ctx.attr("kernel_type") not in _KERNELS:
        raise ctx.refuse(f"the kernel {ctx.attr('kernel_type')}")
    kernel, radius = _KERNELS[ctx.attr("kernel_type")]
    step, half = np.float32(1 / float(scale)), np.float32(0.5)
    width = max(step, np.float32(1)) if ctx.attr("antialias") else np.float32(1)
    place = (np.arange(new, dtype=np.float32) + half) * step + -step * shift
    reach = np.float32(radius) * width
    first, last = (np.clip(bound, 0, old - 1).astype(np.int64)
                   for bound in (np.ceil(place - reach - half), np.floor(place + reach - half)))
    sources = first[:, None] + np.arange((last - first).max(initial=0) + 1)
    distances = np.abs((sources.astype(np.float32) + half - place[:, None]) * (np.float32(1) / width))
    inside = (sources <= last[:, None]) & ((place >= 0) & (place <= old))[:, None]
    weights = np.where(inside, kernel(distances), 0).astype(np.float32)
    total = weights.sum(axis=1, keepdims=True)
    kept = np.abs(total) >= 1000 * np.finfo(np.float32).tiny
    return np.minimum(sources, old - 1), np.where(kept, weights / np.where(kept, total, 1), 0).astype(np.float32)


def _both_taps(ctx: Importer, olds: Sequence[int], news: Sequence[int], scale: Value, shift: Value,
               ) -> list[tuple[np.ndarray, np.ndarray]]:
    """Those of rows and of columns."""
    scales, shifts = ctx.static(scale, "the scale"), ctx.static(shift, "the translation")
    if 0 in (*olds, *news) or not (scales > 0).all():
        raise ctx.refuse(f"scales from {list(olds)} to {list(news)} by {scales.tolist()}")
    return [_taps(ctx, *given) for given in zip(olds, news, scales, shifts, strict=True)]


def _forward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    """Along rows, then columns, in f32."""
    x = ctx.cast(inputs[0], F32)
    taps = _both_taps(ctx, x.shape[1:3], ctx.ints(inputs[1], "the size"), *inputs[2:4])
    for axis, (sources, shares) in zip((1, 2), taps, strict=True):
        x = of_taps(ctx, x, axis, sources, shares)
    return (x,)


def _backward(ctx: Importer, op: FlatOp, inputs: list[Value]) -> Sequence[Value]:
    dy, olds = inputs[0], inputs[1].shape[1:3]
    taps = _both_taps(ctx, olds, dy.shape[1:3], *inputs[2:4])
    rows, columns = (matrix_of(ctx, old, *given) for old, given in zip(olds, taps, strict=True))
    return (ctx.cast(transposed(ctx, dy, rows, columns), inputs[1].type.dtype),)


RESAMPLE_RULES: dict[str, Rule] = {"ScaleAndTranslate": _forward, "ScaleAndTranslateGrad": _backward}
