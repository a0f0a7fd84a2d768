"""Threads of ours, which never look at a variable."""

from __future__ import annotations

import threading

_running: set[int] = set()


class OwnTimer(threading.Timer):
    """A timer that is counted while it runs."""

    def run(self) -> None:
        """Wait and call; what is counted is what surely exists."""
        mine = threading.get_ident()
        _running.add(mine)
        try:
            super().run()
        finally:
            _running.discard(mine)


def own_threads() -> int:
    """How many there are; less than that never exist."""
    return len(_running)
