"""Starts commands as processes, as a shell would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SRC = str(Path(__file__).parents[2] / "src")


def run(*command: str, cwd: Path | None = None, stdin: str = "", **environment: str,
        ) -> subprocess.CompletedProcess[str]:
    """A finished ``python COMMAND…`` with variables added to the environment and ``path`` to PYTHONPATH."""
    path = os.pathsep.join(filter(None, [environment.pop("path", ""), SRC, os.environ.get("PYTHONPATH")]))
    settings = os.environ | {"PYTHONPATH": path, "COLUMNS": "200", "NO_COLOR": "1"} | environment
    return subprocess.run([sys.executable, *command], cwd=cwd, input=stdin, env=settings, capture_output=True,
                          text=True, timeout=300)


def afterburner(*arguments: str, cwd: Path | None = None, stdin: str = "", **environment: str,
                ) -> subprocess.CompletedProcess[str]:
    """A finished ``afterburner ARGUMENTS…``."""
    return run("-m", "afterburner", *arguments, cwd=cwd, stdin=stdin, **environment)
