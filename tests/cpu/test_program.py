"""Programs: tables, waves, threads, placement and the life of executables, with kernels made by hand."""

import gc
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import program_kit as kit
import pytest

from afterburner.cpu import build, program, schedule, target
from afterburner.cpu.compiled import CompiledKernel, computed, kernels_of
from afterburner.cpu.engine import engine, object_key
from afterburner.cpu.isa import host
from afterburner.cpu.kernel import Unsupported
from afterburner.cpu.loops import ANY
from afterburner.ir import Builder, Graph, TensorType, interpret
from afterburner.ir.ops.elementwise import Add, Mul, Neg, Sub
from afterburner.ir.ops.reduce import ReduceSum
from afterburner.ir.ops.shape import Constant, Reshape
from afterburner.ir.types import F32
from afterburner.options import Options
from afterburner.runtime.arena import ArenaError


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    monkeypatch.setattr(build, "compile_nodes", kit.compile_nodes)


def options(**changes):
    return Options(**{"cache": False, **changes})


def chain(length: int = 12, side: int = 100, name: str = "g") -> Graph:
    """Elementwise work with a constant, two sums, a view, and outputs that are no results of kernels."""
    builder = Builder(name)
    type_ = TensorType(F32, (side, side))
    x, y = builder.input(type_, "x"), builder.input(type_, "y")
    constant = builder.emit(Constant(np.linspace(-1, 1, side * side, dtype=np.float32).reshape(side, side)))
    value = builder.emit(Add(), x, y)
    for i in range(length):
        value = builder.emit(Mul() if i % 2 else Sub(), value, constant if i % 3 else x)
    total = builder.emit(ReduceSum((0, 1)), value)
    flat = builder.emit(Reshape((side * side,)), value)
    other = builder.emit(ReduceSum((0,)), builder.emit(Mul(), flat, flat))
    for out in (flat, total, x, flat, constant, other):
        builder.output(out)
    return builder.build()


def inputs_of(graph: Graph) -> list[np.ndarray]:
    rng = np.random.default_rng(7)
    return [rng.standard_normal(t.shape).astype(np.float32) for t in graph.input_types]


def compiled(graph: Graph) -> tuple[CompiledKernel, ...]:
    nodes = computed(graph)
    return kernels_of(kit.compile_nodes(nodes, host()), nodes)


def as_bytes(arrays: list[np.ndarray]) -> list[bytes]:
    return [a.tobytes() for a in arrays]


def test_results_agree_with_the_interpreter():
    graph = chain()
    arrays = inputs_of(graph)
    for got, want in zip(kit.run(target.compile_graph(graph, options()), arrays), interpret(graph, arrays),
                         strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-5)


def test_results_have_the_same_bits_for_every_number_of_threads():
    graph = chain(40)
    arrays = inputs_of(graph)
    one = as_bytes(kit.run(target.compile_graph(graph, options(threads=1)), arrays))
    for threads in (2, 3):
        executable = target.compile_graph(graph, options(threads=threads))
        assert executable.device == f"cpu ({host().name}, {threads} threads)"
        for _ in range(20):
            assert as_bytes(kit.run(executable, arrays)) == one


def test_inputs_need_no_alignment():
    graph = chain()
    arrays = inputs_of(graph)
    executable = target.compile_graph(graph, options())
    assert as_bytes(kit.run(executable, [kit.misaligned(a) for a in arrays])) == as_bytes(
        kit.run(executable, arrays))


def test_little_work_stays_on_the_caller():
    executable = target.compile_graph(chain(2, side=4), options(threads=4))
    assert executable.device.endswith("1 thread)")


def test_independent_kernels_share_a_wave_and_dependent_ones_do_not():
    builder = Builder()
    x = builder.input(TensorType(F32, (100, 100)), "x")
    left, right = builder.emit(Add(), x, x), builder.emit(Mul(), x, x)
    builder.output(builder.emit(Sub(), builder.emit(Reshape((100, 100)), left), right))
    graph = builder.build()
    kernels = compiled(graph)
    wave_of = schedule.waves(kernels)
    assert [wave_of[k.node] for k in kernels] == [0, 0, 1]
    assert [sum(w.chunks for w in s) for s in schedule.segments(kernels, wave_of)] == [16, 8]
    assert sorted(schedule.waves(kernels, apart=True).values()) == [0, 1, 2]


def test_small_kernels_run_in_one_piece_without_barriers():
    graph = chain(10, side=4)
    elementwise = [k for k in compiled(graph) if len(k.chunks) == 1]
    (segment,) = schedule.segments(elementwise, schedule.waves(elementwise))
    assert len(segment) == 1 and len(segment[0].parts) == len(elementwise)


def test_kernel_infos_and_profile(tmp_path):
    graph = chain(3)
    executable = target.compile_graph(graph, options(profile=True, threads=2, cache_dir=tmp_path))
    assert executable.kernel_seconds() == executable.peak_fractions() == () and executable.threads == 2
    began = time.perf_counter()
    for _ in range(5):
        kit.run(executable, inputs_of(graph))
    mean = (time.perf_counter() - began) / 5
    seconds = executable.kernel_seconds()
    assert len(seconds) == len(executable.kernels) == 7
    assert all(s > 0 for s in seconds) and sum(seconds) < mean
    fractions = executable.peak_fractions()
    assert len(fractions) == 7 and all(0 < f for f in fractions)
    first = executable.kernels[0]
    assert (first.label, first.fused, first.flops, first.bytes, first.chunks) == (
        "add", ("add",), 10_000, 120_000, (8,))


def test_faults_can_be_planted():
    with pytest.raises(target.PlantedFault):
        target.compile_graph(chain(), options(fault="codegen"))
    executable = target.compile_graph(chain(), options(fault="run"))
    with pytest.raises(target.PlantedFault):
        kit.run(executable, inputs_of(chain()))


def test_a_node_without_a_kernel_is_refused():
    builder = Builder()
    builder.output(builder.emit(Neg(), builder.input(TensorType(F32, (4,)), "x")))
    with pytest.raises(Unsupported, match="neg"):
        target.compile_graph(builder.build(), options())


def test_objects_are_kept_and_found_again(tmp_path):
    graph = chain()
    arrays = inputs_of(graph)
    first = target.compile_graph(graph, options(cache=True, cache_dir=tmp_path))
    renamed = chain(name="another_name")
    second = target.compile_graph(renamed, options(cache=True, cache_dir=tmp_path, threads=1))
    assert (first.cached, second.cached) == (False, True)
    assert as_bytes(kit.run(first, arrays)) == as_bytes(kit.run(second, arrays))


def test_a_second_process_runs_the_object_of_the_first(tmp_path):
    code = f"""
import hashlib, sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]}
import test_program as t
t.build.compile_nodes = t.kit.compile_nodes
graph = t.chain()
e = t.target.compile_graph(graph, t.Options(cache_dir=t.Path({str(tmp_path)!r})))
print(e.cached, hashlib.sha256(b"".join(t.as_bytes(t.kit.run(e, t.inputs_of(graph))))).hexdigest())
"""
    first, second = (subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                                    timeout=120).stdout.split() for _ in range(2))
    assert (first[0], second[0]) == ("False", "True")
    assert first[1] == second[1]


def test_a_damaged_object_is_compiled_again(tmp_path):
    graph = chain()
    first = target.compile_graph(graph, options(cache=True, cache_dir=tmp_path))
    want = as_bytes(kit.run(first, inputs_of(graph)))
    for file in (tmp_path / "objects").iterdir():
        raw = bytearray(file.read_bytes())
        raw[len(raw) // 2] ^= 1
        file.write_bytes(raw)
    again = target.compile_graph(graph, options(cache=True, cache_dir=tmp_path))
    assert not again.cached
    assert as_bytes(kit.run(again, inputs_of(graph))) == want
    assert target.compile_graph(graph, options(cache=True, cache_dir=tmp_path)).cached


def test_the_key_tells_instruction_sets_apart():
    assert len({object_key("x", host(name)) for name in ("avx2", "avx512", "generic")} | {
        object_key("y", host("avx2"))}) == 4


def test_many_python_threads_may_call_at_once():
    graph = chain(30)
    arrays = inputs_of(graph)
    executables = [target.compile_graph(graph, options(threads=t)) for t in (1, 2, 3)]
    want = as_bytes(kit.run(executables[0], arrays))
    wrong: list[int] = []

    def caller(index: int) -> None:
        for turn in range(30):
            if as_bytes(kit.run(executables[(index + turn) % 3], arrays)) != want:
                wrong.append(index)

    callers = [threading.Thread(target=caller, args=(i,)) for i in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert not wrong and not any(t.is_alive() for t in callers)


def test_a_stopped_team_starts_again():
    graph = chain()
    executable = target.compile_graph(graph, options(threads=2))
    want = as_bytes(kit.run(executable, inputs_of(graph)))
    assert engine().stop_team()
    assert not [t for t in threading.enumerate() if t.name.startswith("afterburner-") and t.is_alive()]
    assert as_bytes(kit.run(executable, inputs_of(graph))) == want


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_runs_with_a_team_of_its_own():
    graph = chain()
    arrays = inputs_of(graph)
    executable = target.compile_graph(graph, options(threads=3))
    want = as_bytes(kit.run(executable, arrays))
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            kit.run(executable, arrays)

    caller = threading.Thread(target=busy)
    caller.start()
    try:
        for _ in range(5):
            child = os.fork()
            if child == 0:
                same = all(as_bytes(kit.run(executable, arrays)) == want for _ in range(5))
                os._exit(0 if same else 1)
            assert _exit_status(child, 60) == 0
    finally:
        stop.set()
        caller.join()


def _exit_status(child: int, seconds: float) -> int:
    """The exit status of a child; it is killed, and the status -1, if it takes too long."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1


def test_a_busy_machine_does_not_stop_a_program():
    graph = chain(30)
    arrays = inputs_of(graph)
    executable = target.compile_graph(graph, options(threads=4))
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        began = time.monotonic()
        for _ in range(100):
            kit.run(executable, arrays)
        assert time.monotonic() - began < 60
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def test_the_process_ends_while_workers_wait():
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]}
import test_program as t
t.build.compile_nodes = t.kit.compile_nodes
graph = t.chain()
t.kit.run(t.target.compile_graph(graph, t.options(threads=3)), t.inputs_of(graph))
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "done", "")


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_waits_for_the_program_and_does_no_harm():
    graph = chain(30)
    executable = target.compile_graph(graph, options(threads=2))
    arrays = inputs_of(graph)
    want = as_bytes(kit.run(executable, arrays))
    for delay in (0.01, 0.02, 0.03):
        timer = threading.Timer(delay, signal.raise_signal, (signal.SIGINT,))
        with pytest.raises(KeyboardInterrupt):
            timer.start()  # may be interrupted itself
            while True:
                kit.run(executable, arrays)
        timer.join()
        assert not engine().lock.locked()
        assert as_bytes(kit.run(executable, arrays)) == want


def test_dropped_executables_give_back_code_and_memory():
    graph = chain(4, side=1500)
    executable = target.compile_graph(graph, options(threads=2))
    kit.run(executable, inputs_of(graph))
    gone = weakref.ref(executable._code)
    planned = executable.arena_bytes
    assert engine().arena.size >= planned > 0
    held = kit.resident_bytes()
    del executable
    gc.collect()
    assert gone() is None
    assert engine().arena.needed < planned and kit.resident_bytes() < held


def test_a_thousand_compilations_do_not_grow():
    small = chain(2, side=4)
    target.compile_graph(small, options())
    before = kit.resident_bytes()
    for _ in range(40):
        target.compile_graph(small, options())
    gc.collect()
    assert kit.resident_bytes() - before < 24 << 20


def test_an_arena_that_cannot_be_had_is_an_error(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("afterburner.runtime.arena.mmap.mmap", refuse)
    with pytest.raises(ArenaError, match="MB"):
        target.compile_graph(chain(2, side=3000), options())


def test_each_worker_has_a_share_of_every_item():
    for workers in (1, 2, 3, 7):
        items = [program.Item(((number, 0, ANY),), chunks) for number, chunks in enumerate((1, 5, 1, 32, 2, 1))]
        segments, rows, _ = program.tables([items], workers)
        total, *shares = segments[0]
        assert total == 42 and sum(shares[1::2]) == 42
        found: list[list[list[int]]] = [[] for _ in items]
        for first, claims in zip(shares[::2], shares[1::2], strict=True):
            parts: dict[int, list[int]] = {}
            row = first
            for claim in range(claims):
                row += claim == rows[row][3]
                parts.setdefault(rows[row][0], []).append(claim - rows[row][2])
            for phase, chunks in parts.items():
                found[phase].append(chunks)
        for item, parts_of_item in zip(items, found, strict=True):
            assert [c for part in parts_of_item for c in part] == list(range(item.chunks))
            sizes = [len(part) for part in parts_of_item]
            assert len(sizes) == min(workers, item.chunks) and max(sizes) - min(sizes) <= 1
        assert max(shares[1::2]) - min(shares[1::2]) <= 1


def test_shares_of_workers_that_do_not_come_are_computed_by_the_others():
    graph = chain()
    arrays = inputs_of(graph)
    executable = target.compile_graph(graph, options(threads=3))
    want = as_bytes(kit.run(executable, arrays))
    executable._workers = 1
    assert as_bytes(kit.run(executable, arrays)) == want
