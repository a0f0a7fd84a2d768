"""Loops in pieces of the batch."""

# ruff: noqa: E501

from __future__ import annotations

import numpy as np
import pytest

from afterburner.ir import interpret, verify
from afterburner.ir.ops.control import Scan
from afterburner.passes import split_scans as module
from afterburner.passes.split_scans import split_scans

from .kit import arguments_for, check, check_unchanged, graph_of


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST_WORK", 0)
    monkeypatch.setattr(module, "_LEAST_ROWS", 2)


def test_a_recurrent_layer_in_two_pieces() -> None:
    check(split_scans, """
        graph g(%h: f32[4,3], %x: f32[5,4,3], %w: f32[3,3], %b: f32[3]) {
          %0: f32[4,3], %1: f32[5,4,3] = scan(%h, %x, %w, %b) {steps=5, sliced=(True,), stacked=(False,)} with
            graph turn(%h: f32[4,3], %x: f32[4,3], %w: f32[3,3], %b: f32[3]) {
              %0: f32[4,3] = matmul(%h, %w) {transpose_a=False, transpose_b=False}
              %1: f32[4,3] = broadcast(%b) {shape=(4,3), axes=(1,)}
              %2: f32[4,3] = add(%0, %1)
              %3: f32[4,3] = add(%2, %x)
              return %3, %0
            }
          return %0, %1
        }""", """
        graph g(%h: f32[4,3], %x: f32[5,4,3], %w: f32[3,3], %b: f32[3]) {
          %0: f32[4,3], %1: f32[5,4,3] = scan(%h, %x, %w, %b) {steps=5, sliced=(True,), stacked=(False,), pieces=2, whole=(False,True,True)} with
            graph turn(%h: f32[2,3], %x: f32[2,3], %w: f32[3,3], %b: f32[3]) {
              %0: f32[2,3] = matmul(%h, %w) {transpose_a=False, transpose_b=False}
              %1: f32[2,3] = broadcast(%b) {shape=(2,3), axes=(1,)}
              %2: f32[2,3] = add(%0, %1)
              %3: f32[2,3] = add(%2, %x)
              return %3, %0
            }
          return %0, %1
        }""")


def test_a_captured_mask_is_cut_and_what_a_turn_gives_to_all_rows_is_not() -> None:
    check(split_scans, """
        graph g(%h: f32[4,3], %k: f32[5], %m: f32[4,3]) {
          %0: f32[4,3] = scan(%h, %k, %m) {steps=5, sliced=(False,), stacked=()} with
            graph turn(%h: f32[4,3], %k: f32[], %m: f32[4,3]) {
              %0: f32[4,3] = mul(%h, %m)
              %1: f32[4,3] = broadcast(%k) {shape=(4,3), axes=()}
              %2: f32[4,3] = add(%0, %1)
              return %2
            }
          return %0
        }""", """
        graph g(%h: f32[4,3], %k: f32[5], %m: f32[4,3]) {
          %0: f32[4,3] = scan(%h, %k, %m) {steps=5, sliced=(False,), stacked=(), pieces=2, whole=(True,False)} with
            graph turn(%h: f32[2,3], %k: f32[], %m: f32[2,3]) {
              %0: f32[2,3] = mul(%h, %m)
              %1: f32[2,3] = broadcast(%k) {shape=(2,3), axes=()}
              %2: f32[2,3] = add(%0, %1)
              return %2
            }
          return %0
        }""")


_TURNS = {
    "a sum over the batch": "%0: f32[3] = reduce_sum(%h) {axes=(0,)}\n%1: f32[4,3] = broadcast(%0) {shape=(4,3), axes=(1,)}",
    "a product with a matrix of the state": "%0: f32[4,4] = matmul(%h, %h) {transpose_a=False, transpose_b=True}\n"
                                            "%1: f32[4,3] = matmul(%0, %h) {transpose_a=False, transpose_b=False}",
    "rows in another order": "%0: f32[4,3] = reverse(%h) {axes=(0,)}\n%1: f32[4,3] = neg(%0)",
    "rows that become columns": "%0: f32[3,4] = transpose(%h) {perm=(1,0)}\n%1: f32[4,3] = reshape(%0) {shape=(4,3)}",
}


@pytest.mark.parametrize("name", _TURNS)
def test_rows_that_depend_on_others_stay_together(name: str) -> None:
    check_unchanged(split_scans, f"""
        graph g(%h: f32[4,3]) {{
          %0: f32[4,3] = scan(%h) {{steps=3, sliced=(), stacked=()}} with
            graph turn(%h: f32[4,3]) {{
              {_TURNS[name]}
              return %1
            }}
          return %0
        }}""")


def test_a_counter_in_the_state_keeps_a_loop_whole() -> None:
    check_unchanged(split_scans, """
        graph g(%h: f32[4,3], %n: i32[]) {
          %0: f32[4,3], %1: i32[] = scan(%h, %n) {steps=3, sliced=(), stacked=()} with
            graph turn(%h: f32[4,3], %n: i32[]) {
              %0: f32[4,3] = neg(%h)
              %1: i32[] = add(%n, %n)
              return %0, %1
            }
          return %0, %1
        }""")


@pytest.mark.parametrize(("steps", "pieces"), [(100, 6), (2000, 4), (3000, 2), (4000, 2), (5000, 1)])
def test_many_turns_in_few_pieces(steps: int, pieces: int) -> None:
    graph = graph_of(f"""
        graph g(%h: f32[12,3]) {{
          %0: f32[12,3] = scan(%h) {{steps={steps}, sliced=(), stacked=()}} with
            graph turn(%h: f32[12,3]) {{
              %0: f32[12,3] = neg(%h)
              return %0
            }}
          return %0
        }}""")
    (node,) = split_scans(graph).nodes
    assert isinstance(node.op, Scan)
    assert node.op.pieces == pieces


def test_long_turns_in_few_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_CALLS", 40)
    graph = graph_of("""
        graph g(%h: f32[12,3]) {
          %0: f32[12,3] = scan(%h) {steps=5, sliced=(), stacked=()} with
            graph turn(%h: f32[12,3]) {
              %0: f32[12,3] = neg(%h)
              %1: f32[12,3] = exp(%0)
              return %1
            }
          return %0
        }""")
    (node,) = split_scans(graph).nodes
    assert isinstance(node.op, Scan) and node.op.pieces == 4


def test_every_operation_on_rows() -> None:
    graph = graph_of("""
        graph g(%h: f32[6,4], %x: f32[3,6,4], %w: f32[4,4], %flags: bool[3,6], %image: f32[6,4,1,1], %f: f32[1,1,1,1]) {
          %0: f32[6,4], %1: i32[3,6], %2: f32[3,6,5] = scan(%h, %x, %flags, %w, %image, %f) {steps=3, sliced=(False,True), stacked=(True,False)} with
            graph turn(%h: f32[6,4], %x: f32[6,4], %on: bool[6], %w: f32[4,4], %image: f32[6,4,1,1], %f: f32[1,1,1,1]) {
              %0: f32[6,2] = slice(%h) {starts=(0,1), limits=(6,3), strides=(1,1)}
              %1: f32[6,4] = concat(%0, %0) {axis=1}
              %2: f32[6,4] = matmul(%1, %w) {transpose_a=False, transpose_b=True}
              %3: bool[6,4] = broadcast(%on) {shape=(6,4), axes=(0,)}
              %4: f32[6,4] = select(%3, %2, %x)
              %5: f32[6] = reduce_max(%4) {axes=(1,)}
              %6: f32[6,4] = broadcast(%5) {shape=(6,4), axes=(0,)}
              %7: f32[6,4,1,1] = conv2d(%image, %f) {strides=(1,1), padding=((0,0),(0,0)), dilation=(1,1), groups=1}
              %8: f32[6,4] = reshape(%7) {shape=(6,4)}
              %9: f32[6,4] = sub(%6, %8)
              %10: i32[6] = argmax(%9) {axis=1, dtype=i32}
              %11: f32[] = constant() {value=0.0}
              %12: f32[6,5] = pad(%9, %11) {low=(0,1), high=(0,0), interior=(0,0)}
              %13: i32[6,4] = iota() {dtype=i32, shape=(6,4), axis=1}
              %14: f32[6,4] = cast(%13) {dtype=f32}
              %15: f32[6,4] = add(%9, %14)
              return %15, %10, %12
            }
          return %0, %1, %2
        }""")
    split = verify(split_scans(graph))
    assert "pieces=3" in str(split)
    for seed in range(3):
        given = arguments_for(graph, seed)
        for a, b in zip(interpret(graph, given), interpret(split, given), strict=True):
            np.testing.assert_array_equal(a, b)
