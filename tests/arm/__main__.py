"""Tests of single kernels, compiled for 64-bit Arm, in an emulator: ``python -m tests.arm linux|apple [PYTEST...]``.

``apple`` takes the code for Macs: Apple's ABI and processor. About ten minutes each on two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FILES = ("halves", "vecmath", "fused", "matmul", "epilogue", "prologue", "conv", "conv_pooled", "conv_sparse",
         "winograd", "winograd_strided", "pool", "gather", "random", "scan", "sort")


def main(words: list[str]) -> int:
    """Pytest's exit status."""
    if not words or words[0] not in ("linux", "apple"):
        print(__doc__, file=sys.stderr)
        return 2
    folder = Path(__file__).parent.parent
    files = words[1:] or [str(folder / "cpu" / f"test_{name}.py") for name in FILES]
    command = [sys.executable, "-m", "pytest", "-p", "tests.arm.plugin", *files]
    return subprocess.run(command, cwd=folder.parent, env={**os.environ, "ARM_CODE": words[0]}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
