"""Work that a Ctrl-C may delay but not cut in two."""

from __future__ import annotations

import _thread
import signal
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ..runtime.own_threads import require_threads


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
            require_threads()
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


def raised_by_signal(error: BaseException) -> bool:
    """Whether an exception comes from the program's own handler of a signal, which may run between any two
    instructions of ours."""
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()} - {None}
    trace: TracebackType | None = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in handlers:
            return True
        trace = trace.tb_next
    return False


def _code_of(handler: Any) -> Any:
    """The code of a function, a method or an object that can be called."""
    for function in (handler, type(handler).__call__ if callable(handler) else None):
        code = getattr(getattr(function, "__func__", function), "__code__", None)
        if code is not None:
            return code
    return None


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
