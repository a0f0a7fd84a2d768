"""Sums of gradients in a dense block, whose affine parts wait."""

import numpy as np
import pytest

from afterburner.ir import interpret, verify
from afterburner.passes.defer_affine import defer_affine
from afterburner.passes.eliminate_dead_code import eliminate_dead_code

from .kit import check_unchanged, graph_of, text_of

BLOCK = """graph g(%a: f32[4096,16], %b: f32[4096,8], %c: f32[4096,8], %d: f32[4096,32], %e: f32[4096,24], \
%f: f32[4096,16], %p: f32[32], %q: f32[32], %m: f32[32], %p1: f32[24], %q1: f32[24], %m1: f32[24], \
%p2: f32[16], %q2: f32[16], %m2: f32[16]) {
  %0: f32[4096,32] = concat(%a, %b, %c) {axis=1}
  %1: f32[4096,32] = broadcast(%p) {shape=(4096,32), axes=(1,)}
  %2: f32[4096,32] = broadcast(%q) {shape=(4096,32), axes=(1,)}
  %3: f32[4096,32] = broadcast(%m) {shape=(4096,32), axes=(1,)}
  %4: f32[4096,32] = sub(%0, %3)
  %5: f32[4096,32] = mul(%2, %4)
  %6: f32[4096,32] = add(%d, %1)
  %7: f32[4096,32] = add(%6, %5)
  %8: f32[4096,24] = slice(%7) {starts=(0,0), limits=(4096,24), strides=(1,1)}
  %9: f32[4096,8] = slice(%7) {starts=(0,24), limits=(4096,32), strides=(1,1)}
  %10: f32[4096,24] = concat(%a, %b) {axis=1}
  %11: f32[4096,24] = broadcast(%p1) {shape=(4096,24), axes=(1,)}
  %12: f32[4096,24] = broadcast(%q1) {shape=(4096,24), axes=(1,)}
  %13: f32[4096,24] = broadcast(%m1) {shape=(4096,24), axes=(1,)}
  %14: f32[4096,24] = sub(%10, %13)
  %15: f32[4096,24] = mul(%14, %12)
  %16: f32[4096,24] = add(%8, %e)
  %17: f32[4096,24] = add(%16, %11)
  %18: f32[4096,24] = add(%17, %15)
  %19: f32[4096,16] = slice(%18) {starts=(0,0), limits=(4096,16), strides=(1,1)}
  %20: f32[4096,8] = slice(%18) {starts=(0,16), limits=(4096,24), strides=(1,1)}
  %21: f32[4096,16] = broadcast(%p2) {shape=(4096,16), axes=(1,)}
  %22: f32[4096,16] = broadcast(%q2) {shape=(4096,16), axes=(1,)}
  %23: f32[4096,16] = broadcast(%m2) {shape=(4096,16), axes=(1,)}
  %24: f32[4096,16] = sub(%a, %23)
  %25: f32[4096,16] = mul(%24, %22)
  %26: f32[4096,16] = add(%f, %21)
  %27: f32[4096,16] = add(%26, %25)
  %28: f32[4096,16] = add(%19, %27)
  return %9, %20, %28
}"""

DEFERRED = BLOCK[:BLOCK.index("{")] + """{
  %0: f32[4096,32] = concat(%a, %b, %c) {axis=1}
  %1: f32[4096,32] = broadcast(%p) {shape=(4096,32), axes=(1,)}
  %2: f32[4096,32] = broadcast(%q) {shape=(4096,32), axes=(1,)}
  %3: f32[4096,32] = broadcast(%m) {shape=(4096,32), axes=(1,)}
  %4: f32[4096,8] = slice(%d) {starts=(0,24), limits=(4096,32), strides=(1,1)}
  %5: f32[4096,8] = slice(%0) {starts=(0,24), limits=(4096,32), strides=(1,1)}
  %6: f32[4096,8] = slice(%1) {starts=(0,24), limits=(4096,32), strides=(1,1)}
  %7: f32[4096,8] = slice(%2) {starts=(0,24), limits=(4096,32), strides=(1,1)}
  %8: f32[4096,8] = slice(%3) {starts=(0,24), limits=(4096,32), strides=(1,1)}
  %9: f32[4096,8] = sub(%5, %8)
  %10: f32[4096,8] = mul(%7, %9)
  %11: f32[4096,8] = add(%4, %6)
  %12: f32[4096,8] = add(%11, %10)
  %13: f32[4096,24] = concat(%a, %b) {axis=1}
  %14: f32[24] = slice(%m) {starts=(0,), limits=(24,), strides=(1,)}
  %15: f32[24] = slice(%p) {starts=(0,), limits=(24,), strides=(1,)}
  %16: f32[24] = slice(%q) {starts=(0,), limits=(24,), strides=(1,)}
  %17: f32[24] = sub(%14, %m1)
  %18: f32[24] = mul(%q1, %17)
  %19: f32[4096,24] = slice(%d) {starts=(0,0), limits=(4096,24), strides=(1,1)}
  %20: f32[24] = add(%16, %q1)
  %21: f32[4096,24] = add(%19, %e)
  %22: f32[24] = add(%15, %p1)
  %23: f32[24] = add(%22, %18)
  %24: f32[4096,24] = broadcast(%23) {shape=(4096,24), axes=(1,)}
  %25: f32[4096,24] = broadcast(%20) {shape=(4096,24), axes=(1,)}
  %26: f32[4096,24] = broadcast(%14) {shape=(4096,24), axes=(1,)}
  %27: f32[4096,8] = slice(%21) {starts=(0,16), limits=(4096,24), strides=(1,1)}
  %28: f32[4096,8] = slice(%13) {starts=(0,16), limits=(4096,24), strides=(1,1)}
  %29: f32[4096,8] = slice(%24) {starts=(0,16), limits=(4096,24), strides=(1,1)}
  %30: f32[4096,8] = slice(%25) {starts=(0,16), limits=(4096,24), strides=(1,1)}
  %31: f32[4096,8] = slice(%26) {starts=(0,16), limits=(4096,24), strides=(1,1)}
  %32: f32[4096,8] = sub(%28, %31)
  %33: f32[4096,8] = mul(%30, %32)
  %34: f32[4096,8] = add(%27, %29)
  %35: f32[4096,8] = add(%34, %33)
  %36: f32[16] = slice(%14) {starts=(0,), limits=(16,), strides=(1,)}
  %37: f32[16] = slice(%23) {starts=(0,), limits=(16,), strides=(1,)}
  %38: f32[16] = slice(%20) {starts=(0,), limits=(16,), strides=(1,)}
  %39: f32[16] = sub(%36, %m2)
  %40: f32[16] = mul(%q2, %39)
  %41: f32[4096,16] = slice(%21) {starts=(0,0), limits=(4096,16), strides=(1,1)}
  %42: f32[16] = add(%38, %q2)
  %43: f32[4096,16] = add(%41, %f)
  %44: f32[16] = add(%37, %p2)
  %45: f32[16] = add(%44, %40)
  %46: f32[4096,16] = broadcast(%45) {shape=(4096,16), axes=(1,)}
  %47: f32[4096,16] = broadcast(%42) {shape=(4096,16), axes=(1,)}
  %48: f32[4096,16] = broadcast(%36) {shape=(4096,16), axes=(1,)}
  %49: f32[4096,16] = sub(%a, %48)
  %50: f32[4096,16] = mul(%47, %49)
  %51: f32[4096,16] = add(%43, %46)
  %52: f32[4096,16] = add(%51, %50)
  return %12, %35, %52
}"""


def test_what_is_affine_waits() -> None:
    changed = defer_affine(graph_of(BLOCK))
    assert text_of(eliminate_dead_code(verify(changed))) == text_of(graph_of(DEFERRED))
    assert defer_affine(changed) is changed


PAIR = BLOCK[:BLOCK.index("  %19:")] + "  return %9, %18\n}"


@pytest.mark.parametrize(("old", "new"), [
    ("return", "return %7,"),  # the whole sum is read
    ("return", "return %8,"),  # its columns are, by another one too
    ("concat(%a, %b)", "concat(%b, %a)"),  # other tensors are normalized
    ("sub(%10, %13)", "sub(%13, %10)"),  # a mean less what has it
    ("4096", "2047"),  # it is small
    ("add(%6, %5)", "sub(%6, %5)"),
    ("add(%16, %11)", "maximum(%16, %11)"),
    ("add(%8, %e)", "add(%8, %8)"),  # the columns are added twice
    ("%p1: f32[24]", "%p1: f32[1]"),  # one element for all channels
    ("%m: f32[32]", "%m: f32[1]"),
])
def test_not_where_no_sum_goes_on_so(old: str, new: str) -> None:
    pair = graph_of(PAIR)
    assert old in PAIR and defer_affine(pair) is not pair
    check_unchanged(defer_affine, PAIR.replace(old, new))


@pytest.mark.parametrize("other", ["%b", "{last}"])
def test_long_sums_take_no_time(other: str) -> None:
    lines, last = [], "%a"
    for i in range(2000):
        lines.append(f"  %{i}: f32[4096,32] = add({last}, {other.format(last=last)})")
        last = f"%{i}"
    body = "\n".join(lines)
    check_unchanged(defer_affine, f"graph g(%a: f32[4096,32], %b: f32[4096,32]) {{\n{body}\n  return {last}\n}}")


@pytest.mark.parametrize("mean", [0.0, 100.0])
def test_results_are_those_of_the_sums(mean: float) -> None:
    graph = graph_of(BLOCK)
    changed = verify(defer_affine(graph))
    random = np.random.default_rng(3)
    means = random.normal(mean, 1, 32)
    given = {"p": 0.1, "q": 0.1, "m": 0, "a": 1, "b": 1, "c": 1}
    arguments = []
    for item in graph.inputs:
        width, kind = item.value.shape[-1], item.name[0]
        data = random.normal(0, given.get(kind, 1.0), item.value.shape)
        if kind == "m":
            data = means[:width]
        if kind in "abc":
            data += means[{"a": 0, "b": 16, "c": 24}[kind]:][:width]
        arguments.append(data.astype(np.float32))
    for before, after in zip(interpret(graph, arguments), interpret(changed, arguments), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-6)


def test_other_means_are_heeded() -> None:
    graph = graph_of(BLOCK)
    arguments = [np.random.default_rng(5).normal(size=i.value.shape).astype(np.float32) for i in graph.inputs]
    for before, after in zip(interpret(graph, arguments), interpret(defer_affine(graph), arguments), strict=True):
        np.testing.assert_allclose(after, before, atol=2e-5)
