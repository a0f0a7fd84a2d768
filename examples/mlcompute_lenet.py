"""LeNet on handwritten digits, as users of the 2020 fork timed it: graph functions, the device set by mlcompute.

    afterburner run examples/mlcompute_lenet.py
"""

from __future__ import annotations

import argparse

import tensorflow as tf
from mlcompute_data import digits
from tensorflow.python.compiler.mlcompute import mlcompute

BATCH = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--device", default="any")
    options = parser.parse_args()

    mlcompute.set_mlc_device(device_name=options.device)
    print(f"mlcompute enabled: {mlcompute.is_apple_mlc_enabled()}")
    tf.keras.utils.set_random_seed(1)
    train_x, train_y = digits(options.pictures)
    test_x, test_y = digits(1000, seed=1)

    network = tf.keras.Sequential([
        tf.keras.layers.Input((28, 28, 1)),
        tf.keras.layers.Conv2D(6, 5, padding="same", activation="tanh"),
        tf.keras.layers.AveragePooling2D(2),
        tf.keras.layers.Conv2D(16, 5, activation="tanh"),
        tf.keras.layers.AveragePooling2D(2),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(120, activation="tanh"),
        tf.keras.layers.Dense(84, activation="tanh"),
        tf.keras.layers.Dense(10, activation="softmax"),
    ])
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    network.fit(train_x, train_y, batch_size=BATCH, epochs=options.epochs, verbose=2)
    loss, accuracy = network.evaluate(test_x, test_y, batch_size=BATCH, verbose=0)
    print(f"loss {loss:.4f}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
