"""Programs that stop for their caller: where, and with the same bits."""

from __future__ import annotations

import ctypes
import time

import numpy as np
import pytest
from cpu_harness import aligned

from afterburner.cpu import parts, schedule
from afterburner.cpu.target import CpuExecutable, compile_graph
from afterburner.ir import Graph, parse_graph, verify
from afterburner.options import Options

SIDE = 128
BYTES = 4 * SIDE * SIDE
TYPE = f"f32[{SIDE},{SIDE}]"
PRODUCT = "{transpose_a=False, transpose_b=False}"


def _updates(count: int, check: bool = False) -> Graph:
    """``count`` variables, each updated by the product of a row of products; perhaps a check on the last."""
    lines = []
    at = "%x"
    for i in range(count):
        lines += [f"%{2 * i}: {TYPE} = matmul({at}, %v{i}) {PRODUCT}", f"%{2 * i + 1}: {TYPE} = sub(%v{i}, %{2 * i})"]
        at = f"%{2 * i}"
    results = [at, *(f"%{2 * i + 1} -> %v{i}" for i in range(count))]
    if check:
        n = 2 * count
        lines += [f"%{n}: f32[] = reduce_sum({at}) {{axes=(0, 1)}}", f"%{n + 1}: bool[] = is_finite(%{n})"]
        results.append(f"%{n + 1} check 'finite'")
    states = ", ".join(f"%v{i}: {TYPE} state" for i in range(count))
    return verify(parse_graph(f"graph g(%x: {TYPE}, {states}) {{\n" + "\n".join(lines)
                              + f"\nreturn {', '.join(results)}\n}}"))


@pytest.fixture(autouse=True)
def stops(monkeypatch):
    monkeypatch.setattr(parts, "STOP_BYTES", BYTES)


def _compiled(graph: Graph) -> CpuExecutable:
    return compile_graph(graph, Options(threads=2))


def test_each_update_ends_a_part():
    executable = _compiled(_updates(4))
    assert [p.finished for p in executable.parts] == [(1,), (2,), (3,), (4,)]
    assert [p.segments[0] for p in executable.parts[1:]] == [p.segments[1] for p in executable.parts[:-1]]
    assert sorted(i for p in executable.parts for i in p.begun) == list(range(5))


def test_small_updates_are_one_part(monkeypatch):
    monkeypatch.setattr(parts, "STOP_BYTES", 5 * BYTES)
    (part,) = _compiled(_updates(4)).parts
    assert part.finished == (1, 2, 3, 4)


def test_no_update_is_final_before_all_checks_are():
    graph = _updates(4, check=True)
    assert graph.outputs[-1].check == "finite"
    (part,) = _compiled(graph).parts
    assert part.finished == (1, 2, 3, 4)


def _filled(values: np.ndarray) -> np.ndarray:
    array = aligned(values.shape, np.dtype(np.float32))
    array[...] = values
    return array


def test_the_same_bits_with_stops_and_without():
    graph = _updates(4)
    executable = _compiled(graph)
    rng = np.random.default_rng(3)
    arrays = [_filled(rng.standard_normal(t.shape) / 16) for t in graph.input_types]
    whole = [aligned(t.shape, np.dtype(np.float32)) for t in graph.output_types]
    inputs = [a.ctypes.data for a in arrays]
    executable.run(inputs, [a.ctypes.data for a in whole])
    pieces: dict[int, np.ndarray] = {}

    def begin(positions):
        pieces.update((i, aligned((SIDE, SIDE), np.dtype(np.float32))) for i in positions)
        return [pieces[i].ctypes.data for i in positions]

    def finish(positions):
        for position in positions:  # what a part has finished with may be overwritten
            ctypes.memset(inputs[position], 255, BYTES)

    executable.run_in_parts(inputs, begin, finish)
    for i, want in enumerate(whole):
        np.testing.assert_array_equal(pieces[i], want)


def test_the_time_of_stops_is_no_kernels():
    executable = compile_graph(_updates(4), Options(threads=2, profile=True))
    inputs = [aligned(t.shape, np.dtype(np.float32)) for t in executable.input_types]
    outputs = [aligned(t.shape, np.dtype(np.float32)) for t in executable.output_types]
    began = time.perf_counter()
    executable.run_in_parts([a.ctypes.data for a in inputs], lambda begun: [outputs[i].ctypes.data for i in begun],
                            lambda finished: time.sleep(0.2))
    assert 0 < sum(executable.kernel_seconds()) < time.perf_counter() - began - 4 * 0.2


def test_large_results_do_not_share_a_wave(monkeypatch):
    monkeypatch.setattr(schedule, "_MOVED_BYTES", 0)
    lines = "\n".join(f"%{i}: {TYPE} = matmul(%x, %v{i}) {PRODUCT}" for i in range(3))
    states = ", ".join(f"%v{i}: {TYPE} state" for i in range(3))
    results = ", ".join(f"%{i} -> %v{i}" for i in range(3))
    graph = verify(parse_graph(f"graph g(%x: {TYPE}, {states}) {{\n{lines}\nreturn {results}\n}}"))
    assert len(_compiled(graph).parts) == 1
    monkeypatch.setattr(schedule, "_WAVE_BYTES", BYTES)
    assert len(_compiled(graph).parts) == 3
