"""Trains a convolutional network on scikit-learn's handwritten digits: an ordinary Keras program.

    python examples/digits.py
    afterburner run examples/digits.py
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SIZE = 28  # the 8×8 images are enlarged to MNIST's size
BATCH = 64


def data() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Images f32[n,28,28,1] in [0, 1] and labels i64[n]: for training, and a third held out."""
    digits = load_digits()
    images = enlarged(digits.images.astype(np.float32) / 16)[..., np.newaxis]
    train_x, test_x, train_y, test_y = train_test_split(
        images, digits.target, test_size=1 / 3, random_state=0, stratify=digits.target)
    return train_x, train_y, test_x, test_y


def enlarged(images: np.ndarray) -> np.ndarray:
    """f32[n,8,8] to f32[n,28,28], linearly interpolated along each axis."""
    position = np.clip((np.arange(SIZE) + 0.5) * 8 / SIZE - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(position[:, np.newaxis] - np.arange(8)))
    return np.einsum("ai,bj,nij->nab", weights, weights, images).astype(np.float32)


def model(steps: int) -> keras.Model:
    """A LeNet-class network, compiled; its learning rate falls to 0 within ``steps``."""
    network = keras.Sequential([
        keras.Input((SIZE, SIZE, 1)),
        keras.layers.Conv2D(32, 3, activation="relu"),
        keras.layers.Conv2D(64, 3, activation="relu"),
        keras.layers.MaxPooling2D(2),
        keras.layers.Dropout(0.25),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(10, activation="softmax"),
    ])
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps))
    network.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return network


class Clock(keras.callbacks.Callback):
    """Notes how long each epoch takes, in seconds, and shows progress."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.seconds.append(time.perf_counter() - self._start)
        done, loss = f"{epoch + 1:2} of {self.epochs}", (logs or {})["loss"]
        print(f"  epoch {done}  loss {loss:.4f}  {self.seconds[-1]:.2f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    options = parser.parse_args()

    keras.utils.set_random_seed(1)
    train_x, train_y, test_x, test_y = data()
    steps = -(-len(train_x) // BATCH)
    network, clock = model(steps * options.epochs), Clock(options.epochs)
    history = network.fit(
        train_x, train_y, batch_size=BATCH, epochs=options.epochs, verbose=0, callbacks=[clock])
    answers = network.predict(test_x, verbose=0).argmax(axis=1)

    result = {
        "accuracy": float(np.mean(answers == test_y)),
        "seconds": sum(clock.seconds),
        "ms_a_step": float(np.median(clock.seconds[1:] or clock.seconds)) / steps * 1e3,
        "losses": history.history["loss"],
        "answers": answers.tolist(),
    }
    print(f"  accuracy on {len(test_y)} held-out digits {result['accuracy']:.2%}, "
          f"{result['seconds']:.1f} s, {result['ms_a_step']:.2f} ms a step")
    if options.json:
        options.json.write_text(json.dumps(result))


if __name__ == "__main__":
    main()
