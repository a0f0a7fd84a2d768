"""Every operation that is done for all turns at once, against a loop of turns."""

import pytest

from .kit import graph_of
from .test_hoist_recurrent import check_same, work

CONV = "strides=(1,2), padding=((1,0),(1,1)), dilation=(1,1), groups=1"
CASES = [  # a row, what is the same in every turn, the result, and how it is made
    ("4,3", "4,3", "4,3", "maximum(%x, %c)"),
    ("4,3", "4,3", "4,3", "sub(%c, %x)"),
    ("4,3", "1", "2,4,3", "broadcast(%x) {shape=(2,4,3), axes=(1,2)}"),
    ("4,3", "1", "2,6", "reshape(%x) {shape=(2,6)}"),
    ("4,3", "1", "3,4", "transpose(%x) {perm=(1,0)}"),
    ("4,3", "1", "2,1", "slice(%x) {starts=(0,1), limits=(4,2), strides=(2,1)}"),
    ("4,3", "", "5,4", "pad(%x, %c) {low=(1,-1), high=(-3,0), interior=(1,1)}"),
    ("4,3", "2,3", "6,3", "concat(%c, %x) {axis=0}"),
    ("4,3", "1", "4,3", "reverse(%x) {axes=(1,)}"),
    ("4,3", "1", "4", "reduce_max(%x) {axes=(1,)}"),
    ("4,3", "1", "", "reduce_sum(%x) {axes=(0,1)}"),
    ("4,3", "1", "3", "argmax(%x) {axis=0, dtype=i32}"),
    ("4,3", "1", "4,3", "cumsum(%x) {axis=1, exclusive=True, reverse=True}"),
    ("4,3", "3,2", "4,2", "matmul(%x, %c) {transpose_a=False, transpose_b=False}"),
    ("4,3", "2,3", "4,2", "matmul(%x, %c) {transpose_a=False, transpose_b=True}"),
    ("2,3,6,2", "2,2,2,3", "2,3,4,3", f"conv2d(%x, %c) {{{CONV}}}"),
    ("2,3,4,3", "2,2,2,3", "2,3,6,2", f"conv2d_input_grad(%c, %x) {{{CONV}, input_shape=(2,3,6,2)}}"),
]


@pytest.mark.parametrize("x,c,y,op", CASES, ids=[op.split("(")[0] for *_, op in CASES])
def test_all_turns_at_once(x: str, c: str, y: str, op: str) -> None:
    y_rows = f"5,{y}" if y else "5"
    graph = graph_of(f"""
        graph g(%x: i32[5,{x}], %c: i32[{c}]) {{
          %0: i32[{y_rows}] = scan(%x, %c) {{steps=5, sliced=(True,), stacked=(False,)}} with
            graph turn(%x: i32[{x}], %c: i32[{c}]) {{
              %0: i32[{y}] = {op}
              return %0
            }}
          return %0
        }}""".replace("i32", "f32" if "conv" in op else "i32"))
    assert work(check_same(graph))[0]["scan"] == 0


def test_gradients_of_a_filter_are_one_gradient() -> None:
    graph = graph_of(f"""
        graph g(%sum: f32[2,2,2,3], %x: f32[5,2,3,6,2], %dy: f32[5,2,3,4,3]) {{
          %0: f32[2,2,2,3] = scan(%sum, %x, %dy) {{steps=5, sliced=(True,True), stacked=()}} with
            graph turn(%sum: f32[2,2,2,3], %x: f32[2,3,6,2], %dy: f32[2,3,4,3]) {{
              %0: f32[2,2,2,3] = conv2d_filter_grad(%x, %dy) {{{CONV}, filter_shape=(2,2,2,3)}}
              %1: f32[2,2,2,3] = add(%sum, %0)
              return %1
            }}
          return %0
        }}""")
    moved = check_same(graph)
    assert [n.op.name for n in moved.nodes] == ["reshape", "reshape", "conv2d_filter_grad", "add"]
