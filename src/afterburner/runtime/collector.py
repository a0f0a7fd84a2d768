"""Python's cycle collector, kept out of compilations."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_collector() -> Iterator[None]:
    """No automatic collection of cycles inside.

    A compilation makes a million objects, and every few of its own make the collector look through
    all of the program's: beside TensorFlow and Keras that is a good part of the time. What a
    compilation leaves behind, ``gc.collect(1)`` finds without looking at older objects.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
