"""A small dense classifier in ``model.fit``: 784-128-10, dropout, batch 32, Adam, accuracy."""

from __future__ import annotations

import keras
import numpy as np

from . import Units
from ._alone import report
from ._keras import timed

BATCH = 32
STEPS = 300


def model() -> keras.Model:
    """The compiled network."""
    network = keras.Sequential([
        keras.Input((784,)),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10),
    ])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    return network


def build() -> Units:
    """An epoch over arrays in memory."""
    keras.utils.set_random_seed(1)
    random = np.random.default_rng(1)
    images = random.random((BATCH * STEPS, 784), np.float32)
    labels = random.integers(0, 10, BATCH * STEPS)
    network = model()
    return {"step": (STEPS, timed(network.fit, images, labels, batch_size=BATCH))}


if __name__ == "__main__":
    report(build())
