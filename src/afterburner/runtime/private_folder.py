"""Folders and files of one user: others cannot read what is written, and what they could have written is not read."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

TEMPORARY = ".tmp"  # ends the name of a file that is not whole yet

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make(folder: Path) -> None:
    """Make a folder, and those above it that are missing, each with mode 0700; those that are there stay as they are.

    Raises:
        OSError: that cannot be done, or something else stands there.
    """
    missing = [level for level in (folder, *folder.parents) if not level.exists()]
    for level in (*reversed(missing), folder):
        level.mkdir(mode=0o700, exist_ok=True)


def refusal(folder: Path) -> str | None:
    """Why a folder may not be used; None where only this user can write it, or where it does not exist yet. Nor may
    the one it stands in belong to anybody else, who could put another in its place."""
    try:
        info, around = os.stat(folder), os.stat(folder.parent)
    except OSError:
        return None
    if around.st_uid not in (os.geteuid(), 0):
        return f"{folder.parent} belongs to another user; set AFTERBURNER_CACHE_DIR to a folder of your own"
    if not stat.S_ISDIR(info.st_mode):
        return f"{folder} is not a folder"
    if info.st_uid != os.geteuid():
        return f"{folder} belongs to another user; set AFTERBURNER_CACHE_DIR to a folder of your own"
    if info.st_mode & _OTHERS_WRITE:
        return f"{folder} can be written by others; chmod 700 it to have compiled objects kept"
    return None


def read(path: Path) -> bytes:
    """The file's bytes; empty where someone else could have written it.

    Raises:
        OSError: there is none, it is a link, or it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | _NO_LINKS)
    with os.fdopen(handle, "rb") as file:
        info = os.fstat(handle)
        if info.st_uid != os.geteuid() or info.st_mode & _OTHERS_WRITE:
            return b""
        return file.read()


def write(path: Path, data: bytes) -> None:
    """Put a new file of mode 0600 in a place as a whole, also where a link stood, which is not followed.

    Raises:
        OSError: that failed; nothing is left behind.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        _create(temporary, data)
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def _create(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(handle, view):]
    finally:
        os.close(handle)
