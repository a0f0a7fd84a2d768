"""The same random graphs on every machine; ``python -m tests.fuzz --seconds N`` tries new ones for longer."""

import pytest

from . import gpu
from .run import run_seed
from .target import available


@pytest.mark.parametrize(("nodes", "graphs"), [(8, 1000), (40, 200)])
def test_passes_keep_every_bit(nodes: int, graphs: int) -> None:
    for seed in range(1000 * nodes, 1000 * nodes + graphs):
        report = run_seed(seed, nodes)
        assert report is None, report


@pytest.mark.skipif(not available(), reason="there is no CPU target here")
def test_target_agrees_with_the_interpreter() -> None:
    for seed in range(90000, 90150):
        report = run_seed(seed, 12, target="cpu")
        assert report is None, report


@pytest.mark.skipif(not gpu.available(), reason="MLX has no wheel for this machine")
def test_gpu_target_agrees_with_the_interpreter() -> None:
    for seed in range(70000, 70300):
        report = run_seed(seed, 12, target="gpu")
        assert report is None, report
