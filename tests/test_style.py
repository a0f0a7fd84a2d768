"""Lint and types: ruff over everything, mypy over the package."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAX_LINES = 600  # past this, a file is to be split by meaning


@pytest.mark.parametrize("command", [["ruff", "check", "."], ["mypy"]], ids=["ruff", "mypy"])
def test_is_clean(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_function_of_the_package_does_without_types() -> None:
    text = {file: file.read_text() for file in ROOT.glob("src/**/*.py")}
    assert [file for file, code in text.items() if "no-untyped-def" in code] == []


def test_no_file_is_too_long_to_read() -> None:
    files = [*ROOT.glob("src/**/*.py"), *ROOT.glob("tests/**/*.py")]
    lengths = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert {name: count for name, count in lengths.items() if count > MAX_LINES} == {}
