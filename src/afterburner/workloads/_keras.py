"""Keras's ``fit`` and ``predict``, timed until their last step is done.

What comes after is no step: when ``tf.data``'s iterator is destroyed it waits for its autotuner, which sleeps for
10 ms, 20 ms, 40 ms and so on: a short ``fit`` of stock TensorFlow returns at 1.27 s, 2.55 s, 5.11 s or 10.23 s.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import keras

from . import Seconds


class _LastStep(keras.callbacks.Callback):
    """Notes when the last step was done."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 0.0

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.at = time.perf_counter()

    def on_predict_end(self, logs: Any = None) -> None:
        self.at = time.perf_counter()


def timed(call: Callable[..., object], *data: Any, **settings: Any) -> Callable[[], Seconds]:
    """A call of a model's ``fit`` or ``predict`` that gives its seconds."""
    last = _LastStep()

    def run() -> Seconds:
        start = time.perf_counter()
        call(*data, verbose=0, callbacks=[last], **settings)
        return Seconds(last.at - start)

    return run
