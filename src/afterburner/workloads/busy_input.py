"""The LeNet in ``model.fit`` behind an input pipeline that keeps a core busy: each batch is prepared by a sort
of 400,000 numbers in a ``tf.data`` worker. A training step that starves the worker is slower for it."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf

from . import Units, lenet
from ._alone import report
from ._keras import timed

STEPS = 20
_SORTED = 400_000


def _prepare(batch: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """The batch, scaled by the smallest of many random numbers plus one."""
    numbers = tf.sort(tf.random.stateless_uniform((_SORTED,), (1, 2)))
    return batch * (1 + numbers[0]), labels


def build() -> Units:
    """An epoch over a pipeline that works in parallel with the training step."""
    keras.utils.set_random_seed(1)
    data = lenet.images(lenet.BATCH * STEPS)
    labels = np.random.default_rng(2).integers(0, 10, len(data))
    pipeline = tf.data.Dataset.from_tensor_slices((data, labels)).batch(lenet.BATCH, drop_remainder=True)
    pipeline = pipeline.map(_prepare, num_parallel_calls=1).prefetch(2)
    network = lenet.model()
    return {"step": (STEPS, timed(network.fit, pipeline))}


if __name__ == "__main__":
    report(build())
