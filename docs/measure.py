"""Times workloads and writes the tables and charts of README.md and docs/performance.md from the results.

    python docs/measure.py NAME ... [--rounds 5]

NAME is what to measure: small, sequences, networks (the five that train, in default and fast precision), inference, or
mixed_bfloat16 (the five under Keras's policy). Results are kept in docs/measured/NAME.json, charts in docs/; the tables
between the marks of the pages are made from these files, here and by ``docs/generate.py``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys

from generate import CHARTS, FOLDER, MEASURED, write_all

WHAT = {
    "small": ("small",),
    "sequences": ("sequences",),
    "networks": ("training", "--fast"),
    "inference": ("resnet50v2-infer", "mobilenetv3-infer", "densenet121-infer"),
    "mixed_bfloat16": ("training", "--policy", "mixed_bfloat16"),
}


def main() -> None:
    """Measure what is named, then write all pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", choices=WHAT, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    MEASURED.mkdir(exist_ok=True)
    for name in chosen.names:
        files = ["--json", str(MEASURED / f"{name}.json"), "--chart", str(FOLDER / CHARTS[name])]
        command = [sys.executable, "-m", "afterburner", "bench", *WHAT[name], "--rounds", str(chosen.rounds), *files]
        subprocess.run(command, check=True)
    write_all()


if __name__ == "__main__":
    main()
