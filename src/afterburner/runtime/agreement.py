"""Whether two devices have computed the same, as far as rounding allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..ir.types import TensorType

_NOISE = 16.0  # times what a change in the last bits of the inputs makes; 6 times is the most met in whole networks


@dataclass(frozen=True)
class Grain:
    """How finely a graph computes.

    Attributes:
        tolerance: of a tensor's norm: what tests grant whole models.
        last_bits: of an input, relatively, that say nothing.
    """

    tolerance: float
    last_bits: float


_GRAINS = {"bf16": Grain(3e-2, 2.0**-7), "f16": Grain(3e-2, 2.0**-10), "f32": Grain(1e-3, 2.0**-21),
           "f64": Grain(1e-3, 2.0**-50)}  # the coarsest first


def grain_of(types: Iterable[TensorType], fast: bool = False) -> Grain:
    """The grain of a graph with values of these types; with ``fast`` products of float32 may be of rounded numbers."""
    names = {type_.dtype.name for type_ in types}
    if fast and "f32" in names:
        names.add("bf16")
    return next((grain for name, grain in _GRAINS.items() if name in names), _GRAINS["f32"])


def is_float(type_: TensorType) -> bool:
    """Whether these are floats."""
    return type_.dtype.name in _GRAINS


def shaken(x: np.ndarray, grain: Grain, seed: int) -> np.ndarray:
    """Floats with their last bits changed, up or down as a seed has it."""
    signs = np.random.default_rng(seed).integers(0, 2, x.shape, np.int8) * 2.0 - 1.0
    with np.errstate(all="ignore"):
        return np.asarray(x.astype(np.float64) * (1 + grain.last_bits * signs)).astype(x.dtype)


def disagreement(found: np.ndarray, expected: np.ndarray, noisy: np.ndarray, type_: TensorType, grain: Grain) -> str:
    """How a result differs from what is expected by more than rounding explains; empty where it does not.

    Floats are compared by the Euclidean norm of their difference, everything else element by element.

    Args:
        found: the result in question.
        expected: the same from another device.
        noisy: what that one gives for inputs with their last bits changed: what moves with these says nothing. Where
            a gradient is 0 but for rounding, an optimizer that divides by its size makes full steps of it.
        type_: of all three.
        grain: of the graph.
    """
    if not is_float(type_):
        wrong, moved = (int(np.count_nonzero(x != expected)) for x in (found, noisy))
        return f"{wrong} of {type_.size} elements differ" if wrong > _NOISE * moved else ""
    a, b, c = (x.astype(np.float64).ravel() for x in (found, expected, noisy))
    odd = _odd(a, b)
    if odd > _NOISE * _odd(c, b):
        return f"{odd} of {type_.size} elements are infinite or NaN on one side alone"
    finite = np.isfinite(a) & np.isfinite(b) & np.isfinite(c)
    a, b, c = a[finite], b[finite], c[finite]
    smallest = 2.0**-126 * max(b.size, 1)  # devices may take for 0 what is smaller
    error, norm = float(np.linalg.norm(a - b)), float(np.linalg.norm(b))
    allowed = grain.tolerance * norm + _NOISE * float(np.linalg.norm(c - b)) + smallest
    return f"an error of {error:.2g} where the norm is {norm:.2g}" if error > allowed else ""


def _odd(a: np.ndarray, b: np.ndarray) -> int:
    """Elements that are not finite on either side, and not the same."""
    special = ~(np.isfinite(a) & np.isfinite(b))
    return int(np.count_nonzero(special & (a != b) & ~(np.isnan(a) & np.isnan(b))))
