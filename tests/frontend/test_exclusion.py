"""Who waits for whom, and who does not."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import tensorflow as tf

from afterburner.frontend.exclusion import InUse, Writers

SECONDS = 30.0
A, B = (tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[], shared_name=name) for name in "ab")
BOTH = frozenset([repr(A), repr(B)])
ONE = frozenset([repr(A)])


@pytest.fixture
def writers() -> Writers:
    return Writers(repr)


@contextmanager
def _writing(writers: Writers, variables: frozenset[str] = ONE) -> Iterator[threading.Event]:
    """Another thread's compiled stage that writes these variables until the event."""
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait(SECONDS)

    thread = threading.Thread(target=lambda: writers.compiled(variables, work), daemon=True)
    thread.start()
    assert begun.wait(SECONDS)
    try:
        yield end
    finally:
        end.set()
        thread.join(SECONDS)
    assert not thread.is_alive()


def _late(end: threading.Event) -> threading.Event:
    """The event, set in a while."""
    threading.Timer(0.1, end.set).start()
    return end


def test_compiled_stages_and_writes_of_their_variables_wait(writers):
    for wait in (lambda end: writers.compiled(BOTH, end.is_set),
                 lambda end: writers.eager(["name", A, 1.0], end.is_set),
                 lambda end: writers.foreign([[B, A], 1.0], end.is_set)):
        with _writing(writers) as end:
            assert wait(_late(end))
    assert not writers.changing


def test_writes_of_other_variables_do_not_wait(writers):
    with _writing(writers) as end:
        assert not writers.eager(["name", B], end.is_set)
        assert not writers.foreign([B], end.is_set)
        assert not writers.foreign([], end.is_set)


def test_nobody_waits_for_what_tensorflow_runs(writers):
    def nested() -> bool:
        with pytest.raises(InUse):
            writers.compiled(BOTH, lambda: None)
        assert writers.eager([A], lambda: True)
        return writers.compiled(frozenset([repr(B)]), lambda: True)

    assert writers.foreign([A], nested)
    assert writers.compiled(BOTH, lambda: True)
    with pytest.raises(ZeroDivisionError):
        writers.foreign([A], lambda: 1 / 0)
    assert writers.compiled(BOTH, lambda: True)


def test_what_runs_in_the_middle_of_a_stage_does_not_wait_for_it(writers):
    """As a signal's handler, or what is destroyed then."""
    def inner() -> bool:
        assert writers.changing == BOTH
        return writers.eager([A], lambda: writers.eager([B], lambda: True))

    assert writers.compiled(ONE, lambda: writers.compiled(BOTH, inner) and writers.changing == ONE)
    assert not writers.changing


def test_an_interrupt_ends_the_waiting(writers):
    class Alarm(Exception):
        pass

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with _writing(writers):
            for wait in (lambda: writers.compiled(ONE, lambda: None), lambda: writers.eager([A], lambda: None),
                         lambda: writers.foreign([A], lambda: None)):
                signal.setitimer(signal.ITIMER_REAL, 0.1)
                with pytest.raises(Alarm):
                    wait()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert writers.compiled(BOTH, lambda: True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_waits_for_no_thread_of_its_parents(writers):
    with _writing(writers):
        child = os.fork()
        if child == 0:
            writers.reset()
            done = writers.compiled(BOTH, lambda: True) and writers.eager([A], lambda: True)
            os._exit(0 if done else 1)
        end = time.monotonic() + SECONDS
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0 and time.monotonic() < end:
            time.sleep(0.01)
        if ended[0] == 0:
            os.kill(child, signal.SIGKILL)
    assert ended == (child, 0)
