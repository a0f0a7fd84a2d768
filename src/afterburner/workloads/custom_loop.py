"""A hand-written training step under ``tf.function``: Adam on an 8-64-64-4 network, batch 32."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from . import Units
from ._alone import report

CALLS = 1000


def step_of(network: keras.Model) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """A step of mean squared error: inputs f32[n,8], targets f32[n,4] to the loss."""
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(inputs: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(network(inputs, training=True) - targets))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
        return loss

    return step


def build() -> Units:
    """Calls of the step from a Python loop, always on the same batch."""
    keras.utils.set_random_seed(1)
    network = keras.Sequential([
        keras.Input((8,)),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(4),
    ])
    inputs, targets = tf.random.normal((32, 8), seed=1), tf.random.normal((32, 4), seed=2)
    step = step_of(network)

    def loop() -> float:
        for _ in range(CALLS):
            loss = step(inputs, targets)
        return float(loss)

    return {"step": (CALLS, loop)}


if __name__ == "__main__":
    report(build())
