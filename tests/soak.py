"""Flat memory over many calls: ``python -m tests.soak --calls 10000`` (the suite runs a short form)."""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
from collections.abc import Callable

import keras
import numpy as np
import psutil
import tensorflow as tf

import afterburner

WARM = 0.2  # share of the calls before the first measurement
STRETCHES = 8  # so that a line can be told from a step
ALLOWED_MB = 8.0  # allocator noise; a leak of 1 kB a call is 10 MB in 10,000


def megabytes() -> float:
    """Resident memory of this process."""
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20


def subjects() -> dict[str, Callable[[], object]]:
    """What is called over and over."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        keras.layers.Input((16,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dropout(0.2),
        keras.layers.Dense(4)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    x = np.random.default_rng(0).random((8, 16)).astype("float32")
    y = np.zeros(8, np.int64)
    serve = tf.function(model)
    tensor = tf.constant(x)
    return {
        "train_on_batch": lambda: model.train_on_batch(x, y),
        "predict_on_batch": lambda: model.predict_on_batch(x),
        "predict": lambda: model.predict(x, verbose=0),
        "model(x)": lambda: model(tensor),
        "tf.function(model)(x)": lambda: serve(tensor),
    }


def curve(name: str, call: Callable[[], object], calls: int) -> list[float]:
    """Resident megabytes after the warm part and after each of `STRETCHES` equal parts of the rest."""
    sizes: list[float] = []
    for stretch in range(STRETCHES + 1):
        for _ in range(int(calls * WARM) if not stretch else int(calls * (1 - WARM) / STRETCHES)):
            call()
        sizes.append(megabytes())
        print(f"  {name}: {sizes[-1]:.2f} MB", file=sys.stderr, flush=True)
    return sizes


def stock_growth(name: str, calls: int) -> float:
    """What TensorFlow alone gains over as many calls, in a process of its own.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "tests.soak", "--calls", str(calls), "--only", name, "--stock"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1].removeprefix(f"{name}: ").split()[0])


def main(arguments: list[str]) -> int:
    """Print the growth of every subject; 1 if one grows by more than noise above what TensorFlow does."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--only", default="", help="one subject by name")
    parser.add_argument("--stock", action="store_true", help="measure TensorFlow alone; no growth is too much")
    options = parser.parse_args(arguments)
    if not options.stock:
        afterburner.enable()
    failed = False
    for name, call in subjects().items():
        if options.only and name != options.only:
            continue
        sizes = curve(name, call, options.calls)
        gained = sizes[-1] - sizes[0]
        print(f"{name}: {gained:+.2f} MB over {options.calls} calls", flush=True)
        if gained > ALLOWED_MB and not options.stock:  # as by pipelines, of which each leaves TensorFlow some bytes
            alone = stock_growth(name, options.calls)
            print(f"{name}: {alone:+.2f} MB on TensorFlow alone", flush=True)
            failed |= gained - max(alone, 0.0) > ALLOWED_MB
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
