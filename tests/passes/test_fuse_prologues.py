"""Prologues: which values their readers make, which not, and the same results."""

from functools import partial

import pytest

from afterburner.ir import Node
from afterburner.ir.ops.control import Fusion
from afterburner.passes.fuse_prologues import fuse_prologues

from .kit import check, check_unchanged

PASS = partial(fuse_prologues, makes_image=lambda node: True)
CONV = "{strides=(1,1), padding=((0,0),(0,0)), dilation=(1,1), groups=1}"
SCALED = """
              %0: f32[2,3,3,8] = broadcast(%p1) {shape=(2,3,3,8), axes=(3,)}
              %1: f32[2,3,3,8] = mul(%p0, %0)"""
LOOP = f"""fusion(%x, %s) {{kind='loop'}} with
            graph loop(%p0: f32[2,3,3,8], %p1: f32[8]) {{{SCALED}
              return %1
            }}"""
MADE_IN_CONV = f"""fusion(%w, %x, %s) {{kind='conv2d'}} with
            graph conv2d(%p0: f32[1,1,8,4], %p1: f32[2,3,3,8], %p2: f32[8]) {{
              %0: f32[2,3,3,8] = broadcast(%p2) {{shape=(2,3,3,8), axes=(3,)}}
              %1: f32[2,3,3,8] = mul(%p1, %0)
              %2: f32[2,3,3,4] = conv2d(%1, %p0) {CONV}
              return %2
            }}"""
INPUTS = "%x: f32[2,3,3,8], %s: f32[8], %w: f32[1,1,8,4]"
GRADIENT = "{strides=(1,1), padding=((0,0),(0,0)), dilation=(1,1), groups=1, filter_shape=(1,1,8,4)}"


def test_a_convolution_makes_its_image() -> None:
    check(PASS, f"""
        graph g({INPUTS}) {{
          %0: f32[2,3,3,8] = {LOOP}
          %1: f32[2,3,3,4] = conv2d(%0, %w) {CONV}
          return %1
        }}""", f"""
        graph g({INPUTS}) {{
          %0: f32[2,3,3,4] = {MADE_IN_CONV}
          return %0
        }}""")


def test_so_does_the_gradient_of_its_filter() -> None:
    check(PASS, f"""
        graph g({INPUTS}) {{
          %0: f32[2,3,3,8] = {LOOP}
          %1: f32[2,3,3,4] = conv2d(%0, %w) {CONV}
          %2: f32[1,1,8,4] = conv2d_filter_grad(%0, %1) {GRADIENT}
          return %2
        }}""", f"""
        graph g({INPUTS}) {{
          %0: f32[2,3,3,4] = {MADE_IN_CONV}
          %1: f32[1,1,8,4] = fusion(%0, %x, %s) {{kind='conv2d_filter_grad'}} with
            graph conv2d_filter_grad(%p0: f32[2,3,3,4], %p1: f32[2,3,3,8], %p2: f32[8]) {{
              %0: f32[2,3,3,8] = broadcast(%p2) {{shape=(2,3,3,8), axes=(3,)}}
              %1: f32[2,3,3,8] = mul(%p1, %0)
              %2: f32[1,1,8,4] = conv2d_filter_grad(%1, %p0) {GRADIENT}
              return %2
            }}
          return %1
        }}""")


def test_a_loop_keeps_its_other_results() -> None:
    """What is made of a concatenation in the same loop is made of the concatenation in memory."""
    joined = """fusion(%x, %y, %s) {kind='loop'} with
            graph loop(%p0: f32[2,3,3,4], %p1: f32[2,3,3,4], %p2: f32[8]) {
              %0: f32[2,3,3,8] = concat(%p0, %p1) {axis=3}
              %1: f32[2,3,3,8] = broadcast(%p2) {shape=(2,3,3,8), axes=(3,)}
              %2: f32[2,3,3,8] = mul(%0, %1)
              return %0, %2
            }"""
    inputs = "%x: f32[2,3,3,4], %y: f32[2,3,3,4], %s: f32[8], %w: f32[1,1,8,4]"
    made = MADE_IN_CONV.replace("%w, %x, %s", "%w, %s, %0").replace(
        "%p1: f32[2,3,3,8], %p2: f32[8]", "%p1: f32[8], %p2: f32[2,3,3,8]").replace(
        "broadcast(%p2)", "broadcast(%p1)").replace("mul(%p1, %0)", "mul(%p2, %0)")
    check(PASS, f"""
        graph g({inputs}) {{
          %0: f32[2,3,3,8], %1: f32[2,3,3,8] = {joined}
          %2: f32[2,3,3,4] = conv2d(%1, %w) {CONV}
          return %0, %2
        }}""", f"""
        graph g({inputs}) {{
          %0: f32[2,3,3,8] = fusion(%x, %y) {{kind='loop'}} with
            graph loop(%p0: f32[2,3,3,4], %p1: f32[2,3,3,4]) {{
              %0: f32[2,3,3,8] = concat(%p0, %p1) {{axis=3}}
              return %0
            }}
          %1: f32[2,3,3,4] = {made}
          return %0, %1
        }}""")


@pytest.mark.parametrize(("rest", "results"), [
    ("%2: f32[2,3,3,8] = exp(%0)", "%1, %2"),  # a reader that cannot
    ("%2: f32[2,3,3,4] = conv2d(%0, %w) " + CONV, "%1, %2"),  # two images: each would read and make it
    ("", "%1, %0"),  # it is a result
])
def test_not_where_it_has_to_be_in_memory(rest: str, results: str) -> None:
    check_unchanged(PASS, f"""
        graph g({INPUTS}) {{
          %0: f32[2,3,3,8] = {LOOP}
          %1: f32[2,3,3,4] = conv2d(%0, %w) {CONV}
          {rest}
          return {results}
        }}""")


def test_not_where_no_convolution_reads_it() -> None:
    check_unchanged(PASS, f"""
        graph g({INPUTS}, %dy: f32[2,3,3,4]) {{
          %0: f32[2,3,3,8] = {LOOP}
          %1: f32[1,1,8,4] = conv2d_filter_grad(%0, %dy) {GRADIENT}
          return %1
        }}""")


def test_not_where_the_target_cannot() -> None:
    text = f"""
        graph g({INPUTS}) {{
          %0: f32[2,3,3,8] = {LOOP}
          %1: f32[2,3,3,4] = conv2d(%0, %w) {CONV}
          return %1
        }}"""
    asked: list[str] = []

    def never(node: Node) -> bool:
        assert not isinstance(node.op, Fusion)
        asked.append(node.op.name)
        return False

    check_unchanged(partial(fuse_prologues, makes_image=never), text)
    check_unchanged(fuse_prologues, text)
    assert asked == ["conv2d"]


def test_not_what_the_epilogue_reads_too() -> None:
    check_unchanged(PASS, f"""
        graph g(%x: f32[2,3,3,8], %s: f32[8], %w: f32[1,1,8,8]) {{
          %0: f32[2,3,3,8] = {LOOP}
          %1: f32[2,3,3,8] = fusion(%0, %w) {{kind='conv2d'}} with
            graph conv2d(%p0: f32[2,3,3,8], %p1: f32[1,1,8,8]) {{
              %0: f32[2,3,3,8] = conv2d(%p0, %p1) {CONV}
              %1: f32[2,3,3,8] = add(%0, %p0)
              return %1
            }}
          return %1
        }}""")


def test_not_work_on_two_tensors() -> None:
    check_unchanged(PASS, f"""
        graph g(%x: f32[2,3,3,8], %y: f32[2,3,3,8], %w: f32[1,1,8,4]) {{
          %0: f32[2,3,3,8] = fusion(%x, %y) {{kind='loop'}} with
            graph loop(%p0: f32[2,3,3,8], %p1: f32[2,3,3,8]) {{
              %0: f32[2,3,3,8] = mul(%p0, %p1)
              return %0
            }}
          %1: f32[2,3,3,4] = conv2d(%0, %w) {CONV}
          return %1
        }}""")
