"""Whether ``--device any`` ends up with what is fastest: stock TensorFlow, the cpu target or the gpu target.

    python benchmarks/devices.py [WORKLOAD ...] [--rounds 3] [--repeats 3] [--threads N]

WORKLOAD is a name or a group as for ``afterburner bench``; without one, the small workloads. Where there is no GPU but
MLX, the gpu is emulated. A first process of ``any`` makes the trial, in a cache folder of its own; then fresh processes
take turns, ``any`` with what was decided. Printed are the median milliseconds a unit on each side, the ratio of
``any`` to the best of the others, and for each graph that was tried how many steps that took and who won. A gpu
that the trial found three times as slow as the winner is not timed. Exit status 1 where a ratio is above 1.05 or
a trial took more than 10 steps.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from afterburner import hardware, workloads
from afterburner.cli.bench import Timing
from afterburner.options import overridden, stock_environment
from afterburner.runtime.trial import LIMIT

STOCK, ANY = "stock", "any"
WORSE = 1.05
HOPELESS = 3.0


def child(device: str, file: str, arguments: list[str]) -> None:
    """Run a workload here; what was chosen goes into a file."""
    import afterburner

    afterburner.set_options(device=device, verbosity="silent", strict=True)
    afterburner.enable()
    sys.argv = ["afterburner.workloads", *arguments]
    runpy.run_module("afterburner.workloads", run_name="__main__")
    choices = [c for f in afterburner.report().to_dict()["functions"] for c in f["choices"]]
    Path(file).write_text(json.dumps(choices))


def run(side: str, name: str, chosen: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Results of a workload in a fresh process, and what was chosen in it."""
    result, choices = folder / "result.json", folder / "choices.json"
    choices.write_text("[]")
    arguments = [name, "--repeats", str(chosen.repeats), "--threads", str(chosen.threads), "--json", str(result)]
    if side == STOCK:
        command, environment = ["-m", "afterburner.workloads"], stock_environment()
    else:
        command, environment = [__file__, "--child", side, str(choices)], dict(os.environ)
    environment["AFTERBURNER_CACHE_DIR"] = str(folder / "cache")
    ended = subprocess.run([sys.executable, *command, *arguments], env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{name} on {side} failed:\n{ended.stderr[-2000:]}")
    return json.loads(result.read_text()), json.loads(choices.read_text())


def is_hopeless(choices: list[dict[str, Any]]) -> bool:
    """Whether a trial found the gpu far from the fastest for every graph."""
    gpu = hardware.label(hardware.GPU)
    timed = [c["seconds"] for c in choices if gpu in c["seconds"]]
    return bool(timed) and all(s[gpu] > HOPELESS * min(s.values()) for s in timed)


def compare(name: str, chosen: argparse.Namespace) -> bool:
    """Print a workload's lines; whether all is as it should be."""
    with tempfile.TemporaryDirectory() as path:
        folder = Path(path)
        _, choices = run(ANY, name, chosen, folder)
        devices = [d for d in hardware.names() if d != hardware.GPU or not is_hopeless(choices)]
        sides = (STOCK, *devices, ANY)
        timings: dict[str, Timing] = {}
        for number in range(chosen.rounds):
            for side in sides if number % 2 == 0 else sides[::-1]:
                for unit, timed in run(side, name, chosen, folder)[0]["timed"].items():
                    timing = timings.setdefault(unit, Timing(name, unit, sides))
                    timing.seconds[side].append(median(timed["seconds_per_unit"]))
    trials = ", ".join(f"{c['chosen']} after {c['steps']} steps" for c in choices) or "nothing was tried to its end"
    fine = all(c["steps"] <= LIMIT for c in choices)
    for timing in timings.values():
        best = min(sides[:-1], key=timing.milliseconds)
        ratio = timing.milliseconds(ANY) / timing.milliseconds(best)
        fine &= ratio <= WORSE
        times = "; ".join(f"{side} {timing.milliseconds(side):.3f}" for side in sides)
        print(f"{timing.label}: {times} ms; any is {ratio:.2f} of {best}; {trials}", flush=True)
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each side")
    parser.add_argument("--repeats", type=int, default=3, help="timings in each")
    parser.add_argument("--threads", type=int, default=0, help="for every side; 0: all cores")
    chosen = parser.parse_args()
    with overridden(gpu_emulate=True):
        os.environ["AFTERBURNER_GPU_EMULATE"] = "1"  # for the processes to come
        for device in hardware.devices():
            print(device)
        return int(not all([compare(name, chosen) for name in workloads.chosen(chosen.workloads)]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        sys.exit(main())
