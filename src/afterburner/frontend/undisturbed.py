"""Work that a Ctrl-C may delay but not cut in two."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable


class Interrupted(BaseException):
    """A signal raised ``interrupt`` while work was done that is now over."""

    def __init__(self, interrupt: BaseException) -> None:
        super().__init__(str(interrupt))
        self.interrupt = interrupt


def undisturbed(work: Callable[[], None]) -> None:
    """Call ``work``; an exception that a signal raises meanwhile comes after it.

    Python raises those in the main thread alone and between any two of its instructions. So the main thread
    waits while another one works; an interrupt that comes before the work has begun cancels it.

    Raises:
        Interrupted: the work is over, but there was an interrupt.
        Exception: what the work raised, or an interrupt that cancelled it.
    """
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    errand = _Errand(work)
    try:
        try:
            _thread.start_new_thread(errand.run, ())
        except RuntimeError:  # the system has no more threads
            errand.run()
        errand.done.wait()
    except BaseException as interrupt:
        if errand.claim.acquire(blocking=False):
            raise
        errand.done.wait()
        raise Interrupted(interrupt) from errand.error
    if errand.error is not None:
        raise errand.error


class _Errand:
    """One call of ``work``, by whoever claims it first.

    Attributes:
        claim: taken for good by who runs or cancels the work.
        done: set once the work is over.
        error: what it raised.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self.claim = threading.Lock()
        self.done = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        if not self.claim.acquire(blocking=False):
            return
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - raised again where the work was asked for
            self.error = error
        finally:
            self.done.set()
