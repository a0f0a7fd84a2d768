"""Serving the LeNet: one sample under ``tf.function``, and ``predict_on_batch`` of 32."""

from __future__ import annotations

import keras
import tensorflow as tf

from . import Units, lenet
from ._alone import report

SINGLE_CALLS = 300
BATCH_CALLS = 100


def build() -> Units:
    """Calls of each kind from a Python loop; a result is read after each, as a server would."""
    keras.utils.set_random_seed(1)
    network = lenet.model()
    sample, batch = tf.constant(lenet.images(1)), lenet.images(32)
    answer = tf.function(lambda image: network(image, training=False))

    def single() -> None:
        for _ in range(SINGLE_CALLS):
            answer(sample).numpy()

    def batched() -> None:
        for _ in range(BATCH_CALLS):
            network.predict_on_batch(batch)

    return {"sample": (SINGLE_CALLS, single), "batch of 32": (BATCH_CALLS, batched)}


if __name__ == "__main__":
    report(build())
