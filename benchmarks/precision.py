"""A convergence study on scikit-learn's digits: does compiled code, in any precision, train to the same accuracy?

    python benchmarks/precision.py [--seeds 10] [--epochs 6]

For each seed, a network is trained from the same weights on the same batches in stock TensorFlow and compiled.
Printed are, run by run, the accuracy on held-out digits over the seeds (mean, standard deviation), its difference to
stock's seed by seed with a 95 % interval (Student's t) and the p-value of a paired t-test, and how far losses are from
stock's at most, over the first 20 steps and over all, relative to the first loss. Stock with oneDNN, where it is not on
by itself, tells how far two runs of stock TensorFlow are apart. Under Keras's ``mixed_bfloat16`` the reference is stock
under the same policy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

TEST = 389  # digits held out


@dataclass(frozen=True)
class Run:
    """How a network is trained, and what with."""

    reference: str = "stock"
    compiled: bool = False
    policy: str = "float32"
    environment: dict[str, str] = field(default_factory=dict)


MIXED = "mixed_bfloat16"
RUNS = {
    "stock": Run(),
    "stock, oneDNN": Run(environment={"TF_ENABLE_ONEDNN_OPTS": "1"}),
    "default": Run(compiled=True),
    "fast": Run(compiled=True, environment={"AFTERBURNER_PRECISION": "fast"}),
    f"stock, {MIXED}": Run(policy=MIXED),
    f"default, {MIXED}": Run(f"stock, {MIXED}", compiled=True, policy=MIXED),
}
FIRST = 20  # steps
BATCH, STEPS = 32, 44  # of an epoch


def train_all(run: Run, seeds: int, epochs: int) -> list[dict[str, object]]:
    """What ``train`` finds for each seed, in this process."""
    import afterburner

    if run.compiled:
        afterburner.enable()
    return [train(seed, epochs, run.policy) for seed in range(seeds)]


def train(seed: int, epochs: int, policy: str) -> dict[str, object]:
    """Losses of all steps, the accuracy, and how many kernels took Winograd's algorithm so far."""
    import keras
    from sklearn.datasets import load_digits

    import afterburner

    keras.backend.clear_session()  # forgets the policy too
    keras.config.set_dtype_policy(policy)
    digits = load_digits()
    x, y = (digits.images[..., None] / 16).astype(np.float32), digits.target
    keras.utils.set_random_seed(seed)
    order = np.random.default_rng(seed).permutation(len(x))
    train_, test = order[:-TEST], order[-TEST:]
    layers = keras.layers
    convolutions = [layers.Conv2D(n, 3, padding="same", activation="relu") for n in (32, 32, 64)]
    model = keras.Sequential([layers.Input((8, 8, 1)), *convolutions, layers.MaxPooling2D(), layers.Dropout(0.25),
                              layers.Flatten(), layers.Dense(10, dtype="float32")])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    losses: list[float] = []
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: losses.append(logs["loss"]))
    model.fit(x[train_], y[train_], batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[record])
    accuracy = model.evaluate(x[test], y[test], verbose=0)[1]
    kernels = [k.label for f in afterburner.report().functions for p in f.parts for k in p.kernels]
    return {"losses": losses, "accuracy": accuracy, "winograd": sum("Winograd" in k for k in kernels)}


def in_process_of_its_own(name: str, seeds: int, epochs: int) -> list[dict[str, object]]:
    """``train_all`` under the environment of a run."""
    command = [sys.executable, __file__, "--run", name, "--seeds", str(seeds), "--epochs", str(epochs)]
    settings = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "AFTERBURNER_VERBOSITY": "silent", **RUNS[name].environment}
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    found: list[dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


def summary(name: str, results: dict[str, list[dict[str, object]]]) -> list[str]:
    """A row: the run, its accuracy, its difference to the reference and the losses' largest distance."""
    from scipy.stats import t, ttest_rel

    accuracy, reference = (np.array([r["accuracy"] for r in results[n]]) * 100 for n in (name, RUNS[name].reference))
    cells = [name, f"{accuracy.mean():.2f} ± {accuracy.std(ddof=1):.2f}"]
    if name == RUNS[name].reference or name == f"stock, {MIXED}":
        return [*cells, "", "", "", ""]
    difference = accuracy - reference
    half = t.ppf(0.975, len(difference) - 1) * difference.std(ddof=1) / np.sqrt(len(difference))
    p_value = ttest_rel(accuracy, reference).pvalue if difference.any() else 1.0
    apart = [distances(ours, stock) for ours, stock in zip(results[name], results[RUNS[name].reference], strict=True)]
    return [*cells, f"{difference.mean():+.2f} ± {half:.2f}", f"{p_value:.2f}",
            *(f"{max(found):.1e}" for found in zip(*apart, strict=True))]


def distances(ours: dict[str, object], stock: dict[str, object]) -> tuple[float, float]:
    """How far the losses are apart at most, over the first steps and over all, relative to the first."""
    a, b = np.array(ours["losses"]), np.array(stock["losses"])
    apart = np.abs(a - b) / b[0]
    return float(apart[:FIRST].max()), float(apart.max())


def lines(results: dict[str, list[dict[str, object]]], steps: int) -> Iterator[str]:
    """A Markdown table of all runs."""
    yield (f"| run | accuracy, % | to stock's, seed by seed | p | losses apart in {FIRST} steps | in {steps} |\n"
           "|---|---|---|---|---|---|")
    for name in results:
        yield f"| {' | '.join(summary(name, results))} |"


def main() -> None:
    """Print accuracies as runs end and the table, or with ``--run`` the results of one training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        print(json.dumps(train_all(RUNS[chosen.run], chosen.seeds, chosen.epochs)))
        return
    results: dict[str, list[dict[str, object]]] = {}
    for name in RUNS:
        found = results[name] = in_process_of_its_own(name, chosen.seeds, chosen.epochs)
        print(f"{name}: {', '.join(format(r['accuracy'], '.4f') for r in found)}; {found[-1]['winograd']} kernels by "
              "Winograd's algorithm", file=sys.stderr, flush=True)
    for line in lines(results, chosen.epochs * STEPS):
        print(line)


if __name__ == "__main__":
    main()
