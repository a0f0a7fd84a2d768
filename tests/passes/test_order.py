"""Order: less memory at once, never more, and the same every time."""

from afterburner.passes.order import order
from afterburner.passes.plan_memory import plan

from .kit import check, graph_of, text_of


def peak(text: str) -> int:
    return plan(graph_of(text), {}, lambda node: ()).peak_bytes


def test_consumers_follow_producers() -> None:
    check(order, """
        graph g(%x: f32[4096]) {
          %0: f32[4096] = exp(%x)
          %1: f32[4096] = log(%x)
          %2: f32[] = reduce_sum(%0) {axes=(0,)}
          %3: f32[] = reduce_sum(%1) {axes=(0,)}
          return %2, %3
        }""", """
        graph g(%x: f32[4096]) {
          %0: f32[4096] = exp(%x)
          %1: f32[] = reduce_sum(%0) {axes=(0,)}
          %2: f32[4096] = log(%x)
          %3: f32[] = reduce_sum(%2) {axes=(0,)}
          return %1, %3
        }""")


def test_never_needs_more() -> None:
    text = """
        graph g(%x: f32[4096]) {
          %0: f32[4096] = exp(%x)
          %1: f32[2048] = slice(%0) {starts=(0,), limits=(2048,), strides=(1,)}
          %2: f32[4096] = log(%x)
          %3: f32[2048] = slice(%2) {starts=(0,), limits=(2048,), strides=(1,)}
          %4: f32[2048] = add(%1, %3)
          return %4
        }"""
    ordered = order(graph_of(text))
    assert peak(text_of(ordered)) <= peak(text)


def test_small_nodes_stand_together() -> None:
    ordered = order(graph_of("""
        graph g(%x: f32[4096], %a: f32[], %b: f32[]) {
          %0: f32[] = exp(%a)
          %1: f32[4096] = exp(%x)
          %2: f32[] = log(%b)
          %3: f32[4096] = log(%1)
          %4: f32[] = sqrt(%a)
          return %0, %3, %2, %4
        }"""))
    assert [n.results[0].shape for n in ordered.nodes] == [(4096,), (4096,), (), (), ()]


def test_views_keep_what_they_show_alive() -> None:
    text = """
        graph g(%x: f32[4096]) {
          %0: f32[4096] = exp(%x)
          %1: f32[64,64] = reshape(%0) {shape=(64,64)}
          %2: f32[4096] = log(%x)
          %3: f32[64,64] = transpose(%1) {perm=(1,0)}
          %4: f32[] = reduce_sum(%2) {axes=(0,)}
          return %3, %4
        }"""
    assert peak(text_of(order(graph_of(text)))) == 4096 * 4
