"""Files that only this user reads, and reads only where nobody else could have written them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from afterburner.runtime import private_folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_level_that_is_made_is_private(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    there.chmod(0o755)
    private_folder.make(there / "a" / "b" / "c")
    private_folder.make(there / "a" / "b" / "c")
    assert [mode(there / level) for level in ("a", "a/b", "a/b/c")] == [0o700] * 3
    assert mode(there) == 0o755


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_file_in_the_way_is_an_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        private_folder.make(tmp_path / "file" / below)


def test_a_written_file_is_whole_and_private(tmp_path: Path) -> None:
    private_folder.write(tmp_path / "file", b"first")
    private_folder.write(tmp_path / "file", b"second")
    assert private_folder.read(tmp_path / "file") == b"second"
    assert mode(tmp_path / "file") == 0o600 and len(list(tmp_path.iterdir())) == 1


def test_links_are_neither_read_nor_written_through(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"precious")
    link.symlink_to(real)
    with pytest.raises(OSError):
        private_folder.read(link)
    private_folder.write(link, b"ours")
    assert real.read_bytes() == b"precious" and not link.is_symlink() and link.read_bytes() == b"ours"


def test_what_others_could_have_written_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    private_folder.write(path, b"ours")
    path.chmod(0o620)
    assert private_folder.read(path) == b""
    path.chmod(0o644)
    assert private_folder.read(path) == b"ours"
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert private_folder.read(path) == b""


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        private_folder.write(tmp_path / "file", b"x")
    assert list(tmp_path.iterdir()) == []
