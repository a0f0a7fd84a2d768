"""``afterburner cache``: the folder of compiled objects, and of what else is kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from afterburner.options import options
from afterburner.runtime import cache_folder, private_folder
from afterburner.runtime.cache import ObjectCache

from .errors import CommandError

MIB = 2**20


def open_cache() -> ObjectCache:
    """The cache that compiled graphs use with the options in force."""
    return cache_folder.objects(options())


def show() -> int:
    """Print place, contents and limit."""
    cache = open_cache()
    entries = cache.entries()
    print(f"folder   {cache.path}")
    print(f"objects  {len(entries)}, {sum(e.size for e in entries) / MIB:.1f} MiB")
    print(f"limit    {cache.limit_bytes // MIB} MiB (AFTERBURNER_CACHE_LIMIT)")
    print(f"choices  {len(cache_folder.decisions(options()).entries())} measured, of the fastest device for a graph")
    trouble = why_unusable(cache.path)
    if not options().cache:
        print("state    switched off by AFTERBURNER_CACHE=0")
    elif trouble:
        print(f"state    not used: {trouble}")
    return 0


def clear() -> int:
    """Remove every object, what was found out of devices and processors, and the reports of failures; nothing else.

    Raises:
        CommandError: some could not be removed.
    """
    chosen, cache = options(), open_cache()
    size = cache.size()
    removed = _emptied(cache)
    others = {
        "measured choices of a device": _emptied(cache_folder.decisions(chosen)),
        "descriptions of a processor": _emptied(cache_folder.hosts(chosen)),
        "measurements of this machine's peaks": _deleted(cache_folder.peak_files(chosen)),
        "reports of failures": _deleted(cache_folder.failure_files(chosen)),
    }
    told = ", ".join(f"{count} {what}" for what, count in others.items() if count)
    print(f"removed {removed} objects, {size / MIB:.1f} MiB, from {cache.path}" + (f", and {told}" if told else ""))
    return 0


def _emptied(cache: ObjectCache) -> int:
    """How many entries were removed.

    Raises:
        CommandError: not all could be.
    """
    removed = cache.clear()
    _require_gone(cache, len(cache.entries()))
    return removed


def _deleted(files: Iterable[Path]) -> int:
    """How many files were removed.

    Raises:
        CommandError: one could not be.
    """
    count = 0
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            message = f"{file} can't be removed: {error.strerror}; check who owns the folder"
            raise CommandError(message, status=1) from None
        count += 1
    return count


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
    refusal = private_folder.refusal(folder)
    if refusal is not None:
        return refusal
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(bytes(MIB))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return f"{existing}: {error.strerror}; set AFTERBURNER_CACHE_DIR to a folder that can be written"
    return None
