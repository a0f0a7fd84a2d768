"""Whether two devices have computed the same, as far as rounding allows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from ..ir.types import TensorType

_NOISE = 16.0  # times what changes in the last bits of the inputs make; 8 times is the most met in whole networks


@dataclass(frozen=True)
class Grain:
    """How finely a graph computes.

    Attributes:
        tolerance: of a tensor's norm: what tests grant whole models.
        last_bits: of an input, relatively, that say nothing. Those of float32 are some more than rounding takes: it is
            met in every layer, and where it decides whether one element of a few is rectified, a gradient moves by
            a hundredth or not at all.
    """

    tolerance: float
    last_bits: float


_GRAINS = {"bf16": Grain(3e-2, 2.0**-7), "f16": Grain(3e-2, 2.0**-10), "f32": Grain(1e-3, 2.0**-18),
           "f64": Grain(1e-3, 2.0**-47)}  # the coarsest first


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


@dataclass(frozen=True)
class Distance:
    """How far two results of one type are apart.

    Attributes:
        elements: how many differ; of floats those that are finite on one side alone, or infinite with another sign.
        error: Euclidean norm of the difference of floats that are finite on both sides.
    """

    elements: int
    error: float

    def largest(self, other: Distance) -> Distance:
        """The larger of two."""
        return Distance(max(self.elements, other.elements), max(self.error, other.error))


NOTHING = Distance(0, 0.0)


def distance(one: np.ndarray, other: np.ndarray, type_: TensorType) -> Distance:
    """How far two results of a type are apart."""
    if not is_float(type_):
        return Distance(int(np.count_nonzero(one != other)), 0.0)
    a, b = (x.astype(np.float64).ravel() for x in (one, other))
    finite = np.isfinite(a) & np.isfinite(b)
    odd = ~finite & (a != b) & ~(np.isnan(a) & np.isnan(b))
    return Distance(int(np.count_nonzero(odd)), float(np.linalg.norm(a[finite] - b[finite])))


def disagreement(found: np.ndarray, expected: np.ndarray, noise: Distance, type_: TensorType, grain: Grain) -> str:
    """How a result differs from what is expected by more than rounding explains; empty where it does not.

    Floats are compared by the Euclidean norm of their difference, everything else element by element.

    Args:
        found: the result in question.
        expected: the same from another device.
        noise: how far that one's results for inputs with their last bits changed are from it: what moves with these
            says nothing. Where a gradient is 0 but for rounding, an optimizer that divides by its size makes full
            steps of it.
        type_: of both.
        grain: of the graph.
    """
    apart = distance(found, expected, type_)
    if apart.elements > _NOISE * noise.elements:
        how = "are infinite or NaN on one side alone" if is_float(type_) else "differ"
        return f"{apart.elements} of {type_.size} elements {how}"
    if not is_float(type_):
        return ""
    known = expected.astype(np.float64)
    norm = float(np.linalg.norm(known[np.isfinite(known)]))
    smallest = 2.0**-126 * max(type_.size, 1)  # devices may take for 0 what is smaller
    allowed = grain.tolerance * norm + _NOISE * noise.error + smallest
    return f"an error of {apart.error:.2g} where the norm is {norm:.2g}" if apart.error > allowed else ""
