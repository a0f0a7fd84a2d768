"""A long sweep: ``python -m tests.fuzz --seconds 600 [--seed 1000] [--nodes 40] [--target cpu|gpu]``.

Prints each failing seed and its smallest graph; ``--seed N --seconds 0`` repeats one.
"""

from __future__ import annotations

import argparse
import sys
import time

from .run import run_seed


def main() -> int:
    """Exit status 1 if a seed failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0, help="first seed")
    parser.add_argument("--nodes", type=int, default=40, help="operations a graph")
    parser.add_argument("--target", choices=("cpu", "gpu"), default="", help="compare this target's results")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.seconds
    seed, failures = arguments.seed, 0
    while True:
        report = run_seed(seed, arguments.nodes, arguments.target)
        if report is not None:
            print(report, flush=True)
            failures += 1
        seed += 1
        if time.monotonic() >= end:
            break
    print(f"{seed - arguments.seed} graphs, {failures} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
