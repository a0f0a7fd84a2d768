"""For which graphs TensorFlow is asked whether it is faster."""

from __future__ import annotations

from dataclasses import replace

import pytest

from afterburner.cpu.doubt import doubt
from afterburner.cpu.isa import host
from afterburner.ir import parse_graph, verify

AVX2, AVX512 = (replace(host(name), bf16_dot=False) for name in ("avx2", "avx512"))

DENSE = """
graph dense(%x: f32[64,512], %w: f32[512,512]) {
  %0: f32[64,512] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
  return %0
}
"""
SORT = """
graph sort(%x: f32[64,512]) {
  %0: f32[64,K], %1: i32[64,K] = top_k(%x) {k=K, dtype=i32}
  return %0
}
"""
DENSE_AND_SORT = """
graph both(%x: f32[64,512], %w: f32[512,512], %y: f32[1,ROW]) {
  %0: f32[64,512] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
  %1: f32[1,ROW], %2: i32[1,ROW] = top_k(%y) {k=ROW, dtype=i32}
  return %0, %1
}
"""


def _doubt(text: str, isa=AVX2) -> str | None:
    return doubt(verify(parse_graph(text)), isa)


@pytest.mark.parametrize("isa", [AVX2, AVX512], ids=lambda isa: isa.name)
def test_what_was_compared_is_not_in_doubt(isa) -> None:
    assert _doubt(DENSE, isa) is None
    assert _doubt(SORT.replace("K", "8"), isa) is None


def test_sorting_whole_rows_is() -> None:
    assert _doubt(SORT.replace("K", "512")) == "TensorFlow sorts whole rows and long lists faster"


def test_sorts_of_short_rows_are_in_doubt_where_all_of_a_row_is_kept() -> None:
    """TensorFlow has another algorithm for them, twice as fast as a list that is kept in order."""
    short = SORT.replace("512", "9")
    assert _doubt(short.replace("K", "9")) is not None
    assert _doubt(short.replace("K", "8")) is None


def test_a_little_of_it_does_not_matter() -> None:
    assert _doubt(DENSE_AND_SORT.replace("ROW", "64")) is None
    assert _doubt(DENSE_AND_SORT.replace("ROW", "65536")) is not None


def test_products_of_halves_are_where_the_processor_multiplies_matrices_of_them() -> None:
    text = DENSE.replace("f32", "bf16")
    pairs, tiles = (replace(AVX512, bf16_dot=True, features=f"+avx512f,{more}") for more in ("-amx-bf16", "+amx-bf16"))
    assert _doubt(text, pairs) is None
    assert "halves" in str(_doubt(text, tiles))
    assert _doubt(DENSE, tiles) is None


def test_all_is_on_an_instruction_set_that_was_never_timed() -> None:
    assert "neon" in str(_doubt(DENSE, host("neon")))


def test_a_loop_counts_in_all_of_its_turns() -> None:
    text = """
graph loop(%x: f32[64,512], %w: f32[512,512], %s: f32[1,512], %y: f32[STEPS,1,512]) {
  %0: f32[64,512] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
  %1: f32[1,512] = scan(%s, %y) {steps=STEPS, sliced=(False,), stacked=()} with
    graph turn(%s: f32[1,512], %y: f32[1,512]) {
      %0: f32[1,512], %1: i32[1,512] = top_k(%y) {k=512, dtype=i32}
      return %0
    }
  return %0, %1
}"""
    assert _doubt(text.replace("STEPS", "2")) is None
    assert "sorts" in (_doubt(text.replace("STEPS", "50")) or "")
