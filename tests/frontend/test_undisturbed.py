"""Work that an interrupt delays but does not cut in two."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest
import tensorflow as tf

from afterburner.frontend.undisturbed import Interrupted, raised_by_signal, undisturbed

from .kit import Wrapped, captured


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


def test_work_goes_on_while_the_interpreter_ends(monkeypatch):
    monkeypatch.setattr("sys.is_finalizing", lambda: True)
    seen = []
    undisturbed(lambda: seen.append(threading.current_thread()))
    assert seen == [threading.main_thread()]


def test_what_a_signal_handler_raises_reaches_the_program(alarm):
    """It is no failure of ours: the function stays compiled, and TensorFlow does not run the step again."""
    total = tf.Variable(0.0)
    ringing = []

    class Ringing(Wrapped):
        def run(self, *arguments: Any) -> None:
            self._executable.run(*arguments)
            if ringing:
                signal.raise_signal(signal.SIGALRM)

    @tf.function
    def step(x: tf.Tensor) -> tf.Tensor:
        total.assign_add(tf.reduce_sum(tf.tanh(x) * tf.exp(x)))
        return total + 1.0

    x = tf.constant([1.0, 2.0])
    with captured(Ringing, strict=False) as taken:
        step(x)
        once = float(total)
        ringing.append(True)
        with pytest.raises(Alarm):
            step(x)
        assert float(total) == once
        ringing.clear()
        step(x)
        assert float(total) == pytest.approx(2 * once)
        assert not any(f.failures for f in taken.recorder.report().functions)


@pytest.mark.parametrize("kind", ["function", "method", "object"])
def test_errors_of_signal_handlers_are_told_from_others(kind):
    class Handler:
        def ring(self, *_):
            raise Alarm("ring")

        __call__ = ring

    def ring(*_):
        raise Alarm("ring")

    before = signal.signal(signal.SIGALRM, {"function": ring, "method": Handler().ring, "object": Handler()}[kind])
    try:
        with pytest.raises(Alarm) as caught:
            signal.raise_signal(signal.SIGALRM)
        assert raised_by_signal(caught.value)
        with pytest.raises(ValueError, match="planted") as caught:
            raise ValueError("planted")
        assert not raised_by_signal(caught.value)
    finally:
        signal.signal(signal.SIGALRM, before)
