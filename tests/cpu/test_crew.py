"""Processes that generate code: what they make, how they end, and what happens when they cannot."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from afterburner.cpu import build, crew, target
from afterburner.cpu.build import CodeError, compile_nodes, compile_text
from afterburner.cpu.compiled import computed
from afterburner.cpu.crew import CREW, Crew, WorkerDied
from afterburner.cpu.isa import host
from afterburner.cpu.kernel import Unsupported
from afterburner.ir import Builder, Graph, Location, TensorType, interpret
from afterburner.ir.ops.elementwise import Add, Exp
from afterburner.ir.ops.matmul import Matmul
from afterburner.ir.types import F32
from afterburner.options import Options

TEXT = "define i64 @f(i64 %x) {\n  ret i64 %x\n}\n"
SLOW = "\n".join(f"define i64 @f{i}(i64 %x) {{\n  %y = mul i64 %x, %x\n  ret i64 %y\n}}" for i in range(100_000))
# An instruction that the machine does not have: LLVM ends the process.
FATAL = """
declare <16 x i8> @llvm.aarch64.crypto.aese(<16 x i8>, <16 x i8>)
define <16 x i8> @f(<16 x i8> %x) {
  %y = call <16 x i8> @llvm.aarch64.crypto.aese(<16 x i8> %x, <16 x i8> %x)
  ret <16 x i8> %y
}
"""
NO_CACHE = Options(cache=False)


def sums(count: int) -> Graph:
    """``count`` different kernels."""
    builder = Builder()
    for i in range(count):
        x = builder.input(TensorType(F32, (3 + i,)), f"x{i}")
        builder.output(builder.emit(Add(), builder.emit(Exp(), x), x, loc=Location(f"add_{i}", "model.py:7")))
    return builder.build()


def until(condition, seconds: float = 60.0) -> bool:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def gone(number: int) -> bool:
    """Whether a process has ended and been waited for."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(build, "CREW", Crew())


def test_several_processes_one_process_and_this_one_make_the_same_bytes(
        monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    nodes = computed(sums(31))
    monkeypatch.setattr(build, "available_cpus", lambda: 3)
    counts: list[tuple[int, int]] = []
    several = compile_nodes(nodes, host(), progress=lambda done, of: counts.append((done, of)))
    assert len(CREW.numbers()) == 3
    assert counts == sorted(counts) and counts[-1] == (62, 62) and len(counts) == 11
    CREW.close()
    monkeypatch.setattr(build, "available_cpus", lambda: 1)
    one = compile_nodes(nodes, host())
    assert len(CREW.numbers()) == 1
    request.getfixturevalue("no_workers")
    assert several == one == compile_nodes(nodes, host())


def test_without_an_interpreter_this_process_does_the_work(no_workers: None) -> None:
    graph = sums(3)
    inputs = [np.ones(t.shape, np.float32) for t in graph.input_types]
    raw = compile_nodes(computed(graph), host())
    assert not build.CREW.numbers() and compile_text(TEXT, host())
    assert len(json.loads(raw[8: 8 + int.from_bytes(raw[:8], "little")])["kernels"]) == 6
    assert interpret(graph, inputs)


def test_operands_that_are_one_value_are_no_kernel_for_two_values() -> None:
    builder = Builder()
    x, y = (builder.input(TensorType(F32, (20, 20)), name) for name in "xy")
    for other in (x, y):
        builder.output(builder.emit(Matmul(False, False), x, other))
    graph = builder.build()
    a, b = (np.random.default_rng(i).standard_normal((20, 20)).astype(np.float32) for i in range(2))
    outputs = [np.empty((20, 20), np.float32) for _ in range(2)]
    target.compile_graph(graph, NO_CACHE).run([a.ctypes.data, b.ctypes.data], [o.ctypes.data for o in outputs])
    for got, want in zip(outputs, interpret(graph, [a, b]), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fresh", [True, False])
def test_a_crash_of_llvm_is_an_error_of_this_compilation(fresh: bool) -> None:
    if fresh:
        CREW.close()
    with pytest.raises(WorkerDied, match="(?s)ended with signal 6.*LLVM ERROR: Cannot select"):
        compile_text(FATAL, host())
    assert compile_text(TEXT, host())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_process_is_an_error_of_this_compilation(number: signal.Signals) -> None:
    compile_text(TEXT, host())
    (worker,) = CREW.numbers()[:1]
    timer = threading.Timer(0.3, os.kill, (worker, number))
    timer.start()
    with pytest.raises(WorkerDied, match=f"ended with signal {int(number)}"):
        compile_text(SLOW, host())
    assert gone(worker)
    assert compile_text(TEXT, host())


def test_paths_that_are_no_strings_are_handed_over_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [tmp_path, *sys.path])
    CREW.close()
    assert compile_text(TEXT, host()) and CREW.numbers()


def test_one_that_dies_without_work_is_replaced() -> None:
    compile_text(TEXT, host())
    for worker in CREW.numbers():
        os.kill(worker, signal.SIGKILL)
        os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    assert compile_text(TEXT, host())


def test_refused_text_and_failures_tell_what_and_where(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CodeError, match="expected"):
        compile_text("define what", host())
    good = build.Parcels.__init__

    def spoilt(self: build.Parcels, nodes) -> None:  # type: ignore[no-untyped-def]
        good(self, nodes)
        self._nodes = {text.replace("add(", "add(%none, "): node for text, node in self._nodes.items()}
        self.batches = (tuple(self._nodes),)

    monkeypatch.setattr(build.Parcels, "__init__", spoilt)
    with pytest.raises(CodeError, match="%none is not defined.*in the code of add at add_0, model.py:7") as caught:
        compile_nodes(computed(sums(1)), host())
    assert "parse_graph" in str(caught.value.__cause__)
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(build, "CREW", Crew())
    with pytest.raises(CodeError, match="%none is not defined.*in the code of add at add_0, model.py:7"):
        compile_nodes(computed(sums(1)), host())


def test_an_unsupported_node_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder()
    x = builder.input(TensorType(F32, (4,)), "x")
    inner = Builder("loop")
    p, q = inner.input(TensorType(F32, (4,)), "p"), inner.input(TensorType(F32, (2,)), "q")
    inner.output(inner.emit(Exp(), p))
    inner.output(inner.emit(Exp(), q))
    from afterburner.ir.ops.control import Fusion

    for value in builder.add(Fusion("loop", inner.build()), x, builder.input(TensorType(F32, (2,)), "y")):
        builder.output(value)
    with pytest.raises(Unsupported, match="outputs differ in size"):
        compile_nodes(computed(builder.build()), host())
    monkeypatch.setattr(sys, "executable", "")
    monkeypatch.setattr(build, "CREW", Crew())
    with pytest.raises(Unsupported, match="outputs differ in size"):
        compile_nodes(computed(builder.build()), host())


def test_llvms_text_can_be_dumped(tmp_path: Path) -> None:
    target.compile_graph(sums(8), Options(dump=tmp_path / "new"))
    (file,) = (tmp_path / "new").glob("graph.*.ll")
    text = file.read_text()
    assert "define internal void" in text and text.index("functions_0") < text.index("functions_1")


def test_they_go_home_when_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "_IDLE_SECONDS", 0.2)
    some = Crew()
    some.ask({"do": "host"})
    (worker,) = some.numbers()
    assert until(lambda: gone(worker)) and not some.numbers()


def test_they_go_home_at_once_while_the_interpreter_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    some = Crew()
    monkeypatch.setattr("sys.is_finalizing", lambda: True)
    some.ask({"do": "host"})
    assert not some.numbers()


def test_threads_take_turns() -> None:
    results: list[bytes] = []
    threads = [threading.Thread(target=lambda: results.append(compile_text(TEXT, host()))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(results) == 6 and len(set(results)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_a_crew_of_its_own() -> None:
    want = compile_text(TEXT, host())
    workers = CREW.numbers()
    child = os.fork()
    if child == 0:
        same = not CREW.numbers() and compile_text(TEXT, host()) == want and CREW.numbers() != workers
        CREW.close()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert compile_text(TEXT, host()) == want and set(workers) <= set(CREW.numbers())


def test_an_interrupt_ends_the_wait_and_the_work(interrupts: None) -> None:
    compile_text(TEXT, host())
    (worker,) = CREW.numbers()[:1]
    began = time.monotonic()
    timer = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        compile_text(SLOW, host())
    assert gone(worker) and time.monotonic() - began < 5
    assert compile_text(TEXT, host())


SCRIPT = f"""
import sys, time
from afterburner.cpu.build import compile_text
from afterburner.cpu.crew import CREW
from afterburner.cpu.isa import host
compile_text({TEXT!r}, host())
print(*CREW.numbers(), "libllvmlite" in open("/proc/self/maps").read(), "llvmlite.binding" in sys.modules, flush=True)
"""


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)", "time.sleep(100)"], ids=["ends", "exits", "killed"])
def test_they_end_with_their_process(end: str, tmp_path: Path) -> None:
    environment = {**os.environ, "AFTERBURNER_CACHE_DIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT + end], env=environment, text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    worker, *loaded = process.stdout.readline().split()
    if "sleep" in end:
        process.kill()
    out, error = process.communicate(timeout=60)
    assert (out, error) == ("", "")
    assert loaded == ["False", "False"]
    assert until(lambda: _dead(int(worker)))


def _dead(number: int) -> bool:
    """Whether a process that may be nobody's child has ended."""
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
