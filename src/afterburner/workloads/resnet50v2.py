"""Fine-tuning ResNet50V2: a new head, all layers trainable, 224×224, batch 16, Adam."""

from __future__ import annotations

import keras

from . import Units
from ._alone import report
from ._networks import SIZE, TIMINGS, training

REPEATS = TIMINGS
BATCH = 16


def network(size: int = SIZE) -> keras.Model:
    """The network without its top, under a head of ten classes."""
    base = keras.applications.ResNet50V2(include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg")
    return keras.Model(base.input, keras.layers.Dense(10, activation="softmax")(base.output))


def build() -> Units:
    """Steps of ``fit``."""
    return training(network, BATCH, keras.optimizers.Adam(1e-4))


if __name__ == "__main__":
    report(build())
