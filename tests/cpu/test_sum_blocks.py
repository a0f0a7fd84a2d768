"""Long sums are made in blocks: what they lose by rounding, and where the blocks end."""

from dataclasses import replace

import numpy as np
import pytest
from cpu_harness import run_kernel
from zeros_kit import FIRST, Case

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels.conv_correlations import forward_correlation
from afterburner.cpu.kernels.sum_blocks import ends_of, pieces_of
from afterburner.ir.ops.conv import Conv2d

ONE = ((1, 1), (1, 1))
LONG = {
    "rows of taps": Case((1, 8, 40, 64), (7, 3, 64, 64), padding=ONE),
    "taps": Case((1, 8, 40, 256), (3, 3, 256, 16), padding=ONE),
    "channels": Case((1, 20, 40, 2048), (1, 1, 2048, 16)),
    "dilated": Case((1, 9, 40, 256), (3, 3, 256, 16), padding=((2, 2), (2, 2)), dilation=(2, 2)),
    "streamed": Case((1, 4, 4, 512), (3, 3, 512, 100), padding=ONE),
    "split": Case((1, 4, 4, 512), (4, 4, 512, 256), padding=ONE),
}


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("name", LONG)
def test_long_sums_lose_little(name, gradient):
    case, isa = LONG[name], isas.host(FIRST)
    kernel, _ = case.kernels(gradient, isa)
    operands = [np.random.default_rng(3).uniform(-1, 1, a.shape).astype(np.float32) for a in case.arrays(gradient)[0]]
    got, = run_kernel(kernel, operands, isa)
    exact, = kernel.node.op.evaluate(*(a.astype(np.float64) for a in operands))
    assert np.linalg.norm(got - exact) <= 4.5e-7 * np.linalg.norm(exact)  # one chain: 6e-7 and more


def correlation(taps, depth):
    op = Conv2d(strides=(1, 1), padding=ONE, dilation=(1, 1), groups=1)
    return forward_correlation(op, (1, 8, 8, depth), (taps, taps, depth, 16), (1, 10 - taps + 1, 10 - taps + 1, 16))


def test_blocks_are_taps_or_channels_of_one():
    assert ends_of(correlation(3, 32)) == ()
    assert ends_of(correlation(3, 64)) == ()
    assert ends_of(correlation(3, 128)) == (384,)
    assert ends_of(correlation(3, 256)) == (512, 768)
    assert ends_of(correlation(5, 120)) == (360, 600)
    assert ends_of(correlation(1, 1024)) == (512, 1024)
    assert ends_of(correlation(3, 600)) == (304, 600, 904, 1200, 1504, 1800)


def test_whole_blocks_of_the_same_pixels_are_a_loop():
    c, all_ = correlation(3, 512), (0, 1, 2)
    piece, = pieces_of(c, (all_,) * 3, ends_of(c))
    assert (piece.size, piece.count, piece.done) == (512, 3, all_)
    pieces = pieces_of(c, (all_[1:], all_, all_), ends_of(c))
    assert [(p.start, p.count, p.active) for p in pieces] == [(0, 1, all_[1:]), (512, 2, all_)]


def test_a_block_goes_on_where_more_pixels_are_valid():
    c, all_ = correlation(3, 200), (0, 1)
    pieces = pieces_of(c, (all_[1:], all_, all_), ends_of(c))
    assert [(p.start, p.size, p.count, p.done) for p in pieces] == [(0, 200, 1, ()), (200, 200, 1, all_),
                                                                   (400, 200, 1, all_)]


def test_taps_that_are_apart_are_taken_one_by_one():
    c = correlation(3, 200)
    apart = replace(c, columns=replace(c.columns, taps=replace(c.columns.taps, offset_step=2)))
    assert [p.start for p in pieces_of(apart, ((0,),) * 3, ends_of(apart))] == [0, 200, 400]
