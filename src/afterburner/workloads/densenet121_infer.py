"""DenseNet121 answering: ``predict`` in batches of 32, and one image under ``tf.function``."""

from __future__ import annotations

from . import Units
from ._alone import report
from ._networks import TIMINGS, inference
from .densenet121 import network

REPEATS = TIMINGS


def build() -> Units:
    """A batch in ``predict``; one image."""
    return inference(network)


if __name__ == "__main__":
    report(build())
