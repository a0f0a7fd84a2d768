"""Trains a small convolutional network on scikit-learn's digits in stock TensorFlow, default and fast precision.

    python benchmarks/precision.py [--seeds 5] [--epochs 6]

For each seed: the accuracy on held-out digits of each, and how far the loss of a step is from stock's at most, over
the first 20 steps and over all, relative to the first loss. Stock with one thread, and with oneDNN where TensorFlow
does not switch it on by itself, is printed as well: that is how far apart two runs of stock TensorFlow are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys

import numpy as np

RUNS = {"stock": {}, "stock, 1 thread": {"TF_NUM_INTRAOP_THREADS": "1", "OMP_NUM_THREADS": "1"},
        "stock, oneDNN": {"TF_ENABLE_ONEDNN_OPTS": "1"}, "default": {}, "fast": {"AFTERBURNER_PRECISION": "fast"}}
FIRST = 20  # steps


def train(seed: int, epochs: int, compiled: bool) -> dict[str, object]:
    """Losses of all steps, the accuracy, and how many kernels took Winograd's algorithm."""
    import keras
    from sklearn.datasets import load_digits

    import afterburner

    if compiled:
        afterburner.enable()
    digits = load_digits()
    x, y = (digits.images[..., None] / 16).astype(np.float32), digits.target
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    train_, test = order[:1408], order[1408:]
    layers = keras.layers
    convolutions = [layers.Conv2D(n, 3, padding="same", activation="relu") for n in (32, 32, 64)]
    model = keras.Sequential([layers.Input((8, 8, 1)), *convolutions, layers.MaxPooling2D(), layers.Dropout(0.25),
                              layers.Flatten(), layers.Dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    losses: list[float] = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    model.fit(x[train_], y[train_], batch_size=32, epochs=epochs, verbose=0, callbacks=[record])
    accuracy = model.evaluate(x[test], y[test], verbose=0)[1]
    kernels = [k.label for f in afterburner.report().functions for p in f.parts for k in p.kernels]
    return {"losses": losses, "accuracy": accuracy, "winograd": sum("Winograd" in k for k in kernels)}


def in_process_of_its_own(name: str, seed: int, epochs: int) -> dict[str, object]:
    """``train`` under the environment of a run."""
    command = [sys.executable, __file__, "--run", name, "--seeds", str(seed), "--epochs", str(epochs)]
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "AFTERBURNER_VERBOSITY": "silent", **RUNS[name]}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table, or with ``--run`` the results of one training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        print(json.dumps(train(chosen.seeds, chosen.epochs, not chosen.run.startswith("stock"))))
        return
    for seed in range(chosen.seeds):
        results = {name: in_process_of_its_own(name, seed, chosen.epochs) for name in RUNS}
        reference = np.array(results["stock"]["losses"])
        for name, result in results.items():
            apart = np.abs(np.array(result["losses"]) - reference) / reference[0]
            print(f"seed {seed} {name:16s} accuracy {result['accuracy']:.4f}  loss apart {apart[:FIRST].max():.1e} "
                  f"in {FIRST} steps, {apart.max():.1e} in {len(apart)}; {result['winograd']} Winograd kernels",
                  flush=True)


if __name__ == "__main__":
    main()
