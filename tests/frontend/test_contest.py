"""Candidates take turns in the steps of a program; times are made up, numbers are TensorFlow's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from afterburner import compile, hardware
from afterburner.errors import StrictError
from afterburner.frontend.contest import STOCK, Choices
from afterburner.ir import parse_graph
from afterburner.options import overridden, set_options
from afterburner.runtime.cache import ObjectCache
from afterburner.runtime.decisions import LIMIT_BYTES, Decisions
from afterburner.runtime.executable import Unsupported, UnsupportedNow
from tests.frontend.kit import captured, close
from tests.interpreter_target import view

ONE_TARGET = True  # times are made up
STEPS = 16


class World:
    """A clock that TensorFlow's steps move by 1 s, and ours by ``seconds`` of their device."""

    def __init__(self, **seconds: float) -> None:
        self.seconds = seconds
        self.now = 0.0
        self.runs: list[str] = []
        self.fails: dict[str, int] = {}  # device: runs until one fails
        self.wrong = 0  # which output of the gpu is wrong, from 1; 0 for none
        self.has_room = True

    def clock(self) -> float:
        self.now += 1.0
        return self.now

    def wrap(self, executable: Any) -> Any:
        return Timed(executable, self)

    def choices(self, folder: Path | None = None, doubt: str | None = "in doubt") -> Choices:
        kept = Decisions(ObjectCache(folder, LIMIT_BYTES)) if folder else None
        return Choices(lambda: tuple(self.seconds), lambda graph: doubt, decisions=lambda: kept, clock=self.clock,
                       room=lambda graph: self.has_room)


class Timed:
    def __init__(self, real: Any, world: World) -> None:
        self._real, self._world = real, world

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run(self, *arguments: Any) -> None:
        self._real.run(*arguments)
        world, device = self._world, self._real.target
        if world.wrong and device == "gpu":
            number = world.wrong - 1
            view(arguments[1][number], self._real.output_types[number])[...] *= 1.01
        world.now += world.seconds[device] - 1.0
        world.runs.append(device)
        world.fails[device] = world.fails.get(device, 1 << 30) - 1
        if world.fails[device] < 0:
            raise RuntimeError("planted")


def _training() -> tuple[tf.Variable, Any, Any]:
    v = tf.Variable(1.0)
    dataset = tf.data.Dataset.range(10 * STEPS).map(lambda i: tf.cast(i, tf.float32))

    @tf.function
    def step(iterator):
        x = next(iterator)
        v.assign(v * 0.5 + x)
        return v * 2 + tf.random.stateless_uniform((), (1, 2))

    return v, step, iter(dataset)


def _stock() -> tuple[list[float], float]:
    v, step, iterator = _training()
    return [step(iterator).numpy() for _ in range(STEPS)], v.numpy()


def _taken(world: World, folder: Path | None = None, doubt: str | None = "in doubt", **changes: Any):
    """A training under the made-up clock, its results compared with TensorFlow's; the report of its function."""
    expected, final = _stock()
    v, step, iterator = _training()
    with captured(world.wrap, world.choices(folder, doubt), **{"compile_after": 1, **changes}) as taken:
        results = [step(iterator).numpy() for _ in range(STEPS)]
    np.testing.assert_allclose(results, expected, rtol=1e-6)
    np.testing.assert_allclose(v.numpy(), final, rtol=1e-6)
    return taken.functions()["step"], taken


def test_every_step_of_a_trial_is_a_step_of_the_training():
    world = World(cpu=1.1, gpu=0.9)
    report, _ = _taken(world)
    (choice,) = report.choices
    assert choice.chosen == "gpu" and choice.steps <= 10 and choice.origin == "measured"
    assert choice.seconds == pytest.approx({"cpu": 1.1, "gpu": 0.9, STOCK: 1.0})
    compared = ["gpu", "cpu", "cpu", "cpu"]  # the first step of a gpu: nobody else's results are used
    assert world.runs == ["cpu"] * 3 + compared + ["gpu"] * 2 + ["gpu"] * (STEPS - 1 - 9)
    assert str(choice) == "stays on gpu: 900 ms on gpu against 1.1e+03 ms on cpu against 1e+03 ms on TensorFlow " \
                          "(measured in 9 steps)"


def test_where_tensorflow_is_faster_the_whole_function_is_its_own_again():
    world = World(cpu=2.0)
    report, _ = _taken(world)
    assert report.choices[0].chosen == STOCK and report.status == "given back"
    assert world.runs == ["cpu"] * 3
    v, step, iterator = _training()
    with captured(world.wrap, world.choices(), compile_after=1) as taken:
        for _ in range(STEPS):
            step(iterator)
        count = len(world.runs)
        with overridden(device="cpu"):  # asked for by name, it is compiled all the same
            step(iterator)
        assert len(world.runs) == count + 1
        step(iterator)
        assert len(world.runs) == count + 1
    assert taken.count == 2


def test_without_doubt_nothing_is_tried():
    world = World(cpu=2.0)
    report, _ = _taken(world, doubt=None)
    assert not report.choices and world.runs == ["cpu"] * (STEPS - 1)


def test_tensorflow_takes_part_in_every_trial_of_devices():
    world = World(cpu=2.0, gpu=1.5)
    report, _ = _taken(world, doubt=None)
    assert report.choices[0].chosen == STOCK and set(report.choices[0].seconds) == {"cpu", "gpu", STOCK}


@pytest.mark.parametrize("has_room", [True, False])
def test_what_tensorflow_has_not_run_before_is_tried_beside_devices_where_there_is_room(has_room):
    world = World(cpu=2.0, gpu=1.5)
    world.has_room = has_room
    report, _ = _taken(world, compile_after=0)
    assert report.choices[0].chosen == (STOCK if has_room else "gpu")


def test_what_tensorflow_has_not_run_before_is_not_tried_on_it():
    world = World(cpu=2.0)
    report, _ = _taken(world, compile_after=0)
    assert not report.choices and world.runs == ["cpu"] * STEPS


def test_deterministic_runs_measure_nothing(monkeypatch):
    world = World(cpu=2.0, gpu=1.0)
    report, _ = _taken(world, deterministic=True)
    assert not report.choices and set(world.runs) == {"cpu"}
    monkeypatch.setattr(config, "is_op_determinism_enabled", lambda: True)
    world = World(cpu=2.0, gpu=1.0)
    report, _ = _taken(world)
    assert not report.choices and set(world.runs) == {"cpu"}


def test_kernels_that_are_timed_one_by_one_take_part_in_no_trial(tmp_path):
    world = World(cpu=2.0)
    report, _ = _taken(world, folder=tmp_path / "d", profile=True)
    assert not report.choices and set(world.runs) == {"cpu"}


def test_a_decision_is_remembered_and_a_damaged_one_made_anew(tmp_path):
    folder = tmp_path / "decisions"
    _taken(World(cpu=2.0), folder)
    world = World(cpu=2.0)
    report, taken = _taken(world, folder)
    (choice,) = report.choices
    assert (choice.chosen, choice.origin) == (STOCK, "cache") and not world.runs and taken.count == 0
    assert str(choice).endswith("(measured before)") and report.status == "given back"
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    world = World(cpu=0.1)
    report, _ = _taken(world, folder)
    assert (report.choices[0].chosen, report.choices[0].origin) == ("cpu", "measured")
    world = World(cpu=5.0)
    report, _ = _taken(world, folder)
    assert (report.choices[0].chosen, report.choices[0].origin) == ("cpu", "cache")
    assert world.runs == ["cpu"] * (STEPS - 1)


def test_a_candidate_that_fails_in_a_step_leaves_nothing_half_written(tmp_path):
    world = World(cpu=2.0, gpu=0.5)
    world.fails["gpu"] = 1
    report, _ = _taken(world, tmp_path / "d", strict=False, verbosity="silent", dump=tmp_path)
    (choice,) = report.choices
    assert choice.chosen == STOCK and "planted" in choice.dropped["gpu"] and "gpu" not in choice.seconds
    assert not (tmp_path / "d").exists()
    assert not report.failures
    world.fails["gpu"] = 1
    with pytest.raises(StrictError, match="planted"):
        _taken(world, strict=True, dump=tmp_path)


@pytest.mark.parametrize("wrong", [1, 2], ids=["a result", "a new value of a variable"])
def test_a_device_with_wrong_results_leaves_before_they_are_used(tmp_path, wrong):
    world = World(cpu=2.0, gpu=0.5)
    world.wrong = wrong
    report, _ = _taken(world, tmp_path / "d", strict=False, verbosity="silent", dump=tmp_path)
    (choice,) = report.choices
    reason = choice.dropped["gpu"]
    assert choice.chosen == STOCK and f"output {wrong - 1} (f32[]) is not what the" in reason
    assert world.runs.count("gpu") == 1 and not report.failures
    assert not (tmp_path / "d").exists()  # another version may do better
    (repro,) = tmp_path.glob("*gpu.run.txt")
    assert str(repro) in reason and parse_graph(repro.read_text()).name
    world = World(cpu=2.0, gpu=0.5)
    world.wrong = wrong
    with pytest.raises(StrictError, match="Disagreement"):
        _taken(world, strict=True, dump=tmp_path)


def test_all_that_fail_leave_the_stage_to_tensorflow(tmp_path):
    world = World(cpu=2.0, gpu=0.5)
    world.has_room = False
    world.fails.update(cpu=1, gpu=1)
    report, _ = _taken(world, compile_after=0, strict=False, verbosity="silent", dump=tmp_path)
    assert report.failures and world.runs == ["cpu", "cpu", "gpu", "gpu"]


def test_a_device_that_cannot_compile_a_graph_takes_no_part(tmp_path):
    world = World(cpu=0.5, gpu=0.1)

    def refuse(executable: Any) -> Any:
        if executable.target == "gpu":
            raise Unsupported("no such kernel")
        return world.wrap(executable)

    expected, _ = _stock()
    v, step, iterator = _training()
    with captured(refuse, world.choices(tmp_path / "d"), compile_after=1, dump=tmp_path) as taken:
        np.testing.assert_allclose([step(iterator).numpy() for _ in range(STEPS)], expected, rtol=1e-6)
    (choice,) = taken.functions()["step"].choices
    assert choice.chosen == "cpu" and "no such kernel" in choice.dropped["gpu"]
    v, step, iterator = _training()
    with captured(refuse, world.choices(), device="gpu") as taken:
        np.testing.assert_allclose([step(iterator).numpy() for _ in range(STEPS)], expected, rtol=1e-6)
    assert taken.functions()["step"].moved == ["on the cpu, since the gpu cannot: no such kernel"]


@pytest.mark.parametrize("steps", [1, 2, 4, 5, 8])
def test_a_trial_ends_on_the_cpu_where_determinism_is_asked_for_on_the_way(steps, tmp_path, monkeypatch):
    world = World(cpu=2.0, gpu=1.0)
    expected, final = _stock()
    v, step, iterator = _training()
    with captured(world.wrap, world.choices(tmp_path / "d"), compile_after=1) as taken:
        results = [step(iterator).numpy() for _ in range(steps)]
        monkeypatch.setattr(config, "is_op_determinism_enabled", lambda: True)
        world.runs.clear()
        results += [step(iterator).numpy() for _ in range(STEPS - steps)]
    np.testing.assert_allclose(results, expected, rtol=1e-6)
    np.testing.assert_allclose(v.numpy(), final, rtol=1e-6)
    assert world.runs == ["cpu"] * (STEPS - max(steps, 1))
    assert taken.functions()["step"].choices == [] and not (tmp_path / "d").exists()


@pytest.mark.parametrize("error, kept", [(Unsupported("for good"), True), (UnsupportedNow("until the end"), False),
                                         (MemoryError("just now"), False)], ids=lambda value: str(value))
def test_only_what_holds_for_other_processes_is_kept(tmp_path, error, kept):
    world = World(cpu=0.5, gpu=0.1)

    def refuse(executable: Any) -> Any:
        if executable.target == "gpu":
            raise error
        return world.wrap(executable)

    v, step, iterator = _training()
    with captured(refuse, world.choices(tmp_path / "d"), compile_after=1, strict=False, dump=tmp_path) as taken:
        for _ in range(STEPS):
            step(iterator)
    (choice,) = taken.functions()["step"].choices
    assert choice.chosen == "cpu" and str(error) in choice.dropped["gpu"]
    assert (tmp_path / "d").exists() == kept


def test_a_step_that_tensorflow_has_to_repeat_is_not_compared():
    world = World(cpu=1.1)

    @tf.function
    def divide(a, b):
        return a // b + a * 2 + 1

    with captured(world.wrap, world.choices(), compile_after=1) as taken:
        for number in range(STEPS):
            if number in (2, 3):
                with pytest.raises(tf.errors.InvalidArgumentError):
                    divide(tf.constant(7), tf.constant(0))
            else:
                assert divide(tf.constant(7), tf.constant(2)).numpy() == 18
    (choice,) = taken.functions()["divide"].choices
    assert choice.steps == 10 and choice.seconds == pytest.approx({"cpu": 1.1, STOCK: 1.0})


def _network() -> tuple[keras.Model, np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dropout(0.3),
                              keras.layers.Dense(2)])
    model.compile("adam", "mse")
    rng = np.random.default_rng(0)
    return model, rng.normal(size=(32, 6)).astype("float32"), rng.normal(size=(32, 2)).astype("float32")


def test_a_change_of_device_between_two_fits_loses_nothing():
    def fits(change) -> tuple[list[float], Any]:
        model, x, y = _network()
        losses = []
        for device in ("cpu", "gpu", "cpu"):
            change(device)
            losses += model.fit(x, y, batch_size=8, epochs=2, verbose=0, shuffle=False).history["loss"]
        return losses, [model.get_weights(), [v.numpy() for v in model.optimizer.variables]]

    expected = fits(lambda device: None)
    world = World(cpu=1.0, gpu=1.0)
    with captured(world.wrap, world.choices()) as taken:
        found = fits(lambda device: set_options(device=device))
    close(found, expected)
    half = len(world.runs) // 3
    assert world.runs == ["cpu"] * half + ["gpu"] * half + ["cpu"] * half and taken.count == 2


def test_a_trial_inside_fit_changes_no_numbers():
    model, x, y = _network()
    expected = model.fit(x, y, batch_size=8, epochs=5, verbose=0, shuffle=False).history["loss"]
    model, x, y = _network()
    world = World(cpu=1.1, gpu=1.2)
    with captured(world.wrap, world.choices(), compile_after=1) as taken:
        found = model.fit(x, y, batch_size=8, epochs=5, verbose=0, shuffle=False).history["loss"]
    close(found, expected)
    choices = [choice for report in taken.functions().values() for choice in report.choices]
    assert [choice.chosen for choice in choices] == [STOCK]


def test_an_earlier_outcome_of_other_candidates_is_not_used(tmp_path):
    _taken(World(cpu=2.0), tmp_path / "d")
    world = World(cpu=2.0, gpu=0.5)
    report, _ = _taken(world, tmp_path / "d")
    assert (report.choices[0].chosen, report.choices[0].origin) == ("gpu", "measured")


def test_room_is_a_quarter_of_the_memory(monkeypatch):
    graph = parse_graph("""
        graph g(%x: f32[1024]) {
          %0: f32[1024] = exp(%x)
          %1: f32[1024] = log(%0)
          %2: f32[1024] = add(%0, %1)
          %3: f32[] = reduce_sum(%2) {axes=(0,)}
          return %3
        }""")
    needed = 3 * 1024 * 4  # while %2 is made
    for memory, expected in [(4 * needed, True), (4 * needed - 4, False), (0, False)]:
        monkeypatch.setattr(compile, "usable_memory", lambda memory=memory: memory)
        assert compile.engine().choices.room(graph) == expected


@pytest.mark.parametrize("files, expected", [
    ({}, 1 << 34),
    ({"/sys/fs/cgroup/memory.max": "max\n"}, 1 << 34),
    ({"/sys/fs/cgroup/memory.max": "4294967296\n"}, 1 << 32),
    ({"/proc/self/cgroup": "0::/a/b\n", "/sys/fs/cgroup/a/memory.max": "1048576",
      "/sys/fs/cgroup/a/b/memory.max": "max"}, 1 << 20),
    ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": "1048576"}, 1 << 20),
    ({"/sys/fs/cgroup/memory/memory.limit_in_bytes": str((1 << 63) - 4096)}, 1 << 34),  # none
], ids=str)
def test_a_control_groups_memory_counts(monkeypatch, files, expected):
    def read(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(hardware, "physical_memory", lambda: 1 << 34)
    assert hardware.usable_memory(read) == expected
