"""Variables stay ordinary: what others read and write between steps, and from other threads."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest
import tensorflow as tf

from afterburner.frontend import bulk, variant
from afterburner.frontend.variables import clock, known, refresh, remember
from tests.frontend.kit import POOL, captured


def _counter():
    v = tf.Variable(np.arange(6, dtype="float32").reshape(2, 3))

    @tf.function
    def step(x):
        v.assign(v * 2 + x - 1)
        return tf.reduce_sum(v)

    def reference(value, x):
        return value * 2 + x - 1

    return v, step, reference


ONE = tf.ones((2, 3))


def test_reads_between_steps_see_the_new_value():
    v, step, reference = _counter()
    value = v.numpy()
    with captured():
        for _ in range(4):
            total = step(ONE)
            value = reference(value, 1)
            np.testing.assert_array_equal(v.numpy(), value)
            np.testing.assert_array_equal((v + 0).numpy(), value)
            assert total.numpy() == value.sum()


def test_the_first_run_uses_what_was_read_to_compile(monkeypatch):
    monkeypatch.setattr(clock, "unsafe", False)  # whatever datasets of other tests hold
    reads = []
    monkeypatch.setattr(variant, "refresh", lambda *arguments: reads.append(refresh(*arguments)))
    v, step, reference = _counter()
    value = reference(v.numpy(), 1)
    with captured():
        step(ONE)
        assert not reads
        np.testing.assert_array_equal(v.numpy(), value)


def test_a_variable_written_while_a_function_compiles_has_its_new_value():
    v, step, reference = _counter()

    def write_meanwhile(executable):
        v.assign(v + 5)
        return executable

    value = reference(v.numpy() + 5, 1)
    with captured(write_meanwhile):
        step(ONE)
    np.testing.assert_array_equal(v.numpy(), value)


def test_a_variable_without_a_value_waits_for_one(target):
    v = tf.Variable(lambda: tf.zeros(2), shape=(2,))
    bare = tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=[2], shared_name=f"no value, {target}")
    step = tf.function(lambda x: x + v + tf.raw_ops.ReadVariableOp(resource=bare, dtype=tf.float32) * 2 + 1)
    with captured() as taken:
        with pytest.raises(tf.errors.OpError):
            step(tf.ones(2))
        tf.raw_ops.AssignVariableOp(resource=bare, value=tf.ones(2))
        np.testing.assert_array_equal(step(tf.ones(2)).numpy(), [4, 4])
    assert taken.count == 1


def test_earlier_reads_never_change():
    v, step, _ = _counter()
    with captured():
        step(ONE)
        kept = [v.read_value(), tf.raw_ops.ReadVariableOp(resource=v.handle, dtype=tf.float32), v.value()]
        before = [k.numpy().copy() for k in kept]
        for _ in range(10):
            step(ONE)
        for read, value in zip(kept, before, strict=True):
            np.testing.assert_array_equal(read.numpy(), value)


def _by_assign(v):
    v.assign(tf.zeros_like(v))


def _by_assign_add(v):
    v.assign_add(tf.ones_like(v))


def _by_raw_operation(v):
    tf.raw_ops.AssignVariableOp(resource=v.handle, value=tf.fill(v.shape, 7.0))


def _by_scatter(v):
    v.scatter_nd_update([[0, 1]], [5.0])


def _by_slice(v):
    v[1, :].assign([1.0, 2.0, 3.0])


def _by_optimizer_operation(v):
    tf.raw_ops.ResourceApplyGradientDescent(var=v.handle, alpha=0.5, delta=tf.ones_like(v))


def _by_stock_function(v):
    tf.function(lambda: v.assign(tf.linalg.matrix_transpose(tf.linalg.matrix_transpose(v)) + 3))()


def _by_dataset(v):
    dataset = tf.data.Dataset.range(1).map(lambda i: v.assign_add(tf.ones_like(v)))
    list(dataset)


def _by_thread(v):
    thread = threading.Thread(target=lambda: v.assign(v - 4))
    thread.start()
    thread.join()


WRITERS = pytest.mark.parametrize("write", [
    _by_assign, _by_assign_add, _by_raw_operation, _by_scatter, _by_slice, _by_optimizer_operation,
    _by_stock_function, _by_dataset, _by_thread], ids=lambda f: f.__name__[4:])


@WRITERS
def test_writes_between_steps_are_noticed(write):
    v, step, reference = _counter()
    with captured():
        step(ONE)
        step(ONE)
        write(v)
        expected = reference(v.numpy(), 1)
        assert step(ONE).numpy() == expected.sum()
        np.testing.assert_array_equal(v.numpy(), expected)


def _program_of(count):
    variables = [tf.Variable(np.full((2, 3), i, np.float32)) for i in range(count)]

    @tf.function
    def step(x):
        for v in variables:
            v.assign_add(x)
        return tf.add_n(variables)

    return variables, step


@pytest.fixture
def reads(monkeypatch):
    """Positions of the variables that were read again, call by call."""
    monkeypatch.setattr(clock, "unsafe", False)  # whatever datasets of other tests hold
    found: list[list[int]] = []
    read = bulk.Reader.__call__

    def noted(self, handles, positions):
        found.append(list(positions))
        return read(self, handles, positions)

    monkeypatch.setattr(bulk.Reader, "__call__", noted)
    return found


@pytest.mark.parametrize("written", [[3], [0, 11], list(range(10))])
def test_what_was_written_by_itself_is_read_again_by_itself(written, reads):
    variables, step = _program_of(12)
    with captured():
        for _ in range(3):
            step(ONE)
        reads.clear()
        for i in written:
            variables[i].assign(tf.fill((2, 3), 100.0))
        values = [v.numpy() for v in variables]
        total = step(ONE)
        assert [len(positions) for positions in reads] == [len(written)]
        np.testing.assert_array_equal(total, sum(values) + 12)
        for v, value in zip(variables, values, strict=True):
            np.testing.assert_array_equal(v.numpy(), value + 1)


def test_operations_without_variables_make_no_value_stale(reads):
    variables, step = _program_of(3)
    with captured():
        for _ in range(3):
            step(ONE)
        reads.clear()
        dataset = tf.data.Dataset.from_tensor_slices(tf.range(4)).map(lambda x: x + 1).batch(2)
        assert [x.numpy().tolist() for x in dataset] == [[1, 2], [3, 4]]
        step(ONE)
    assert not reads
    np.testing.assert_array_equal(variables[2].numpy(), np.full((2, 3), 6))


def test_a_function_that_is_given_a_variable_makes_all_values_stale(reads):
    variables, step = _program_of(3)
    function = tf.function(lambda: variables[1].assign(tf.zeros((2, 3)))).get_concrete_function()
    with captured():
        for _ in range(3):
            step(ONE)
        reads.clear()
        tf.raw_ops.StatefulPartitionedCall(args=function.captured_inputs, Tout=[tf.float32], f=function)
        step(ONE)
    assert [len(positions) for positions in reads] == [3]
    np.testing.assert_array_equal(variables[1].numpy(), np.ones((2, 3)))


def test_a_value_that_was_read_before_a_write_is_not_remembered():
    variables, step = _program_of(1)
    (v,) = variables
    with captured():
        step(ONE)
        step(ONE)
        record = known(v.handle)
        for _ in range(2):  # what is known before may be a value, or nothing
            moment, before, read = clock.now, record.value, v.read_value()
            v.assign(tf.fill((2, 3), 5.0))
            remember([record], [before], [read], moment)
            assert record.value[2] != clock.now
        step(ONE)
    np.testing.assert_array_equal(v.numpy(), np.full((2, 3), 6))


class Versions:
    """An executable that notes the versions of its runs."""

    def __init__(self, real, seen):
        self._real, self._seen = real, seen

    def __getattr__(self, name):
        return getattr(self._real, name)

    def run(self, inputs, outputs, version=None):
        self._seen.append(version)
        self._real.run(inputs, outputs, version)


def _answering(v):
    """A function that only reads the variable: what it makes of it alone may be kept."""
    return tf.function(lambda x: tf.reduce_sum(tf.exp(v * 0.1) * x))


@WRITERS
def test_nothing_that_was_made_of_an_old_value_is_kept(write, monkeypatch):
    monkeypatch.setattr(clock, "unsafe", False)  # whatever datasets other tests made
    v, step, _ = _counter()
    answer, seen = _answering(v), []

    def expected():
        return np.exp(v.numpy() * np.float32(0.1)).sum(dtype=np.float64)

    with captured(lambda e: Versions(e, seen)):
        for change in (write, lambda _: step(ONE)):
            for _ in range(3):
                np.testing.assert_allclose(answer(ONE).numpy(), expected(), rtol=1e-5)
            if not clock.unsafe:  # after a dataset that writes no value is remembered
                assert seen[-1] is not None and seen[-1] == seen[-2]
            before = seen[-1]
            change(v)
            np.testing.assert_allclose(answer(ONE).numpy(), expected(), rtol=1e-5)
            assert seen[-1] != before


def test_a_step_that_writes_has_no_version():
    v, step, _ = _counter()
    seen = []
    with captured(lambda e: Versions(e, seen)):
        step(ONE)
        step(ONE)
    assert seen == [None, None]


def test_a_variable_that_one_function_lets_grow_and_another_part_reads():
    v = tf.Variable([1.0, 2.0], shape=[None])

    @tf.function
    def grow(x):
        v.assign(tf.concat([v, x], 0))
        return tf.reduce_sum(v * 2 + 1)

    with captured(strict=False, verbosity="silent", compile_after=1):
        assert [grow(tf.ones(1)).numpy() for _ in range(5)] == [11, 14, 17, 20, 23]
    np.testing.assert_array_equal(v, [1, 2, 1, 1, 1, 1, 1])


def test_a_variable_of_another_shape_that_is_known_from_another_function():
    v = tf.Variable(tf.ones(3), shape=[None])
    first = tf.function(lambda x: tf.reduce_sum(v * x) + 1)
    second = tf.function(lambda x: tf.reduce_max(v * x) - 1)
    with captured(strict=False, verbosity="silent"):
        assert first(2.0).numpy() == 7
        v.assign(tf.ones(5))
        assert second(2.0).numpy() == 1
        assert first(2.0).numpy() == 11


def test_a_function_that_is_called_with_variables_of_different_shapes():
    small, large = (tf.Variable(tf.ones(n), shape=[None]) for n in (3, 5))
    total = tf.function(lambda v, x: tf.reduce_sum(v * x) + 1)
    with captured(strict=False, verbosity="silent"):
        for _ in range(2):
            assert [total(v, 2.0).numpy() for v in (small, large)] == [7, 11]


def test_a_variable_that_changes_its_shape():
    v = tf.Variable(tf.ones((4,)), shape=tf.TensorShape(None))

    @tf.function
    def f(x):
        return tf.reduce_sum(v * 2 + x)

    with captured(strict=False, verbosity="silent"):
        assert f(tf.constant(1.0)).numpy() == 12
        v.assign(tf.ones((3, 2)))
        assert f(tf.constant(1.0)).numpy() == 18
        v.assign(tf.ones((1,)))
        assert f(tf.constant(1.0)).numpy() == 3


def test_two_functions_share_a_variable():
    v, step, reference = _counter()

    @tf.function
    def halve():
        v.assign(v / 2 + 0 * tf.exp(v) * 0)
        return v * 1.0 + 2 - 2

    value = v.numpy()
    with captured() as taken:
        for _ in range(3):
            step(ONE)
            value = reference(value, 1)
            halve()
            value = value / 2
            np.testing.assert_array_equal(v.numpy(), value)
    assert len(taken.executables) == 2


def test_one_variable_under_two_handles_stays_on_tensorflow():
    v = tf.Variable([1.0, 2.0])

    @tf.function
    def f(a, b):
        x = tf.raw_ops.ReadVariableOp(resource=a, dtype=tf.float32)
        write = tf.raw_ops.AssignVariableOp(resource=a, value=x + 1)
        with tf.control_dependencies([write]):
            y = tf.raw_ops.ReadVariableOp(resource=b, dtype=tf.float32)
        return tf.exp(x) + y * 2

    expected = f(v.handle, v.handle).numpy()
    v.assign([1.0, 2.0])
    with captured(strict=False, verbosity="silent") as taken:
        np.testing.assert_array_equal(f(v.handle, v.handle).numpy(), expected)
        assert not taken.executables


def test_reads_and_writes_from_other_threads_do_no_harm():
    v, step, _ = _counter()
    stop = threading.Event()
    failures: list[Exception] = []

    def disturb():
        try:
            while not stop.is_set():
                assert np.isfinite(v.numpy()).all()
                v.assign(tf.zeros_like(v))
                (v + 1).numpy()
        except Exception as error:  # noqa: BLE001
            failures.append(error)

    with captured():
        threads = [threading.Thread(target=disturb) for _ in range(2)]
        for thread in threads:
            thread.start()
        for _ in range(300):
            step(ONE * 0 + 1)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failures
        v.assign(tf.zeros_like(v))
        assert step(ONE).numpy() == 0


def test_concurrent_steps():
    v = tf.Variable(tf.zeros((4,)))

    @tf.function
    def step(x):
        v.assign(tf.minimum(v + x * 0 + 1, 1e6))
        return tf.reduce_sum(x * 2 + 1)

    results: list[float] = []
    with captured():
        def work(k):
            for _ in range(50):
                results.append(float(step(tf.fill((4,), float(k)))) - (8 * k + 4))

        threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [0.0] * 200
    assert 50 <= v.numpy()[0] <= 200


def test_checkpoints_and_save(tmp_path):
    v, step, _ = _counter()
    checkpoint = tf.train.Checkpoint(v=v)
    with captured():
        step(ONE)
        path = checkpoint.save(str(tmp_path / "c"))
        saved = v.numpy().copy()
        step(ONE)
        assert not np.array_equal(v.numpy(), saved)
        checkpoint.restore(path)
        np.testing.assert_array_equal(v.numpy(), saved)
        assert step(ONE).numpy() == (saved * 2).sum()


def test_buffers_come_back():
    v, step, _ = _counter()
    with captured():
        for _ in range(20):
            step(ONE)
        held = POOL.held_bytes()
        for _ in range(200):
            step(ONE)
        gc.collect()
        assert POOL.held_bytes() <= held + 1024


def test_a_deleted_function_lets_its_variables_go():
    import weakref

    v, step, _ = _counter()
    with captured():
        step(ONE)
        gone = weakref.ref(v)
        del v, step, _
        gc.collect()
        assert gone() is None


def test_what_reads_and_writes_variables_is_shared():
    """TensorFlow never frees what it made to run a function: functions that come and go must not each have theirs."""
    types, others = [tf.float32, tf.int64], [tf.int64, tf.float32]
    for make in (bulk.reader, bulk.writer):
        assert make(types) is make(list(types))
        assert make(types) is not make(others)
