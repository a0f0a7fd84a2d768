"""What the workloads over whole image networks share: data, a training step in ``fit``, answers to images."""

from __future__ import annotations

from typing import Protocol

import keras
import numpy as np
import tensorflow as tf

from . import Units
from ._keras import timed

SIZE = 224
TRAINING_STEPS = 2
PREDICT_BATCH = 32
PREDICT_BATCHES = 2
SINGLE_CALLS = 10
TIMINGS = 3  # seconds a call: more timings in a process would tell little more


class Network(Protocol):
    """A network for square images of a size: uncompiled, with random weights (nothing is downloaded)."""

    def __call__(self, size: int = SIZE) -> keras.Model: ...


def images(count: int, size: int = SIZE) -> np.ndarray:
    """f32[count,size,size,3], uniform in [0, 1)."""
    return np.random.default_rng(1).random((count, size, size, 3), np.float32)


def training(network: Network, batch: int, optimizer: keras.optimizers.Optimizer, from_logits: bool = False) -> Units:
    """Some steps of ``fit`` at a batch size, all layers trainable."""
    keras.utils.set_random_seed(1)
    model = network()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    model.compile(optimizer=optimizer, loss=loss, metrics=["accuracy"])
    data = images(batch * TRAINING_STEPS)
    labels = np.random.default_rng(2).integers(0, model.output_shape[-1], len(data))
    return {"step": (TRAINING_STEPS, timed(model.fit, data, labels, batch_size=batch))}


def inference(network: Network) -> Units:
    """``predict`` in batches, and one image at a time under ``tf.function``, each answer read."""
    keras.utils.set_random_seed(1)
    model = network()
    data, sample = images(PREDICT_BATCH * PREDICT_BATCHES), tf.constant(images(1))
    answer = tf.function(lambda image: model(image, training=False))

    def single() -> None:
        for _ in range(SINGLE_CALLS):
            answer(sample).numpy()

    batched = f"batch of {PREDICT_BATCH}"
    return {batched: (PREDICT_BATCHES, timed(model.predict, data, batch_size=PREDICT_BATCH)),
            "sample": (SINGLE_CALLS, single)}
