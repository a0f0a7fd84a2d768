"""What lies in the cache folder, and where: nobody else names its files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from ..options import Options
from . import decisions as decisions_module
from .cache import ObjectCache
from .private_folder import TEMPORARY

PEAK = "peak.json"
_OBJECTS = "objects"
_HOSTS = "host"
_FAILURES = "failures"
_HOSTS_BYTES = 1 << 20  # a processor takes 3 kB
_REPORT = ".txt"


def objects(chosen: Options) -> ObjectCache:
    """Compiled objects."""
    return ObjectCache(chosen.cache_path / _OBJECTS, chosen.cache_limit << 20)


def decisions(chosen: Options) -> ObjectCache:
    """Which devices were found fastest."""
    return ObjectCache(chosen.cache_path / decisions_module.FOLDER, decisions_module.LIMIT_BYTES)


def hosts(chosen: Options) -> ObjectCache:
    """What LLVM says of processors."""
    return ObjectCache(chosen.cache_path / _HOSTS, _HOSTS_BYTES)


def failures(chosen: Options) -> Path:
    """The folder of failure reports."""
    return chosen.cache_path / _FAILURES


def failure_files(chosen: Options) -> list[Path]:
    """Failure reports, the last written first. Files of other kinds are not ours, nor is what lies behind a link."""
    folder = failures(chosen)
    return [] if folder.is_symlink() else _files(folder, "", _REPORT)


def peak_files(chosen: Options) -> list[Path]:
    """Where measured peaks are kept."""
    return _files(chosen.cache_path, PEAK, PEAK)


def _files(folder: Path, start: str, end: str) -> list[Path]:
    """Files named ``start`` … ``end``, and what a process that died left of them; the last written first."""
    found = []
    try:
        with os.scandir(folder) as items:
            for item in items:
                if not item.name.startswith(start) or not item.name.endswith((end, TEMPORARY)):
                    continue
                with contextlib.suppress(FileNotFoundError):  # another process deletes, too
                    if not item.is_dir(follow_symlinks=False):
                        found.append((item.stat(follow_symlinks=False).st_mtime_ns, Path(item.path)))
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True)]
