"""Work that leaves loops: before and after, and what stays."""

from __future__ import annotations

from afterburner.passes.hoist_from_scans import hoist_from_scans

from .kit import check, check_unchanged


def scan(head: str, call: str, turn: str, last: str = "return %0") -> str:
    """A graph of one scan: its inputs, the node up to its attributes, the body, and what follows."""
    return f"graph g({head}) {{\n  {call} with\n    graph turn{turn}\n    }}\n  {last}\n}}"


def test_a_product_of_rows_is_made_before_the_loop() -> None:
    check(hoist_from_scans, """
        graph g(%h: f32[2,4], %x: f32[5,2,3], %w: f32[3,4]) {
          %0: f32[2,4] = scan(%h, %x, %w) {steps=5, sliced=(True,), stacked=()} with
            graph turn(%h: f32[2,4], %x: f32[2,3], %w: f32[3,4]) {
              %0: f32[2,3] = neg(%x)
              %1: f32[2,4] = matmul(%0, %w) {transpose_a=False, transpose_b=False}
              %2: f32[2,4] = maximum(%h, %1)
              return %2
            }
          return %0
        }""", """
        graph g(%h: f32[2,4], %x: f32[5,2,3], %w: f32[3,4]) {
          %0: f32[5,2,3] = neg(%x)
          %1: f32[10,3] = reshape(%0) {shape=(10,3)}
          %2: f32[10,4] = matmul(%1, %w) {transpose_a=False, transpose_b=False}
          %3: f32[5,2,4] = reshape(%2) {shape=(5,2,4)}
          %4: f32[2,4] = scan(%h, %3) {steps=5, sliced=(True,), stacked=()} with
            graph turn(%h: f32[2,4], %ahead: f32[2,4]) {
              %0: f32[2,4] = maximum(%h, %ahead)
              return %0
            }
          return %4
        }""")
