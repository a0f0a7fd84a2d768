"""A dense network with two layers of 2,000 units, on which the 2020 fork's 'gpu' lost to its 'any': try each device.

    afterburner run examples/mlcompute_dense.py --device cpu
"""

from __future__ import annotations

import argparse
import time

import tensorflow as tf
from mlcompute_data import digits
from tensorflow.python.compiler.mlcompute import mlcompute

BATCH = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--units", type=int, default=2000)
    parser.add_argument("--device", default="any")
    options = parser.parse_args()

    mlcompute.set_mlc_device(device_name=options.device)
    tf.keras.utils.set_random_seed(1)
    train_x, train_y = digits(options.pictures)
    test_x, test_y = digits(1000, seed=1)
    network = tf.keras.Sequential([
        tf.keras.layers.Input((28, 28, 1)),
        tf.keras.layers.Flatten(),
        tf.keras.layers.Dense(options.units, activation="relu"),
        tf.keras.layers.Dense(options.units, activation="relu"),
        tf.keras.layers.Dense(10),
    ])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"])
    start = time.perf_counter()
    network.fit(train_x, train_y, batch_size=BATCH, epochs=options.epochs, verbose=2)
    print(f"{(time.perf_counter() - start) / options.epochs:.2f} s an epoch on {options.device!r}")
    final, accuracy = network.evaluate(test_x, test_y, batch_size=BATCH, verbose=0)
    print(f"loss {final:.4f}, accuracy {accuracy:.4f}")


if __name__ == "__main__":
    main()
