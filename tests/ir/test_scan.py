"""Loops of a known number of turns: their meaning, their types, and their text."""

import numpy as np
import pytest

from afterburner.ir import IRError, interpret, parse_graph, print_graph, verify

LOOP = """
graph sums(%start: f32[2], %rows: f32[3,2], %back: f32[3,2], %factor: f32[2]) {
  %0: f32[2], %1: f32[3,2], %2: f32[3,2] = scan(%start, %rows, %back, %factor) {steps=3, sliced=(False,True), stacked=(False,True)} with
    graph turn(%sum: f32[2], %row: f32[2], %other: f32[2], %by: f32[2]) {
      %0: f32[2] = mul(%row, %by)
      %1: f32[2] = add(%sum, %0)
      %2: f32[2] = add(%1, %other)
      return %2, %sum, %0
    }
  return %0, %1, %2
}
"""  # noqa: E501


def test_text_round_trips() -> None:
    graph = verify(parse_graph(LOOP))
    assert print_graph(verify(parse_graph(print_graph(graph)))) == print_graph(graph)


def test_turns_follow_each_other() -> None:
    start, factor = np.array([1, 2], np.float32), np.array([2, -1], np.float32)
    rows, back = np.arange(6, dtype=np.float32).reshape(3, 2), np.arange(6, 12, dtype=np.float32).reshape(3, 2)
    last, before, made = interpret(parse_graph(LOOP), [start, rows, back, factor])
    state, states, products = start, [], []
    for turn in range(3):
        states.append(state)
        products.append(rows[turn] * factor)
        state = state + rows[turn] * factor + back[2 - turn]
    np.testing.assert_array_equal(last, state)
    np.testing.assert_array_equal(before, np.stack(states))
    np.testing.assert_array_equal(made, np.stack(products[::-1]))


@pytest.mark.parametrize("wrong,why", [
    (("steps=3", "steps=4"), "operands should be"),
    (("steps=3", "steps=0"), "0 steps"),
    (("return %2, %sum, %0", "return %2 check 'x', %sum, %0"), "updates or checks"),
])
def test_what_is_wrong_is_said(wrong: tuple[str, str], why: str) -> None:
    with pytest.raises(IRError, match=why):
        parse_graph(LOOP.replace(*wrong, 1))
