"""Operands of convolutions that range widely, and what bounds their sums."""

from collections.abc import Callable

import numpy as np

from afterburner.ir import Node

_MOST = 4  # powers of ten


def _scales(*shape: int) -> np.ndarray:
    return (10 ** np.random.default_rng(len(shape)).uniform(0, _MOST, shape)).astype(np.float32)


def _equal(x: np.ndarray, w: np.ndarray) -> None:
    """As they are."""


def _rectified(x: np.ndarray, w: np.ndarray) -> None:
    np.maximum(x, 0, out=x)


def _channels(x: np.ndarray, w: np.ndarray) -> None:
    x *= _scales(x.shape[3])


def _filters_channels(x: np.ndarray, w: np.ndarray) -> None:
    w *= _scales(1, 1, *w.shape[2:])


def _pixels(x: np.ndarray, w: np.ndarray) -> None:
    x *= _scales(*x.shape[:3], 1)


def _taps(x: np.ndarray, w: np.ndarray) -> None:
    w *= _scales(*w.shape[:2], 1, 1)


def _pixels_and_taps(x: np.ndarray, w: np.ndarray) -> None:
    _pixels(x, w)
    _taps(x, w)


def _every_element(x: np.ndarray, w: np.ndarray) -> None:
    x *= _scales(*x.shape)
    w *= _scales(*w.shape)


def _aligned(x: np.ndarray, w: np.ndarray) -> None:
    """Large pixels never meet in one column of taps; or that column is the smaller one, within a filter's limit."""
    x[:, :, 2::4] *= 1e4
    if w.shape[0] == x.shape[0]:
        w[:, :, 2::4] *= 1e4
    else:
        w[:, 2] /= 10


def _few_elements(x: np.ndarray, w: np.ndarray) -> None:
    """As many elements of x as one in 16."""
    _every_element(x, w)
    x[np.random.default_rng(0).random(x.shape) >= 1 / 16] = 0


RANGES: dict[str, Callable[[np.ndarray, np.ndarray], None]] = {
    f.__name__.removeprefix("_"): f
    for f in (_equal, _rectified, _channels, _filters_channels, _pixels, _taps, _pixels_and_taps, _every_element,
              _aligned, _few_elements)
}  # by name: changes an image and a filter in place


def magnitudes(node: Node, arrays: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The exact result in float64, and for each element the sum of the products without their signs."""
    wide = [a.astype(np.float64) for a in arrays]
    exact, = node.op.evaluate(*wide)
    sums, = node.op.evaluate(*map(np.abs, wide))
    return exact, sums
