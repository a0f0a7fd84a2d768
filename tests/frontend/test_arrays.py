"""Arrays that become tensors: the values, who owns them, and for how long."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
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
def copies(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The copies that were made for tensors."""
    made: list[np.ndarray] = []
    copy = arrays._Aligned.copy

    def noted(self: Any, order: Any = "C") -> np.ndarray:
        made.append(copy(self, order))
        return made[-1]

    monkeypatch.setattr(arrays._Aligned, "copy", noted)
    return made


def _array(dtype: str = "float32", rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 100, (rows, COLUMNS * 4)).astype(dtype)


@pytest.mark.parametrize("dtype", PLAIN)
def test_a_tensor_holds_the_array_and_takes_over_the_copy(dtype: str, copies: list[np.ndarray]) -> None:
    given = _array(dtype)
    expected = given.copy()
    tensor = tf.convert_to_tensor(given)
    given[:] = 0  # the program's own: the tensor must not see it
    (copy,) = copies
    assert copy.ctypes.data % 64 == 0 and tensor._numpy().ctypes.data == copy.ctypes.data
    assert tensor.dtype == expected.dtype and tensor.numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize("layout", [lambda a: a[::2], lambda a: a.T, lambda a: a[:, 3:], np.asfortranarray,
                                    lambda a: a[::-1]], ids=["rows", "transposed", "columns", "fortran", "backwards"])
def test_arrays_of_any_layout_keep_their_order(layout: Any, copies: list[np.ndarray]) -> None:
    given = layout(_array(rows=2 * ROWS))
    given.setflags(write=False)
    assert np.array_equal(tf.constant(given).numpy(), given) and len(copies) == 1


@pytest.mark.parametrize("given", [_array(rows=10), _array().astype(">f4"), np.full((600, 600), b"text"),
                                   _array().view(np.matrix), [[1.0] * 600] * 600],
                         ids=["small", "other byte order", "text", "subclass", "lists"])
def test_all_else_is_left_to_tensorflow(given: Any, copies: list[np.ndarray]) -> None:
    assert np.array_equal(tf.convert_to_tensor(given).numpy(), np.asarray(given)) and not copies


def test_another_type_is_made_or_refused_as_ever(copies: list[np.ndarray]) -> None:
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


def test_the_copy_goes_with_the_tensor(copies: list[np.ndarray]) -> None:
    tensor = tf.convert_to_tensor(_array())
    memory = weakref.ref(copies.pop().base)
    assert memory() is not None
    del tensor
    tf.constant([1.0])  # TensorFlow gives arrays back when it is next given something
    assert memory() is None


def test_disabled_nothing_is_touched(copies: list[np.ndarray]) -> None:
    afterburner.disable()
    tf.convert_to_tensor(_array())
    assert not copies
