"""Maxima that note where they were found, and what then moves before the scatter."""

import numpy as np
import pytest

from afterburner.ir import interpret
from afterburner.passes.pipeline import optimize
from afterburner.passes.record_maxima import record_maxima
from afterburner.passes.simplify import simplify

from .kit import arguments_for, check, check_unchanged, graph_of, kernels

WINDOWS = "window=(2,2), strides=(2,2), padding=((0,0),(0,0))"
OVERLAPPING = "window=(3,3), strides=(2,2), padding=((0,1),(0,1))"
DX = f"{{{WINDOWS}, input_shape=(2,6,4,3)}}"
X, Y, C = "f32[2,6,4,3]", "f32[2,3,2,3]", "f32[3]"
ZERO = f"%s: f32[] = constant() {{value=0.0}}\n%zero: {X} = broadcast(%s) {{shape=(2,6,4,3), axes=()}}\n"
ZERO_Y = f"%s: f32[] = constant() {{value=0.0}}\n%zy: {Y} = broadcast(%s) {{shape=(2,3,2,3), axes=()}}\n"
ONE = "%t: f32[] = constant() {value=1.0}\n"
LIMIT = ("%l: u8[] = constant() {value=128}\n%limit: u8[2,3,2,3] = broadcast(%l) {shape=(2,3,2,3), axes=()}\n")
POOL = f"%y: {Y}, %taps: u8[2,3,2,3] = max_pool_taps(%x) {{{WINDOWS}}}\n"
SCATTER = f"%dx: {X} = max_pool_scatter(%taps, %dy) {DX}\n"
POSITIVE = (f"%a: bool[2,3,2,3] = greater(%y, %zy)\n{LIMIT}%b: bool[2,3,2,3] = less(%taps, %limit)\n"
            "%p: bool[2,3,2,3] = logical_and(%a, %b)\n")


def shapes(body: str) -> str:
    return f"graph g(%x: {X}, %dy: {Y}) {{\n{body}\n}}"


def test_a_maximum_notes_where_it_was_found() -> None:
    check(record_maxima,
          shapes(f"%y: {Y} = max_pool(%x) {{{WINDOWS}}}\n%dx: {X} = max_pool_grad(%x, %y, %dy) {{{WINDOWS}}}\n"
                 "return %y, %dx"),
          shapes(f"{POOL}{ZERO_Y}%d: {Y} = add(%dy, %zy)\n%dx: {X} = max_pool_scatter(%taps, %d) {DX}\n"
                 "return %y, %dx"))


def test_sums_of_overlapping_windows_start_at_zero_anyway() -> None:
    check(record_maxima,
          shapes(f"%y: {Y} = max_pool(%x) {{{OVERLAPPING}}}\n"
                 f"%dx: {X} = max_pool_grad(%x, %y, %dy) {{{OVERLAPPING}}}\nreturn %y, %dx"),
          shapes(f"%y: {Y}, %taps: u8[2,3,2,3] = max_pool_taps(%x) {{{OVERLAPPING}}}\n"
                 f"%dx: {X} = max_pool_scatter(%taps, %dy) {{{OVERLAPPING}, input_shape=(2,6,4,3)}}\n"
                 "return %y, %dx"))


def test_a_gradient_of_another_pooling_finds_its_own_maxima() -> None:
    check_unchanged(record_maxima, shapes(
        f"%n: {X} = neg(%x)\n%y: {Y} = max_pool(%n) {{{WINDOWS}}}\n"
        f"%dx: {X} = max_pool_grad(%x, %y, %dy) {{{WINDOWS}}}\nreturn %dx"))
    check_unchanged(record_maxima, shapes(f"%dx: {X} = max_pool_grad(%x, %dy, %dy) {{{WINDOWS}}}\nreturn %dx"))
    check_unchanged(record_maxima, shapes(f"%y: {Y} = max_pool(%x) {{{WINDOWS}}}\nreturn %y"))


def test_more_taps_than_a_byte_counts() -> None:
    wide = "window=(12,12), strides=(12,12), padding=((0,0),(0,0))"
    check_unchanged(record_maxima, f"""graph g(%x: f32[1,12,12,2], %dy: f32[1,1,1,2]) {{
        %y: f32[1,1,1,2] = max_pool(%x) {{{wide}}}
        %dx: f32[1,12,12,2] = max_pool_grad(%x, %y, %dy) {{{wide}}}
            return %dx
        }}""")


def test_a_product_with_the_mask_moves_before_the_scatter() -> None:
    before = (f"{POOL}{SCATTER}{ZERO}{ONE}%g: bool[2,6,4,3] = greater(%x, %zero)\n"
              f"%one: {X} = broadcast(%t) {{shape=(2,6,4,3), axes=()}}\n"
              f"%m: {X} = select(%g, %one, %zero)\n%r: {X} = mul(%dx, %m)\nreturn %r")
    after = (f"{POOL}{ZERO_Y}%n: {Y} = mul(%dy, %zy)\n{POSITIVE}%d: {Y} = select(%p, %dy, %n)\n"
             f"%r: {X} = max_pool_scatter(%taps, %d) {DX}\nreturn %r")
    assert_same(before, after)


def test_a_choice_by_the_mask_moves_before_the_scatter() -> None:
    before = f"{POOL}{SCATTER}{ZERO}%g: bool[2,6,4,3] = greater(%x, %zero)\n%r: {X} = select(%g, %dx, %zero)\nreturn %r"
    after = (f"{POOL}{ZERO_Y}{POSITIVE}%d: {Y} = select(%p, %dy, %zy)\n"
             f"%r: {X} = max_pool_scatter(%taps, %d) {DX}\nreturn %r")
    assert_same(before, after)


def assert_same(before: str, after: str) -> None:
    """Equal kernels in the end, since rules leave dead and double nodes to other passes; and no bit moves."""
    first, second = optimize(graph_of(shapes(before))), optimize(graph_of(shapes(after)))
    assert kernels(first) == kernels(second)
    assert "max_pool_scatter" in kernels(first)[-1]
    plain = graph_of(shapes(before))
    for seed in range(4):
        arguments = arguments_for(plain, seed)
        for a, b in zip(interpret(plain, arguments), interpret(first, arguments), strict=True):
            np.testing.assert_array_equal(a, b)
            np.testing.assert_array_equal(np.signbit(a), np.signbit(b))


@pytest.mark.parametrize("condition,other", [
    ("greater(%x, %one)", "%zero"), ("greater_equal(%x, %zero)", "%zero"), ("greater(%zero, %x)", "%zero"),
    ("greater(%dx, %zero)", "%zero"), ("greater(%x, %zero)", "%one")])
def test_masks_that_are_not_the_input_above_zero_stay(condition: str, other: str) -> None:
    graph = graph_of(shapes(f"{POOL}{SCATTER}{ZERO}{ONE}%one: {X} = broadcast(%t) {{shape=(2,6,4,3), axes=()}}\n"
                            f"%g: bool[2,6,4,3] = {condition}\n%r: {X} = select(%g, %dx, {other})\nreturn %r"))
    node = simplify(graph).outputs[0].value.node
    assert node is not None and node.op.name == "select"


def test_a_gradient_that_others_read_is_not_scattered_twice() -> None:
    check_unchanged(simplify, shapes(
        f"{POOL}{SCATTER}{ZERO}%g: bool[2,6,4,3] = greater(%x, %zero)\n%r: {X} = select(%g, %dx, %zero)\n"
        "return %r, %dx"))


def test_a_sum_over_space_reads_what_was_scattered() -> None:
    check(simplify, shapes(f"{POOL}{SCATTER}%r: {C} = reduce_sum(%dx) {{axes=(0,1,2)}}\nreturn %r"),
          shapes(f"%t: {C} = reduce_sum(%dy) {{axes=(0,1,2)}}\n%s: f32[] = constant() {{value=0.0}}\n"
                 f"%z: {C} = broadcast(%s) {{shape=(3,), axes=()}}\n%r: {C} = add(%t, %z)\nreturn %r"))


def test_a_sum_over_part_of_space_stays() -> None:
    check_unchanged(simplify, shapes(
        f"{POOL}{SCATTER}%r: f32[4,3] = reduce_sum(%dx) {{axes=(0,1)}}\nreturn %r"))


def test_a_sum_stays_where_a_window_lies_in_the_padding() -> None:
    padded = "window=(2,2), strides=(2,2), padding=((2,0),(0,0))"
    check_unchanged(simplify, f"""graph g(%x: f32[2,4,4,3], %dy: {Y}) {{
        %y: {Y}, %taps: u8[2,3,2,3] = max_pool_taps(%x) {{{padded}}}
        %dx: f32[2,4,4,3] = max_pool_scatter(%taps, %dy) {{{padded}, input_shape=(2,4,4,3)}}
        %r: {C} = reduce_sum(%dx) {{axes=(0,1,2)}}
            return %r
        }}""")
