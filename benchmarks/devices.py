"""Whether ``--device any`` ends up with what is fastest: stock TensorFlow, the cpu target or the gpu target.

    python benchmarks/devices.py [WORKLOAD ...] [--turns 10] [--threads N] [--cache FOLDER]

WORKLOAD is a name or a group as for ``afterburner bench``; without one, the small workloads. Where there is no GPU but
MLX, the gpu is emulated. A first process of ``any`` makes the trial, in a cache folder of its own; then fresh processes
take turns, ``any`` with what was decided. Printed are the median milliseconds a unit on each side, the median over
the turns of the ratio of ``any`` to the best of the others, and for each graph that was tried how many steps that
took and who won. A gpu that the trial found three times as slow as the winner is not timed. Exit status 1 where a
ratio is above 1.05 or a trial took more than 10 steps.

A trial of a network on an emulated gpu takes minutes. With ``--turns 0`` it is all that is made, and a machine that is
not quiet will do; with a ``--cache`` that it left, the turns alone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from turns import STOCK, Side, ratio, take_turns

import afterburner
from afterburner import hardware, workloads
from afterburner.options import overridden
from afterburner.runtime.trial import LIMIT

ANY = "any"
WORSE = 1.05
HOPELESS = 3.0


def side(name: str, workload: str, cache: Path, threads: int) -> Side:
    """A process of a workload on a device, or on stock TensorFlow."""
    if name == STOCK:
        return Side(name, workload, None, {}, threads)
    environment = {"AFTERBURNER_CACHE_DIR": str(cache), "AFTERBURNER_GPU_EMULATE": "1", "AFTERBURNER_STRICT": "1",
                   "AFTERBURNER_VERBOSITY": "silent", "AFTERBURNER_DEVICE": name}
    return Side(name, workload, Path(afterburner.__path__[0]).parent, environment, threads)


def tried(workload: str, cache: Path, threads: int) -> list[dict[str, Any]]:
    """What a process of ``any`` has chosen when each of its graphs has made as many steps as a trial may take."""
    with side(ANY, workload, cache, threads) as process:
        for unit in range(len(process.units)):
            for _ in range(LIMIT):
                process.milliseconds(unit)
        return process.end()


def is_hopeless(choices: list[dict[str, Any]]) -> bool:
    """Whether a trial found the gpu far from the fastest for every graph."""
    gpu = hardware.label(hardware.GPU)
    timed = [c["seconds"] for c in choices if gpu in c["seconds"]]
    return bool(timed) and all(s[gpu] > HOPELESS * min(s.values()) for s in timed)


def compare(workload: str, turns: int, threads: int, folder: Path | None) -> bool:
    """Print a workload's lines; whether all is as it should be."""
    with ExitStack() as stack:
        cache = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        choices = tried(workload, cache, threads)
        trials = ", ".join(f"{c['chosen']} after {c['steps']} steps" for c in choices) or "nothing was tried to its end"
        fine = all(c["steps"] <= LIMIT for c in choices)
        if turns == 0:
            print(f"{workload}: {trials}", flush=True)
            return fine
        devices = [d for d in hardware.names() if d != hardware.GPU or not is_hopeless(choices)]
        names = (STOCK, *devices, ANY)
        sides = [stack.enter_context(side(name, workload, cache, threads)) for name in names]
        timings = [take_turns(sides, unit, turns) for unit in range(len(sides[0].units))]
    for unit, times in zip(sides[0].units, timings, strict=True):
        *others, own = times
        best = min(range(len(others)), key=lambda n: median(others[n]))
        found = ratio(own, others[best])
        fine &= found <= WORSE
        each = "; ".join(f"{name} {median(spent):.3f}" for name, spent in zip(names, times, strict=True))
        print(f"{workload} ({unit}): {each} ms; any is {found:.2f} of {names[best]}; {trials}", flush=True)
    return fine


def main() -> int:
    """Compare all that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=0, help="for every side; 0: all cores")
    parser.add_argument("--cache", type=Path, help="a folder that keeps what was decided")
    words = parser.parse_args()
    with overridden(gpu_emulate=True):
        for device in hardware.devices():
            print(device)
        names = workloads.chosen(words.workloads)
        return int(not all([compare(name, words.turns, words.threads, words.cache) for name in names]))


if __name__ == "__main__":
    sys.exit(main())
