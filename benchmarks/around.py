"""Processor time that calls of a model spend around their native code, which is left out.

    python benchmarks/around.py [--turns 15]

In turns in one process: without and with what Afterburner does for Keras's pipelines and results
(``frontend/traced.py``, ``joined.py``, ``iterators.py``). Printed are, a call, the best processor time of the calling
thread and of the whole process, in milliseconds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import keras
import numpy as np

import afterburner
from afterburner.cpu.target import CpuExecutable
from afterburner.frontend import iterators, joined, traced
from afterburner.workloads import lenet

SAMPLES, BATCH = 3200, 32
_AROUND = (iterators, traced, joined)


def calls() -> dict[str, Callable[[], object]]:
    """Calls over 3,200 samples in batches of 32."""
    keras.utils.set_random_seed(1)
    model, x = lenet.model(), lenet.images(SAMPLES)
    y = np.zeros(SAMPLES, np.int64)
    return {
        "predict": lambda: model.predict(x, batch_size=BATCH, verbose=0),
        "evaluate": lambda: model.evaluate(x, y, batch_size=BATCH, verbose=0),
        "fit": lambda: model.fit(x, y, batch_size=BATCH, verbose=0),
    }


def spent(call: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of the thread and of the process."""
    thread, process = time.thread_time(), time.process_time()
    call()
    return (time.thread_time() - thread) * 1e3, (time.process_time() - process) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15)
    turns = parser.parse_args().turns
    afterburner.set_options(verbosity="silent", threads=1)
    afterburner.enable()
    for name, call in calls().items():
        for _ in range(3):
            call()
        run = CpuExecutable.run
        CpuExecutable.run = lambda self, inputs, outputs: None  # type: ignore[method-assign]
        times: dict[str, list[tuple[float, float]]] = {"without": [], "with": []}
        for _ in range(turns):
            for side, found in times.items():
                for module in _AROUND:
                    (module.install if side == "with" else module.uninstall)()
                call()
                found.append(spent(call))
        CpuExecutable.run = run  # type: ignore[method-assign]
        best = {side: [min(column) for column in zip(*found, strict=True)] for side, found in times.items()}
        print(f"{name}:", "; ".join(f"{side} {t:.0f} / {p:.0f}" for side, (t, p) in best.items()), flush=True)


if __name__ == "__main__":
    main()
