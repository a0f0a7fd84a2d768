"""New values written over old ones: only where nobody could tell."""

from __future__ import annotations

import gc
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from afterburner.frontend import in_place, variant
from afterburner.frontend.tensors import address
from afterburner.frontend.variables import clock
from afterburner.runtime.own_threads import own_threads
from tests.cli.commands import run
from tests.frontend.kit import captured

ONE = tf.ones((2, 3))


@pytest.fixture(autouse=True)
def trusting(monkeypatch):
    monkeypatch.setattr(clock, "unsafe", False)  # whatever datasets other tests made
    monkeypatch.setattr(in_place, "THREADS", len(sys._current_frames()) - own_threads())  # of the test's runner


@pytest.fixture
def written(monkeypatch):
    """Whether new values were written over old ones, a step each."""
    done = []
    write = in_place.Overwriter.write

    def noted(self, *arguments):
        done.append(write(self, *arguments))
        return done[-1]

    monkeypatch.setattr(in_place.Overwriter, "write", noted)
    return done


def _counters():
    """Two variables, a step that changes both, and what it makes of their values."""
    v = tf.Variable(np.arange(6, dtype="float32").reshape(2, 3))
    n = tf.Variable(0, dtype=tf.int64)

    @tf.function
    def step(x):
        v.assign(v * 2 + x - 1)
        n.assign_add(1)
        return tf.reduce_sum(v)

    return v, n, step


def _where(v):
    return address(v.read_value())


def _check_step(v, n, step):
    """A step changes both as it should."""
    value, count = v.numpy(), n.numpy()
    assert step(ONE).numpy() == (value * 2).sum()
    np.testing.assert_array_equal(v.numpy(), value * 2)
    assert n.numpy() == count + 1


def test_all_steps_but_the_first_write_over_the_old_values(written):
    v, n, step = _counters()
    with captured():
        step(ONE)
        places = _where(v), _where(n)
        for _ in range(20):
            _check_step(v, n, step)
            assert (_where(v), _where(n)) == places
    assert written == [False] + [True] * 20


def _numpy_view(v):
    return np.asarray(memoryview(v.read_value()))


def _numpys(v):
    view = _numpy_view(v)
    return lambda: view, v.numpy()


def _function_result(v):
    return tf.function(lambda: tf.reshape(v, (6,)))().numpy, v.numpy().reshape(6)


def _taped(v):
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(v * v)
    return lambda: tape.gradient(y, v).numpy(), 2 * v.numpy()


def _through_dlpack(v):
    capsule = tf.experimental.dlpack.to_dlpack(v.read_value())
    return lambda: tf.experimental.dlpack.from_dlpack(capsule).numpy(), v.numpy()


def _other_variable(v):
    return tf.Variable(v).numpy, v.numpy()


def _in_a_dataset(v):
    dataset = tf.data.Dataset.from_tensors(v.read_value())
    return lambda: next(iter(dataset)).numpy(), v.numpy()


def _tensor_of(make):
    def hold(v):
        tensor = make(v)
        return tensor.numpy, tensor.numpy().copy()

    return hold


HOLDERS = {
    "read": _tensor_of(lambda v: v.read_value()),
    "raw read": _tensor_of(lambda v: tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=tf.float32)),
    "reshaped": _tensor_of(lambda v: tf.reshape(v, (3, 2))),
    "row": _tensor_of(lambda v: v[1]),
    "bits": _tensor_of(lambda v: tf.bitcast(v, tf.int32)),
    "parts": _tensor_of(lambda v: tf.unstack(v)[1]),
    "NumPy's view": _numpys,
    "function's result": _function_result,
    "tape": _taped,
    "DLPack": _through_dlpack,
    "other variable": _other_variable,
    "dataset": _in_a_dataset,
}


@pytest.mark.parametrize("name", HOLDERS)
def test_what_somebody_holds_never_changes(name, written):
    v, n, step = _counters()
    with captured():
        for _ in range(3):
            _check_step(v, n, step)
        look, held = HOLDERS[name](v)
        for _ in range(3):
            _check_step(v, n, step)
        np.testing.assert_array_equal(look(), held)
        del look
        gc.collect()
        for turn in range(96):  # pauses double
            if turn % 16 == 0:
                v.assign(tf.ones((2, 3)))  # doubled more often it would be rounded
            _check_step(v, n, step)
    assert written[2]
    assert any(written[6:]) or name == "dataset"  # which is destroyed in a thread, for as long as it takes


def test_a_gather_may_move_the_value(written):
    v, n, step = _counters()
    with captured():
        for _ in range(3):
            _check_step(v, n, step)
        view, held = _numpy_view(v), v.numpy()  # as many references as before the gather
        tf.gather(v, [1])
        for _ in range(3):
            _check_step(v, n, step)
        np.testing.assert_array_equal(view, held)


FIT = """
import afterburner
afterburner.set_options(verbosity="silent", strict=True, threads=2)
afterburner.enable()
import keras, numpy as np, threading
from afterburner.frontend import in_place
written, write = [], in_place.Overwriter.write
def noted(self, *arguments):
    written.append(write(self, *arguments))
    return written[-1]
in_place.Overwriter.write = noted
model = keras.Sequential([keras.Input((8, 64)), keras.layers.Dense(64, "relu"), keras.layers.Flatten(),
                          keras.layers.Dense(4)])
model.compile("adam", "mse")
x, y = np.ones((1024, 8, 64), "float32"), np.ones((1024, 4), "float32")
for _ in range(3):
    model.fit(x, y, batch_size=256, epochs=4, verbose=0)
print(len(threading.enumerate()) > 1, sum(written), len(written))
"""


def test_our_own_threads_are_no_readers(tmp_path):
    """In a process of its own, whose interpreter has the threads that a program's has: ours."""
    script = tmp_path / "script.py"
    script.write_text(FIT)
    finished = run(str(script))
    assert finished.returncode == 0, finished.stderr
    others, over_old, steps = finished.stdout.split()
    assert others == "True" and int(over_old) >= int(steps) // 2 > 10, finished.stdout


@pytest.mark.parametrize("other", ["running", "gone"])
def test_other_threads_might_be_reading(other, written):
    v, n, step = _counters()
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    with captured():
        for _ in range(3):
            _check_step(v, n, step)
        thread.start()
        try:
            if other == "gone":
                stop.set()
                thread.join()
            for _ in range(3):
                _check_step(v, n, step)
        finally:
            stop.set()
            thread.join()
    assert written[3:] == [other == "gone"] * 3


def test_readers_in_other_threads_see_whole_values():
    v = tf.Variable(tf.zeros((64, 64)))

    @tf.function
    def step(x):
        v.assign(v + x - 1)

    stop, torn = threading.Event(), []

    def read():
        while not stop.is_set():
            value = v.read_value()
            first = value.numpy()
            if first.min() != first.max() or not np.array_equal(value.numpy(), first):
                torn.append(first)

    with captured():
        step(tf.fill((64, 64), 2.0))
        thread = threading.Thread(target=read)
        thread.start()
        try:
            for _ in range(500):
                step(tf.fill((64, 64), 2.0))
        finally:
            stop.set()
            thread.join()
    assert not torn
    assert v.numpy().min() == v.numpy().max() == 501


def test_a_dataset_that_takes_a_variable_reads_when_it_likes(written):
    v, n, step = _counters()
    with captured():
        for _ in range(3):
            _check_step(v, n, step)
        list(tf.data.Dataset.range(1).map(lambda i: v + 1))
        for _ in range(3):
            _check_step(v, n, step)
    assert not any(written[3:])


def test_asynchronous_execution_binds(written):
    v, n, step = _counters()
    with captured():
        for _ in range(3):
            _check_step(v, n, step)
        with context.execution_mode(context.ASYNC):
            for _ in range(3):
                _check_step(v, n, step)
        assert not any(written[3:])
        _check_step(v, n, step)


@pytest.mark.parametrize("reason", ["release", "counts"])
def test_without_a_count_to_rely_on_values_are_bound(reason, written, monkeypatch):
    in_place.references_when_bound.cache_clear()
    if reason == "release":
        monkeypatch.setattr(in_place, "tensorflow_version", lambda: "2.99.0")
    else:
        monkeypatch.setattr(in_place, "_plausible", lambda seen: False)
    v, n, step = _counters()
    try:
        with captured():
            for _ in range(3):
                _check_step(v, n, step)
    finally:
        in_place.references_when_bound.cache_clear()
    assert not any(written)


RIGHT = [2, 3, 5, 6, 4, 3, 4, 2]


def test_counts_that_are_not_those_of_references_are_seen():
    assert in_place._plausible(RIGHT)
    for i in range(len(RIGHT)):
        for wrong in (0, RIGHT[i] + 7, -RIGHT[i]):
            assert not in_place._plausible([*RIGHT[:i], wrong, *RIGHT[i + 1:]]), (i, wrong)


def test_large_values_are_bound(written):
    v = tf.Variable(tf.zeros((in_place.AVERAGE_BYTES // 4 + 1,)))

    @tf.function
    def step(x):
        v.assign(v * x + 1)

    with captured():
        for i in range(3):
            step(tf.constant(1.0))
            assert v.numpy().min() == v.numpy().max() == i + 1
    assert not written


def test_refusals_are_asked_for_ever_less(written, monkeypatch):
    asked = []
    find = in_place._counter
    monkeypatch.setattr(in_place, "_counter", lambda tensor: asked.append(tensor) or find(tensor))
    v, n, step = _counters()
    held = []
    with captured():
        for _ in range(100):
            step(ONE)
            held.append(v.read_value())
        assert 0 < len(asked) < 2 * 12
        held.clear()
        for _ in range(140):
            step(ONE)
    assert written[-1]


class _Interrupted(BaseException):
    """An interrupt, as a signal's handler raises it."""


def _interrupt_at(line):
    """A trace function that raises at a line of what renews variables, by its number among those that are run."""
    seen = 0

    def local(frame, event, _):
        nonlocal seen
        if event == "line":
            seen += 1
            if seen == line:
                raise _Interrupted
        return local

    files = (variant.__file__, in_place.__file__)

    def trace(frame, event, _):
        if frame.f_code.co_filename in files and (frame.f_code.co_name in ("_renew", "write", "counters") or
                                                  frame.f_back.f_code.co_name == "_renew"):
            return local
        return None

    return trace


@pytest.mark.parametrize("how", ["over", "bound"])
def test_an_interrupt_leaves_all_old_values_or_all_new_ones(how):
    v, n, step = _counters()
    states = set()
    with captured():
        for _ in range(3):
            _check_step(v, n, step)
        line, interrupted = 0, True
        while interrupted:
            v.assign(tf.ones((2, 3)))
            for _ in range(3):
                _check_step(v, n, step)
            line += 1
            held = v.read_value() if how == "bound" else None
            value, count = v.numpy(), n.numpy()
            tracing = sys.gettrace()
            sys.settrace(_interrupt_at(line))
            try:
                step(ONE)
                interrupted = False
            except _Interrupted:
                pass
            finally:
                sys.settrace(tracing)
            new = bool(n.numpy() == count + 1)
            states.add(new)
            np.testing.assert_array_equal(v.numpy(), value * 2 if new else value)
            assert n.numpy() == count + new
            _check_step(v, n, step)
            del held
    assert states == {False, True} and line > 8


@pytest.mark.parametrize("dtype", ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
                                   "float16", "bfloat16", "float32", "float64"])
def test_every_type_is_written_once(dtype, written):
    """A type whose count could not be looked up after the binding would have the step made again."""
    v = tf.Variable(tf.cast([1, 0, 1], dtype))
    n = tf.Variable(tf.zeros(()))

    @tf.function
    def step(x):
        v.assign(tf.concat([v[1:], v[:1]], 0))
        n.assign_add(x)
        return n * 2

    with captured():
        for i in range(1, 6):
            step(tf.constant(1.0))
            assert n.numpy() == i
            np.testing.assert_array_equal(v.numpy(), np.roll(tf.cast([1, 0, 1], dtype).numpy(), -i))
    assert written[-1]
