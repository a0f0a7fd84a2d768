"""Concatenations that begin with each other and share memory."""

import numpy as np
import pytest

from afterburner.ir import interpret, verify
from afterburner.passes import concatenate_in_place as module
from afterburner.passes.concatenate_in_place import concatenate_in_place

from .kit import arguments_for, check, check_unchanged, graph_of


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MIN_BYTES", 1)


def joined(first: int, more: int, axis: int = 1) -> str:
    """A loop that concatenates."""
    shapes = [f"f32[9,{n}]" if axis else f"f32[{n},9]" for n in (first, more, first + more)]
    return f"""{{kind='loop'}} with
            graph loop(%p0: {shapes[0]}, %p1: {shapes[1]}) {{
              %0: {shapes[2]} = concat(%p0, %p1) {{axis={axis}}}
              return %0
            }}"""


CHAIN = f"""
        graph g(%x: f32[9,4], %a: f32[9,2], %b: f32[9,2], %c: f32[9,3]) {{
          %0: f32[9,6] = fusion(%x, %a) {joined(4, 2)}
          %1: f32[9,8] = fusion(%0, %b) {joined(6, 2)}
          %2: f32[9,11] = fusion(%1, %c) {joined(8, 3)}
          %3: f32[9,6] = fusion(%0) {{kind='loop'}} with
            graph loop(%p0: f32[9,6]) {{
              %0: f32[9,6] = exp(%p0)
              return %0
            }}
          %4: f32[9,11] = neg(%2)
          return %3, %4
        }}"""


def test_a_chain() -> None:
    check(concatenate_in_place, CHAIN, """
        graph g(%x: f32[9,4], %a: f32[9,2], %b: f32[9,2], %c: f32[9,3]) {
          %0: f32[9,11] = first_columns(%x) {width=11}
          %1: f32[9,11] = more_columns(%0, %a) {start=4}
          %2: f32[9,11] = more_columns(%1, %b) {start=6}
          %3: f32[9,11] = more_columns(%2, %c) {start=8}
          %4: f32[9,6] = fusion(%1) {kind='loop'} with
            graph loop(%p0: f32[9,11]) {
              %0: f32[9,6] = slice(%p0) {starts=(0,0), limits=(9,6), strides=(1,1)}
              %1: f32[9,6] = exp(%0)
              return %1
            }
          %5: f32[9,11] = neg(%3)
          return %4, %5
        }""")


def test_columns_are_copied_for_what_cannot_read_them() -> None:
    longer = CHAIN.replace("neg(%2)", f"""neg(%2)
          %5: f32[9,8] = neg(%1)
          %6: f32[9,13] = fusion(%2, %a) {joined(11, 2)}
          %7: f32[9,13] = neg(%6)""").replace("return %3, %4", "return %3, %5, %7")
    longer = longer.replace("%4: f32[9,11] = neg(%2)", "")
    changed = concatenate_in_place(graph_of(longer.replace("          \n", "")))
    assert [n.op.name for n in changed.nodes][-4:] == ["fusion", "neg", "more_columns", "neg"]
    arguments = [np.full(t.shape, i, np.float32) for i, t in enumerate(changed.input_types)]
    assert np.isfinite(interpret(changed, arguments)[1]).all()


def test_not_where_most_is_copied_for_readers() -> None:
    check_unchanged(concatenate_in_place, CHAIN.replace("neg(%2)", "neg(%2)\n          %5: f32[9,8] = neg(%1)")
                    .replace("return %3, %4", "return %3, %4, %5"))


def test_a_loop_makes_its_other_results_of_the_columns() -> None:
    both = """{kind='loop'} with
            graph loop(%p0: f32[9,6], %p1: f32[9,2]) {
              %0: f32[9,8] = concat(%p0, %p1) {axis=1}
              %1: f32[9,8] = exp(%0)
              return %0, %1
            }"""
    text = CHAIN.replace(f"%1: f32[9,8] = fusion(%0, %b) {joined(6, 2)}",
                         f"%1: f32[9,8], %5: f32[9,8] = fusion(%0, %b) {both}")
    graph = graph_of(text.replace("return %3, %4", "return %3, %4, %5"))
    changed = verify(concatenate_in_place(graph))
    assert [n.op.name for n in changed.nodes] == ["first_columns", *["more_columns"] * 2, "fusion", "more_columns",
                                                  "fusion", "neg"]
    arguments = arguments_for(graph)
    for a, b in zip(interpret(graph, arguments), interpret(changed, arguments), strict=True):
        np.testing.assert_array_equal(a, b)


def test_not_what_is_returned() -> None:
    """The chain ends before it: two concatenations gain nothing."""
    check_unchanged(concatenate_in_place, CHAIN.replace("return %3, %4", "return %3, %4, %2"))


def test_a_branch_is_a_chain_of_its_own() -> None:
    more = f"""
          %5: f32[9,8] = fusion(%0, %a) {joined(6, 2)}
          %6: f32[9,10] = fusion(%5, %b) {joined(8, 2)}
          %7: f32[9,13] = fusion(%6, %c) {joined(10, 3)}
          %8: f32[9,13] = neg(%7)
          return %3, %4, %8"""
    graph = graph_of(CHAIN.replace("\n          return %3, %4", more))
    changed = verify(concatenate_in_place(graph))
    assert [n.op.name for n in changed.nodes].count("first_columns") == 2
    arguments = arguments_for(graph)
    for a, b in zip(interpret(graph, arguments), interpret(changed, arguments), strict=True):
        np.testing.assert_array_equal(a, b)


def test_not_along_another_axis() -> None:
    check_unchanged(concatenate_in_place, f"""
        graph g(%x: f32[4,9], %a: f32[2,9], %b: f32[2,9], %c: f32[3,9]) {{
          %0: f32[6,9] = fusion(%x, %a) {joined(4, 2, 0)}
          %1: f32[8,9] = fusion(%0, %b) {joined(6, 2, 0)}
          %2: f32[11,9] = fusion(%1, %c) {joined(8, 3, 0)}
          return %2
        }}""")


def test_not_where_little_is_copied() -> None:
    check_unchanged(concatenate_in_place, f"""
        graph g(%x: f32[9,4], %a: f32[9,2], %b: f32[9,2]) {{
          %0: f32[9,6] = fusion(%x, %a) {joined(4, 2)}
          %1: f32[9,8] = fusion(%0, %b) {joined(6, 2)}
          %2: f32[9,8] = neg(%1)
          return %2
        }}""")
