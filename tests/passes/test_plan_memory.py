"""Addresses: what shares memory, what must not, and how much is needed."""

import random
from itertools import combinations

import pytest

from afterburner.ir import Graph
from afterburner.passes.plan_memory import Home, plan

from .kit import graph_of


def nothing(node: object) -> tuple[()]:
    return ()


def everything(node) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
    return [(i, 0) for i in range(len(node.operands))]


CHAIN = """
    graph g(%x: f32[256]) {
      %0: f32[256] = exp(%x)
      %1: f32[256] = log(%0)
      %2: f32[256] = sin(%1)
      %3: f32[256] = cos(%2)
      return %3
    }"""


def homes(graph: Graph, planned) -> list[tuple[str, int]]:  # type: ignore[no-untyped-def]
    return [(planned.homes[r].kind, planned.homes[r].index) for n in graph.nodes for r in n.results]


def test_a_chain_needs_two_buffers() -> None:
    graph = graph_of(CHAIN)
    planned = plan(graph, {}, nothing)
    assert planned.arena_bytes == planned.peak_bytes == 2048
    assert homes(graph, planned) == [("arena", 0), ("arena", 1024), ("arena", 0), ("output", 0)]


def test_in_place_needs_one() -> None:
    graph = graph_of(CHAIN)
    planned = plan(graph, {}, everything)
    assert planned.arena_bytes == 1024
    assert len(planned.in_place) == 2
    assert planned.homes[graph.inputs[0].value] == Home("input", 0)


def test_no_in_place_where_the_operand_is_read_later_or_in_the_same_wave() -> None:
    graph = graph_of("""
        graph g(%x: f32[256]) {
          %0: f32[256] = exp(%x)
          %1: f32[256] = log(%0)
          %2: f32[256] = sin(%0)
          %3: f32[256] = add(%1, %2)
          return %3
        }""")
    first, second = graph.nodes[1].results[0], graph.nodes[2].results[0]
    assert list(plan(graph, {}, everything).in_place) == [second]
    assert not plan(graph, {}, everything, waves=[0, 1, 1, 2]).in_place
    assert plan(graph, {}, everything).homes[first] != plan(graph, {}, everything).homes[second]


def test_two_results_do_not_overwrite_one_operand() -> None:
    graph = graph_of("""
        graph g(%x: u64[1], %y: u64[2]) {
          %0: u32[64] = random_bits(%x, %y) {shape=(64,)}
          %1: u32[64], %2: u32[64] = fusion(%0) {kind='loop'} with
          graph loop(%p0: u32[64]) {
            %0: u32[64] = neg(%p0)
            %1: u32[64] = bitwise_not(%p0)
            return %0, %1
          }
          %3: u32[64] = neg(%2)
          return %3
        }""")
    planned = plan(graph, {}, lambda node: [(0, i) for i in range(len(node.results))])
    first, second = graph.nodes[1].results
    assert planned.homes[first] != planned.homes[second]


def test_inputs_and_outputs_are_never_overwritten() -> None:
    graph = graph_of("""
        graph g(%x: f32[256]) {
          %0: f32[256] = exp(%x)
          %1: f32[256] = log(%0)
          return %0, %1
        }""")
    planned = plan(graph, {}, everything)
    assert not planned.in_place and planned.arena_bytes == 0
    assert homes(graph, planned) == [("output", 0), ("output", 1)]


def test_views_share_and_keep_alive() -> None:
    graph = graph_of("""
        graph g(%x: f32[256]) {
          %0: f32[256] = exp(%x)
          %1: f32[16,16] = reshape(%0) {shape=(16,16)}
          %2: f32[256] = log(%x)
          %3: f32[16,16] = transpose(%1) {perm=(1,0)}
          %4: f32[16,16] = reshape(%2) {shape=(16,16)}
          %5: f32[16,16] = add(%3, %4)
          return %5
        }""")
    planned = plan(graph, {}, nothing)
    value = {i: n.results[0] for i, n in enumerate(graph.nodes)}
    assert planned.homes[value[0]] == planned.homes[value[1]] != planned.homes[value[2]]
    assert planned.arena_bytes == 3 * 1024


def test_outputs_that_are_elsewhere_are_copied() -> None:
    graph = graph_of("""
        graph g(%x: f32[4], %s: f32[4] state) {
          %0: f32[4] = constant() {value=[1.0,2.0,3.0,4.0]}
          %1: f32[4] = exp(%x)
          %2: f32[2,2] = reshape(%1) {shape=(2,2)}
          return %x, %1, %2, %0, %1 -> %s
        }""")
    planned = plan(graph, {}, nothing)
    assert [position for position, _ in planned.copies] == [0, 2, 3, 4]
    assert planned.constants == (graph.nodes[0].results[0],)
    assert planned.homes[graph.nodes[2].results[0]] == Home("output", 1)


def test_temporaries_live_only_while_their_node_runs() -> None:
    graph = graph_of(CHAIN)
    planned = plan(graph, {graph.nodes[0]: [100], graph.nodes[3]: [4000, 8]}, nothing)
    assert len(planned.temps[graph.nodes[3]]) == 2
    assert planned.peak_bytes == 1024 + 4032 + 64
    assert all(offset % 64 == 0 for offsets in planned.temps.values() for offset in offsets)


def test_one_wave_shares_nothing() -> None:
    graph = graph_of(CHAIN)
    assert plan(graph, {}, nothing, waves=[0, 0, 0, 0]).arena_bytes == 3 * 1024


@pytest.mark.parametrize("waves", [[0, 1], [0, 2, 1, 3]])
def test_refuses_impossible_waves(waves: list[int]) -> None:
    with pytest.raises(ValueError):
        plan(graph_of(CHAIN), {}, nothing, waves=waves)


@pytest.mark.parametrize("seed", range(40))
def test_buffers_in_use_at_once_are_disjoint(seed: int) -> None:
    choose = random.Random(seed)
    lines, sizes = [], []
    for i in range(40):
        sizes.append(choose.choice((3, 64, 100, 256, 1000)))
        source = choose.randint(max(0, i - 8), i - 1) if i else -1
        name = f"%v{source}" if source >= 0 else "%x"
        scalar = f"%s{i}: f32[] = reduce_max({name}) {{axes=(0,)}}"
        lines += [scalar, f"%v{i}: f32[{sizes[i]}] = broadcast(%s{i}) {{shape=({sizes[i]},), axes=()}}"]

    graph = graph_of("graph g(%x: f32[64]) {\n" + "\n".join(lines) + "\nreturn %v39\n}")
    waves = [0]
    for _ in graph.nodes[1:]:
        waves.append(waves[-1] + choose.randint(0, 1))
    planned = plan(graph, {n: (choose.randint(1, 300),) for n in graph.nodes}, nothing, waves)
    users = graph.users()
    step = dict(zip(graph.nodes, waves, strict=True))
    spans = []
    for node in graph.nodes:
        spans += [(step[node], step[node], o, o + 1) for o in planned.temps.get(node, ())]
        for result in node.results:
            home = planned.homes[result]
            if home.kind == "arena":
                last = max([step[node], *(step[u] for u in users.get(result, ()))])
                spans.append((step[node], last, home.index, home.index + result.type.bytes))
    for (a, b, low, high), (c, d, start, end) in combinations(spans, 2):
        assert b < c or d < a or high <= start or end <= low
    assert planned.peak_bytes <= planned.arena_bytes <= 1.3 * planned.peak_bytes


COLUMNS = """
    graph g(%x: f32[16,8], %y: f32[16,8]) {
      %0: f32[16,24] = first_columns(%x) {width=24}
      %1: f32[16,24] = more_columns(%0, %y) {start=8}
      %2: f32[16,24] = exp(%0)
      %3: f32[16,24] = more_columns(%1, %x) {start=16}
      %4: f32[16,24] = add(%2, %3)
      return %4
    }"""


def test_columns_share_memory_though_others_read_there_in_between() -> None:
    graph = graph_of(COLUMNS)
    planned = plan(graph, {}, everything)
    wide = {planned.homes[graph.nodes[n].results[0]] for n in (0, 1, 3)}
    assert len(wide) == 1 and planned.homes[graph.nodes[2].results[0]] not in wide
    assert planned.arena_bytes == planned.peak_bytes == 2 * 16 * 24 * 4


@pytest.mark.parametrize(("before", "after"), [
    ("%3: f32[16,24] = more_columns(%1, %x)", "%3: f32[16,24] = more_columns(%0, %x)"),
    ("first_columns(%x) {width=24}", "pad(%x, %z) {low=(0,0), high=(0,16), interior=(0,0)}"),
])
def test_columns_are_written_to_what_is_theirs_alone(before: str, after: str) -> None:
    """Twice to one value, and to what is no columns."""
    text = COLUMNS.replace("%y: f32[16,8])", "%y: f32[16,8], %z: f32[])").replace(before, after)
    with pytest.raises(AssertionError, match="more_columns"):
        plan(graph_of(text), {}, nothing)
