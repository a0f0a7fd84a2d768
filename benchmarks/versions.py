"""Times a workload's step with two versions of Afterburner, or with stock TensorFlow, in processes that take turns.

    git worktree add /tmp/before COMMIT
    python benchmarks/versions.py resnet50v2 /tmp/before/src src [stock] [--precision fast] [--unit 0] [--turns 10]

Each side is a folder that holds the package, or ``stock``. All processes are warm before the first turn; in a turn each
makes one call. Printed are the medians and the best of each side, and the median ratio of the first side's time to it:
what disturbs a machine for longer than a turn disturbs all sides, so that some per cent show.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

_CHILD = """
import os, sys
from importlib import import_module
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
if sys.argv[3] != "stock":
    import afterburner
    afterburner.enable()
from afterburner import workloads
count, call = list(import_module(workloads.module(sys.argv[1])).build().values())[int(sys.argv[2])]
for _ in range(3):
    call()
print("ready", file=answers, flush=True)
for _ in sys.stdin:
    print(workloads.seconds_of(call) / count * 1e3, file=answers, flush=True)
"""


def _process(workload: str, unit: int, side: str, precision: str) -> subprocess.Popen[str]:
    folder = Path(__file__).parents[1] / "src" if side == "stock" else Path(side).resolve()
    environment = {**os.environ, "PYTHONPATH": str(folder), "AFTERBURNER_PRECISION": precision,
                   "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen([sys.executable, "-c", _CHILD, workload, str(unit), side], env=environment, text=True,
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise SystemExit("a side ended without an answer; run its workload alone to see why")
    return line


def main() -> None:
    """Let the sides take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload")
    parser.add_argument("sides", nargs="+")
    parser.add_argument("--precision", default="default")
    parser.add_argument("--unit", type=int, default=0, help="which of the workload's units, counted from 0")
    parser.add_argument("--turns", type=int, default=10)
    words = parser.parse_args()
    processes = []
    for side in words.sides:  # one after another: each compiles alone
        processes.append(_process(words.workload, words.unit, side, words.precision))
        _answer(processes[-1])
    times: list[list[float]] = [[] for _ in processes]
    for _ in range(words.turns):
        for spent, process in zip(times, processes, strict=True):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
            spent.append(float(_answer(process)))
    for side, spent in zip(words.sides, times, strict=True):
        ratio = median(first / own for first, own in zip(times[0], spent, strict=True))
        print(f"{side}: median {median(spent):.1f} ms, best {min(spent):.1f} ms, {ratio:.3f} times the first's speed")
    for process in processes:
        process.terminate()


if __name__ == "__main__":
    main()
