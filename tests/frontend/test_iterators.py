"""Input pipelines destroyed in a thread of their own: which ones, and that it happens."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

import afterburner
from afterburner.frontend import iterators
from afterburner.frontend.iterators import destroyed_unseen
from tests.cli.commands import run

_X = np.arange(12, dtype=np.float32).reshape(6, 2)


def _slices() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices(_X)


HARMLESS: dict[str, Callable[[], tf.data.Dataset]] = {
    "batches": lambda: _slices().cache().shuffle(6).repeat(2).batch(2, num_parallel_calls=2).prefetch(2),
    "map": lambda: _slices().map(lambda x: x + tf.random.uniform([2]), num_parallel_calls=tf.data.AUTOTUNE),
    "files by name": lambda: tf.data.Dataset.from_tensors("a").map(tf.io.read_file),
    "nested": lambda: _slices().interleave(lambda x: tf.data.Dataset.from_tensor_slices(x).map(tf.square)),
}


def _in_python() -> tf.data.Dataset:
    return _slices().map(lambda x: tf.py_function(lambda v: v, [x], tf.float32))


def _in_python_within() -> tf.data.Dataset:
    return _slices().flat_map(lambda x: tf.data.Dataset.from_tensors(tf.numpy_function(lambda v: v, [x], tf.float32)))


def _writes() -> tf.data.Dataset:
    return _slices().map(lambda x: (tf.io.write_file("a", "b"), x)[1])


SEEN: dict[str, Callable[[], tf.data.Dataset]] = {
    "file of a cache": lambda: _slices().cache("a"),
    "records": lambda: tf.data.TFRecordDataset(["a"]),
    "records within": lambda: tf.data.Dataset.from_tensors("a").interleave(tf.data.TFRecordDataset),
    "generator": lambda: tf.data.Dataset.from_generator(lambda: iter(_X), output_signature=tf.TensorSpec((2,))),
    "Python": _in_python,
    "Python within": _in_python_within,
    "written file": _writes,
}


@pytest.mark.parametrize("name", HARMLESS)
def test_pipelines_in_memory_may_be_destroyed_later(name: str) -> None:
    assert destroyed_unseen(HARMLESS[name]())


@pytest.mark.parametrize("name", SEEN)
def test_pipelines_with_side_effects_are_destroyed_where_they_are_dropped(name: str) -> None:
    assert not destroyed_unseen(SEEN[name]())


def test_functions_are_not_written_out_to_be_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may hold constants of any size, and iterators are made in every epoch."""
    dataset = HARMLESS["nested"]()
    monkeypatch.setattr(type(dataset._functions()[0].function.graph), "as_graph_def", None)
    assert destroyed_unseen(dataset)


def test_keras_own_pipelines_over_arrays_are_destroyed_later(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def note(dataset: Any) -> int:
        found.append(destroyed_unseen(dataset))
        return found[-1]

    monkeypatch.setattr(iterators, "destroyed_unseen", note)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with afterburner.enabled():
        model.fit(_X, _X[:, :1], batch_size=4, validation_split=0.5, verbose=0)
        model.predict(_X, verbose=0)
    assert len(found) >= 3
    assert all(found)


def test_an_iterator_goes_when_it_is_dropped() -> None:
    with afterburner.enabled():
        iterator = iter(HARMLESS["batches"]())
        resource = weakref.ref(iterator._iterator_resource)
        first = next(iterator)
        del iterator
        deadline = time.monotonic() + 30
        while resource() is not None and time.monotonic() < deadline:
            time.sleep(0.01)
    assert resource() is None
    assert first.shape == (2, 2)


@pytest.mark.parametrize("held", [False, True])
def test_tensors_count_unless_somebody_holds_the_dataset(held: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: dict[int, int] = {}  # by the resource; older iterators may be collected meanwhile
    monkeypatch.setattr(iterators._destroyer, "drop", lambda resource, _, size: sizes.setdefault(id(resource), size))
    with afterburner.enabled():
        dataset = tf.data.Dataset.from_tensors(tf.zeros([5 << 20], tf.uint8)).repeat(2)
        iterator = iter(dataset)
        resource = iterator._iterator_resource
        if not held:
            del dataset
        gc.collect()
        del iterator
        gc.collect()
    assert sizes[id(resource)] == iterators._PIPELINE_BYTES + (0 if held else 5 << 20)


class _Slow:
    """Its destructor waits."""

    def __init__(self, release: threading.Event, threads: list[int]) -> None:
        self._release, self._threads = release, threads

    def __del__(self) -> None:
        self._release.wait(30)
        self._threads.append(threading.get_ident())


def test_the_size_of_a_pipeline_is_that_of_its_tensors() -> None:
    small, large = (tf.data.Dataset.from_tensors(tf.zeros([n], tf.uint8)) for n in (0, 5 << 20))
    assert destroyed_unseen(large) - destroyed_unseen(small) == 5 << 20
    captured = tf.zeros([3 << 20], tf.uint8)
    assert destroyed_unseen(small.map(lambda x: captured)) - destroyed_unseen(small) == 3 << 20


def test_references_are_dropped_in_the_thread_but_by_the_caller_where_much_is_waiting() -> None:
    destroyer, release, threads = iterators._Destroyer(), threading.Event(), []
    free = threading.Event()
    free.set()
    here = threading.get_ident()
    destroyer.start()
    destroyer.drop(_Slow(release, threads), 1, iterators._MOST_WAITING)
    destroyer.drop(_Slow(free, threads), 1, iterators._MOST_WAITING)  # of the same dataset
    destroyer.drop(_Slow(free, threads), 2, iterators._MOST_BYTES)
    assert not threads
    destroyer.drop(_Slow(free, threads), 3, 1)
    assert threads == [here]
    release.set()
    destroyer.close()
    assert len(threads) == 4
    assert here not in threads[1:]
    destroyer.drop(_Slow(free, threads), 1, 1)
    assert threads[4:] == [here]


def test_the_caller_drops_a_reference_to_a_large_dataset() -> None:
    destroyer, threads, free = iterators._Destroyer(), [], threading.Event()
    free.set()
    destroyer.start()
    destroyer.drop(_Slow(free, threads), 1, iterators._MOST_BYTES + 1)
    assert threads == [threading.get_ident()]
    destroyer.close()


def test_the_caller_drops_all_where_there_can_be_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    destroyer, threads, free = iterators._Destroyer(), [], threading.Event()
    free.set()
    monkeypatch.setattr("sys.is_finalizing", lambda: True)
    destroyer.start()
    destroyer.drop(_Slow(free, threads), 1, 1)
    assert threads == [threading.get_ident()]
    destroyer.close()


def test_a_process_may_end_while_a_pipeline_is_destroyed(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import afterburner; afterburner.enable()\n"
        "import tensorflow as tf\n"
        "for _ in range(5):\n"
        "    data = tf.data.Dataset.range(3000).map(lambda i: i + 1, num_parallel_calls=2).prefetch(2)\n"
        "    iterator = iter(data)\n"
        "    assert sum(int(i) for i in iterator) == 3000 * 3001 // 2\n"
        "    del iterator\n"
        "print('done')\n")
    finished = run(str(script))
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.strip() == "done"


def test_an_iterator_may_outlive_the_modules_of_a_process_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    later = iterators._DestroyedLater(_slices(), object(), 1)
    monkeypatch.setattr(iterators, "_destroyer", None)  # as Python empties modules
    later.__del__()


def _repeatable() -> tf.data.Dataset:
    return _slices().map(tf.square).batch(4).prefetch(2)


def _made(iterator: Any) -> bool:
    return "_iterator_resource" in vars(iterator)


def test_a_second_iterator_is_made_when_it_is_first_asked() -> None:
    with afterburner.enabled():
        dataset = _repeatable()
        first, second = iter(dataset), iter(dataset)
        assert _made(first)
        assert not hasattr(second, "anything")
        assert not _made(second)
        batches = [b.numpy() for b in second]
    assert _made(second)
    np.testing.assert_array_equal(np.concatenate(batches), _X * _X)


def test_an_iterator_is_made_from_inside_a_function_too() -> None:
    with afterburner.enabled():
        dataset = _repeatable()
        iter(dataset)
        second = iter(dataset)
        step = tf.function(lambda iterator: tf.reduce_sum(next(iterator)))
        sums = [float(step(second)), float(step(second))]
    np.testing.assert_array_equal(sums, [(_X[:4] ** 2).sum(), (_X[4:] ** 2).sum()])


def test_iterators_that_wait_are_made_when_the_hooks_go() -> None:
    with afterburner.enabled():
        dataset = _repeatable()
        iter(dataset)
        second = iter(dataset)
    assert _made(second)
    assert "__getattr__" not in vars(type(second))
    np.testing.assert_array_equal(next(second), _X[:4] ** 2)


def test_a_failed_attempt_to_make_an_iterator_can_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    with afterburner.enabled():
        dataset = _repeatable()
        iter(dataset)
        second = iter(dataset)
        with monkeypatch.context() as patch:
            patch.setattr(iterators.tf, "device", None)
            with pytest.raises(TypeError):
                next(second)
        np.testing.assert_array_equal(next(second), _X[:4] ** 2)


@pytest.mark.parametrize("seed", [1, None])
def test_an_iterator_that_draws_random_numbers_is_made_when_it_is_first_asked(
        seed: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context.context(), "_seed", None)  # of all operations without one

    def numbers(dataset: tf.data.Dataset) -> list[np.ndarray]:
        first, second, third = (iter(dataset) for _ in range(3))
        return [np.array([x.numpy() for x in iterator]) for iterator in (third, first, second)]

    def random() -> tf.data.Dataset:
        return _slices().map(lambda x: x + tf.random.uniform([2], seed=seed))

    expected = numbers(random())
    with afterburner.enabled():
        dataset = random()
        iter(dataset)
        assert not _made(iter(dataset))
        found = numbers(dataset)
    if seed is None:
        assert not np.array_equal(found[0], found[1])
    else:
        np.testing.assert_array_equal(found, expected)


TOLD_APART: dict[str, Callable[[], tf.data.Dataset]] = {
    "shuffle": lambda: _slices().shuffle(6, seed=1),
    "shuffle within": lambda: _slices().flat_map(
        lambda x: tf.data.Dataset.from_tensor_slices(x).shuffle(2, seed=1, reshuffle_each_iteration=False)),
    "cache": lambda: _slices().cache(),
    **SEEN,
}


@pytest.mark.parametrize("name", TOLD_APART)
def test_iterators_that_can_be_told_apart_are_made_at_once(name: str, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with afterburner.enabled():
        dataset = TOLD_APART[name]()
        iter(dataset)
        assert _made(iter(dataset))


def test_predict_makes_one_iterator(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    model = keras.Sequential([keras.layers.Dense(1)])
    model.predict(_X, batch_size=4, verbose=0)
    make = iterators._create_iterator
    monkeypatch.setattr(iterators, "_create_iterator", lambda *all_: (made.append(0), make(*all_))[1])
    with afterburner.enabled():
        model.predict(_X, batch_size=4, verbose=0)
    assert len(made) == 1


@pytest.mark.parametrize("asked", ["destroyed_unseen", "_begins_unseen"])
def test_a_pipeline_that_cannot_be_judged_is_iterated_all_the_same_and_logged(
        asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(dataset: Any) -> int:
        raise AttributeError("of another make")

    monkeypatch.setattr(iterators, asked, fail)
    caplog.set_level("DEBUG", logger="afterburner")
    with afterburner.enabled():
        assert [x.numpy().tolist() for x in _slices()] == _X.tolist()
    (record,) = [r for r in caplog.records if "at once" in r.message]
    assert record.exc_info is not None and "of another make" in str(record.exc_info[1])
