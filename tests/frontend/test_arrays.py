"""Arrays that become tensors: the values, who owns them, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import tensorflow as tf

import afterburner
from afterburner.frontend import arrays

ROWS, COLUMNS = 700, 400  # of elements of 4 bytes: more than a megabyte
PLAIN = ("bool", "uint8", "int16", "int32", "int64", "float16", "float32", "float64", "complex64")


@pytest.fixture(autouse=True)
def taken() -> Iterator[None]:
    with afterburner.enabled():
        yield


@pytest.fixture
def copies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The tensors that arrays were copied to at once."""
    made: list[Any] = []
    copied = arrays._copied

    def noted(*arguments: Any) -> Any:
        tensor = copied(*arguments)
        made.extend([] if tensor is None else [tensor])
        return tensor

    monkeypatch.setattr(arrays, "_copied", noted)
    return made


def _array(dtype: str = "float32", rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 100, (rows, COLUMNS * 4)).astype(dtype)


@pytest.mark.parametrize("dtype", PLAIN)
def test_a_tensor_holds_what_the_array_held(dtype: str, copies: list[Any]) -> None:
    given = _array(dtype)
    expected = given.copy()
    tensor = tf.convert_to_tensor(given)
    given[:] = 0  # the program's own: the tensor must not see it
    assert copies[0] is tensor and len(copies) == 1
    assert tensor.dtype == expected.dtype and tensor.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", [lambda a: a[::2], lambda a: a.T, lambda a: a[:, 3:], np.asfortranarray,
                                    lambda a: a[::-1]], ids=["rows", "transposed", "columns", "fortran", "backwards"])
def test_arrays_of_any_layout_keep_their_order(layout: Any, copies: list[Any]) -> None:
    given = layout(_array(rows=2 * ROWS))
    given.setflags(write=False)
    assert np.array_equal(tf.constant(given).numpy(), given) and len(copies) == 1


@pytest.mark.parametrize("given", [_array(rows=10), _array().astype(">f4"), np.full((600, 600), b"text"),
                                   _array().view(np.matrix), [[1.0] * 600] * 600],
                         ids=["small", "other byte order", "text", "subclass", "lists"])
def test_all_else_is_left_to_tensorflow(given: Any, copies: list[Any]) -> None:
    assert np.array_equal(tf.convert_to_tensor(given).numpy(), np.asarray(given)) and not copies


def test_another_type_is_made_or_refused_as_ever(copies: list[Any]) -> None:
    given = _array()
    for dtype in (tf.float64, tf.int32, tf.float32):
        with afterburner.enabled():
            found = _outcome(given, dtype)
        afterburner.disable()
        assert found == _outcome(given, dtype)
        afterburner.enable()


def _outcome(given: np.ndarray, dtype: Any) -> Any:
    try:
        tensor = tf.convert_to_tensor(given, dtype)
        return tensor.dtype, tensor.numpy().tobytes()
    except Exception as error:  # noqa: BLE001 - compared
        return type(error), str(error)


def test_the_memory_goes_with_the_tensor() -> None:
    given = np.zeros(1 << 26, np.uint8)
    before = _resident()
    for _ in range(8):
        tensor = tf.convert_to_tensor(given)
        assert _resident() > before + given.nbytes // 2
        del tensor
    assert _resident() < before + 4 * given.nbytes  # of 8


def _resident() -> int:
    return psutil.Process().memory_info().rss


def test_a_graph_and_another_thread_get_what_they_ask_for(copies: list[Any]) -> None:
    given = _array()

    @tf.function
    def shifted() -> Any:
        return tf.constant(given) + 1

    assert np.array_equal(shifted().numpy(), given + 1) and not copies  # a constant of the graph
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda n: tf.convert_to_tensor(given + n).numpy() - n, range(8)):
            assert np.array_equal(found, given)
    assert len(copies) == 8


def test_a_tape_and_a_device_see_a_plain_tensor(copies: list[Any]) -> None:
    given = _array()
    with tf.device("/CPU:0"), tf.GradientTape() as tape:
        x = tf.convert_to_tensor(given)
        tape.watch(x)
        y = tf.reduce_sum(x * x)
    assert np.array_equal(tape.gradient(y, x).numpy(), 2 * given) and len(copies) == 1


def test_disabled_nothing_is_touched(copies: list[Any]) -> None:
    afterburner.disable()
    tf.convert_to_tensor(_array())
    assert not copies
