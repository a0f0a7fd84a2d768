"""Every block of the documents that is marked ``runnable`` is run, in a folder and a process of its own."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(python|console) runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LIMIT_SECONDS = 300


@dataclass(frozen=True)
class Block:
    """A block of code and where it stands."""

    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks() -> list[Block]:
    """All runnable blocks."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        for match in _BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            found.append(Block(str(document.relative_to(ROOT)), line, match[1], match[2]))
    return found


def commands(text: str) -> list[tuple[str, str]]:
    """Each ``$ command`` with the output shown under it."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]
    return [(command, output) for command, _, output in (part.partition("\n") for part in parts)]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(ROOT / "src"), os.environ.get("PYTHONPATH")]))
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = os.environ | {"PYTHONPATH": path, "PATH": programs, "COLUMNS": "120"}
    return subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True,
                          timeout=_LIMIT_SECONDS)


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "python"], ids=str)
def test_python_runs(block: Block, tmp_path: Path) -> None:
    (tmp_path / "block.py").write_text(block.text)
    done = run([sys.executable, "block.py"], tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", [b for b in blocks() if b.language == "console"], ids=str)
def test_commands_print_what_is_shown(block: Block, tmp_path: Path) -> None:
    """``...`` in the output shown stands for anything."""
    for command, expected in commands(block.text):
        done = run(["bash", "-c", command], tmp_path)
        assert done.returncode == 0, done.stderr
        if expected:
            matches = doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS)
            assert matches, f"{command}\nshown:\n{expected}\nprinted:\n{done.stdout}"


def test_there_are_runnable_blocks() -> None:
    assert {block.language for block in blocks()} == {"python", "console"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (document.parent / target).exists(), target
