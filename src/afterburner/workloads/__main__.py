"""``python -m afterburner.workloads NAME``: times one workload in this process.

Writes, as JSON, seconds per unit of every repetition once warm, the first call's seconds (tracing and
compilation included) and the process's peak memory.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from . import module, names, seconds_of


def _timed(units: int, call: Callable[[], object], repeats: int) -> dict[str, Any]:
    first = seconds_of(call)
    call()  # the first warm call still meets cold caches and late compilation
    return {"units": units, "first_seconds": first,
            "seconds_per_unit": [seconds_of(call) / units for _ in range(repeats)]}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m afterburner.workloads", description=__doc__)
    parser.add_argument("name", choices=names())
    parser.add_argument("--threads", type=int, default=0, help="TensorFlow's intra-op threads; 0: all cores")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--policy", default="float32", help="Keras's dtype policy, as mixed_bfloat16")
    parser.add_argument("--json", type=Path, help="a file; default: standard output")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    keras.config.set_dtype_policy(options.policy)
    workload = importlib.import_module(module(options.name))
    repeats = min(options.repeats, getattr(workload, "REPEATS", options.repeats))
    result = {unit: _timed(units, call, repeats) for unit, (units, call) in workload.build().items()}
    scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    text = json.dumps({"workload": options.name, "timed": result, "peak_bytes": peak})
    if options.json:
        options.json.write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()
