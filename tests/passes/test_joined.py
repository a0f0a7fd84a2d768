"""Reductions of joined tensors: statistics of a dense block's parts are made once."""

from afterburner.ir import parse_graph, verify
from afterburner.passes.pipeline import CLEANUP
from afterburner.passes.simplify import simplify

from .kit import check, check_unchanged

SUMS = """graph g(%a: f32[64,16,32], %b: f32[64,16,8], %c: f32[64,16,8]) {
  %0: f32[64,16,40] = concat(%a, %b) {axis=2}
  %1: f32[40] = reduce_sum(%0) {axes=(0, 1)}
  %2: f32[64,16,48] = concat(%a, %b, %c) {axis=2}
  %3: f32[48] = reduce_sum(%2) {axes=(0, 1)}
  %4: f32[64,16,32] = exp(%a)
  %5: f32[64,16,8] = exp(%b)
  return %1, %3, %4, %5
}"""

VARIANCES = """graph g(%x: f32[64,16,32], %y: f32[64,16,8], %z: f32[64,16,8]) {
  %a: f32[64,16,32] = exp(%x)
  %b: f32[64,16,8] = exp(%y)
  %c: f32[64,16,8] = exp(%z)
  %n: f32[] = constant() {value=1024.0}
  %0: f32[64,16,40] = concat(%a, %b) {axis=2}
  %1: f32[40] = reduce_sum(%0) {axes=(0, 1)}
  %n0: f32[40] = broadcast(%n) {shape=(40,), axes=()}
  %2: f32[40] = div(%1, %n0)
  %3: f32[64,16,40] = broadcast(%2) {shape=(64, 16, 40), axes=(2,)}
  %4: f32[64,16,40] = sub(%0, %3)
  %5: f32[64,16,40] = mul(%4, %4)
  %6: f32[40] = reduce_sum(%5) {axes=(0, 1)}
  %7: f32[64,16,48] = concat(%a, %b, %c) {axis=2}
  %8: f32[48] = reduce_sum(%7) {axes=(0, 1)}
  %n1: f32[48] = broadcast(%n) {shape=(48,), axes=()}
  %9: f32[48] = div(%8, %n1)
  %10: f32[64,16,48] = broadcast(%9) {shape=(64, 16, 48), axes=(2,)}
  %11: f32[64,16,48] = sub(%7, %10)
  %12: f32[64,16,48] = mul(%11, %11)
  %13: f32[48] = reduce_sum(%12) {axes=(0, 1)}
  return %2, %6, %9, %13
}"""


def cleaned(text: str):
    graph = verify(parse_graph(text))
    for _ in range(3):
        for _, run in CLEANUP:
            graph = verify(run(graph))
    return graph


def test_sums_of_parts_are_joined() -> None:
    before = """graph g(%x: f32[64,16,32], %y: f32[64,16,8]) {
  %a: f32[64,16,32] = exp(%x)
  %b: f32[64,16,8] = exp(%y)
  %0: f32[64,16,40] = concat(%a, %b) {axis=2}
  %1: f32[40] = reduce_sum(%0) {axes=(0, 1)}
  return %1, %a, %b
}"""
    check(simplify, before, """graph g(%x: f32[64,16,32], %y: f32[64,16,8]) {
  %a: f32[64,16,32] = exp(%x)
  %b: f32[64,16,8] = exp(%y)
  %0: f32[32] = reduce_sum(%a) {axes=(0, 1)}
  %1: f32[8] = reduce_sum(%b) {axes=(0, 1)}
  %2: f32[40] = concat(%0, %1) {axis=0}
  return %2, %a, %b
}""")


def test_what_longer_joined_tensors_share_is_reduced_once() -> None:
    names = [n.op.name for n in cleaned(SUMS).nodes]
    assert names.count("reduce_sum") == 3


def test_variances_of_parts_are_made_once() -> None:
    graph = cleaned(VARIANCES)
    sums = [n for n in graph.nodes if n.op.name == "reduce_sum"]
    assert sorted(n.operands[0].shape[-1] for n in sums) == [8, 8, 8, 8, 32, 32]
    assert not [n for n in graph.nodes if n.op.name == "concat" and n.results[0].type.rank == 3]


def test_joined_along_a_reduced_axis_stays() -> None:
    check_unchanged(simplify, """graph g(%x: f32[64,16,32], %y: f32[8,16,32]) {
  %a: f32[64,16,32] = exp(%x)
  %b: f32[8,16,32] = exp(%y)
  %0: f32[72,16,32] = concat(%a, %b) {axis=0}
  %1: f32[32] = reduce_sum(%0) {axes=(0, 1)}
  return %1, %a, %b
}""")


def test_parts_that_nobody_else_reads_stay() -> None:
    check_unchanged(simplify, """graph g(%x: f32[64,16,32], %y: f32[64,16,8]) {
  %a: f32[64,16,32] = exp(%x)
  %b: f32[64,16,8] = exp(%y)
  %0: f32[64,16,40] = concat(%a, %b) {axis=2}
  %1: f32[40] = reduce_sum(%0) {axes=(0, 1)}
  return %1, %0
}""")


def test_what_is_made_with_a_whole_tensor_stays() -> None:
    check_unchanged(simplify, """graph g(%x: f32[64,16,32], %y: f32[64,16,8], %w: f32[64,16,40]) {
  %a: f32[64,16,32] = exp(%x)
  %b: f32[64,16,8] = exp(%y)
  %0: f32[64,16,40] = concat(%a, %b) {axis=2}
  %1: f32[64,16,40] = mul(%0, %w)
  %2: f32[40] = reduce_sum(%1) {axes=(0, 1)}
  return %2, %a, %b
}""")
