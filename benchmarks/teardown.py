"""How long the thread that drops an input pipeline waits for it, with ``tf.data``'s autotuner and without.

    python benchmarks/teardown.py [--turns 12] [--accelerated]

Pipelines of a second or so, used up and dropped one after another; printed are the seconds that each drop took.
``--accelerated``: with Afterburner, which drops in a thread of its own.
"""

from __future__ import annotations

import argparse
import time

import tensorflow as tf

import afterburner


def seconds_of_drop(autotuned: bool) -> float:
    """Use up a pipeline and drop it."""
    data = tf.data.Dataset.range(2000).map(lambda i: i + 1, num_parallel_calls=tf.data.AUTOTUNE).batch(4).prefetch(2)
    options = tf.data.Options()
    options.autotune.enabled = autotuned
    iterator = iter(data.with_options(options))
    for _ in iterator:
        time.sleep(0.002)
    start = time.perf_counter()
    del iterator
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--accelerated", action="store_true")
    settings = parser.parse_args()
    if settings.accelerated:
        afterburner.enable()
    for autotuned in (True, False):
        drops = sorted(seconds_of_drop(autotuned) for _ in range(settings.turns))
        print(f"{'with' if autotuned else 'without'} autotuner:", " ".join(f"{s:.3f}" for s in drops), flush=True)


if __name__ == "__main__":
    main()
