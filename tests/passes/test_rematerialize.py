"""Rematerialisation: what is made again, what is not, less memory, and the same bits."""

import math
from dataclasses import replace

import numpy as np

from afterburner.ir import Builder, Graph, TensorType, Value, interpret, verify
from afterburner.ir.ops.conv import Conv2d, Conv2dFilterGrad, Conv2dInputGrad
from afterburner.ir.ops.elementwise import Add, Exp, Greater, Maximum, Mul, Select
from afterburner.ir.ops.reduce import ReduceSum
from afterburner.ir.ops.shape import Broadcast, Concat, Constant, Slice
from afterburner.ir.types import F32
from afterburner.passes.eliminate_dead_code import eliminate_dead_code
from afterburner.passes.lifetimes import Lifetimes
from afterburner.passes.pipeline import optimize
from afterburner.passes.plan_memory import plan
from afterburner.passes.rematerialize import Limits, rematerialize

from .kit import arguments_for, check, check_unchanged, graph_of, kernels, text_of

EAGER = Limits(peak=0, bytes=1024, gain=0.0, time=math.inf)
GEOMETRY = ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)


def eager(graph: Graph) -> Graph:
    return eliminate_dead_code(rematerialize(graph, EAGER))


SCALE = """fusion(%x, %s) {kind='loop'} with
            graph loop(%p0: f32[64,64], %p1: f32[64]) {
              %0: f32[64,64] = broadcast(%p1) {shape=(64,64), axes=(1,)}
              %1: f32[64,64] = mul(%p0, %0)
              return %1
            }"""
KEPT = f"""
        graph g(%x: f32[64,64], %s: f32[64]) {{
          %0: f32[64,64] = {SCALE}
          %1: f32[64,64] = matmul(%x, %0) {{transpose_a=False, transpose_b=False}}
          %2: f32[64,64] = matmul(%1, %x) {{transpose_a=False, transpose_b=False}}
          %3: f32[64,64] = matmul(%2, %x) {{transpose_a=False, transpose_b=False}}
          %4: f32[64,64] = matmul(%3, %0) {{transpose_a=False, transpose_b=False}}
          return %4
        }}"""


def test_a_value_is_made_again_before_its_late_use() -> None:
    check(eager, KEPT, f"""
        graph g(%x: f32[64,64], %s: f32[64]) {{
          %0: f32[64,64] = {SCALE}
          %1: f32[64,64] = matmul(%x, %0) {{transpose_a=False, transpose_b=False}}
          %2: f32[64,64] = matmul(%1, %x) {{transpose_a=False, transpose_b=False}}
          %3: f32[64,64] = matmul(%2, %x) {{transpose_a=False, transpose_b=False}}
          %4: f32[64,64] = {SCALE}
          %5: f32[64,64] = matmul(%3, %4) {{transpose_a=False, transpose_b=False}}
          return %5
        }}""")


def test_not_where_limits_forbid() -> None:
    check_unchanged(rematerialize, KEPT)
    graph = graph_of(KEPT)
    for limits in (replace(EAGER, peak=1 << 20), replace(EAGER, bytes=1 << 20), replace(EAGER, gain=0.9),
                   replace(EAGER, gain=0.01, time=0.001)):
        assert rematerialize(graph, limits) is graph


def test_not_where_an_operand_would_be_kept_instead() -> None:
    check_unchanged(eager, KEPT.replace("(%x: f32[64,64], %s", "(%y: f32[64,64], %s").replace(
        "%0: f32[64,64] = fusion", "%x: f32[64,64] = matmul(%y, %y) {transpose_a=False, transpose_b=False}\n"
        "          %0: f32[64,64] = fusion").replace(", %x) {transpose_a", ", %y) {transpose_a"))


def test_not_what_a_reduction_or_a_contraction_makes() -> None:
    check_unchanged(eager, KEPT.replace("%1: f32[64,64] = mul(%p0, %0)\n", """%1: f32[64] = reduce_sum(%p0) {axes=(1,)}
              %2: f32[64,64] = broadcast(%1) {shape=(64,64), axes=(0,)}
              %3: f32[64,64] = mul(%0, %2)
""").replace("return %1\n", "return %3\n"))
    check_unchanged(eager, KEPT.replace(SCALE, "matmul(%x, %x) {transpose_a=False, transpose_b=False}"))


def test_not_what_the_caller_is_given() -> None:
    check_unchanged(eager, KEPT.replace("return %4\n        }", "return %4, %0\n        }"))


def test_only_the_results_needed_are_made_again() -> None:
    both = SCALE.replace("return %1", "%2: f32[64,64] = neg(%1)\n              return %2, %1")
    text = KEPT.replace(f"%0: f32[64,64] = {SCALE}", f"%9: f32[64,64], %0: f32[64,64] = {both}").replace(
        "return %4\n        }", "return %4, %9\n        }")
    graph = graph_of(text)
    again = eager(graph)
    assert [len(n.results) for n in again.nodes if n.op.name == "fusion"] == [2, 1]
    same_bits(graph, again)


def test_views_show_what_is_made_again() -> None:
    graph = graph_of(KEPT.replace("          %4:", """          %v: f32[4096] = reshape(%0) {shape=(4096,)}
          %w: f32[64,64] = reshape(%v) {shape=(64,64)}
          %4:""").replace("matmul(%3, %0)", "matmul(%3, %w)"))
    early = graph_of(KEPT.replace("          %1:", """          %v: f32[4096] = reshape(%0) {shape=(4096,)}
          %w: f32[64,64] = reshape(%v) {shape=(64,64)}
          %1:""").replace("matmul(%3, %0)", "matmul(%3, %w)"))
    for text in (graph, early):
        again = eager(text)
        assert sum(n.op.name == "fusion" for n in again.nodes) == 2
        assert plan(again, {}, lambda node: ()).peak_bytes < plan(text, {}, lambda node: ()).peak_bytes
        same_bits(text, again)


def test_a_joined_tensor_is_cut_from_a_longer_one() -> None:
    text = """
        graph g(%a: f32[64,32], %b: f32[64,32], %m: f32[64,64], %n: f32[96,64]) {
          %0: f32[64,32] = matmul(%m, %a) {transpose_a=False, transpose_b=False}
          %1: f32[64,32] = matmul(%m, %b) {transpose_a=False, transpose_b=False}
          %2: f32[64,64] = fusion(%0, %1) {kind='loop'} with
            graph loop(%p0: f32[64,32], %p1: f32[64,32]) {
              %0: f32[64,64] = concat(%p0, %p1) {axis=1}
              return %0
            }
          %3: f32[64,32] = matmul(%2, %a) {transpose_a=False, transpose_b=False}
          %4: f32[64,96] = fusion(%0, %1, %3) {kind='loop'} with
            graph loop(%p0: f32[64,32], %p1: f32[64,32], %p2: f32[64,32]) {
              %0: f32[64,96] = concat(%p0, %p1, %p2) {axis=1}
              return %0
            }
          %5: f32[64,64] = matmul(%4, %n) {transpose_a=False, transpose_b=False}
          %6: f32[96,64] = matmul(%4, %5) {transpose_a=True, transpose_b=False}
          %7: f32[64,64] = matmul(%4, %6) {transpose_a=False, transpose_b=False}
          %8: f32[64,64] = matmul(%7, %2) {transpose_a=False, transpose_b=False}
          return %8
        }"""
    graph = graph_of(text)
    again = eager(graph)
    body = next(n for n in reversed(again.nodes) if n.op.name == "fusion")
    assert [n.op for n in body.op.regions()[0].nodes] == [Slice((0, 0), (64, 64), (1, 1))]
    assert body.operands[0].shape == (64, 96)
    same_bits(graph, again)


def test_a_joined_tensor_is_cut_from_one_that_begins_with_it() -> None:
    """Three blocks, each of which reads the one before and normalises what it joins: the first is cut from a later one,
    and what is made of it in the same kernel is made of it again, not of its parts."""
    joined = """
          %{n}: f32[64,{wide}], %n{n}: f32[64,{wide}] = fusion(%{before}, %{part}) {{kind='loop'}} with
            graph loop(%p0: f32[64,{less}], %p1: f32[64,32]) {{
              %0: f32[64,{wide}] = concat(%p0, %p1) {{axis=1}}
              %1: f32[64,{wide}] = neg(%0)
              return %0, %1
            }}"""
    first = joined.format(n=2, wide=64, before=0, part=1, less=32)
    second = joined.format(n=4, wide=96, before=2, part=3, less=64)
    third = joined.format(n=6, wide=128, before=4, part=5, less=96)
    text = f"""
        graph g(%a: f32[64,32], %b: f32[64,32], %m: f32[64,64], %k: f32[96,32], %n: f32[128,64]) {{
          %0: f32[64,32] = matmul(%m, %a) {{transpose_a=False, transpose_b=False}}
          %1: f32[64,32] = matmul(%m, %b) {{transpose_a=False, transpose_b=False}}{first}
          %3: f32[64,32] = matmul(%n2, %a) {{transpose_a=False, transpose_b=False}}{second}
          %5: f32[64,32] = matmul(%n4, %k) {{transpose_a=False, transpose_b=False}}{third}
          %7: f32[64,64] = matmul(%n6, %n) {{transpose_a=False, transpose_b=False}}
          %8: f32[128,64] = matmul(%6, %7) {{transpose_a=True, transpose_b=False}}
          %9: f32[64,64] = matmul(%6, %8) {{transpose_a=False, transpose_b=False}}
          %10: f32[64,64] = matmul(%9, %2) {{transpose_a=False, transpose_b=False}}
          %11: f32[64,64] = matmul(%10, %n2) {{transpose_a=False, transpose_b=False}}
          return %11
        }}"""
    graph = graph_of(text)
    again = eager(graph)
    assert plan(again, {}, lambda node: ()).peak_bytes < plan(graph, {}, lambda node: ()).peak_bytes
    late = [n for n in again.nodes if n.op.name == "fusion" and len(n.results) == 1]
    names = [[inner.op.name for inner in n.op.regions()[0].nodes] for n in late]
    assert ["slice"] in names and ["neg"] in names
    same_bits(graph, again)


CONVOLUTIONS = """
        graph g(%x: f32[1,8,8,16], %s: f32[16], %w: f32[3,3,16,16]) {
          %0: f32[1,8,8,16] = fusion(%x, %s) {kind='loop'} with
            graph loop(%p0: f32[1,8,8,16], %p1: f32[16]) {
              %0: f32[1,8,8,16] = broadcast(%p1) {shape=(1,8,8,16), axes=(3,)}
              %1: f32[1,8,8,16] = mul(%p0, %0)
              return %1
            }
          %1: f32[1,8,8,16] = conv2d(%0, %w) {SAME}
          %2: f32[1,8,8,16] = conv2d(%1, %w) {SAME}
          %3: f32[1,8,8,16] = conv2d(%2, %w) {SAME}
          %4: f32[3,3,16,16] = conv2d_filter_grad(%0, %3) {SAME, filter_shape=(3,3,16,16)}
          %5: f32[1,8,8,16] = fusion(%w, %3, %0) {kind='conv2d_input_grad'} with
            graph conv2d_input_grad(%p0: f32[3,3,16,16], %p1: f32[1,8,8,16], %p2: f32[1,8,8,16]) {
              %0: f32[1,8,8,16] = conv2d_input_grad(%p0, %p1) {SAME, input_shape=(1,8,8,16)}
              %1: f32[1,8,8,16] = mul(%0, %p2)
              return %1
            }
          return %4, %5
        }""".replace("SAME", "strides=(1,1), padding=((1,1),(1,1)), dilation=(1,1), groups=1")


def test_contractions_make_what_they_read() -> None:
    graph = graph_of(CONVOLUTIONS)
    again = eager(graph)
    assert kernels(again) == ["loop: mul", "conv2d", "conv2d", "conv2d", "conv2d_filter_grad: mul conv2d_filter_grad",
                              "conv2d_input_grad: mul conv2d_input_grad mul"]
    assert peak(again) < peak(graph)
    same_bits(graph, again)
    assert text_of(eager(again)) == text_of(again)


def test_a_copy_where_one_reader_cannot_make_it() -> None:
    pool = "%6: f32[1,4,4,16] = max_pool(%0) {window=(2,2), strides=(2,2), padding=((0,0),(0,0))}"
    pooled = CONVOLUTIONS.replace("return %4, %5", f"{pool}\n          return %4, %5, %6")
    few = CONVOLUTIONS.replace("f32[1,8,8,16]", "f32[1,8,8,2]").replace("f32[3,3,16,16]", "f32[3,3,2,2]").replace(
        "(3,3,16,16)", "(3,3,2,2)").replace("(1,8,8,16)", "(1,8,8,2)").replace("f32[16]", "f32[2]")
    small = replace(EAGER, bytes=0)
    for graph, limits in ((graph_of(pooled), EAGER), (graph_of(few), small)):
        again = rematerialize(graph, limits)
        assert kernels(again).count("loop: mul") == 2 and "conv2d_filter_grad" in kernels(again)
        same_bits(graph, again)
    graph = graph_of(CONVOLUTIONS)
    assert kernels(rematerialize(graph, EAGER, fast=True)).count("loop: mul") == 2
    square = CONVOLUTIONS.replace("f32[3,3,", "f32[4,4,").replace("(3,3,16,16)", "(4,4,16,16)").replace(
        "padding=((1,1),(1,1))", "padding=((1,2),(1,2))")
    graph = graph_of(square)
    assert kernels(rematerialize(graph, EAGER, fast=True)).count("loop: mul") == 2
    assert kernels(rematerialize(graph, EAGER)).count("loop: mul") < 2
    single = CONVOLUTIONS.replace("f32[3,3,16,16]", "f32[1,1,16,16]").replace("(3,3,16,16)", "(1,1,16,16)").replace(
        "padding=((1,1),(1,1))", "padding=((0,0),(0,0))")
    graph = graph_of(single)
    assert kernels(rematerialize(graph, EAGER, fast=True)) == kernels(rematerialize(graph, EAGER))
    assert "conv2d_filter_grad: mul conv2d_filter_grad" in kernels(rematerialize(graph, EAGER, fast=True))


def conv(builder: Builder, x: Value, filter_: Value) -> Value:
    return builder.emit(Conv2d(*GEOMETRY), x, filter_)


def normalised(builder: Builder, x: Value, scale: Value) -> Value:
    wide = builder.emit(Broadcast(x.shape, (3,)), scale)
    zero = builder.emit(Broadcast(x.shape, ()), builder.emit(Constant(np.float32(0))))
    return builder.emit(Maximum(), builder.emit(Mul(), x, wide), zero)


def dense_block(layers: int = 4, growth: int = 8) -> Graph:
    """A dense block forward and backward: convolutions of the scaled, rectified join of all before them."""
    b = Builder("dense")
    pieces = [b.input(TensorType(F32, (1, 9, 9, 16)), "x")]
    joined, kept = pieces[0], []
    for layer in range(layers):
        depth = joined.shape[3]
        scale = b.input(TensorType(F32, (depth,)), f"s{layer}")
        filter_ = b.input(TensorType(F32, (3, 3, depth, growth)), f"w{layer}")
        rectified = normalised(b, joined, scale)
        kept.append((joined, scale, filter_, rectified))
        pieces.append(conv(b, rectified, filter_))
        joined = b.emit(Concat(3), *pieces)
    gradient = b.emit(Exp(), joined)
    for joined, scale, filter_, rectified in reversed(kept):
        shape = rectified.shape
        dy = b.emit(Slice((0, 0, 0, shape[3]), (*shape[:3], shape[3] + growth), (1, 1, 1, 1)), gradient)
        b.output(b.emit(Conv2dFilterGrad(*GEOMETRY, filter_.shape), rectified, dy))
        dx = b.emit(Conv2dInputGrad(*GEOMETRY, shape), filter_, dy)
        zero = b.emit(Broadcast(shape, ()), b.emit(Constant(np.float32(0))))
        dx = b.emit(Select(), b.emit(Greater(), rectified, zero), dx, zero)
        b.output(b.emit(ReduceSum((0, 1, 2)), b.emit(Mul(), dx, joined)))
        dx = b.emit(Mul(), dx, b.emit(Broadcast(shape, (3,)), scale))
        gradient = b.emit(Add(), b.emit(Slice((0, 0, 0, 0), shape, (1, 1, 1, 1)), gradient), dx)
    b.output(gradient)
    return verify(optimize(b.build()))


def peak(graph: Graph) -> int:
    return plan(graph, {}, lambda node: ()).peak_bytes


def same_bits(graph: Graph, again: Graph) -> None:
    arguments = arguments_for(graph)
    for a, b in zip(interpret(graph, arguments), interpret(verify(again), arguments), strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_dense_block_needs_half_the_memory() -> None:
    graph = dense_block(8)
    again = eager(graph)
    same_bits(graph, again)
    assert peak(again) < 0.5 * peak(graph)
    assert rematerialize(graph, Limits(peak=0, bytes=0, gain=0.1)) is not graph


def test_peaks_are_those_of_the_plan() -> None:
    graph = dense_block()
    assert Lifetimes(graph).peak <= peak(graph) <= Lifetimes(graph).peak + 64 * len(graph.nodes)


def test_what_lives_at_the_peak_is_the_peak() -> None:
    lives = Lifetimes(dense_block())
    alive = lives.at_peak()
    assert sum(v.type.bytes for v in alive) == lives.peak
    assert alive[0].type.bytes == max(v.type.bytes for v in alive)
    assert Lifetimes(graph_of("graph g(%x: f32[4]) {\n return %x\n}")).at_peak() == []


def test_the_cpu_gives_the_same_bits() -> None:
    from afterburner.cpu.target import compile_graph

    graph = dense_block()
    again = eager(graph)
    assert len(again.nodes) > len(graph.nodes)
    arguments = [np.ascontiguousarray(a) for a in arguments_for(graph)]
    results = []
    for version in (graph, again):
        executable = compile_graph(version, threads=1)
        outputs = [np.zeros(t.bytes + 64, np.uint8) for t in version.output_types]
        starts = [o.ctypes.data + -o.ctypes.data % 64 for o in outputs]
        executable.run([a.ctypes.data for a in arguments], starts)
        results.append([o[-o.ctypes.data % 64:][:t.bytes].tobytes() for o, t in
                        zip(outputs, version.output_types, strict=True)])
    assert results[0] == results[1]


def test_decides_the_same_every_time() -> None:
    assert text_of(eager(dense_block())) == text_of(eager(dense_block()))


def test_not_of_a_concatenation_that_is_still_to_be_made() -> None:
    """The caller is given it, so it takes no room and has no uses of its own."""
    check_unchanged(eager, """
        graph g(%x: f32[64,64]) {
          %0: f32[64,64] = matmul(%x, %x) {transpose_a=False, transpose_b=False}
          %1: f32[64,64] = matmul(%x, %x) {transpose_a=True, transpose_b=False}
          %2: f32[128,64] = fusion(%0, %1) {kind='loop'} with
            graph loop(%p0: f32[64,64], %p1: f32[64,64]) {
              %0: f32[128,64] = concat(%p0, %p1) {axis=0}
              return %0
            }
          return %2
        }""")
