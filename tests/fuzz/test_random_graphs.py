"""The same random graphs on every machine; ``python -m tests.fuzz --seconds N`` tries new ones for longer."""

import numpy as np
import pytest

from afterburner.ir import parse_graph

from . import gpu
from .run import run_seed
from .target import available, sign_unsettled


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


def test_zeros_of_either_sign_are_passed_over() -> None:
    graph = parse_graph("""
graph f(%x: f32[2,2], %one: f32[2]) {
  %0: f32[2] = reduce_max(%x) {axes=(1,)}
  %1: f32[2] = div(%one, %0)
  %2: f32[2] = neg(%one)
  return %1, %2
}""")
    signs = np.array([[0.0, -0.0], [1.0, 2.0]], np.float32)
    same = np.zeros((2, 2), np.float32)
    ones = np.ones(2, np.float32)
    divided, negated = (o.value for o in graph.outputs)
    assert divided in sign_unsettled(graph, [signs, ones])
    assert negated not in sign_unsettled(graph, [signs, ones])
    assert not sign_unsettled(graph, [same, ones])
    assert not sign_unsettled(graph, [np.where(signs == 0, [0.5, -0.0], signs).astype(np.float32), ones])
