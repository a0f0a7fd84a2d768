"""Work that an interrupt delays but does not cut in two."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from afterburner.frontend.undisturbed import Interrupted, undisturbed


class Alarm(RuntimeError):
    pass


@pytest.fixture
def alarm():
    """A signal handler that raises, as Ctrl-C's does."""
    def ring(*_):
        raise Alarm("ring")

    before = signal.signal(signal.SIGALRM, ring)
    yield
    signal.signal(signal.SIGALRM, before)


def test_an_interrupt_comes_after_the_work(alarm):
    steps = []

    def work():
        for i in range(40):
            steps.append(i)
            time.sleep(0.005)

    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(Interrupted, match="ring"):
        undisturbed(work)
    assert len(steps) == 40


def test_a_signal_to_another_thread_comes_after_the_work(alarm):
    done = []

    def work():
        signal.raise_signal(signal.SIGALRM)
        done.append(1)

    with pytest.raises(Interrupted, match="ring"):
        undisturbed(work)
    assert done == [1]


def test_errors_of_the_work_are_raised():
    def work():
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted"):
        undisturbed(work)


def test_other_threads_work_themselves():
    seen = []
    thread = threading.Thread(target=lambda: undisturbed(lambda: seen.append(threading.current_thread())))
    thread.start()
    thread.join()
    assert seen == [thread]


def test_work_goes_on_where_no_thread_can_be_made(monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("_thread.start_new_thread", refuse)
    seen = []
    undisturbed(lambda: seen.append(1))
    assert seen == [1]
