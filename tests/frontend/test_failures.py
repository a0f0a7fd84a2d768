"""Failure reports: private, in a folder of this user's, and never written through a link."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from afterburner.frontend import failures
from afterburner.frontend.failures import describe
from afterburner.options import overridden

ERROR = ValueError("no such luck\nand more")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where reports go."""
    with overridden(cache_dir=tmp_path / "cache"):
        yield tmp_path / "cache" / "failures"


def test_the_line_names_a_private_file(folder: Path) -> None:
    line = describe("step on cpu", "run", ERROR)
    path = folder / "step_on_cpu.run.txt"
    assert line == f"run failed: ValueError: no such luck (details in {path})"
    assert "# ValueError: no such luck\n# and more\n" in path.read_text()
    assert [stat.S_IMODE(p.stat().st_mode) for p in (folder.parent, folder, path)] == [0o700, 0o700, 0o600]


def test_a_link_in_its_place_is_not_followed(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    (folder / "step.run.txt").symlink_to(tmp_path / "precious")
    describe("step", "run", ERROR)
    assert (tmp_path / "precious").read_text() == "precious"
    assert "no such luck" in (folder / "step.run.txt").read_text()


def test_only_the_newest_reports_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_KEPT", 3)
    for number in range(5):
        describe(f"step{number}", "run", ERROR)
        os.utime(folder / f"step{number}.run.txt", (1000 + number, 1000 + number))
    (folder / "notes").touch()
    describe("last", "run", ERROR)
    assert {path.name for path in folder.iterdir()} == {"step3.run.txt", "step4.run.txt", "last.run.txt", "notes"}


def test_a_folder_of_others_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert describe("step", "run", ERROR) == "run failed: ValueError: no such luck"
    assert list(folder.iterdir()) == []


def test_a_folder_that_was_asked_for_is_used_as_it_is(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    with overridden(dump=shared):
        assert "details in" in describe("step", "run", ERROR)
    assert stat.S_IMODE((shared / "step.run.txt").stat().st_mode) == 0o600
