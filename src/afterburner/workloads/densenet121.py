"""Training DenseNet121: 224×224, batch 16, stochastic gradient descent with momentum."""

from __future__ import annotations

import keras

from . import Units
from ._alone import report
from ._networks import SIZE, TIMINGS, training

REPEATS = TIMINGS
BATCH = 16


def network(size: int = SIZE) -> keras.Model:
    """The network with its top of a thousand classes."""
    return keras.applications.DenseNet121(weights=None, input_shape=(size, size, 3))


def build() -> Units:
    """Steps of ``fit``."""
    return training(network, BATCH, keras.optimizers.SGD(1e-3, momentum=0.9))


if __name__ == "__main__":
    report(build())
