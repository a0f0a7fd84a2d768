"""``afterburner cache``: the folder of compiled objects."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from afterburner.options import options
from afterburner.runtime.cache import ObjectCache
from afterburner.runtime.decisions import FOLDER, LIMIT_BYTES

from .errors import CommandError

MIB = 2**20


def open_cache() -> ObjectCache:
    """The cache that compiled graphs use with the options in force."""
    settings = options()
    return ObjectCache(settings.cache_path / "objects", settings.cache_limit * MIB)


def open_decisions() -> ObjectCache:
    """Which devices were found fastest."""
    return ObjectCache(options().cache_path / FOLDER, LIMIT_BYTES)


def show() -> int:
    """Print place, contents and limit."""
    cache = open_cache()
    entries = cache.entries()
    print(f"folder   {cache.path}")
    print(f"objects  {len(entries)}, {sum(e.size for e in entries) / MIB:.1f} MiB")
    print(f"limit    {cache.limit_bytes // MIB} MiB (AFTERBURNER_CACHE_LIMIT)")
    print(f"choices  {len(open_decisions().entries())} measured, of the fastest device for a graph")
    trouble = why_unusable(cache.path)
    if not options().cache:
        print("state    switched off by AFTERBURNER_CACHE=0")
    elif trouble:
        print(f"state    not used: {trouble}")
    return 0


def clear() -> int:
    """Remove every object, and what was measured of devices.

    Raises:
        CommandError: some could not be removed.
    """
    cache = open_cache()
    size = cache.size()
    removed = cache.clear()
    _require_gone(cache, len(cache.entries()))
    decisions = open_decisions()
    forgotten = decisions.clear()
    _require_gone(decisions, len(decisions.entries()))
    print(f"removed {removed} objects, {size / MIB:.1f} MiB, from {cache.path}"
          + (f", and {forgotten} measured choices of a device" if forgotten else ""))
    return 0


def limit(megabytes: int) -> int:
    """Remove the least recently used objects above ``megabytes``, and say how to keep it so.

    Raises:
        CommandError: some could not be removed.
    """
    cache = open_cache()
    before, before_size = len(cache.entries()), cache.size()
    cache.limit_bytes = megabytes * MIB
    cache.trim()
    if cache.size() > cache.limit_bytes:
        _require_gone(cache, len(cache.entries()))
    kept = cache.entries()
    print(f"removed {before - len(kept)} objects, {(before_size - cache.size()) / MIB:.1f} MiB; "
          f"{len(kept)} are left, {cache.size() / MIB:.1f} MiB")
    if megabytes != options().cache_limit:
        print(f"to keep this limit from now on, set AFTERBURNER_CACHE_LIMIT={megabytes}")
    return 0


def _require_gone(cache: ObjectCache, left: int) -> None:
    if left:
        raise CommandError(f"{left} objects in {cache.path} can't be removed; check who owns the folder and "
                           "whether it can be written", status=1)


def why_unusable(folder: Path) -> str | None:
    """Why objects cannot be kept in ``folder``; None where they can."""
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is not a folder; set AFTERBURNER_CACHE_DIR to one that can be written"
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(MIB))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return f"{existing}: {error.strerror}; set AFTERBURNER_CACHE_DIR to a folder that can be written"
    return None
