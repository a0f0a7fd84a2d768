"""The workflow for hosted machines names what there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
WORKFLOW = (ROOT / ".github/workflows/test.yml").read_text()


def test_extras_exist_and_every_machine_has_an_mlx() -> None:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 and later read TOML")
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    machines = re.findall(r'\{name: ([\w-]+), runner: [\w.-]+, extras: "([\w,-]+)"\}', WORKFLOW)
    assert [name for name, _ in machines] == ["linux-x86-64", "linux-arm64", "macos-arm64"]
    for name, extras in machines:
        wanted = set(extras.split(","))
        assert wanted <= known.keys() and "test" in wanted, name
        assert "mlx" in " ".join(text for extra in wanted for text in known[extra]), name


def test_commands_exist() -> None:
    commands = re.findall(r"(?:run:|^ {10})\s*((?:python|afterburner) .+)", WORKFLOW, re.MULTILINE)
    modules = {words[2] for words in map(str.split, commands) if words[:2] == ["python", "-m"]}
    assert modules == {"pip", "pytest", "tests.arm"}
    assert (ROOT / "tests/arm/__main__.py").exists()
    assert [c for c in commands if c.startswith("afterburner")] == [
        "afterburner doctor --full --json doctor-${{ matrix.name }}.json"]
