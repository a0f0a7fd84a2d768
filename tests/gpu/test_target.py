"""The executables of the GPU target, on MLX's CPU device."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX has no wheel for this machine", exc_type=ImportError)

from afterburner import compile as compile_module  # noqa: E402
from afterburner.compile import compile_graph as compile_for_any  # noqa: E402
from afterburner.cpu import engine  # noqa: E402
from afterburner.gpu import backend, devices, target  # noqa: E402
from afterburner.gpu.target import GpuExecutable, PlantedFault, compile_graph  # noqa: E402
from afterburner.ir import interpret, parse_graph  # noqa: E402
from afterburner.options import OptionError, from_environment, options, overridden, set_options  # noqa: E402
from afterburner.passes.pipeline import optimize  # noqa: E402
from afterburner.runtime.executable import KeepingExecutable, Unsupported  # noqa: E402
from tests.ops.test_cpu import aligned  # noqa: E402

STEP = """
    graph step(%x: f32[4,3], %w: f32[3,2] state, %b: bf16[] state) {
      %0: f32[4,2] = matmul(%x, %w)
      %1: f32[4,2] = tanh(%0)
      %2: f32[3,2] = matmul(%x, %1) {transpose_a=True}
      %3: f32[3,2] = sub(%w, %2)
      %4: bf16[] = add(%b, %b)
      return %1, %3 -> %w, %4 -> %b
    }"""
FUSIBLE = """
    graph fusible(%x: f32[4,3], %y: f32[4,3]) {
      %0: f32[4,3] = mul(%x, %y)
      %1: f32[4,3] = maximum(%0, %x)
      %2: f32[4,3] = exp(%1)
      %3: f32[3] = reduce_sum(%2) {axes=(0,)}
      return %2, %3
    }"""
DEVICE = devices.Device("", "cpu")


def inputs_of(executable: GpuExecutable, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(t.shape).astype(t.dtype.numpy) for t in executable.input_types]


def run(executable: GpuExecutable, inputs: list[np.ndarray]) -> list[np.ndarray]:
    outputs = [aligned(t) for t in executable.output_types]
    executable.run([a.ctypes.data for a in inputs], [o.ctypes.data for o in outputs])
    return outputs


def close(ours: list[np.ndarray], expected: list[np.ndarray]) -> None:
    for a, b in zip(ours, expected, strict=True):
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-5)


def test_computes_what_the_interpreter_does_and_says_where() -> None:
    graph = parse_graph(STEP)
    executable = compile_graph(graph, device=DEVICE)
    inputs = inputs_of(executable)
    before = [a.copy() for a in inputs]
    close(run(executable, inputs), interpret(graph, inputs))
    for a, b in zip(inputs, before, strict=True):
        np.testing.assert_array_equal(a, b)
    assert executable.device == "gpu emulated by MLX's cpu device"
    assert [k.label for k in executable.kernels] == ["matmul", "tanh", "matmul", "sub", "add"]
    assert executable.kernel_seconds() == executable.peak_fractions() == ()


@pytest.mark.parametrize("values", [[2.0, 3.0, 5.0], [7.0]])
def test_constants_that_were_folded_backwards(values: list[float]) -> None:
    size = len(values)
    graph = parse_graph(f"""
        graph products(%x: f32[{size}]) {{
          %0: f32[{size}] = constant() {{value={values}}}
          %1: f32[{size}] = cumprod(%0) {{axis=0, exclusive=False, reverse=True}}
          %2: f32[{size}] = add(%x, %1)
          return %2
        }}""")
    executable = compile_graph(optimize(graph, lower=False), device=DEVICE)
    (found,) = run(executable, [np.zeros(size, np.float32)])
    np.testing.assert_array_equal(found, np.cumprod(values[::-1])[::-1])


def test_results_in_other_rows_of_the_callers_memory() -> None:
    executable = compile_graph(parse_graph(FUSIBLE), device=DEVICE)
    inputs = inputs_of(executable)
    expected = run(executable, inputs)
    rows = [[aligned(t) for t in executable.output_types] for _ in range(3)]
    for row in (*rows, [rows[0][0], rows[2][1]]):
        for output in row:
            output.fill(0)
        executable.run([a.ctypes.data for a in inputs], [o.ctypes.data for o in row])
        for output, wanted in zip(row, expected, strict=True):
            np.testing.assert_array_equal(output, wanted)


@pytest.mark.skipif(shutil.which("g++") is None, reason="MLX's CPU device fuses with g++")
@pytest.mark.skipif(sys.platform == "win32", reason="MLX has no wheel there")
def test_fused_by_mlx_it_computes_the_same() -> None:
    graph = parse_graph(FUSIBLE)
    executable = compile_graph(graph, device=DEVICE, fuse=True)
    inputs = inputs_of(executable)
    inputs[0][0] = [np.nan, np.inf, -0.0]
    for _ in range(2):
        close(run(executable, inputs), interpret(graph, inputs))


def test_what_was_kept_stands_for_an_input() -> None:
    executable = compile_graph(parse_graph(STEP), device=DEVICE)
    assert isinstance(executable, KeepingExecutable)
    inputs = inputs_of(executable)
    first, expected, ours = ([aligned(t) for t in executable.output_types] for _ in range(3))
    at = [o.ctypes.data for o in first]
    kept = executable.run_keeping([a.ctypes.data for a in inputs], at, [None, None])
    executable.run([inputs[0].ctypes.data, at[1], at[2]], [o.ctypes.data for o in expected])
    # The addresses of kept values are not looked at.
    executable.run_keeping([inputs[0].ctypes.data, 0, 0], [o.ctypes.data for o in ours], kept[1:])
    assert [a.tobytes() for a in ours] == [a.tobytes() for a in expected]
    assert first[1].tobytes() != ours[1].tobytes()


def test_variables_of_one_version_are_read_once() -> None:
    executable = compile_graph(parse_graph(STEP), device=DEVICE)
    inputs = inputs_of(executable)
    outputs = [aligned(t) for t in executable.output_types]

    def at_version(version: object) -> bytes:
        executable.run([a.ctypes.data for a in inputs], [o.ctypes.data for o in outputs], version)
        return outputs[1].tobytes()

    first = at_version((1, 2))
    inputs[1] += 1
    assert at_version((1, 2)) == first
    changed = at_version((3, 2))
    assert changed != first
    inputs[1] += 1
    assert at_version(None) not in (first, changed)


def test_profiled_runs_time_each_operation() -> None:
    with overridden(profile=True):
        executable = compile_graph(parse_graph(STEP), device=DEVICE)
    inputs = inputs_of(executable)
    close(run(executable, inputs), interpret(parse_graph(STEP), inputs))
    assert len(executable.kernel_seconds()) == len(executable.kernels)
    assert all(seconds > 0 for seconds in executable.kernel_seconds())


def test_threads_may_share_an_executable() -> None:
    executable = compile_graph(parse_graph(STEP), device=DEVICE)
    wrong: list[int] = []

    def work(seed: int) -> None:
        inputs = inputs_of(executable, seed)
        expected = [a.tobytes() for a in run(executable, inputs)]
        for _ in range(20):
            if [a.tobytes() for a in run(executable, inputs)] != expected:
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_planted_faults() -> None:
    with overridden(fault="codegen"), pytest.raises(PlantedFault):
        compile_graph(parse_graph(STEP), device=DEVICE)
    with overridden(fault="run"):
        executable = compile_graph(parse_graph(STEP), device=DEVICE)
    with pytest.raises(PlantedFault):
        run(executable, inputs_of(executable))


WIDE = "graph wide(%x: f64[2]) {\n %0: f64[2] = add(%x, %x)\n return %0\n}"


def test_float64_is_refused() -> None:
    with pytest.raises(Unsupported, match="float64 is nothing a GPU computes with"):
        compile_graph(parse_graph(WIDE), device=DEVICE)
    with overridden(gpu_emulate=True), pytest.raises(Unsupported) as caught:
        compile_for_any(parse_graph(WIDE), device="gpu")
    assert "add" in caught.value.graph_text  # type: ignore[attr-defined]


@pytest.mark.parametrize("precision, setting", [("default", "0"), ("fast", "1")])
def test_fast_precision_lets_mlx_multiply_with_fewer_digits(precision: str, setting: str) -> None:
    program = ("import ctypes, afterburner.gpu.backend as backend; libc = ctypes.CDLL(None); "
               "libc.getenv.restype = ctypes.c_char_p; "
               "print(libc.getenv(b'MLX_ENABLE_TF32').decode(), int(backend.TF32))")
    environment = {**os.environ, "AFTERBURNER_PRECISION": precision, "MLX_ENABLE_TF32": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [setting, setting]


def test_a_process_that_began_fast_computes_exactly_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "TF32", True)
    with pytest.raises(Unsupported, match="MLX was loaded with fast precision"):
        compile_graph(parse_graph(STEP), device=devices.Device("a card", "CUDA"))
    compile_graph(parse_graph(STEP), device=DEVICE)  # MLX's CPU device knows one precision


def test_a_decision_holds_for_versions_of_mlx_and_of_what_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for emulate, version, sources in ((False, "1", "a"), (True, "1", "a"), (True, "2", "a"), (True, "2", "b"),
                                      (False, "2", "b")):
        monkeypatch.setattr(backend.mx, "__version__", version)
        monkeypatch.setattr(engine, "code_version", lambda *folders, sources=sources: sources if folders else "cpu")
        with overridden(gpu_emulate=emulate):
            found.append(compile_module._identity("graph"))
    assert len(set(found)) == 4 or devices.gpus()
    assert (found[0] == found[-1]) == (not devices.gpus())


def test_large_products_of_integers_are_refused() -> None:
    graph = parse_graph("graph g(%x: i32[400,400]) {\n %0: i32[400,400] = matmul(%x, %x)\n return %0\n}")
    with pytest.raises(Unsupported, match="matmul of integers"):
        compile_graph(graph, device=DEVICE)


@pytest.mark.skipif(backend.mx.is_available(backend.mx.gpu), reason="there is a GPU here")
def test_without_a_gpu_the_error_says_what_was_looked_for() -> None:
    assert devices.gpus() == ()
    with pytest.raises(devices.NoGpu, match="neither Metal .* nor CUDA"):
        compile_for_any(parse_graph(STEP), device="gpu")


def test_without_mlx_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "afterburner.gpu.backend")
    monkeypatch.delattr("afterburner.gpu.backend")
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    with pytest.raises(devices.NoGpu, match=r"pip install 'tensorflow-afterburner\[gpu\]'"):
        devices.gpus()


def test_options() -> None:
    assert (options().device, options().gpu_emulate) == ("any", False)
    assert from_environment({"AFTERBURNER_DEVICE": "gpu", "AFTERBURNER_GPU_EMULATE": "1"}).gpu_emulate
    with pytest.raises(OptionError, match="'tpu' is none of any, cpu, gpu"):
        set_options(device="tpu")
    with pytest.raises(OptionError, match="AFTERBURNER_DEVICE: 'tpu' is none of any, cpu, gpu"):
        from_environment({"AFTERBURNER_DEVICE": "tpu"})


LOOP = """
    graph loop(%h: f32[3,4], %n: i32[], %x: f32[STEPS,3,4], %w: f32[4,4]) {
      %0: f32[3,4], %1: i32[], %2: f32[STEPS,3,4], %3: f32[STEPS,3,4] = scan(%h, %n, %x, %w) {steps=STEPS, sliced=(True,), stacked=(False,True)} with
        graph turn(%h: f32[3,4], %n: i32[], %x: f32[3,4], %w: f32[4,4]) {
          %0: f32[3,4] = matmul(%h, %w)
          %1: f32[3,4] = add(%0, %x)
          %2: f32[3,4] = tanh(%1)
          %3: i32[] = add(%n, %n)
          return %2, %3, %2, %h
        }
      return %0, %1, %2, %3
    }"""  # noqa: E501


@pytest.mark.parametrize("clean", [True, False])
def test_turns_of_a_loop_follow_each_other(clean: bool) -> None:
    graph = parse_graph(LOOP.replace("STEPS", "5"))
    executable = compile_graph(optimize(graph, lower=False) if clean else graph, device=DEVICE)
    inputs = inputs_of(executable)
    close(run(executable, inputs), interpret(graph, inputs))


def test_a_loop_of_very_many_turns_is_refused() -> None:
    with pytest.raises(Unsupported, match="6000 turns makes 24000 operations"):
        compile_graph(parse_graph(LOOP.replace("STEPS", "6000")), device=DEVICE)
