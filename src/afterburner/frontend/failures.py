"""A failure in one line, and a text file that repeats it."""

from __future__ import annotations

import traceback
from pathlib import Path

from ..options import options


def describe(name: str, when: str, error: Exception) -> str:
    """One line: the error, and where the file that repeats it was written."""
    first = str(error).splitlines()[0] if str(error) else ""
    line = f"{when} failed: {type(error).__name__}: {first}"
    path = _write(name, when, error)
    return f"{line} (details in {path})" if path else line


def _write(name: str, when: str, error: Exception) -> Path | None:
    graph = getattr(error, "graph_text", "")
    folder = options().dump or options().cache_path / "failures"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{_plain(name)}.{when}.txt"
        trace = "".join(traceback.format_exception(error))
        path.write_text(f"{_commented(trace)}\n{graph}", encoding="utf-8")
    except OSError:
        return None
    return path


def _commented(text: str) -> str:
    return "\n".join(f"# {line}" for line in text.splitlines())


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)[:80]
