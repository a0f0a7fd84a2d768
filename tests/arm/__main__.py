"""Tests of single kernels, compiled for 64-bit Arm, in an emulator: ``python -m tests.arm linux|apple [FAMILY...]``.

``apple`` takes the code for Macs: Apple's ABI and processor. One family after the other, all of them in half an hour
on one core. ``--passed FILE`` leaves out the families named in a file and adds those that pass: started again, a sweep
that was stopped goes on where it was. Remove the file after a change.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

FAMILIES = ("halves", "vecmath", "fused", "matmul", "epilogue", "prologue", "conv", "conv_pooled", "conv_sparse",
            "conv_input_grad_narrow", "shared_zeros", "sum_blocks", "column_sums", "winograd", "winograd_strided",
            "winograd_checked", "winograd_checked_strided", "winograd_checked_filter_grad", "pool", "gather",
            "random", "scan", "sort")


def run(code: str, family: str) -> bool:
    """Whether a family's tests pass."""
    folder = Path(__file__).parent.parent
    file = folder / "cpu" / f"test_{family}.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.arm.plugin", str(file)]
    started = time.monotonic()
    passed = subprocess.run(command, cwd=folder.parent, env={**os.environ, "ARM_CODE": code}).returncode == 0
    print(f"{code} {family}: {'passed' if passed else 'FAILED'}, {time.monotonic() - started:.0f} s", flush=True)
    return passed


def sweep(code: str, families: list[str], file: Path | None) -> list[str]:
    """The families that failed."""
    done = set(file.read_text().split()) if file is not None and file.exists() else set()
    failed = []
    for family in families:
        if f"{code}-{family}" in done:
            continue
        if not run(code, family):
            failed.append(family)
        elif file is not None:
            with file.open("a") as names:
                names.write(f"{code}-{family}\n")
    return failed


def main(words: list[str]) -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.arm", description=__doc__.partition("\n")[0])
    parser.add_argument("code", choices=("linux", "apple"))
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=", ".join(FAMILIES))
    parser.add_argument("--passed", type=Path, metavar="FILE", help="families that have passed, left out")
    chosen = parser.parse_args(words)
    unknown = set(chosen.families) - set(FAMILIES)
    if unknown:
        parser.error(f"no family {', '.join(sorted(unknown))}")
    failed = sweep(chosen.code, chosen.families or list(FAMILIES), chosen.passed)
    print(f"failed: {', '.join(failed)}" if failed else "all passed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
