"""Training MobileNetV3Large: 224×224, batch 32, RMSprop."""

from __future__ import annotations

import keras

from . import Units
from ._alone import report
from ._networks import SIZE, TIMINGS, training

REPEATS = TIMINGS
BATCH = 32


def network(size: int = SIZE) -> keras.Model:
    """The network with its top of a thousand classes."""
    return keras.applications.MobileNetV3Large(weights=None, input_shape=(size, size, 3))


def build() -> Units:
    """Steps of ``fit``."""
    return training(network, BATCH, keras.optimizers.RMSprop(1e-4))


if __name__ == "__main__":
    report(build())
