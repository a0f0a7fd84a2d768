"""A short sweep over random graphs; ``python -m tests.fuzz --seconds N`` runs a long one."""

import time

import pytest

from .run import run_seed
from .target import available

SECONDS = 8


@pytest.mark.parametrize("nodes", [8, 40])
def test_passes_keep_every_bit(nodes: int) -> None:
    end, seed = time.monotonic() + SECONDS, 1000 * nodes
    while time.monotonic() < end:
        report = run_seed(seed, nodes)
        assert report is None, report
        seed += 1


@pytest.mark.skipif(not available(), reason="there is no CPU target here")
def test_target_agrees_with_the_interpreter() -> None:
    end, seed = time.monotonic() + SECONDS, 90000
    while time.monotonic() < end:
        report = run_seed(seed, 12, target=True)
        assert report is None, report
        seed += 1
