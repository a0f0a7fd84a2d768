"""Threads of ours, which never look at a variable."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_running: set[int] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_running.clear)  # which has no thread but the one that forked


class OwnThread(threading.Thread):
    """A thread that is counted while it runs."""

    def run(self) -> None:
        """Call its function."""
        with _counted():
            super().run()


class OwnTimer(threading.Timer):
    """A timer that is counted while it runs."""

    def run(self) -> None:
        """Wait and call."""
        with _counted():
            super().run()


@contextmanager
def _counted() -> Iterator[None]:
    """Count this thread meanwhile, which surely exists."""
    mine = threading.get_ident()
    _running.add(mine)
    try:
        yield
    finally:
        _running.discard(mine)


def require_threads() -> None:
    """Fail where no thread can begin any more: before Python 3.12 whoever starts one then waits for it for ever.

    Raises:
        RuntimeError: the interpreter is about to end, as what a destructor runs then may find.
    """
    if sys.is_finalizing():
        raise RuntimeError("no thread begins while the interpreter ends")


def own_threads() -> int:
    """How many there are; less than that never exist."""
    return len(_running)
