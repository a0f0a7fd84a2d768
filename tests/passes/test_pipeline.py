"""The pipeline: what it reports, what it leaves out, how long it takes."""

import re
import time
from pathlib import Path

import pytest

from afterburner import passes
from afterburner.ir import Graph
from afterburner.options import PASSES
from afterburner.passes.pipeline import optimize

from .kit import graph_of, text_of

TEXT = """
    graph g(%x: f32[64], %y: f32[64]) {
      %0: f32[64] = neg(%x)
      %1: f32[64] = neg(%0)
      %2: f32[64] = exp(%1)
      %3: f32[64] = exp(%x)
      %4: f32[64] = add(%2, %3)
      %5: f32[64] = sub(%x, %y)
      return %4
    }"""


def test_reports_each_pass_that_changed_something() -> None:
    seen: list[str] = []

    def dump(name: str, graph: Graph, seconds: float) -> None:
        assert seconds >= 0 and graph.nodes
        seen.append(name)

    optimize(graph_of(TEXT), dump=dump)
    assert seen == ["eliminate_dead_code", "simplify", "eliminate_common_subexpressions", "fuse"]


def test_skips_passes_by_name() -> None:
    names = ("eliminate_dead_code", "fold_constants", "simplify", "eliminate_common_subexpressions", "fuse", "order")
    graph = graph_of(TEXT)
    assert optimize(graph, skip=names) is graph
    assert not any(n.op.name == "fusion" for n in optimize(graph, skip=("fuse",)).nodes)


def test_names_unknown_passes() -> None:
    with pytest.raises(ValueError, match=f"no pass named fusion; there are {', '.join(PASSES)}$"):
        optimize(graph_of(TEXT), skip=("fusion",))


def test_the_folder_tells_of_all_that_lies_in_it() -> None:
    files = {file.stem for file in Path(passes.__path__[0]).glob("[!_]*.py")}
    assert {name for name in files if name not in re.findall(r"\w+", passes.__doc__ or "")} == set()


def test_fuses_with_any_other_pass_left_out() -> None:
    for name in ("eliminate_dead_code", "fold_constants", "simplify", "eliminate_common_subexpressions", "order"):
        assert any(n.op.name == "fusion" for n in optimize(graph_of(TEXT), skip=(name,)).nodes)


def test_optimizing_twice_is_optimizing_once() -> None:
    once = optimize(graph_of(TEXT))
    assert text_of(optimize(once)) == text_of(once)


def test_leaves_no_view_behind_that_moved_into_a_fusion() -> None:
    graph = optimize(graph_of("""
        graph g(%x: f32[2,4,4,2], %zero: f32[]) {
          %0: f32[1,5,6,2] = pad(%x, %zero) {low=(0,1,1,0), high=(-1,0,1,0), interior=(0,0,0,0)}
          %1: f32[20,1,3] = reshape(%0) {shape=(20,1,3)}
          %2: f32[] = reduce_sum(%1) {axes=(0,1,2)}
          %3: f32[20,1,3] = broadcast(%2) {shape=(20,1,3), axes=()}
          %4: f32[20,1,3] = sub(%1, %3)
          %5: f32[2,1,3] = slice(%4) {starts=(0,0,0), limits=(6,1,3), strides=(3,2,1)}
          %6: f32[1,6] = reduce_max(%0) {axes=(1,3)}
          return %5, %6
        }"""))
    read = {v for node in graph.nodes for v in node.operands} | {o.value for o in graph.outputs}
    assert all(any(r in read for r in node.results) for node in graph.nodes)


def test_time_grows_with_the_graph_and_not_with_its_square() -> None:
    def layers(count: int) -> Graph:
        lines, last = [], "%x"
        for i in range(count):
            lines += [f"%a{i}: f32[16,16] = matmul({last}, %w) {{transpose_a=False, transpose_b=False}}",
                      f"%b{i}: f32[16] = reduce_sum(%a{i}) {{axes=(0,)}}",
                      f"%c{i}: f32[16,16] = broadcast(%b{i}) {{shape=(16,16), axes=(1,)}}",
                      f"%d{i}: f32[16,16] = sub(%a{i}, %c{i})",
                      f"%e{i}: f32[] = reduce_sum(%d{i}) {{axes=(0,1)}}",
                      f"%f{i}: f32[] = add(%e{i}, %s)",
                      f"%g{i}: f32[16,16] = exp(%d{i})"]
            last = f"%g{i}"
        results = ", ".join(["%f0", last, *(f"%f{i}" for i in range(1, count))])
        body = "\n".join(lines)
        return graph_of(f"graph g(%x: f32[16,16], %w: f32[16,16], %s: f32[]) {{\n{body}\nreturn {results}\n}}")

    small, large = layers(40), layers(400)
    start = time.process_time()
    optimize(small)
    middle = time.process_time()
    optimize(large)
    end = time.process_time()
    assert end - middle < 40 * (middle - start) + 0.5
