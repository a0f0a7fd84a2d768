"""Several threads call functions that write the same variables: no update is lost, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from afterburner.frontend.variables import clock
from afterburner.options import overridden

from .kit import Wrapped, captured

CALLS = 150
SECONDS = 20.0  # in which everything ends unless threads wait for each other
X = tf.ones((100,))


@pytest.fixture(autouse=True)
def trusting(monkeypatch):
    monkeypatch.setattr(clock, "unsafe", False)  # whatever datasets other tests made


def _together(*works: Callable[[], Any], calls: int = CALLS) -> None:
    """Each work so many times, in a thread of its own."""
    failures: list[BaseException] = []

    def repeat(work: Callable[[], Any]) -> None:
        try:
            for _ in range(calls):
                work()
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=repeat, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert not any(thread.is_alive() for thread in threads), "threads wait for each other"
    assert not failures, failures


def _counting(*counters: tf.Variable) -> Any:
    """A function that is compiled and adds one to each of the variables."""
    @tf.function
    def count(x):
        for counter in counters:
            counter.assign_add(tf.ones((), counter.dtype))
        return tf.reduce_sum(tf.sin(x) * x)

    return count


def _counters() -> tuple[tf.Variable, tf.Variable]:
    return tf.Variable(0.0), tf.Variable(0, dtype=tf.int64)


def test_no_update_is_lost():
    c, d = _counters()
    count = _counting(c, d)
    with captured() as taken:
        count(X)
        _together(*[lambda: count(X)] * 4)
        assert taken.count == 1
    assert c.numpy() == d.numpy() == 4 * CALLS + 1


def test_the_first_calls_are_made_by_threads():
    c, d = _counters()
    count = _counting(c, d)
    with captured(compile_after=1):
        _together(*[lambda: count(X)] * 4)
    assert c.numpy() == d.numpy() == 4 * CALLS


def test_two_functions_share_a_variable():
    (a, b), shared = _counters(), tf.Variable(0)
    one, other = _counting(a, shared), _counting(shared, b)
    with captured() as taken:
        _together(lambda: one(X), lambda: other(X), lambda: one(X))
        assert taken.count >= 2
    assert [a.numpy(), b.numpy(), shared.numpy()] == [2 * CALLS, CALLS, 3 * CALLS]


def test_a_large_step_beside_another():
    large, c = tf.Variable(tf.zeros((5 << 20,))), tf.Variable(0)

    @tf.function
    def step(x):
        large.assign_add(x * 2 - 1)
        c.assign_add(1)
        return tf.reduce_sum(x)

    with captured():
        x = tf.ones((5 << 20,))
        _together(lambda: step(x), lambda: step(x), calls=6)
    assert large.numpy().min() == large.numpy().max() == c.numpy() == 12


@pytest.mark.parametrize("write", [
    lambda v: v.assign_add([1, 0]), lambda v: v.assign_sub([-1, 0]),
    lambda v: tf.raw_ops.ResourceScatterAdd(resource=v.handle, indices=[0], updates=[1]),
], ids=["add", "sub", "scatter"])
def test_eager_updates_beside_a_step(write):
    v = tf.Variable([0, 5])

    @tf.function
    def step(x):
        v.assign(tf.maximum(v + [1, 0], v))
        return tf.reduce_sum(tf.sin(x) * x)

    with captured():
        step(X)
        _together(lambda: step(X), lambda: write(v), lambda: step(X))
    assert v.numpy()[0] == 3 * CALLS + 1


def test_an_eager_update_of_a_slice_beside_a_step():
    c, wide = tf.Variable(0), tf.Variable(tf.zeros((2, 4)))

    @tf.function
    def step(x):
        wide.assign(tf.concat([wide[:1] + 1, wide[1:]], 0))
        return tf.reduce_sum(tf.sin(x) * x)

    def slice_() -> None:
        c.assign_add(1)
        wide[1:].assign(tf.fill((1, 4), float(c)))

    with captured():
        step(X)
        _together(lambda: step(X), slice_)
    np.testing.assert_array_equal(wide.numpy(), [[CALLS + 1] * 4, [CALLS] * 4])


def test_functions_that_stay_on_tensorflow_beside_a_step():
    c, d = _counters()
    count = _counting(c, d)

    @tf.function
    def left():
        d.assign_add(1)

    with captured():
        count(X)
        _together(lambda: count(X), left, lambda: count(X), left)
    assert c.numpy() == 2 * CALLS + 1
    assert d.numpy() == 4 * CALLS + 1


def test_a_stage_of_tensorflows_beside_a_step():
    c, d = _counters()
    count = _counting(c, d)

    @tf.function
    def mixed(x):
        y = tf.sin(x) * x + tf.cos(x)
        d.assign_add(tf.strings.to_number(tf.strings.as_string(tf.cast(tf.reduce_sum(y * 0 + 0.015), tf.int64)),
                                          tf.int64))
        return tf.reduce_sum(y)

    with captured(skip_ops=("AssignAddVariableOp",)):
        mixed(X)
    with captured():
        count(X)
        _together(lambda: count(X), lambda: mixed(X))
    assert c.numpy() == CALLS + 1
    assert d.numpy() == 2 * CALLS + 2


def test_readers_see_whole_values_and_spoil_none():
    v, noise = tf.Variable(tf.zeros((64, 64))), tf.Variable(0.0)
    torn: list[Any] = []

    @tf.function
    def step(x):
        v.assign(v + x - 1)
        return tf.reduce_sum(x)

    @tf.function
    def read():
        return tf.reduce_min(v + 0.0), tf.reduce_max(v * 1.0)

    def look() -> None:
        noise.assign_add(1.0)  # all remembered values are stale
        least, most = read()
        if least.numpy() != most.numpy():
            torn.append((least, most))

    with captured():
        x = tf.fill((64, 64), 2.0)
        step(x)
        _together(lambda: step(x), look, look, lambda: step(x))
    assert not torn
    assert v.numpy().min() == v.numpy().max() == 2 * CALLS + 1


@pytest.mark.parametrize("left", [False, True], ids=["taken", "left"])
def test_python_in_a_function_calls_another_one(left):
    c, d = _counters()
    count = _counting(c, d)

    @tf.function
    def outer(x):
        c.assign_add(tf.reduce_sum(tf.sin(x) * 0) + 1)
        y = tf.py_function(lambda: count(X), [], tf.float32)
        d.assign_add(tf.cast(y * 0, tf.int64) + 1)
        return y * y + 1

    with captured() as taken:
        count(X)
        with overridden(skip_ops=("Mul", "AddV2", "Cast", "Sum", "Sin") if left else ()):
            outer(X)
        # By one thread only: two would have TensorFlow's pool, of two threads here, wait for itself.
        _together(lambda: outer(X), lambda: count(X), lambda: count(X))
        assert bool(taken.functions()["outer"].reason) == left
    assert d.numpy() == 1 + 2 + CALLS * 4
    assert c.numpy() == 1 + 2 + CALLS * 4


def test_a_check_that_fails_beside_one_that_holds():
    """What a run checks is its own, though all runs use one compiled stage."""
    bad_has_run, good_has_run = threading.Event(), threading.Event()
    racing: list[bool] = []

    class Racing(Wrapped):
        def run(self, *arguments: Any) -> None:
            self._executable.run(*arguments)
            if racing and threading.current_thread() is bad:
                bad_has_run.set()
                good_has_run.wait(SECONDS)

    @tf.function
    def pick(x, i):
        return tf.gather(tf.sin(x) * x + 1, i) * 2

    raised: list[Exception] = []

    def work() -> None:
        try:
            pick(X, tf.constant([1000]))
        except tf.errors.InvalidArgumentError as error:
            raised.append(error)

    bad = threading.Thread(target=work, daemon=True)
    with captured(Racing):
        pick(X, tf.constant([1]))
        racing.append(True)
        bad.start()
        assert bad_has_run.wait(SECONDS)
        pick(X, tf.constant([1]))
        good_has_run.set()
        bad.join(SECONDS)
    assert len(raised) == 1


def test_one_function_for_many_variables():
    """Handles are arguments: runs in several threads keep theirs apart."""
    variables = [tf.Variable(0) for _ in range(4)]

    @tf.function
    def step(handle, x):
        old = tf.raw_ops.ReadVariableOp(resource=handle, dtype=tf.int32)
        tf.raw_ops.AssignVariableOp(resource=handle, value=tf.maximum(old + 1, 0))
        return tf.reduce_sum(tf.sin(x) * x)

    with captured():
        step(variables[0].handle, X)
        _together(*[lambda v=v: step(v.handle, X) for v in variables])
    assert [int(v.numpy()) for v in variables] == [CALLS + 1, CALLS, CALLS, CALLS]
