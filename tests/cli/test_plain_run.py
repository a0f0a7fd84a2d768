"""A plain ``run`` is read as the whole grammar reads it, without loading it."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
from commands import afterburner

from afterburner.cli import app, run
from afterburner.cli.plain import plain_run

PLAIN = [
    "SCRIPT", "SCRIPT --quiet -m x", "-m module --strict a", "- a", "--strict SCRIPT", "-q SCRIPT", "-v SCRIPT -v",
    "--quiet --strict -m module a -b", "--verbose --threads 3 SCRIPT", "--precision fast --threads 12 -m module",
]
NOT_PLAIN = [
    "", "--help", "--quiet", "--quiet --verbose SCRIPT", "--threads 0 SCRIPT", "--threads two SCRIPT", "--threads",
    "--threads=2 SCRIPT", "--precision exact SCRIPT", "--device cpu SCRIPT", "-qv SCRIPT", "-m", "-- SCRIPT",
    "--unknown SCRIPT",
]


@pytest.mark.parametrize("line", PLAIN)
def test_both_readings_agree(line: str) -> None:
    words = [__file__ if word == "SCRIPT" else word for word in line.split()]
    with mock.patch.object(run, "action", lambda program, **changes: lambda: (program, changes)):
        assert plain_run(words) == app.parse(["run", *words])()


@pytest.mark.parametrize("line", NOT_PLAIN)
def test_the_rest_is_left_to_the_grammar(line: str) -> None:
    assert plain_run(line.split()) is None


def test_the_grammar_is_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys; print('typer' in sys.modules)")
    done = afterburner("run", "--quiet", "--strict", "--threads", "2", "program.py", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr
