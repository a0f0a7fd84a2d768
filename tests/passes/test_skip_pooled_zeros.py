"""Convolution gradients that skip what a max pooling's gradient leaves zero, where that pays."""

import numpy as np
import pytest

from afterburner.ir import Graph, interpret, verify
from afterburner.passes.eliminate_dead_code import eliminate_dead_code
from afterburner.passes.pipeline import optimize
from afterburner.passes.skip_pooled_zeros import skip_pooled_zeros

from .kit import arguments_for, check, check_unchanged, graph_of, kernels

CONV = "strides=(1,1), padding=((1,1),(1,1)), dilation=(1,1), groups=1"
POOL = "window=(2,2), strides=(2,2)"
NONE = "padding=((0,0),(0,0))"
X, Y, P, T, W = "f32[2,9,16,16]", "f32[2,9,16,64]", "f32[2,4,8,64]", "u8[2,4,8,64]", "f32[3,3,16,64]"
SCATTER = f"%d: {Y} = max_pool_scatter(%t, %dy) {{{POOL}, {NONE}, input_shape=(2,9,16,64)}}\n"
FILTER = f"%g: {W} = conv2d_filter_grad(%x, %d) {{{CONV}, filter_shape=(3,3,16,64)}}\n"
INPUT = f"%h: {X} = conv2d_input_grad(%w, %d) {{{CONV}, input_shape=(2,9,16,16)}}\n"
FILTER_POOLED = (f"%g: {W} = conv2d_filter_grad_pooled(%x, %t, %dy) {{padding=((1,1),(1,1)), {POOL}, "
                 "filter_shape=(3,3,16,64)}\n")
INPUT_POOLED = (f"%h: {X} = conv2d_input_grad_pooled(%w, %t, %dy) {{padding=((1,1),(1,1)), {POOL}, "
                "input_shape=(2,9,16,16)}\n")


def skip(graph: Graph) -> Graph:
    return eliminate_dead_code(skip_pooled_zeros(graph))


def graph(body: str) -> str:
    return f"graph g(%x: {X}, %w: {W}, %t: {T}, %dy: {P}) {{\n{body}\n}}"


def test_both_gradients_read_the_maxima() -> None:
    check(skip, graph(f"{SCATTER}{FILTER}{INPUT}return %g, %h"),
          graph(f"{FILTER_POOLED}{INPUT_POOLED}return %g, %h"))


def test_the_scatter_stays_for_others() -> None:
    check(skip, graph(f"{SCATTER}{FILTER}return %g, %d"), graph(f"{SCATTER}{FILTER_POOLED}return %g, %d"))


@pytest.mark.parametrize("change", [
    (POOL, "window=(3,2), strides=(2,2)"),  # windows overlap
    ("f32", "f64"),
    ("groups=1", "groups=2"),
])
def test_what_stays_dense(change: tuple[str, str]) -> None:
    text = graph(f"{SCATTER}{FILTER}{INPUT}return %g, %h").replace(*change)
    if change[0] == "groups=1":
        text = text.replace("3,3,16,64", "3,3,8,64")
    check_unchanged(skip, text)


def test_few_channels_stay_dense() -> None:
    text = graph(f"{SCATTER}{FILTER}{INPUT}return %g, %h").replace("9,16,16", "9,16,1")
    check_unchanged(skip, text.replace("3,3,16,64", "3,3,1,64"))


def test_strides_stay_dense() -> None:
    text = graph(f"{SCATTER}{FILTER}{INPUT}return %g, %h").replace("2,9,16,16", "2,18,32,16")
    check_unchanged(skip, text.replace(CONV, CONV.replace("strides=(1,1)", "strides=(2,2)")))


def test_a_filter_too_large_for_the_caches_stays_dense() -> None:
    deep = "3,3,512,512"
    names = kernels(skip(graph_of(f"""graph g(%x: f32[1,32,32,512], %w: f32[{deep}], %t: u8[1,16,16,512],
            %dy: f32[1,16,16,512]) {{
        %d: f32[1,32,32,512] = max_pool_scatter(%t, %dy) {{{POOL}, {NONE}, input_shape=(1,32,32,512)}}
        %g: f32[{deep}] = conv2d_filter_grad(%x, %d) {{{CONV}, filter_shape=({deep})}}
        %h: f32[1,32,32,512] = conv2d_input_grad(%w, %d) {{{CONV}, input_shape=(1,32,32,512)}}
            return %g, %h
        }}""".replace(",\n            %dy", ", %dy"))))
    assert names == ["max_pool_scatter", "conv2d_filter_grad", "conv2d_input_grad"]


def test_winograd_takes_deep_input_gradients() -> None:
    text = graph(f"{SCATTER}{FILTER}{INPUT}return %g, %h").replace("9,16,16", "9,16,64").replace(
        "3,3,16,64", "3,3,64,64")
    assert kernels(verify(eliminate_dead_code(skip_pooled_zeros(graph_of(text), fast=True)))) == [
        "max_pool_scatter", "conv2d_filter_grad_pooled", "conv2d_input_grad"]
    assert "max_pool_scatter" not in kernels(skip(graph_of(text)))


def test_a_training_step_scatters_nothing() -> None:
    before = graph_of(f"""graph g(%x: {X}, %w: {W}, %dy: {P}, %a: {X}) {{
        %c: {Y} = conv2d(%x, %w) {{{CONV}}}
        %s: f32[] = constant() {{value=0.0}}
        %z: {Y} = broadcast(%s) {{shape=(2,9,16,64), axes=()}}
        %r: {Y} = maximum(%c, %z)
        %p: {P} = max_pool(%r) {{{POOL}, {NONE}}}
        %q: {Y} = max_pool_grad(%r, %p, %dy) {{{POOL}, {NONE}}}
        %m: bool[2,9,16,64] = greater(%r, %z)
        %d: {Y} = select(%m, %q, %z)
        %b: f32[64] = reduce_sum(%d) {{axes=(0,1,2)}}
        {FILTER}{INPUT}%k: {X} = mul(%h, %a)
            return %p, %b, %g, %k
        }}""")
    after = optimize(before)
    names = kernels(after)
    assert {"conv2d_filter_grad_pooled", "conv2d_input_grad_pooled: conv2d_input_grad_pooled mul"} <= set(names)
    assert not any("scatter" in n or "max_pool_grad" in n for n in names)
    arguments = [np.nan_to_num(a, posinf=1, neginf=-1) for a in arguments_for(before)]
    for a, b in zip(interpret(before, arguments), interpret(after, arguments), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
