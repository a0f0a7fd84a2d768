"""Steps whose new values are bound group by group: nobody can tell, but for the memory."""

from __future__ import annotations

import gc
import signal
import threading

import numpy as np
import pytest
import tensorflow as tf

from afterburner.cpu import parts
from afterburner.errors import StrictError
from afterburner.frontend import variant
from afterburner.frontend.tensors import address
from afterburner.frontend.variant import PartlyBound
from afterburner.runtime.buffers import BufferPool
from tests.cpu_harness import aligned
from tests.frontend.kit import POOL, captured

ONE_TARGET = True  # only compiled code runs in parts
SIZE, LAYERS = 256, 8
ONES = tf.ones((SIZE, SIZE))


@pytest.fixture(autouse=True)
def stops(monkeypatch):
    """After every variable."""
    monkeypatch.setattr(parts, "STOP_BYTES", 4 * SIZE * SIZE)


def _program(x_of=lambda x: x):
    """Variables that hold one number each (all elements the same), and a step that changes each in turn."""
    variables = [tf.Variable(tf.fill((SIZE, SIZE), float(i))) for i in range(LAYERS)]

    @tf.function
    def step(x):
        x = x_of(x)
        for v in variables:
            x = tf.tanh(x @ v / SIZE)
            v.assign(v + x + 1)
        return tf.reduce_sum(x)

    return variables, step


def _expected(steps, start=None):
    values = [float(i) for i in range(LAYERS)] if start is None else start
    for _ in range(steps):
        x = 1.0
        for i, value in enumerate(values):
            x = np.tanh(x * value)
            values[i] = value + x + 1
    return values


def _check(variables, values):
    for v, value in zip(variables, values, strict=True):
        np.testing.assert_allclose(v.numpy(), np.full((SIZE, SIZE), value), rtol=1e-4)


class Watched:
    """An executable that calls ``at(n)`` before the n-th group of new values is bound."""

    def __init__(self, real, at):
        self._real, self._at = real, at

    def __getattr__(self, name):
        return getattr(self._real, name)

    def run_in_parts(self, inputs, begin, finish):
        count = iter(range(LAYERS + 1))

        def finished(positions):
            self._at(next(count))
            finish(positions)

        self._real.run_in_parts(inputs, begin, finished)


def test_the_step_is_cut_and_right():
    variables, step = _program()
    with captured() as taken:
        for _ in range(5):
            step(ONES)
    (executable,) = taken.executables
    assert len(executable.parts) >= LAYERS - 1
    _check(variables, _expected(5))


def test_earlier_reads_never_change():
    variables, step = _program()
    with captured():
        step(ONES)
        kept = [v.read_value() for v in variables]
        before = [k.numpy().copy() for k in kept]
        for _ in range(10):
            step(ONES)
    for read, value in zip(kept, before, strict=True):
        np.testing.assert_array_equal(read.numpy(), value)


def test_other_threads_see_whole_values():
    variables, step = _program()
    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            for v in variables:
                value = v.numpy()
                if np.ptp(value) > 1e-3:
                    torn.append(value)

    with captured():
        thread = threading.Thread(target=read)
        thread.start()
        for _ in range(200):
            step(ONES)
        stop.set()
        thread.join()
    assert not torn
    _check(variables, _expected(200))


def test_concurrent_steps():
    variables, step = _program()
    with captured():
        threads = [threading.Thread(target=lambda: [step(ONES) for _ in range(30)]) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for v in variables:
        value = v.numpy()
        assert np.ptp(value) < 1e-3 and 30 <= value[0, 0] <= 200


def test_assignments_checkpoints_and_other_functions_between_steps(tmp_path):
    variables, step = _program()

    @tf.function
    def halve():
        for v in variables:
            v.assign(v / 2)
        return tf.reduce_sum(variables[0])

    with captured():
        step(ONES)
        halve()
        step(ONES)
        _check(variables, _expected(1, [v / 2 for v in _expected(1)]))
        checkpoint = tf.train.Checkpoint(variables=variables)
        path = checkpoint.save(str(tmp_path / "c"))
        values = [float(v[0, 0]) for v in variables]
        step(ONES)
        checkpoint.restore(path)
        _check(variables, values)
        variables[3].assign(tf.zeros((SIZE, SIZE)))
        values[3] = 0.0
        step(ONES)
        _check(variables, _expected(1, values))


def test_a_failed_check_leaves_all_as_before():
    table = tf.ones((4, SIZE, SIZE))
    variables, step = _program(lambda i: tf.gather(table, i))
    with captured() as taken:
        step(tf.constant(3))
        with pytest.raises(tf.errors.InvalidArgumentError, match="not in"):
            step(tf.constant(4))
        assert len(taken.executables[0].parts) > 1
        _check(variables, _expected(1))
        step(tf.constant(0))
    _check(variables, _expected(2))


def _fail_at(number):
    def at(n):
        if n == number:
            raise RuntimeError("planted")

    return at


def test_a_failure_before_anything_is_bound_is_finished_by_tensorflow():
    variables, step = _program()
    with captured(lambda e: Watched(e, _fail_at(0)), strict=False, verbosity="silent") as taken:
        for _ in range(3):
            step(ONES)
    assert "planted" in taken.functions()["step"].failures[0]
    _check(variables, _expected(3))


def test_a_planted_failure_of_the_run_is_finished_by_tensorflow():
    variables, step = _program()
    with captured(strict=False, verbosity="silent", fault="run"):
        for _ in range(3):
            step(ONES)
    _check(variables, _expected(3))


def test_a_failure_in_the_middle_is_raised_and_not_run_again():
    variables, step = _program()
    expected = _expected(1)
    with captured(lambda e: Watched(e, _fail_at(3)), strict=False, verbosity="silent") as taken:
        with pytest.raises(PartlyBound, match="planted"):
            step(ONES)
        assert "planted" in taken.functions()["step"].failures[0]
        _check(variables[:3], expected[:3])
        _check(variables[3:], _expected(0)[3:])
        for i, v in enumerate(variables):
            v.assign(tf.fill((SIZE, SIZE), float(i)))
        step(ONES)
    _check(variables, expected)


def test_a_failure_in_the_middle_under_strict():
    _, step = _program()
    with captured(lambda e: Watched(e, _fail_at(3))), pytest.raises(StrictError, match="planted"):
        step(ONES)


class Alarm(Exception):
    """What a program's own handler of a signal may raise."""


def test_an_interrupt_does_not_cut_a_step_in_two():
    def ring(*_):
        raise Alarm

    variables, step = _program()
    before = signal.signal(signal.SIGALRM, ring)
    try:
        with captured(lambda e: Watched(e, lambda n: signal.raise_signal(signal.SIGALRM) if n == 2 else None)):
            with pytest.raises(Alarm):
                step(ONES)
    finally:
        signal.signal(signal.SIGALRM, before)
    _check(variables, _expected(1))


def test_memory_is_one_copy_and_a_group():
    variables, step = _program()
    with captured():
        for _ in range(3):
            step(ONES)
        del variables, step
        gc.collect()
    del _
    gc.collect()
    before = POOL.held_bytes()
    variables, step = _program()
    with captured():
        for _ in range(20):
            step(ONES)
        value = 4 * SIZE * SIZE
        assert POOL.held_bytes() - before <= 3 * value
    assert len(variables) == LAYERS


def _addresses(variables):
    return {address(v.read_value()) for v in variables}


def _adopted(monkeypatch):
    """Addresses of TensorFlow's memory that was kept for values to come, as where it uses oneDNN."""
    monkeypatch.setattr(variant, "keeps_freed_memory", lambda: True)
    found = []
    adopt = BufferPool.adopt
    monkeypatch.setattr(BufferPool, "adopt", lambda self, *a: adopt(self, *a) and (found.append(a[1]) or True))
    return found


def test_memory_of_former_values_is_used_again(monkeypatch):
    variables, step = _program()
    for v in variables:
        v.assign(v + 0.0)  # memory that TensorFlow's own operations allocate
    first, adopted = _addresses(variables), _adopted(monkeypatch)
    with captured():
        for _ in range(4):
            step(ONES)
        _check(variables, _expected(4))
        assert set(adopted) == first and len(adopted) == len(first)
        assert _addresses(variables) & first


@pytest.mark.parametrize("holder", ["tensor", "view", "other variable"])
def test_former_values_that_somebody_holds_are_left_alone(holder, monkeypatch):
    variables, step = _program()
    held = {"tensor": lambda v: v.read_value(), "view": lambda v: np.asarray(memoryview(v.read_value())),
            "other variable": tf.Variable}[holder]
    kept, adopted = [held(v) for v in variables], _adopted(monkeypatch)
    with captured():
        for _ in range(4):
            step(ONES)
    assert not adopted
    for i, value in enumerate(kept):
        np.testing.assert_array_equal(np.asarray(value), np.full((SIZE, SIZE), i, np.float32))


def test_an_array_that_a_variable_was_made_of_is_not_ours(monkeypatch):
    """TensorFlow may share an array's memory, and does not count who looks at the array."""
    variables, step = _program()
    arrays = [aligned((SIZE, SIZE), np.dtype(np.float32)) for _ in range(LAYERS)]
    for i, (v, array) in enumerate(zip(variables, arrays, strict=True)):
        array[...] = i
        v.assign(tf.experimental.dlpack.from_dlpack(array.__dlpack__()))
    shared = _addresses(variables) & {a.ctypes.data for a in arrays}
    assert shared
    adopted = _adopted(monkeypatch)
    with captured():
        for _ in range(4):
            step(ONES)
        _check(variables, _expected(4))
    assert not shared & set(adopted)
    for i, array in enumerate(arrays):
        assert array.min() == array.max() == i
