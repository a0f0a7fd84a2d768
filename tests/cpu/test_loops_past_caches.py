"""Large results of loops are stored past the caches: every store that does so is a whole, aligned line."""

from __future__ import annotations

import numpy as np
import pytest
from cpu_harness import run_kernel
from test_past_caches import streams

from afterburner.cpu import isa as isas
from afterburner.cpu.kernels.fused import lower_loop
from afterburner.cpu.kernels.loops import maps
from afterburner.cpu.module import KernelModule
from afterburner.ir import Graph, Node, Value, interpret, parse_graph
from afterburner.ir.ops.control import Fusion

LINES = {
    "flat": """
graph body(%x: f32[3,5,64], %y: f32[3,5,64]) {
  %0: f32[3,5,64] = mul(%x, %y)
  %1: f32[3,5,64] = add(%0, %y)
  return %1
}""",
    "two results": """
graph body(%x: f64[9,16], %y: f64[9,16]) {
  %0: f64[9,16] = add(%x, %y)
  %1: f64[9,16] = maximum(%0, %y)
  return %0, %1
}""",
    "short rows": """
graph body(%x: f32[90,48], %y: f32[48]) {
  %0: f32[90,48] = broadcast(%y) {shape=(90,48), axes=(1,)}
  %1: f32[90,48] = mul(%x, %0)
  return %1
}""",
    "long rows": """
graph body(%x: f32[40,2064], %y: f32[2064]) {
  %0: f32[2064] = exp(%y)
  %1: f32[40,2064] = broadcast(%0) {shape=(40,2064), axes=(1,)}
  %2: f32[40,2064] = mul(%x, %1)
  return %2
}""",
    "turned": """
graph body(%x: f32[48,33]) {
  %0: f32[33,48] = transpose(%x) {perm=(1,0)}
  return %0
}""",
    "joined columns": """
graph body(%x: f32[70,32], %y: f32[70,16]) {
  %0: f32[70,48] = concat(%x, %y) {axis=1}
  return %0
}""",
    "joined rows": """
graph body(%x: f32[3,32], %y: f32[5,32]) {
  %0: f32[8,32] = concat(%x, %y) {axis=0}
  return %0
}""",
    "padded": """
graph body(%x: f32[6,7,32], %z: f32[]) {
  %0: f32[9,10,32] = pad(%x, %z) {low=(1,2,0), high=(2,1,0), interior=(0,0,0)}
  return %0
}""",
    "beside sums of columns": """
graph body(%x: f32[500,64], %y: f32[500,64]) {
  %0: f32[500,64] = mul(%x, %y)
  %1: f32[64] = reduce_sum(%0) {axes=(0,)}
  return %0, %1
}""",
    "beside sums of rows": """
graph body(%x: f32[30,96], %y: f32[30,96]) {
  %0: f32[30,96] = mul(%x, %y)
  %1: f32[30] = reduce_sum(%0) {axes=(1,)}
  return %0, %1
}""",
    "beside a sum of all": """
graph body(%x: f32[100000], %y: f32[100000]) {
  %0: f32[100000] = mul(%x, %y)
  %1: f32[] = reduce_sum(%0) {axes=(0,)}
  return %0, %1
}""",
}
WITHIN_LINES = {
    "odd rows": """
graph body(%x: f32[16,50], %y: f32[50]) {
  %0: f32[16,50] = broadcast(%y) {shape=(16,50), axes=(1,)}
  %1: f32[16,50] = mul(%x, %0)
  return %1
}""",
    "an odd size": """
graph body(%x: f32[1000], %y: f32[1000]) {
  %0: f32[1000] = mul(%x, %y)
  return %0
}""",
    "padded columns": """
graph body(%x: f32[6,31], %z: f32[]) {
  %0: f32[6,32] = pad(%x, %z) {low=(0,1), high=(0,0), interior=(0,0)}
  return %0
}""",
    "halves": """
graph body(%x: bf16[8,64], %y: bf16[8,64]) {
  %0: bf16[8,64] = mul(%x, %y)
  return %0
}""",
    "less than registers": """
graph body(%x: f32[8,64], %y: f32[8,64]) {
  %0: bool[8,64] = less(%x, %y)
  return %0
}""",
}
CASES = LINES | WITHIN_LINES


def fusion(body: Graph) -> Node:
    return Node(Fusion("loop", body), [Value(type_) for type_ in body.input_types])


@pytest.fixture(autouse=True)
def small_results_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "PAST_CACHES", 1)


@pytest.mark.parametrize("case", CASES)
def test_loop(case: str) -> None:
    body = parse_graph(CASES[case])
    rng, isa = np.random.default_rng(0), isas.host("avx512")
    arrays = [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in body.input_types]
    kernel = lower_loop(fusion(body), isa)
    assert streams(kernel) == (case in LINES)
    for found, expected in zip(run_kernel(kernel, arrays, isa), interpret(body, arrays), strict=True):
        np.testing.assert_allclose(found.astype(np.float64), expected.astype(np.float64), rtol=1e-5, atol=1e-5)


def test_other_instruction_sets_keep_to_the_caches() -> None:
    module = KernelModule(isas.host("avx2"))
    module.add(lower_loop(fusion(parse_graph(LINES["flat"])), isas.host("avx2")))
    assert "!nontemporal" not in str(module.llvm)
