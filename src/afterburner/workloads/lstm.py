"""A recurrent classifier of series in ``model.fit``: two LSTM layers of 128 over 50×32 numbers, batch 32, Adam."""

from __future__ import annotations

import keras
import numpy as np

from . import Units
from ._alone import report
from ._keras import timed

BATCH = 32
STEPS = 50
LENGTH = 50


def model() -> keras.Model:
    """The compiled network."""
    network = keras.Sequential([
        keras.Input((LENGTH, 32)),
        keras.layers.LSTM(128, return_sequences=True),
        keras.layers.LSTM(128),
        keras.layers.Dense(10, activation="softmax"),
    ])
    network.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def build() -> Units:
    """An epoch over arrays in memory, and the predictions for them."""
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    series = random.standard_normal((BATCH * STEPS, LENGTH, 32)).astype(np.float32)
    labels = random.integers(0, 10, len(series))
    network = model()
    return {"step": (STEPS, timed(network.fit, series, labels, batch_size=BATCH)),
            "predict": (STEPS, timed(network.predict, series, batch_size=BATCH))}


if __name__ == "__main__":
    report(build())
