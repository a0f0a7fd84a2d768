"""A LeNet-class convolutional network in ``model.fit``: 28×28×1 images, batch 128, Adam, accuracy."""

from __future__ import annotations

import keras
import numpy as np

from . import Units
from ._alone import report
from ._keras import timed

BATCH = 128
STEPS = 20


def model() -> keras.Model:
    """The compiled network."""
    network = keras.Sequential([
        keras.Input((28, 28, 1)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Dropout(0.25),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(10, activation="softmax"),
    ])
    network.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


def images(count: int) -> np.ndarray:
    """f32[count,28,28,1], uniform in [0, 1)."""
    return np.random.default_rng(1).random((count, 28, 28, 1), np.float32)


def build() -> Units:
    """An epoch over arrays in memory."""
    keras.utils.set_random_seed(1)
    data = images(BATCH * STEPS)
    labels = np.random.default_rng(2).integers(0, 10, len(data))
    network = model()
    return {"step": (STEPS, timed(network.fit, data, labels, batch_size=BATCH))}


if __name__ == "__main__":
    report(build())
