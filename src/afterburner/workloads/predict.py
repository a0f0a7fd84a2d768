"""``model.predict`` of the LeNet on 3,200 samples in batches of 32."""

from __future__ import annotations

import time
from collections.abc import Callable

import keras

from . import lenet

SAMPLES = 3200
BATCH = 32


def build() -> dict[str, tuple[int, Callable[[], object]]]:
    """One call of ``predict``; its unit is a batch."""
    keras.utils.set_random_seed(1)
    data = lenet.images(SAMPLES)
    network = lenet.model()
    return {"batch": (SAMPLES // BATCH, lambda: network.predict(data, batch_size=BATCH, verbose=0))}


if __name__ == "__main__":
    for unit, (units, call) in build().items():
        call()
        start = time.perf_counter()
        call()
        print(f"{(time.perf_counter() - start) / units * 1e3:.3f} ms a {unit}")
