"""A classifier of texts in ``model.fit``: embedded words, a GRU of 64 each way, padding masked, batch 32, Adam."""

from __future__ import annotations

import keras
import numpy as np

from . import Units
from ._alone import report
from ._keras import timed

BATCH = 32
STEPS = 50
LENGTH = 80
WORDS = 5000


def model() -> keras.Model:
    """The compiled network."""
    network = keras.Sequential([
        keras.Input((LENGTH,), dtype="int32"),
        keras.layers.Embedding(WORDS, 64, mask_zero=True),
        keras.layers.Bidirectional(keras.layers.GRU(64)),
        keras.layers.Dense(1, activation="sigmoid"),
    ])
    network.compile(optimizer="adam", loss="binary_crossentropy", metrics=["accuracy"])
    return network


def texts(count: int) -> np.ndarray:
    """i32[count,80]: word numbers, zeros behind the end of each text."""
    random = np.random.default_rng(1)
    words = random.integers(1, WORDS, (count, LENGTH))
    ends = random.integers(20, LENGTH + 1, (count, 1))
    return np.where(np.arange(LENGTH) < ends, words, 0).astype(np.int32)


def build() -> Units:
    """An epoch over arrays in memory, and the predictions for them."""
    keras.utils.set_random_seed(1)
    data = texts(BATCH * STEPS)
    labels = np.random.default_rng(2).integers(0, 2, (len(data), 1))
    network = model()
    return {"step": (STEPS, timed(network.fit, data, labels, batch_size=BATCH)),
            "predict": (STEPS, timed(network.predict, data, batch_size=BATCH))}


if __name__ == "__main__":
    report(build())
