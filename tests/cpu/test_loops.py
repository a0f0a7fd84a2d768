"""Scans as compiled programs: every turn reads and writes where it should, whoever computes it."""

# ruff: noqa: E501

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import program_kit as kit
import pytest

from afterburner.cpu import parts, scans
from afterburner.cpu.build import compile_nodes
from afterburner.cpu.compiled import computed, kernels_of
from afterburner.cpu.isa import host
from afterburner.cpu.kernel import Unsupported
from afterburner.cpu.loops import Loop
from afterburner.cpu.target import CpuExecutable, compile_graph, optimize_graph
from afterburner.ir import Graph, interpret, parse_graph, verify
from afterburner.options import Options

SCANS = {
    "state that is stacked too": """
graph sums(%start: f32[5,7], %rows: f32[6,5,7], %back: f32[6,5,7], %factor: f32[5,7]) {
  %0: f32[5,7], %1: f32[6,5,7], %2: f32[6,5,7], %3: f32[6,5,7] = scan(%start, %rows, %back, %factor) {steps=6, sliced=(False,True), stacked=(False,True,False)} with
    graph turn(%sum: f32[5,7], %row: f32[5,7], %other: f32[5,7], %by: f32[5,7]) {
      %0: f32[5,7] = mul(%row, %by)
      %1: f32[5,7] = add(%sum, %0)
      %2: f32[5,7] = add(%1, %other)
      return %2, %sum, %0, %2
    }
  return %0, %1, %2, %3
}""",
    "values that change places": """
graph swap(%a: f32[3], %b: f32[3], %c: f32[3]) {
  %0: f32[3], %1: f32[3], %2: f32[3] = scan(%a, %b, %c) {steps=5, sliced=(), stacked=()} with
    graph turn(%a: f32[3], %b: f32[3], %c: f32[3]) {
      return %b, %c, %a
    }
  return %0, %1, %2
}""",
    "a line of delays": """
graph delays(%a: f32[40], %b: f32[40], %c: f32[40], %x: f32[9,40]) {
  %0: f32[40], %1: f32[40], %2: f32[40], %3: f32[9,40] = scan(%a, %b, %c, %x) {steps=9, sliced=(False,), stacked=(True,)} with
    graph turn(%a: f32[40], %b: f32[40], %c: f32[40], %x: f32[40]) {
      %0: f32[40] = mul(%x, %c)
      %1: f32[40] = sub(%0, %a)
      return %1, %a, %b, %c
    }
  return %0, %1, %2, %3
}""",
    "odd rows of several types": """
graph odd(%flag: bool[], %count: i32[], %x: f32[7,3], %flags: bool[7], %key: i64[7]) {
  %0: bool[], %1: i32[], %2: bool[7], %3: i32[7], %4: f32[7,3], %5: i64[7] = scan(%flag, %count, %x, %flags, %key) {steps=7, sliced=(True,False,True), stacked=(False,True,False,True)} with
    graph turn(%flag: bool[], %count: i32[], %x: f32[3], %f: bool[], %k: i64[]) {
      %0: i32[] = constant() {value=1}
      %1: i32[] = add(%count, %0)
      %2: bool[] = not_equal(%flag, %f)
      %3: f32[3] = neg(%x)
      %4: i64[] = add(%k, %k)
      return %2, %1, %2, %1, %3, %4
    }
  return %0, %1, %2, %3, %4, %5
}""",
    "constants and inputs as results": """
graph given(%a: f32[3], %x: f32[4,3], %w: f32[3]) {
  %0: f32[3], %1: f32[4,3], %2: f32[4,3], %3: f32[4,3], %4: f32[4,3] = scan(%a, %x, %w) {steps=4, sliced=(False,), stacked=(True,False,True,False)} with
    graph turn(%a: f32[3], %x: f32[3], %w: f32[3]) {
      %0: f32[3] = constant() {value=[1.0,2.0,3.0]}
      return %0, %x, %0, %w, %a
    }
  return %0, %1, %2, %3, %4
}""",
    "one turn": """
graph once(%a: f32[33], %x: f32[1,33]) {
  %0: f32[33], %1: f32[1,33] = scan(%a, %x) {steps=1, sliced=(False,), stacked=(True,)} with
    graph turn(%a: f32[33], %x: f32[33]) {
      %0: f32[33] = add(%a, %x)
      return %0, %a
    }
  return %0, %1
}""",
    "a state beside its view": """
graph view(%a: f32[2,6], %x: f32[5,12]) {
  %0: f32[2,6], %1: f32[5,12], %2: f32[5,12] = scan(%a, %x) {steps=5, sliced=(False,), stacked=(False,True)} with
    graph turn(%a: f32[2,6], %x: f32[12]) {
      %0: f32[2,6] = reshape(%x) {shape=(2,6)}
      %1: f32[2,6] = maximum(%a, %0)
      %2: f32[12] = reshape(%1) {shape=(12,)}
      return %1, %2, %2
    }
  return %0, %1, %2
}""",
    "states of the turns before": """
graph before(%a: f32[7], %b: f32[7], %x: f32[5,7]) {
  %0: f32[7], %1: f32[7], %2: f32[5,7], %3: f32[5,7] = scan(%a, %b, %x) {steps=5, sliced=(False,), stacked=(True,False)} with
    graph turn(%a: f32[7], %b: f32[7], %x: f32[7]) {
      %0: f32[7] = add(%a, %x)
      %1: f32[7] = mul(%b, %0)
      return %0, %1, %a, %b
    }
  return %0, %1, %2, %3
}""",
    "results that nobody reads": """
graph unread(%a: f32[20], %b: f32[20], %x: f32[5,20], %y: f32[5,20]) {
  %0: f32[20], %1: f32[20], %2: f32[5,20], %3: f32[5,20] = scan(%a, %b, %x, %y) {steps=5, sliced=(False,False), stacked=(False,True)} with
    graph turn(%a: f32[20], %b: f32[20], %x: f32[20], %y: f32[20]) {
      %0: f32[20] = add(%a, %x)
      %1: f32[20] = mul(%b, %y)
      return %0, %1, %1, %0
    }
  return %3
}""",
    "nothing in a row": """
graph empty(%a: f32[4], %x: f32[3,0]) {
  %0: f32[4], %1: f32[3,0] = scan(%a, %x) {steps=3, sliced=(False,), stacked=(False,)} with
    graph turn(%a: f32[4], %x: f32[0]) {
      %0: f32[4] = add(%a, %a)
      %1: f32[0] = add(%x, %x)
      return %0, %1
    }
  return %0, %1
}""",
    "a loop in a loop": """
graph nest(%a: f32[3], %n: i32[], %x: f32[4,5,3], %w: f32[3]) {
  %0: f32[3], %1: i32[], %2: f32[4,5,3], %3: f32[4,3] = scan(%a, %n, %x, %w) {steps=4, sliced=(True,), stacked=(False,True)} with
    graph outer(%a: f32[3], %n: i32[], %x: f32[5,3], %w: f32[3]) {
      %0: f32[3] = mul(%a, %w)
      %1: f32[3], %2: f32[3], %4: i32[], %3: f32[5,3] = scan(%0, %a, %n, %x, %w) {steps=5, sliced=(False,), stacked=(True,)} with
        graph inner(%a: f32[3], %b: f32[3], %n: i32[], %x: f32[3], %w: f32[3]) {
          %0: i32[] = constant() {value=3}
          %1: i32[] = add(%n, %0)
          %2: f32[3] = add(%a, %x)
          %3: f32[3] = mul(%2, %w)
          return %b, %3, %1, %2
        }
      return %1, %4, %3, %2
    }
  return %0, %1, %2, %3
}""",
    "two loops side by side": """
graph two(%a: f32[64,32], %x: f32[8,64,32], %w: f32[32,32]) {
  %0: f32[64,32], %1: f32[8,64,32] = scan(%a, %x, %w) {steps=8, sliced=(False,), stacked=(False,)} with
    graph turn(%a: f32[64,32], %x: f32[64,32], %w: f32[32,32]) {
      %0: f32[64,32] = matmul(%a, %w) {transpose_a=False, transpose_b=False}
      %1: f32[64,32] = add(%0, %x)
      %2: f32[64,32] = tanh(%1)
      return %2, %2
    }
  %2: f32[64,32], %3: f32[8,64,32] = scan(%a, %x, %w) {steps=8, sliced=(True,), stacked=(True,)} with
    graph turn(%a: f32[64,32], %x: f32[64,32], %w: f32[32,32]) {
      %0: f32[64,32] = matmul(%a, %w) {transpose_a=False, transpose_b=True}
      %1: f32[64,32] = add(%0, %x)
      %2: f32[64,32] = tanh(%1)
      return %2, %2
    }
  %4: f32[8,64,32] = mul(%1, %3)
  return %0, %2, %4
}""",
}


def lstm(steps: int = 6, batch: int = 32, units: int = 64, gates: bool = True) -> Graph:
    """The forward loop of an LSTM, its stacks as its gradients need them."""
    b, u, f = batch, units, 4 * units
    stacks = ", ".join(f"%{i}: f32[{steps},{b},{u}]" for i in range(2, 8))
    parts = "\n".join(f"%s{i}: f32[{b},{u}] = slice(%z) {{starts=(0,{i * u}), limits=({b},{(i + 1) * u}), strides=(1,1)}}"
                      for i in range(4))
    results = "%0, %1, %2, %3, %4, %5, %6, %7" if gates else "%0, %2"
    return verify(parse_graph(f"""
graph lstm(%h: f32[{b},{u}], %c: f32[{b},{u}], %x: f32[{steps},{b},{f}], %w: f32[{u},{f}]) {{
  %0: f32[{b},{u}], %1: f32[{b},{u}], {stacks} = scan(%h, %c, %x, %w) {{steps={steps}, sliced=(False,), stacked=(False,False,False,False,False,False)}} with
    graph turn(%h: f32[{b},{u}], %c: f32[{b},{u}], %x: f32[{b},{f}], %w: f32[{u},{f}]) {{
      %m: f32[{b},{f}] = matmul(%h, %w) {{transpose_a=False, transpose_b=False}}
      %z: f32[{b},{f}] = add(%m, %x)
      {parts}
      %i: f32[{b},{u}] = sigmoid(%s0)
      %f: f32[{b},{u}] = sigmoid(%s1)
      %g: f32[{b},{u}] = tanh(%s2)
      %o: f32[{b},{u}] = sigmoid(%s3)
      %ig: f32[{b},{u}] = mul(%i, %g)
      %fc: f32[{b},{u}] = mul(%f, %c)
      %cn: f32[{b},{u}] = add(%ig, %fc)
      %t: f32[{b},{u}] = tanh(%cn)
      %hn: f32[{b},{u}] = mul(%o, %t)
      return %hn, %cn, %hn, %cn, %i, %f, %g, %o
    }}
  return {results}
}}"""))


def backward(steps: int = 5, batch: int = 16, units: int = 24) -> Graph:
    """A loop from the last row to the first that sums the gradient of a matrix."""
    b, u, f = batch, units, 4 * units
    return verify(parse_graph(f"""
graph backward(%dh: f32[{b},{u}], %dw: f32[{u},{f}], %db: f32[{f}], %dy: f32[{steps},{b},{u}], %z: f32[{steps},{b},{f}], %h: f32[{steps},{b},{u}], %w: f32[{u},{f}]) {{
  %0: f32[{b},{u}], %1: f32[{u},{f}], %2: f32[{f}], %3: f32[{steps},{b},{f}] = scan(%dh, %dw, %db, %dy, %z, %h, %w) {{steps={steps}, sliced=(True,True,True), stacked=(True,)}} with
    graph turn(%dh: f32[{b},{u}], %dw: f32[{u},{f}], %db: f32[{f}], %dy: f32[{b},{u}], %z: f32[{b},{f}], %h: f32[{b},{u}], %w: f32[{u},{f}]) {{
      %0: f32[{b},{u}] = add(%dh, %dy)
      %1: f32[{b},{f}] = concat(%0, %h, %0, %h) {{axis=1}}
      %2: f32[{b},{f}] = sigmoid(%z)
      %3: f32[{b},{f}] = mul(%1, %2)
      %4: f32[{b},{u}] = matmul(%3, %w) {{transpose_a=False, transpose_b=True}}
      %5: f32[{u},{f}] = matmul(%h, %3) {{transpose_a=True, transpose_b=False}}
      %6: f32[{u},{f}] = add(%dw, %5)
      %7: f32[{f}] = reduce_sum(%3) {{axes=(0,)}}
      %8: f32[{f}] = add(%db, %7)
      return %4, %6, %8, %3
    }}
  return %0, %1, %2, %3
}}"""))


GRAPHS = {**{name: lambda text=text: verify(parse_graph(text)) for name, text in SCANS.items()},
          "an LSTM": lstm, "an LSTM's gradients": backward}


def arguments(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(0, 2, t.shape).astype(bool) if t.dtype.name == "bool" else
            rng.integers(-50, 50, t.shape).astype(t.dtype.numpy) if t.dtype.is_integer else
            rng.normal(0, 0.5, t.shape).astype(t.dtype.numpy) for t in graph.input_types]


def options(**changes: object) -> Options:
    return replace(Options(cache=False, threads=1, poison=math.nan), **changes)


def agree(graph: Graph, optimized: Graph, executable: CpuExecutable) -> list[bytes]:
    given = arguments(graph)
    results = kit.run(executable, given)
    for got, want in zip(results, interpret(graph, given), strict=True):
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
        else:
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)
    return [r.tobytes() for r in results]


@pytest.mark.parametrize("passes", [True, False], ids=["optimized", "as it is"])
@pytest.mark.parametrize("name", GRAPHS)
def test_turns_give_what_the_interpreter_does_with_any_number_of_threads(name: str, passes: bool, monkeypatch) -> None:
    monkeypatch.setattr("afterburner.cpu.target._ALONE_SECONDS", 0.0)
    graph = GRAPHS[name]()
    optimized = optimize_graph(graph, options()) if passes else graph
    alone = agree(graph, optimized, compile_graph(optimized, options()))
    for threads in (2, 3):
        executable = compile_graph(optimized, options(threads=threads))
        for _ in range(5):
            assert agree(graph, optimized, executable) == alone
    assert agree(graph, optimized, compile_graph(optimized, options(threads=2, profile=True))) == alone


@pytest.mark.parametrize("make", [lstm, partial(backward, batch=32)], ids=["forward", "backward"])
def test_pieces_of_a_batch_give_the_bits_of_the_whole(make: Callable[[], Graph], monkeypatch) -> None:
    monkeypatch.setattr("afterburner.passes.split_scans._LEAST_WORK", 0)
    monkeypatch.setattr("afterburner.cpu.target._ALONE_SECONDS", 0.0)
    graph = make()
    whole, pieces = (optimize_graph(graph, options(skip_passes=skip)) for skip in (("split_scans",), ()))
    assert "pieces=2" in str(pieces) and "pieces" not in str(whole)
    expected = agree(graph, whole, compile_graph(whole, options()))
    for threads in (1, 2, 3):
        executable = compile_graph(pieces, options(threads=threads))
        for _ in range(5):
            assert agree(graph, pieces, executable) == expected
    assert agree(graph, pieces, compile_graph(pieces, options(threads=2, profile=True))) == expected


def test_the_matrix_that_a_loop_multiplies_by_is_packed_once() -> None:
    graph = optimize_graph(lstm(steps=9), options())
    executable = compile_graph(graph, options(profile=True))
    product, gates = executable.kernels
    assert len(product.chunks) == 2 and product.label.startswith("matmul")
    assert executable._frame.segments == 1 + 9 * 2 + 1  # the last state is copied from the stacks
    agree(lstm(steps=9), graph, executable)


def test_a_filter_that_a_loop_captures_is_packed_once() -> None:
    graph = verify(parse_graph("""
graph g(%a: f32[1,8,8,16], %w: f32[1,1,16,16]) {
  %0: f32[1,8,8,16] = scan(%a, %w) {steps=4, sliced=(), stacked=()} with
    graph turn(%a: f32[1,8,8,16], %w: f32[1,1,16,16]) {
      %0: f32[1,8,8,16] = conv2d(%a, %w) {strides=(1,1), padding=((0,0),(0,0)), dilation=(1,1), groups=1}
      return %0
    }
  return %0
}"""))
    optimized = optimize_graph(graph, options())
    assert "kept=True" in str(optimized)
    alone = agree(graph, optimized, compile_graph(optimized, options()))
    assert agree(graph, optimized, compile_graph(optimized, options(threads=2))) == alone


def test_small_turns_are_one_segment_and_two_small_loops_run_at_once() -> None:
    graph = optimize_graph(GRAPHS["two loops side by side"](), options())
    frame = compile_graph(graph, options(threads=2))._frame
    assert frame.segments <= 2
    assert compile_graph(optimize_graph(lstm(batch=2, units=16), options()), options())._frame.segments == 1


def test_kernels_of_a_body_count_as_often_as_they_run() -> None:
    graph = optimize_graph(lstm(steps=7), options())
    executable = compile_graph(graph, options(profile=True))
    kit.run(executable, arguments(graph))
    product, gates = executable.kernels
    assert product.flops == 7 * (2 * 32 * 64 * 256 + 32 * 256)
    assert len(executable.kernel_seconds()) == 2 and min(executable.kernel_seconds()) > 0


def test_a_state_is_copied_only_where_nobody_makes_it() -> None:
    def copies(name: str) -> int:
        graph = optimize_graph(GRAPHS[name](), options())
        steps = scans.steps_of(graph, kernels_of(compile_nodes(computed(graph), host()), computed(graph)))
        (loop,) = [step for step in steps if isinstance(step, Loop)]
        return len(loop.copies)

    assert copies("an LSTM") == 2  # the last state, from the stacks
    assert copies("an LSTM's gradients") == 0
    assert copies("a line of delays") == 9 + 2
    assert copies("values that change places") == 3
    assert copies("states of the turns before") == 2  # the first ones


def test_updates_by_loops_in_parts(monkeypatch) -> None:
    monkeypatch.setattr(parts, "STOP_BYTES", 1)
    graph = verify(parse_graph("""
graph step(%x: f32[5,300], %v: f32[300] state, %w: f32[300] state) {
  %0: f32[300] = scan(%v, %x) {steps=5, sliced=(False,), stacked=()} with
    graph turn(%a: f32[300], %x: f32[300]) {
      %0: f32[300] = sub(%a, %x)
      return %0
    }
  %1: f32[300], %2: f32[5,300] = scan(%w, %x) {steps=5, sliced=(True,), stacked=(False,)} with
    graph turn(%a: f32[300], %x: f32[300]) {
      %0: f32[300] = mul(%a, %x)
      %1: f32[300] = add(%0, %x)
      return %1, %a
    }
  return %2, %0 -> %v, %1 -> %w
}"""))
    optimized = optimize_graph(graph, options())
    executable = compile_graph(optimized, options(profile=True))
    given = [np.ascontiguousarray(a) for a in arguments(graph)]
    made = {i: kit.aligned(t.shape, t.dtype.numpy) for i, t in enumerate(graph.output_types)}
    begun: list[int] = []

    def begin(positions):
        begun.extend(positions)
        return [made[i].ctypes.data for i in positions]

    executable.run_in_parts([a.ctypes.data for a in given], begin, lambda positions: None)
    assert sorted(begun) == [0, 1, 2] and len(executable.parts) > 1
    for got, want in zip(made.values(), kit.run(executable, given), strict=True):
        assert got.tobytes() == want.tobytes()


def test_a_loop_over_variables_alone_runs_once_a_version() -> None:
    graph = verify(parse_graph("""
graph g(%x: f32[8], %v: f32[8] state) {
  %0: f32[8] = scan(%v) {steps=3, sliced=(), stacked=()} with
    graph turn(%a: f32[8]) {
      %0: f32[8] = mul(%a, %a)
      return %0
    }
  %1: f32[8] = add(%x, %0)
  return %1
}"""))
    executable = compile_graph(optimize_graph(graph, options()), options())
    x, v, out = (kit.aligned((8,), np.float32) for _ in range(3))
    x[:], v[:] = 1, 2

    def run(version):
        executable.run([x.ctypes.data, v.ctypes.data], [out.ctypes.data], version)
        return float(out[0])

    assert run(1) == 257
    v[:] = 3
    assert (run(1), run(2)) == (257, 6562)


def test_a_loop_of_too_many_turns_is_refused() -> None:
    text = SCANS["a line of delays"].replace("steps=9", "steps=300000").replace("[9,40]", "[300000,40]")
    with pytest.raises(Unsupported, match="600000 kernels in all turns"):
        compile_graph(verify(parse_graph(text)), options())
