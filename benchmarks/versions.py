"""Times a workload's step with two versions of Afterburner, or with stock TensorFlow, in processes that take turns.

    git worktree add /tmp/before COMMIT
    python benchmarks/versions.py resnet50v2 /tmp/before/src src [stock] [--precision fast] [--unit 0] [--turns 10]

Each side is a folder that holds the package, or ``stock``. All processes are warm before the first turn; in a turn each
makes one call. Printed are the medians and the best of each side, and the median ratio of the first side's time to it:
what disturbs a machine for longer than a turn disturbs all sides, so that some per cent show.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from statistics import median

from turns import STOCK, Side, ratio, take_turns


def main() -> None:
    """Let the sides take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workload")
    parser.add_argument("sides", nargs="+")
    parser.add_argument("--precision", default="default")
    parser.add_argument("--unit", type=int, default=0, help="which of the workload's units, counted from 0")
    parser.add_argument("--turns", type=int, default=10)
    words = parser.parse_args()
    with ExitStack() as stack:
        # one after another: each compiles alone
        sides = [stack.enter_context(Side(name, words.workload, None if name == STOCK else Path(name),
                                          {"AFTERBURNER_PRECISION": words.precision})) for name in words.sides]
        times = take_turns(sides, words.unit, words.turns)
    for name, spent in zip(words.sides, times, strict=True):
        print(f"{name}: median {median(spent):.1f} ms, best {min(spent):.1f} ms, "
              f"{ratio(times[0], spent):.3f} times the first's speed")


if __name__ == "__main__":
    main()
