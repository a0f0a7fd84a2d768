"""Compiled objects on disk: private, checked on every read, bounded in size. Never an error to the caller."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import private_folder
from .private_folder import TEMPORARY

_MAGIC = b"AFTRBRN1"
_HEADER = len(_MAGIC) + 32  # then the SHA-256 of what follows
_SUFFIX = ".obj"
_STALE_SECONDS = 3600.0  # a temporary file this old was left by a process that died
_TRIMMED_TO = 0.9  # of the limit, so that not every write has to trim

_log = logging.getLogger("afterburner")
_warned: set[tuple[Path, str]] = set()  # folders around caches, and what has been complained about
_ADVICE = "set AFTERBURNER_CACHE_DIR to a folder that can be written"


@dataclass(frozen=True)
class Entry:
    """One file of the cache: its key, size in bytes, and when it was last used (seconds since 1970)."""

    key: str
    size: int
    used: float


class ObjectCache:
    """Byte strings under hexadecimal keys in a folder that only this user can write.

    A folder or file that belongs to someone else, or that others may write, is not used. A damaged
    entry is deleted and counts as absent. Several processes may share the folder.

    Args:
        path: the folder; it is made, with mode 0700, on the first write.
        limit_bytes: what ``put`` keeps the sum of all entries below; the least recently used go first.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        self.limit_bytes = limit_bytes

    def get(self, key: str) -> bytes | None:
        """The bytes kept under ``key``, or None."""
        if private_folder.refusal(self.path) is not None:
            return None
        path = self._file(key)
        try:
            raw = private_folder.read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"cannot read {self.path}", error)
            return None
        payload = _checked(raw)
        with contextlib.suppress(OSError):
            if payload is None:
                path.unlink()
            else:
                os.utime(path)
        return payload

    def put(self, key: str, payload: bytes) -> bool:
        """Keep ``payload`` under ``key``; whether that worked. A failure is logged once."""
        try:
            private_folder.make(self.path)
        except OSError as error:
            return self._warn(f"cannot make {self.path}", error)
        refusal = private_folder.refusal(self.path)
        if refusal is not None:
            return self._warn(refusal)
        try:
            private_folder.write(self._file(key), _MAGIC + hashlib.sha256(payload).digest() + payload)
        except OSError as error:
            return self._warn(f"cannot write to {self.path}", error)
        self.trim()
        return True

    def entries(self) -> list[Entry]:
        """What is kept, least recently used first."""
        found = [Entry(e.name.removesuffix(_SUFFIX), info.st_size, info.st_mtime)
                 for e, info in self._files() if e.name.endswith(_SUFFIX)]
        return sorted(found, key=lambda e: (e.used, e.key))

    def size(self) -> int:
        """Bytes kept in all."""
        return sum(e.size for e in self.entries())

    def clear(self) -> int:
        """Delete everything; the number of entries deleted."""
        count = len(self.entries())
        for item, _ in list(self._files()):
            with contextlib.suppress(OSError):
                os.unlink(item.path)
        return count

    def trim(self) -> None:
        """Delete the least recently used entries above the limit, and what dead processes left."""
        now = time.time()
        for item, info in list(self._files()):
            if item.name.endswith(TEMPORARY) and now - info.st_mtime > _STALE_SECONDS:
                with contextlib.suppress(OSError):
                    os.unlink(item.path)
        entries = self.entries()
        total = sum(e.size for e in entries)
        if total <= self.limit_bytes:
            return
        for entry in entries:
            if total <= self.limit_bytes * _TRIMMED_TO:
                break
            with contextlib.suppress(OSError):
                self._file(entry.key).unlink()
            total -= entry.size

    def _file(self, key: str) -> Path:
        return self.path / f"{key}{_SUFFIX}"

    def _files(self) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
        try:
            with os.scandir(self.path) as items:
                for item in items:
                    if not item.name.endswith((_SUFFIX, TEMPORARY)):
                        continue
                    with contextlib.suppress(OSError):
                        yield item, item.stat(follow_symlinks=False)
        except OSError:
            return

    def _warn(self, what: str, error: OSError | None = None) -> bool:
        """Log what is wrong, once for all caches in one folder: the same ails them, and the user sees one."""
        cause = what if error is None else error.strerror or str(error)
        if (self.path.parent, cause) not in _warned:
            _warned.add((self.path.parent, cause))
            _log.warning("afterburner: compiled objects are not kept: %s",
                         what if error is None else f"{what}: {cause}; {_ADVICE}")
        return False


def _checked(raw: bytes) -> bytes | None:
    payload = raw[_HEADER:]
    if raw[:_HEADER] != _MAGIC + hashlib.sha256(payload).digest():
        return None
    return payload
