"""What a device's first step is compared with."""

from __future__ import annotations

import numpy as np
import pytest

from afterburner.cpu.target import compile_graph
from afterburner.frontend.second_opinion import Disagreement, SecondOpinion
from afterburner.ir import parse_graph
from afterburner.options import Options

from .kit import POOL

DIFFERENCE = """
graph difference(%x: f32[4], %v: f32[4] state, %w: f32[4] state) {
  %0: f32[4] = sub(%v, %w)
  %1: f32[4] = mul(%0, %x)
  return %1
}"""


def confirm(found: np.ndarray, *inputs: np.ndarray) -> None:
    graph = parse_graph(DIFFERENCE)
    opinion = SecondOpinion(compile_graph(graph, Options()), graph, POOL)
    opinion.confirm([x.ctypes.data for x in inputs], [found.ctypes.data])


def test_rounding_of_variables_says_nothing() -> None:
    x, v = np.array([1.5, -2.0, 3.0, 0.5], np.float32), np.float32([1, 2, 3, 4])
    w = v * np.float32(1 + 2**-22)
    confirm((v - w) * x, x, v, w)
    confirm(-(v - w) * x, x, v, w)  # within what another order of the sums before would make
    with pytest.raises(Disagreement, match=r"output 0 \(f32\[4\]\) is not what the cpu"):
        confirm(x, x, v, w)


def test_what_is_not_rounding_is_told() -> None:
    x, v, w = (np.array(values, np.float32) for values in ([1, 2, 3, 4], [5, 6, 7, 8], [1, 1, 2, 2]))
    confirm((v - w) * x, x, v, w)
    with pytest.raises(Disagreement, match="an error of"):
        confirm((v - w) * x * np.float32(1.01), x, v, w)
