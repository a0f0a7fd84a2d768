"""Convolution gradients that skip what a max pooling's gradient leaves zero, where that pays."""

import numpy as np
import pytest

from afterburner.ir import interpret
from afterburner.passes.pipeline import optimize
from afterburner.passes.simplify import simplify

from .kit import arguments_for, check, check_unchanged, graph_of, kernels

CONV = "strides=(1,1), padding=((1,1),(1,1)), dilation=(1,1), groups=1"
POOL = "window=(2,2), strides=(2,2)"
NONE = "padding=((0,0),(0,0))"
X, Y, P, T, W = "f32[2,9,16,16]", "f32[2,9,16,8]", "f32[2,4,8,8]", "u8[2,4,8,8]", "f32[3,3,16,8]"
SCATTER = f"%d: {Y} = max_pool_scatter(%t, %dy) {{{POOL}, {NONE}, input_shape=(2,9,16,8)}}\n"
FILTER = f"%g: {W} = conv2d_filter_grad(%x, %d) {{{CONV}, filter_shape=(3,3,16,8)}}\n"
FILTER_POOLED = (f"%g: {W} = conv2d_filter_grad_pooled(%x, %t, %dy) {{padding=((1,1),(1,1)), {POOL}, "
                 "filter_shape=(3,3,16,8)}\n")


def graph(body: str) -> str:
    return f"graph g(%x: {X}, %w: {W}, %t: {T}, %dy: {P}) {{\n{body}\n}}"


def test_a_filter_gradient_reads_the_maxima() -> None:
    check(simplify, graph(f"{SCATTER}{FILTER}return %g"), graph(f"{FILTER_POOLED}return %g"))


def test_the_scatter_stays_for_others() -> None:
    check(simplify, graph(f"{SCATTER}{FILTER}return %g, %d"), graph(f"{SCATTER}{FILTER_POOLED}return %g, %d"))


@pytest.mark.parametrize("change", [
    ("window=(2,2), strides=(2,2)", "window=(3,2), strides=(2,2)"),  # windows overlap
    ("f32", "f64"),
    ("groups=1", "groups=2"),
])
def test_what_is_left_dense(change: tuple[str, str]) -> None:
    text = graph(f"{SCATTER}{FILTER}return %g").replace(*change)
    if change[0] == "groups=1":
        text = text.replace("3,3,16,8", "3,3,8,8")
    check_unchanged(simplify, text)


def test_few_channels_stay_dense() -> None:
    check_unchanged(simplify, graph(f"{SCATTER}{FILTER}return %g").replace("16,16]", "16,1]").replace(
        "3,3,16,8", "3,3,1,8"))


def test_strides_stay_dense() -> None:
    text = graph(f"{SCATTER}{FILTER}return %g").replace("16,16]", "32,16]").replace("2,9,32,16", "2,18,32,16")
    check_unchanged(simplify, text.replace(CONV, CONV.replace("strides=(1,1)", "strides=(2,2)")))


def test_the_scatter_of_a_training_step_goes_away() -> None:
    before = graph_of(f"""graph g(%x: {X}, %w: {W}, %dy: {P}) {{
        %c: {Y} = conv2d(%x, %w) {{{CONV}}}
        %s: f32[] = constant() {{value=0.0}}
        %z: {Y} = broadcast(%s) {{shape=(2,9,16,8), axes=()}}
        %r: {Y} = maximum(%c, %z)
        %p: {P} = max_pool(%r) {{{POOL}, {NONE}}}
        %q: {Y} = max_pool_grad(%r, %p, %dy) {{{POOL}, {NONE}}}
        %m: bool[2,9,16,8] = greater(%r, %z)
        %d: {Y} = select(%m, %q, %z)
        %b: f32[8] = reduce_sum(%d) {{axes=(0,1,2)}}
        {FILTER}
            return %p, %b, %g
        }}""")
    after = optimize(before)
    names = kernels(after)
    assert "conv2d_filter_grad_pooled" in names and not any("scatter" in n or "max_pool_grad" in n for n in names)
    arguments = [a if np.isfinite(a).all() else np.nan_to_num(a, posinf=1, neginf=-1) for a in arguments_for(before)]
    for a, b in zip(interpret(before, arguments), interpret(after, arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
