"""What is going on, in one line of a terminal."""

from __future__ import annotations

import sys


def show_progress(text: str) -> None:
    """Replace the terminal's current line; say nothing where there is no terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
