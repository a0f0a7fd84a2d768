"""``model.predict`` of the LeNet on 3,200 samples in batches of 32."""

from __future__ import annotations

import keras

from . import Units, lenet
from ._alone import report
from ._keras import timed

SAMPLES = 3200
BATCH = 32


def build() -> Units:
    """One call of ``predict``; its unit is a batch."""
    keras.utils.set_random_seed(1)
    data = lenet.images(SAMPLES)
    network = lenet.model()
    return {"batch": (SAMPLES // BATCH, timed(network.predict, data, batch_size=BATCH))}


if __name__ == "__main__":
    report(build())
