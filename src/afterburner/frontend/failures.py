"""A failure in one line, and a text file that repeats it."""

from __future__ import annotations

import traceback
from pathlib import Path

from ..options import options
from ..runtime import cache_folder, private_folder

_KEPT = 100  # reports in our own folder; the oldest go


def describe(name: str, when: str, error: Exception) -> str:
    """One line: the error, and where the file that repeats it was written."""
    first = str(error).splitlines()[0] if str(error) else ""
    line = f"{when} failed: {type(error).__name__}: {first}"
    path = _write(name, when, error)
    return f"{line} (details in {path})" if path else line


def _write(name: str, when: str, error: Exception) -> Path | None:
    graph = getattr(error, "graph_text", "")
    trace = "".join(traceback.format_exception(error))
    try:
        path = _folder() / f"{_plain(name)}.{when}.txt"
        private_folder.write(path, f"{_commented(trace)}\n{graph}".encode(errors="backslashreplace"))
        _drop_oldest()
    except OSError:
        return None
    return path


def _drop_oldest() -> None:
    for path in cache_folder.failure_files(options())[_KEPT:]:
        path.unlink(missing_ok=True)


def _folder() -> Path:
    """Where reports go: the folder that was asked for, whoever else may write it, or our own.

    Raises:
        OSError: it cannot be made, or ours is not this user's alone.
    """
    folder = options().dump or cache_folder.failures(options())
    private_folder.make(folder)
    refusal = None if options().dump else private_folder.refusal(folder)
    if refusal is not None:
        raise PermissionError(refusal)
    return folder


def _commented(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.splitlines())


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80]
