"""Processor and wall time until the first results: stock, ours with an empty cache, ours with a full one.

    python benchmarks/first_call.py [--rounds 2] [--size 224] [--batch 2] [--threads 2] [--stages] [CALL...]

A call is a network and how it is called: ``mobilenetv3-sample``, ``-predict`` or ``-train``. Each is made in fresh
processes that take turns; the cache is a folder of the command's own, which "cold" finds empty and "warm" as "cold"
left it. Building the network is not counted. Printed are, of the first call and of the first two together (a function
that does not train is compiled at its second call), the least processor seconds of the process and of those that
generate code for it, and the least wall seconds.
With ``--stages`` the processor time of the process is split; what is asked for inside a stage counts there alone.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

NETWORKS = ("resnet50v2", "mobilenetv3", "densenet121")
WAYS = ("sample", "predict", "train")
SIDES = ("stock", "cold", "warm")
CALLS = 2  # timed one by one in each process


class Stages:
    """Processor seconds of the process by stage, those of stages inside left out."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inside = ["TensorFlow and Keras"]
        self._mark = time.process_time()

    def _charge(self) -> None:
        now = time.process_time()
        self.seconds[self._inside[-1]] += now - self._mark
        self._mark = now

    def wrap(self, holder: Any, name: str, stage: str) -> None:
        """Charge calls of a function to a stage."""
        function = getattr(holder, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._inside.append(stage)
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._inside.pop()

        setattr(holder, name, timed)

    def so_far(self) -> dict[str, float]:
        """What has been charged since the last time."""
        self._charge()
        found, self.seconds = dict(self.seconds), defaultdict(float)
        return found


def watch_stages(stages: Stages) -> None:
    """Put a clock on the stages of TensorFlow's and of ours."""
    from tensorflow.python.eager.polymorphic_function import tracing_compilation

    stages.wrap(tracing_compilation, "trace_function", "trace")


def watch_our_stages(stages: Stages) -> None:
    """Put a clock on ours."""
    from afterburner import compile as pipeline_on_one_screen
    from afterburner.cpu import build, target
    from afterburner.frontend import capture, native, stock, variant
    from afterburner.passes import pipeline
    from afterburner.runtime.cache import ObjectCache

    stages.wrap(capture, "_call_flat", "run by TensorFlow")
    stages.wrap(capture.FunctionState, "_flattened", "flatten")
    stages.wrap(capture, "partition", "cut")
    stages.wrap(capture, "TakenFunction", "make stages")
    stages.wrap(native.NativeStage, "_plan", "plan, other")
    stages.wrap(native.NativeStage, "_read_variables", "types of variables")
    stages.wrap(native, "import_ops", "import")
    stages.wrap(native, "Variant", "readers and writers")
    stages.wrap(stock, "runner", "readers and writers")
    stages.wrap(variant.Variant, "run", "bind variables")
    stages.wrap(variant, "refresh", "read variables")
    stages.wrap(target.CpuExecutable, "run", "run")
    stages.wrap(target.CpuExecutable, "run_in_parts", "run")
    stages.wrap(pipeline_on_one_screen, "optimize", "passes, other")
    stages.wrap(pipeline, "verify", "verify")
    pipeline.CLEANUP = tuple((name, _timed(stages, run, name)) for name, run in pipeline.CLEANUP)
    for name in ("skip_pooled_zeros", "mark_sparse", "mark_kept", "fuse", "order", "rematerialize"):
        stages.wrap(pipeline, name, name)
    stages.wrap(target, "anonymous", "text of the graph")
    stages.wrap(target, "cached", "key")
    stages.wrap(ObjectCache, "get", "read the cache")
    stages.wrap(build, "compile_nodes", "have code generated")
    stages.wrap(target, "engine", "runtime")
    stages.wrap(target, "Code", "link")
    stages.wrap(target, "CpuExecutable", "executable, other")
    stages.wrap(target, "place", "plan memory")


def _timed(stages: Stages, function: Callable[..., Any], stage: str) -> Callable[..., Any]:
    class Holder:
        run = staticmethod(function)

    stages.wrap(Holder, "run", stage)
    return Holder.run


def first_call(network: str, way: str, size: int, batch: int) -> Callable[[], object]:
    """The network, ready to be called for the first time."""
    import keras
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(1)
    model = importlib.import_module(f"afterburner.workloads.{network}").network(size)
    images = np.random.default_rng(1).random((batch, size, size, 3), np.float32)
    if way == "sample":
        answer, image = tf.function(lambda image: model(image, training=False)), tf.constant(images[:1])
        return lambda: answer(image).numpy()
    if way == "predict":
        return lambda: model.predict(images, batch_size=batch, verbose=0)
    labels = np.zeros(batch, np.int64)
    model.compile(keras.optimizers.Adam(1e-4), keras.losses.SparseCategoricalCrossentropy(), metrics=["accuracy"])
    return lambda: model.train_on_batch(images, labels)


def spent() -> float:
    """Processor seconds of this process and of those that generate code for it."""
    total = time.process_time()
    if "afterburner.cpu.crew" in sys.modules:
        for number in sys.modules["afterburner.cpu.crew"].CREW.numbers():
            fields = Path(f"/proc/{number}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def child(call: str, side: str, size: int, batch: int, threads: int, with_stages: bool) -> None:
    """Make the calls and print what they took."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    if side != "stock":
        import afterburner

        afterburner.enable()
    run = first_call(*call.rsplit("-", 1), size, batch)  # type: ignore[arg-type]
    stages = Stages()
    if with_stages:
        watch_stages(stages)
        if side != "stock":
            watch_our_stages(stages)
    found = []
    for _ in range(CALLS):
        stages.so_far()
        processor, wall = spent(), time.perf_counter()
        run()
        found.append((spent() - processor, time.perf_counter() - wall, stages.so_far()))
    print(json.dumps(found))


def run_child(arguments: argparse.Namespace, call: str, side: str, cache: str) -> list[Any]:
    """What a process of one side took: processor seconds, wall seconds and stages, for each call."""
    if side == "cold":
        shutil.rmtree(cache)
        os.mkdir(cache, 0o700)
    numbers = {"--size": arguments.size, "--batch": arguments.batch, "--threads": arguments.threads}
    command = [sys.executable, __file__, "--child", side, *(str(word) for pair in numbers.items() for word in pair),
               *(["--stages"] if arguments.stages else []), call]
    environment = {**os.environ, "AFTERBURNER_CACHE_DIR": cache, "AFTERBURNER_VERBOSITY": "silent"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return list(json.loads(done.stdout.splitlines()[-1]))


def report(call: str, taken: dict[str, list[list[Any]]]) -> None:
    """Print a line for each side, and its stages where they were timed, of its fastest process."""
    for side, rounds in taken.items():
        first = [min(r[0][i] for r in rounds) for i in (0, 1)]
        both = [min(sum(c[i] for c in r) for r in rounds) for i in (0, 1)]
        print(f"{call:<22} {side:<6} first {first[0]:6.2f} s ({first[1]:6.2f} wall)   "
              f"first two {both[0]:6.2f} s ({both[1]:6.2f} wall)", flush=True)
        best = min(rounds, key=lambda r: r[0][0] + r[1][0])
        sums: dict[str, float] = defaultdict(float)
        for _, _, stages in best:
            for stage, seconds in stages.items():
                sums[stage] += seconds
        if len(sums) > 1:
            shown = sorted(((s, n) for n, s in sums.items() if s >= 0.005), reverse=True)
            print("    " + ", ".join(f"{name} {seconds:.3f}" for seconds, name in shown), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("calls", nargs="*", metavar="CALL")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.calls[0], arguments.child, arguments.size, arguments.batch, arguments.threads, arguments.stages)
        return
    with tempfile.TemporaryDirectory() as cache:
        for call in arguments.calls or [f"{network}-{way}" for way in WAYS for network in NETWORKS]:
            taken: dict[str, list[list[Any]]] = {side: [] for side in SIDES}
            for _ in range(arguments.rounds):
                for side, rounds in taken.items():
                    rounds.append(run_child(arguments, call, side, cache))
            report(call, taken)


if __name__ == "__main__":
    main()
