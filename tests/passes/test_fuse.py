"""What shares a kernel and what may not."""

import numpy as np

from afterburner.ir import Graph, interpret, verify
from afterburner.passes.fuse import fuse
from afterburner.passes.pipeline import optimize

from .kit import arguments_for, check, check_unchanged, graph_of, kernels


def fused(text: str, epilogues: bool = True) -> Graph:
    """The fused graph; its results are those of the original."""
    graph = graph_of(text)
    changed = verify(fuse(graph, epilogues))
    arguments = arguments_for(graph)
    for a, b in zip(interpret(graph, arguments), interpret(changed, arguments), strict=True):
        np.testing.assert_array_equal(a, b)
    assert fuse(changed, epilogues) is changed
    return changed


def test_a_chain_is_one_kernel() -> None:
    check(fuse, """
        graph g(%x: f32[8,4], %b: f32[4]) {
          %0: f32[8,4] = broadcast(%b) {shape=(8,4), axes=(1,)}
          %1: f32[8,4] = add(%x, %0)
          %2: f32[8,4] = tanh(%1)
          return %2
        }""", """
        graph g(%x: f32[8,4], %b: f32[4]) {
          %0: f32[8,4] = fusion(%x, %b) {kind='loop'} with
          graph loop(%p0: f32[8,4], %p1: f32[4]) {
            %0: f32[8,4] = broadcast(%p1) {shape=(8,4), axes=(1,)}
            %1: f32[8,4] = add(%p0, %0)
            %2: f32[8,4] = tanh(%1)
            return %2
          }
          return %0
        }""")


def test_epilogue_of_a_product() -> None:
    check(fuse, """
        graph g(%x: f32[8,3], %w: f32[3,4], %b: f32[4]) {
          %0: f32[8,4] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
          %1: f32[8,4] = broadcast(%b) {shape=(8,4), axes=(1,)}
          %2: f32[8,4] = add(%0, %1)
          %3: f32[8,4] = tanh(%2)
          return %3
        }""", """
        graph g(%x: f32[8,3], %w: f32[3,4], %b: f32[4]) {
          %0: f32[8,4] = fusion(%x, %w, %b) {kind='matmul'} with
          graph matmul(%p0: f32[8,3], %p1: f32[3,4], %p2: f32[4]) {
            %0: f32[8,4] = matmul(%p0, %p1) {transpose_a=False, transpose_b=False}
            %1: f32[8,4] = broadcast(%p2) {shape=(8,4), axes=(1,)}
            %2: f32[8,4] = add(%0, %1)
            %3: f32[8,4] = tanh(%2)
            return %3
          }
          return %0
        }""")


def test_epilogues_can_be_left_out() -> None:
    graph = fused("""
        graph g(%x: f32[8,3], %w: f32[3,4]) {
          %0: f32[8,4] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
          %1: f32[8,4] = tanh(%0)
          return %1
        }""", epilogues=False)
    assert kernels(graph) == ["matmul", "loop: tanh"]


def test_epilogue_takes_the_residual_and_leaves_the_square() -> None:
    # The square is only read by a sum: in the product's kernel it would be written for nothing.
    graph = fused("""
        graph g(%x: f32[8,3], %w: f32[3,4], %r: f32[8,4]) {
          %0: f32[8,4] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
          %1: f32[8,4] = add(%0, %r)
          %2: f32[8,4] = mul(%1, %1)
          %3: f32[4] = reduce_sum(%2) {axes=(0,)}
          return %1, %3
        }""")
    assert kernels(graph) == ["matmul: matmul add", "loop: mul reduce_sum"]


def test_epilogue_does_not_wait_for_itself() -> None:
    # exp(max) of the product's result is an operand of the subtraction: a kernel in between.
    graph = fused("""
        graph g(%x: f32[8,3], %w: f32[3,4]) {
          %0: f32[8,4] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
          %1: f32[8] = reduce_max(%0) {axes=(1,)}
          %2: f32[8,4] = broadcast(%1) {shape=(8,4), axes=(0,)}
          %3: f32[8,4] = sub(%0, %2)
          return %3
        }""")
    assert kernels(graph) == ["matmul", "loop: reduce_max", "loop: sub"]


def test_updates_of_one_variable_are_one_kernel() -> None:
    graph = fused("""
        graph adam(%g: f32[6,4], %m: f32[6,4], %v: f32[6,4], %w: f32[6,4], %rate: f32[]) {
          %0: f32[] = constant() {value=0.9}
          %1: f32[6,4] = broadcast(%0) {shape=(6,4), axes=()}
          %2: f32[6,4] = mul(%m, %1)
          %3: f32[6,4] = add(%2, %g)
          %4: f32[6,4] = mul(%g, %g)
          %5: f32[6,4] = mul(%v, %1)
          %6: f32[6,4] = add(%5, %4)
          %7: f32[6,4] = sqrt(%6)
          %8: f32[6,4] = div(%3, %7)
          %9: f32[6,4] = broadcast(%rate) {shape=(6,4), axes=()}
          %10: f32[6,4] = mul(%8, %9)
          %11: f32[6,4] = sub(%w, %10)
          return %3, %6, %11
        }""")
    assert len(kernels(graph)) == 1
    assert len(graph.nodes[0].results) == 3


def test_sums_over_one_domain_are_one_kernel() -> None:
    graph = fused("""
        graph moments(%x: f32[8,5,3]) {
          %0: f32[3] = reduce_sum(%x) {axes=(0,1)}
          %1: f32[8,5,3] = mul(%x, %x)
          %2: f32[3] = reduce_sum(%1) {axes=(0,1)}
          %3: f32[3] = mul(%0, %0)
          %4: f32[3] = sub(%2, %3)
          return %0, %4
        }""")
    assert kernels(graph) == ["loop: reduce_sum mul reduce_sum mul sub"]


def test_sums_over_other_axes_are_not() -> None:
    graph = fused("""
        graph g(%x: f32[8,3]) {
          %0: f32[3] = reduce_sum(%x) {axes=(0,)}
          %1: f32[8] = reduce_sum(%x) {axes=(1,)}
          return %0, %1
        }""")
    assert kernels(graph) == ["loop: reduce_sum", "loop: reduce_sum"]


def test_what_is_repeated_from_a_sum_starts_a_kernel() -> None:
    graph = fused("""
        graph softmax(%x: f32[8,3]) {
          %0: f32[8,3] = exp(%x)
          %1: f32[8] = reduce_sum(%0) {axes=(1,)}
          %2: f32[8,3] = broadcast(%1) {shape=(8,3), axes=(0,)}
          %3: f32[8,3] = div(%0, %2)
          return %3
        }""")
    # exp is too expensive to be computed twice, so it is an output of the first kernel.
    assert kernels(graph) == ["loop: exp reduce_sum", "loop: div"]


def test_cheap_values_are_computed_again_rather_than_stored() -> None:
    graph = fused("""
        graph centre(%x: f32[8,3], %y: f32[8,3]) {
          %0: f32[8,3] = add(%x, %y)
          %1: f32[8] = reduce_max(%0) {axes=(1,)}
          %2: f32[8,3] = broadcast(%1) {shape=(8,3), axes=(0,)}
          %3: f32[8,3] = sub(%0, %2)
          %4: f32[8,3] = mul(%3, %y)
          %5: f32[8,3] = mul(%4, %x)
          return %5
        }""")
    assert kernels(graph) == ["loop: add reduce_max", "loop: add sub mul mul"]


def test_factors_of_many_rows_are_computed_once() -> None:
    text = """
        graph scale(%x: f32[64,32], %s: f32[32]) {
          %0: f32[32] = neg(%s)
          %1: f32[32] = mul(%0, %s)
          %2: f32[64,32] = broadcast(%0) {shape=(64,32), axes=(1,)}
          %3: f32[64,32] = mul(%x, %2)
          return %1, %3
        }"""
    assert kernels(fused(text)) == ["loop: neg mul", "loop: neg mul"]  # few: a value less is written
    assert kernels(fused(text.replace("64,", "4096,"))) == ["loop: neg mul", "loop: mul"]


def test_argmax_shares_with_producers_only() -> None:
    graph = fused("""
        graph g(%x: f32[8,3], %y: f32[8,3]) {
          %0: f32[8,3] = add(%x, %y)
          %1: i64[8] = argmax(%0) {axis=1, dtype=i64}
          %2: f32[8] = reduce_max(%x) {axes=(1,)}
          return %1, %2
        }""")
    assert sorted(kernels(graph)) == ["loop: add argmax", "loop: reduce_max"]


def test_scalars_merge_across_shapes_around_a_reduction() -> None:
    graph = fused("""
        graph g(%step: i64[], %total: f32[], %count: f32[1], %x: f32[8]) {
          %0: i64[] = constant() {value=1}
          %1: i64[] = add(%step, %0)
          %2: f32[1] = exp(%count)
          %3: f32[] = sqrt(%total)
          %4: f32[] = reduce_sum(%x) {axes=(0,)}
          %5: f32[] = add(%4, %3)
          return %1, %2, %5
        }""")
    assert sorted(kernels(graph)) == ["loop: add exp", "loop: sqrt reduce_sum add"]


def test_no_cycle_through_an_outside_node() -> None:
    # a and b read the same tensor, but b waits for the product that a feeds.
    graph = fused("""
        graph g(%x: f32[4,4]) {
          %0: f32[4,4] = exp(%x)
          %1: f32[4,4] = matmul(%0, %x) {transpose_a=False, transpose_b=False}
          %2: f32[4,4] = add(%0, %x)
          %3: f32[4,4] = sub(%2, %1)
          return %3
        }""", epilogues=False)
    assert kernels(graph) == ["loop: exp", "matmul", "loop: add sub"]


def test_reshapes_at_the_rim_are_views() -> None:
    graph = fused("""
        graph g(%x: f32[8,3]) {
          %0: f32[24] = reshape(%x) {shape=(24,)}
          %1: f32[24] = exp(%0)
          %2: f32[4,6] = reshape(%1) {shape=(4,6)}
          return %2
        }""")
    assert [n.op.name for n in graph.nodes] == ["reshape", "fusion", "reshape"]


def test_views_of_one_tensor_are_read_once() -> None:
    graph = fused("""
        graph g(%x: f32[8,3], %y: f32[24]) {
          %0: f32[24] = reshape(%x) {shape=(24,)}
          %1: f32[24] = add(%0, %y)
          %2: f32[8,3] = exp(%x)
          %3: f32[24] = reshape(%2) {shape=(24,)}
          %4: f32[24] = mul(%3, %1)
          return %4
        }""")
    (kernel,) = (n for n in graph.nodes if n.op.name == "fusion")
    assert len(kernel.operands) == 2


def test_joins_are_not_read_through() -> None:
    graph = fused("""
        graph g(%x: f32[4], %y: f32[4]) {
          %0: f32[8] = concat(%x, %y) {axis=0}
          %1: f32[8] = exp(%0)
          return %1
        }""")
    assert kernels(graph) == ["loop: concat", "loop: exp"]


def test_short_work_reads_the_parts_of_a_join() -> None:
    graph = fused("""
        graph g(%x: f32[3,4], %y: f32[3,2], %s: f32[6]) {
          %0: f32[3,6] = concat(%x, %y) {axis=1}
          %1: f32[3,6] = broadcast(%s) {shape=(3,6), axes=(1,)}
          %2: f32[3,6] = mul(%0, %1)
          %3: f32[3,6] = maximum(%2, %1)
          return %3
        }""")
    (kernel,) = (n for n in graph.nodes if n.op.name == "fusion")
    assert len(kernel.operands) == 3


def test_a_join_that_several_need_is_made() -> None:
    text = """
        graph g(%x: f32[3,4], %y: f32[3,2]) {
          %0: f32[3,6] = concat(%x, %y) {axis=1}
          %1: f32[3,6] = neg(%0)
          REST
        }"""
    assert kernels(fused(text.replace("REST", "return %0, %1"))) == ["loop: concat", "loop: neg"]
    both = text.replace("REST", "%2: f32[3,3] = matmul(%0, %0) {transpose_a=False, transpose_b=True}\nreturn %1, %2")
    assert kernels(fused(both)) == ["loop: concat", "loop: neg", "matmul"]
    most = both.replace("f32[3,4]", "f32[3,40]").replace("f32[3,6]", "f32[3,42]")
    assert kernels(fused(most)) == ["loop: concat neg", "matmul"], "the first reader makes it on the way"
    sums = kernels(fused(text.replace("REST", "%2: f32[3] = reduce_sum(%1) {axes=(1,)}\nreturn %2")))
    assert sums[0] == "loop: concat", "a reduction would choose a part for every element"
    shared = text.replace("REST", "%2: f32[6,3] = transpose(%0) {perm=(1,0)}\nreturn %1, %2")
    assert kernels(fused(shared))[0] == "loop: concat"


def test_kernels_stay_small() -> None:
    chain = "\n".join(f"%{i + 1}: f32[64] = {'sin' if i % 2 else 'cos'}(%{i})" for i in range(500))
    graph = fused(f"graph g(%x: f32[64]) {{\n%0: f32[64] = neg(%x)\n{chain}\nreturn %500\n}}")
    assert max(len(n.op.body.nodes) for n in graph.nodes) <= 200  # type: ignore[attr-defined]
    assert len(graph.nodes) <= 4


def test_nothing_to_fuse() -> None:
    check_unchanged(fuse, """
        graph g(%x: f32[4,4]) {
          %0: f32[2,8] = reshape(%x) {shape=(2,8)}
          %1: f32[4,4] = matmul(%x, %x) {transpose_a=False, transpose_b=False}
          return %0, %1, %x
        }""")


def test_dense_layer_in_training() -> None:
    """Forward, softmax cross-entropy and gradients of one layer: the kernels one would write."""
    graph = optimize(graph_of("""
        graph step(%x: f32[32,784], %y: i32[32], %w: f32[784,10] state, %b: f32[10] state) {
          %0: f32[32,10] = matmul(%x, %w) {transpose_a=False, transpose_b=False}
          %1: f32[32,10] = broadcast(%b) {shape=(32,10), axes=(1,)}
          %2: f32[32,10] = add(%0, %1)
          %3: f32[32] = reduce_max(%2) {axes=(1,)}
          %4: f32[32,10] = broadcast(%3) {shape=(32,10), axes=(0,)}
          %5: f32[32,10] = sub(%2, %4)
          %6: f32[32,10] = exp(%5)
          %7: f32[32] = reduce_sum(%6) {axes=(1,)}
          %8: f32[32,10] = broadcast(%7) {shape=(32,10), axes=(0,)}
          %9: f32[32,10] = div(%6, %8)
          %10: i32[32,10] = iota() {dtype=i32, shape=(32,10), axis=1}
          %11: i32[32,10] = broadcast(%y) {shape=(32,10), axes=(0,)}
          %12: bool[32,10] = equal(%10, %11)
          %13: f32[32,10] = cast(%12) {dtype=f32}
          %14: f32[32,10] = sub(%9, %13)
          %15: f32[784,10] = matmul(%x, %14) {transpose_a=True, transpose_b=False}
          %16: f32[784,10] = sub(%w, %15)
          %17: f32[10] = reduce_sum(%14) {axes=(0,)}
          %18: f32[10] = sub(%b, %17)
          return %16 -> %w, %18 -> %b
        }"""), epilogues=True)
    assert kernels(graph) == [
        "matmul: matmul add",
        "loop: reduce_max",
        "loop: sub exp reduce_sum",
        "loop: div iota equal cast sub reduce_sum sub",
        "matmul: matmul sub",
    ]


def test_long_epilogues_are_cut_where_least_is_written() -> None:
    # 60 steps that all read the first result, of which only the last is needed: were the epilogue cut
    # in the middle, two tensors would be written.
    steps = "\n".join(f"%{i + 2}: f32[8,4] = {'mul' if i % 2 else 'add'}(%{i + 1}, %0)" for i in range(60))
    graph = fused(f"""
        graph g(%x: f32[8,3], %w: f32[3,4]) {{
          %0: f32[8,4] = matmul(%x, %w) {{transpose_a=False, transpose_b=False}}
          %1: f32[8,4] = sqrt(%0)
          {steps}
          return %61
        }}""")
    assert [len(n.results) for n in graph.nodes] == [1, 1]


def test_epilogue_computes_cheap_operands_again() -> None:
    graph = fused("""
        graph g(%x: f32[8,4], %w: f32[4,4], %v: f32[4,4], %s: f32[4]) {
          %0: f32[8,4] = broadcast(%s) {shape=(8,4), axes=(1,)}
          %1: f32[8,4] = mul(%x, %0)
          %2: f32[8,4] = maximum(%1, %0)
          %3: f32[8] = reduce_sum(%2) {axes=(1,)}
          %4: f32[8,4] = broadcast(%3) {shape=(8,4), axes=(0,)}
          %5: f32[8,4] = exp(%4)
          %6: f32[8,4] = matmul(%5, %w) {transpose_a=False, transpose_b=False}
          %7: f32[8,4] = mul(%6, %1)
          return %7
        }""")
    assert kernels(graph) == ["loop: mul maximum reduce_sum", "loop: exp", "matmul: matmul mul mul"]


IMAGE, FILTER = "f32[1,64,64,16]", "f32[1,1,16,16]"
CONV = "strides=(1,1), padding=((0,0),(0,0)), dilation=(1,1), groups=1"


def summed(work: str, returned: str) -> Graph:
    """A convolution, elementwise work on its result %y, and sums."""
    head = f"graph g(%x: {IMAGE}, %w: {FILTER}, %o: {IMAGE})"
    return fuse(graph_of(f"{head} {{\n%y: {IMAGE} = conv2d(%x, %w) {{{CONV}}}\n{work}\nreturn {returned}\n}}"))


def test_sums_over_all_pixels_ride_on_the_convolution() -> None:
    graph = summed(f"%m: {IMAGE} = mul(%y, %o)\n%s: f32[16] = reduce_sum(%y) {{axes=(0,1,2)}}\n"
                   "%t: f32[16] = reduce_sum(%m) {axes=(0,1,2)}", "%y, %s, %t")
    (node,) = graph.nodes
    assert [r.shape for r in node.results] == [(1, 64, 64, 16), (16,), (16,)]


def test_what_a_sum_alone_needs_is_not_written() -> None:
    graph = summed(f"%m: {IMAGE} = mul(%y, %o)\n%s: f32[16] = reduce_sum(%m) {{axes=(0,1,2)}}", "%s")
    (node,) = graph.nodes
    assert [r.shape for r in node.results] == [(16,)]


WIDE = "f32[1,64,64,24]"
ADDED = f"""graph g(%x: {IMAGE}, %w: FILTER, %v: {WIDE}) {{
  %y: {IMAGE} = conv2d(%x, %w) {{{CONV}}}
  %o: {IMAGE} = slice(%v) {{starts=(0,0,0,8), limits=(1,64,64,24), strides=(1,1,1,1)}}
  %a: {IMAGE} = add(%y, %o)
  %p: f32[1,64,64,8] = slice(%a) {{starts=(0,0,0,0), limits=(1,64,64,8), strides=(1,1,1,1)}}
  %s: f32[16] = reduce_sum(%y) {{axes=(0,1,2)}}
  return %p, %s
}}"""


def test_columns_of_wider_rows_are_read_from_there() -> None:
    assert kernels(fuse(graph_of(ADDED.replace("FILTER", FILTER)))) == \
        ["conv2d: conv2d slice add reduce_sum", "loop: slice"]


def test_but_not_where_the_rows_are_in_no_memory() -> None:
    text = ADDED.replace("FILTER", FILTER).replace(f"%v: {WIDE}", "%r: f32[24]").replace(
        "  %o:", f"  %v: {WIDE} = broadcast(%r) {{shape=(1,64,64,24), axes=(3,)}}\n  %o:")
    assert kernels(fuse(graph_of(text))) == ["loop: slice", "conv2d: conv2d add reduce_sum", "loop: slice"]


def test_but_not_by_the_kernels_of_larger_filters() -> None:
    text = ADDED.replace("FILTER", "f32[3,3,16,16]").replace("padding=((0,0),(0,0))", "padding=((1,1),(1,1))")
    assert kernels(fuse(graph_of(text))) == ["loop: slice", "conv2d: conv2d add reduce_sum", "loop: slice"]


def test_what_waits_for_a_sum_is_another_kernel() -> None:
    graph = summed(f"%s: f32[16] = reduce_sum(%y) {{axes=(0,1,2)}}\n%b: {IMAGE} = broadcast(%s) {{shape=(1,64,64,16), "
                   f"axes=(3,)}}\n%d: {IMAGE} = sub(%y, %b)\n%t: f32[16] = reduce_sum(%d) {{axes=(0,1,2)}}", "%d, %t")
    first, second = graph.nodes
    assert [r.shape for r in first.results] == [(1, 64, 64, 16), (16,)]
    assert [r.shape for r in second.results] == [(1, 64, 64, 16), (16,)]


def test_sums_over_other_axes_do_not_ride_on_a_convolution() -> None:
    graph = summed("%s: f32[64,16] = reduce_sum(%y) {axes=(0,1)}", "%y, %s")
    assert len(graph.nodes) == 2


def test_sums_of_small_results_do_not_ride_on_a_convolution() -> None:
    small = "graph g(%x: f32[1,8,8,16], %w: f32[1,1,16,16]) {\n%y: f32[1,8,8,16] = conv2d(%x, %w) {" + CONV + "}\n" \
        "%s: f32[16] = reduce_sum(%y) {axes=(0,1,2)}\nreturn %y, %s\n}"
    assert len(fuse(graph_of(small)).nodes) == 2
