"""A language model in ``model.fit``: four causal transformer blocks of 256 over 128 tokens, batch 16, dropout, Adam."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers

from . import Units
from ._alone import report
from ._keras import timed

BATCH = 16
STEPS = 4
LENGTH = 128
WORDS = 2000
WIDTH = 256
HEADS = 4
BLOCKS = 4


class Positions(layers.Layer):
    """Adds a learnt vector for each position."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.vectors = self.add_weight(shape=shape[1:], initializer="random_normal")

    def call(self, inputs: object) -> object:
        return inputs + self.vectors


def block(x: object) -> object:
    """Causal attention and two dense layers with GELU, each behind a normalization and beside a sum."""
    normal = layers.LayerNormalization()(x)
    attended = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, dropout=0.1)(normal, normal, use_causal_mask=True)
    x = layers.add([x, attended])
    hidden = layers.Dense(4 * WIDTH, activation="gelu")(layers.LayerNormalization()(x))
    return layers.add([x, layers.Dropout(0.1)(layers.Dense(WIDTH)(hidden))])


def model() -> keras.Model:
    """The compiled network."""
    words = keras.Input((LENGTH,), dtype="int32")
    x = Positions()(layers.Embedding(WORDS, WIDTH)(words))
    for _ in range(BLOCKS):
        x = block(x)
    logits = layers.Dense(WORDS)(layers.LayerNormalization()(x))
    network = keras.Model(words, logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile(optimizer=keras.optimizers.Adam(1e-3), loss=loss)
    return network


def build() -> Units:
    """An epoch over arrays in memory, and the predictions for them."""
    keras.utils.set_random_seed(1)
    words = np.random.default_rng(1).integers(0, WORDS, (BATCH * STEPS, LENGTH + 1), np.int32)
    given, following = words[:, :-1], words[:, 1:]
    network = model()
    return {"step": (STEPS, timed(network.fit, given, following, batch_size=BATCH)),
            "predict": (STEPS, timed(network.predict, given, batch_size=BATCH))}


if __name__ == "__main__":
    report(build())
