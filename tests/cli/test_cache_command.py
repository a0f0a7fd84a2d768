"""``afterburner cache`` on a folder with objects, without one, and on one that cannot be used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from commands import afterburner

from afterburner.cli.cache import MIB
from afterburner.runtime.cache import ObjectCache
from afterburner.runtime.decisions import FOLDER, Decision, Decisions


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """A cache folder of four objects of 1 MiB."""
    cache = ObjectCache(tmp_path / "objects", 64 * MIB)
    for number in range(4):
        assert cache.put(f"{number:064x}", bytes(MIB))
        os.utime(tmp_path / "objects" / f"{number:064x}.obj", (1000 + number, 1000 + number))
    return tmp_path


def test_show(filled: Path) -> None:
    done = afterburner("cache", "show", AFTERBURNER_CACHE_DIR=str(filled))
    assert done.returncode == 0
    assert str(filled) in done.stdout and "4, 4.0 MiB" in done.stdout and "512 MiB" in done.stdout


def test_show_without_a_folder(tmp_path: Path) -> None:
    done = afterburner("cache", "show", AFTERBURNER_CACHE_DIR=str(tmp_path / "none"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "0, 0.0 MiB" in done.stdout
    assert not (tmp_path / "none").exists()


def test_clear(filled: Path) -> None:
    done = afterburner("cache", "clear", AFTERBURNER_CACHE_DIR=str(filled))
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed 4 objects" in done.stdout
    assert list((filled / "objects").iterdir()) == []


def test_choices_of_a_device_are_counted_and_cleared(filled: Path) -> None:
    Decisions(ObjectCache(filled / FOLDER, MIB)).put("graph", ("cpu",), Decision("cpu", {"cpu": 1.0}, 6))
    shown = afterburner("cache", "show", AFTERBURNER_CACHE_DIR=str(filled))
    assert "choices  1 measured" in shown.stdout
    done = afterburner("cache", "clear", AFTERBURNER_CACHE_DIR=str(filled))
    assert "and 1 measured choices of a device" in done.stdout
    assert list((filled / FOLDER).iterdir()) == []


def test_all_that_is_ours_is_cleared_and_told(filled: Path) -> None:
    ObjectCache(filled / "host", MIB).put("ab" * 32, b"{}")
    for name in ("peak.json", "peak.json.7.ab12.tmp", "failures/step.run.txt", "failures/step.compile.txt"):
        (filled / name).parent.mkdir(exist_ok=True)
        (filled / name).write_text("{}")
    foreign = [filled / "peak.txt", filled / "failures" / "thesis.doc", filled / "host" / "notes", filled / "letters"]
    for file in foreign:
        file.write_text("not ours")
    done = afterburner("cache", "clear", AFTERBURNER_CACHE_DIR=str(filled))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith(
        ", and 1 descriptions of a processor, 2 measurements of this machine's peaks, 2 reports of failures\n")
    assert sorted(p for p in filled.rglob("*") if p.is_file()) == sorted(foreign)
    assert "removed 0 objects, 0.0 MiB, from" in afterburner("cache", "clear",
                                                             AFTERBURNER_CACHE_DIR=str(filled)).stdout


def test_what_lies_behind_a_link_is_not_cleared(filled: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "letter.txt").write_text("not ours")
    (filled / "failures").symlink_to(elsewhere)
    assert afterburner("cache", "clear", AFTERBURNER_CACHE_DIR=str(filled)).returncode == 0
    assert (elsewhere / "letter.txt").exists()


def test_limit_keeps_what_was_used_last(filled: Path) -> None:
    done = afterburner("cache", "limit", "3", AFTERBURNER_CACHE_DIR=str(filled))
    assert (done.returncode, done.stderr) == (0, "")
    assert "AFTERBURNER_CACHE_LIMIT=3" in done.stdout
    assert sorted(e.key[-1] for e in ObjectCache(filled / "objects", 0).entries()) == ["2", "3"]


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = afterburner("cache", "show", AFTERBURNER_CACHE_DIR=str(tmp_path / "file"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "is not a folder; set AFTERBURNER_CACHE_DIR" in done.stdout


def test_folder_that_others_can_write(filled: Path) -> None:
    (filled / "objects").chmod(0o777)
    done = afterburner("cache", "show", AFTERBURNER_CACHE_DIR=str(filled))
    assert "state    not used: " in done.stdout and "can be written by others; chmod 700 it" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser can write anywhere")
def test_folder_that_cannot_be_written(filled: Path) -> None:
    (filled / "objects").chmod(0o500)
    try:
        shown = afterburner("cache", "show", AFTERBURNER_CACHE_DIR=str(filled))
        cleared = afterburner("cache", "clear", AFTERBURNER_CACHE_DIR=str(filled))
    finally:
        (filled / "objects").chmod(0o700)
    assert "not used" in shown.stdout
    assert (cleared.returncode, cleared.stderr.count("\n")) == (1, 1)


def test_full_disk_is_told() -> None:
    done = afterburner("cache", "show", AFTERBURNER_CACHE_DIR="/dev/full")
    assert (done.returncode, done.stderr) == (0, "")
    assert "not used" in done.stdout
