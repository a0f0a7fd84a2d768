"""A small convolutional network fed by tf.data in batches of 128, 469 steps an epoch (60,000 pictures, MNIST's number),
as a much-repeated benchmark of the 2020 fork had it.

    afterburner run examples/mlcompute_cnn.py
"""

from __future__ import annotations

import argparse

from mlcompute_data import digits
from tensorflow.python.compiler.mlcompute import mlcompute

mlcompute.set_mlc_device(device_name="any")  # before TensorFlow is imported, as the fork asked for

import tensorflow as tf  # noqa: E402

BATCH = 128
PICTURES = 60_000


def dataset(pictures: int, seed: int) -> tf.data.Dataset:
    """Batches of pictures and labels, the last one short."""
    made = tf.data.Dataset.from_tensor_slices(digits(pictures, seed))
    return made.cache().shuffle(pictures, seed=seed).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=PICTURES)
    options = parser.parse_args()

    tf.keras.utils.set_random_seed(1)
    train, test = dataset(options.pictures, 0), dataset(2000, 1)
    print(f"{len(train)} steps an epoch")
    network = tf.keras.Sequential([
        tf.keras.layers.Input((28, 28, 1)),
        tf.keras.layers.Conv2D(32, 3, activation="relu"),
        tf.keras.layers.Conv2D(64, 3, activation="relu"),
        tf.keras.layers.MaxPooling2D(2),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(128, activation="relu"),
        tf.keras.layers.Dense(10, activation="softmax"),
    ])
    network.compile(tf.keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(train, epochs=options.epochs, validation_data=test, verbose=2)
    loss, accuracy = network.evaluate(test, verbose=0)
    print(f"loss {loss:.4f}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
