"""What a call on the gpu target costs beyond MLX's own time, with MLX on its CPU device.

    python benchmarks/gpu_call.py [--turns 20] [--calls 50] [--fuse]

The step of the workload ``custom_loop`` called from a Python loop, and the MLX function inside it with the arrays of
such a call, evaluated: in turns in one process. Printed are, a call, the best time of the calling thread, of the whole
process and of the clock on the wall, in microseconds, and what remains of each when MLX's own is taken off.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest.mock import patch

os.environ["AFTERBURNER_GPU_EMULATE"] = "1"  # noqa: E402 - read when the device is looked for

import keras
import tensorflow as tf

import afterburner
from afterburner.gpu import target
from afterburner.gpu.backend import mx
from afterburner.gpu.target import GpuExecutable
from afterburner.workloads import custom_loop

CLOCKS = {"thread": time.thread_time, "process": time.process_time, "wall": time.perf_counter}


def step() -> Callable[[], object]:
    """A call of the workload's step."""
    keras.utils.set_random_seed(1)
    relu = [keras.layers.Dense(64, activation="relu") for _ in range(2)]
    network = keras.Sequential([keras.Input((8,)), *relu, keras.layers.Dense(4)])
    inputs, targets = tf.random.normal((32, 8), seed=1), tf.random.normal((32, 4), seed=2)
    taken = custom_loop.step_of(network)
    return lambda: taken(inputs, targets)


def inside(call: Callable[[], object]) -> Callable[[], None]:
    """MLX's part of a call: its function on the arrays of that call, evaluated."""
    seen: list[tuple[GpuExecutable, Sequence[mx.array]]] = []
    computed = GpuExecutable._computed  # noqa: SLF001

    def note(self: GpuExecutable, arrays: list[mx.array]) -> Sequence[mx.array]:
        seen.append((self, list(arrays)))
        return computed(self, arrays)

    with patch.object(GpuExecutable, "_computed", note):
        call()
    ((executable, arrays),) = seen
    function: Any = executable._function  # noqa: SLF001
    mx.set_default_device(executable._where)  # noqa: SLF001
    return lambda: mx.eval(function(*arrays))


def spent(call: Callable[[], object], calls: int) -> list[float]:
    """Microseconds a call, by clock."""
    before = [clock() for clock in CLOCKS.values()]
    for _ in range(calls):
        call()
    return [(clock() - start) / calls * 1e6 for clock, start in zip(CLOCKS.values(), before, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--calls", type=int, default=50, help="in a turn")
    parser.add_argument("--fuse", action="store_true", help="let MLX compile the function, as on a GPU (g++)")
    chosen = parser.parse_args()
    if chosen.fuse:
        target.compile_graph = partial(target.compile_graph, fuse=True)
    afterburner.set_options(verbosity="silent", threads=1, device="gpu", strict=True)
    afterburner.enable()
    call = step()
    for _ in range(50):
        call()
    sides = {"call": call, "MLX": inside(call)}
    found: dict[str, list[list[float]]] = {name: [] for name in sides}
    for _ in range(chosen.turns):
        for name, side in sides.items():
            found[name].append(spent(side, chosen.calls))
    best = {name: [min(column) for column in zip(*turns, strict=True)] for name, turns in found.items()}
    best["beyond MLX"] = [a - b for a, b in zip(best["call"], best["MLX"], strict=True)]
    for name, times in best.items():
        print(f"{name:12}", "; ".join(f"{clock} {t:.0f} µs" for clock, t in zip(CLOCKS, times, strict=True)))


if __name__ == "__main__":
    main()
