"""Pictures for the examples, made here: there is nothing to download."""

from __future__ import annotations

import numpy as np
from digits import enlarged
from sklearn.datasets import load_digits


def digits(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """``count`` handwritten digits as MNIST has them, f32[count,28,28,1] in [0, 1] and i64[count]: scikit-learn's,
    enlarged, each time moved by up to two pixels."""
    random = np.random.default_rng(seed)
    source = load_digits()
    pictures = enlarged(source.images.astype(np.float32) / 16)
    chosen = random.integers(0, len(pictures), count)
    moves = random.integers(-2, 3, (count, 2))
    moved = [np.roll(pictures[i], move, (0, 1)) for i, move in zip(chosen, moves, strict=True)]
    return np.stack(moved)[..., np.newaxis], source.target[chosen]
