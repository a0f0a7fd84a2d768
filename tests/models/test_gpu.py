"""Whole models on the GPU target, emulated by MLX's CPU device, against stock TensorFlow."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from functools import partial

import keras
import numpy as np
import pytest
import tensorflow as tf

pytest.importorskip("mlx.core", reason="MLX has no wheel for this machine", exc_type=ImportError)

from afterburner.frontend.contest import STOCK, Choices  # noqa: E402
from afterburner.frontend.variables import clock  # noqa: E402
from afterburner.gpu.target import GpuExecutable  # noqa: E402
from tests.frontend import kit  # noqa: E402
from tests.frontend.kit import close  # noqa: E402
from tests.models import test_training  # noqa: E402
from tests.models.test_training import _train  # noqa: E402
from tests.models.zoo import CASES, Case, floats  # noqa: E402


@contextmanager
def on(target, **changes):
    """Functions are taken inside the block and compiled for this target."""
    before, kit.TARGET = kit.TARGET, target
    try:
        with kit.captured(gpu_emulate=True, device=target, **changes) as taken:
            yield taken
    finally:
        kit.TARGET = before


on_gpu, on_cpu = partial(on, "gpu"), partial(on, "cpu")


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    monkeypatch.setattr(test_training, "captured", on_gpu)


@pytest.mark.parametrize("name", ["residual"])
def test_every_gradient(name):
    test_training.test_every_gradient(name)


@pytest.mark.parametrize("name", ["mlp", "lenet", "volumes"])
def test_trains_as_on_tensorflow(name):
    for function in test_training.check_training(name):
        assert {part.device for part in function.parts} == {"gpu emulated by MLX's cpu device"}


def test_mixed_bfloat16_trains():
    case = CASES["mlp"]
    with floats("mixed_bfloat16"):
        expected = _train(case, "sgd", 0.0)
        with on_gpu():
            ours = _train(case, "sgd", 0.0)
    close(ours[0], expected[0], 3e-2)


def step_of(variable):
    """A step that reads and writes a variable."""

    @tf.function
    def step(x):
        variable.assign(variable * 0.5 + tf.reduce_mean(tf.square(x), axis=0))
        return tf.reduce_sum(variable)

    return step


@pytest.fixture
def kept(monkeypatch):
    """For every run, whether each variable's value was on the device."""
    seen: list[list[bool]] = []
    run = GpuExecutable.run_keeping

    def watched(self, inputs, outputs, kept, *rest):
        seen.append([value is not None for value in kept])
        return run(self, inputs, outputs, kept, *rest)

    monkeypatch.setattr(GpuExecutable, "run_keeping", watched)
    monkeypatch.setattr(clock, "unsafe", False)  # a dataset of another test may have taken a variable
    return seen


X = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)


def test_variables_stay_on_the_device_until_something_else_may_have_written_them(kept):
    def script():
        variable = tf.Variable(tf.zeros(4))
        step, seen = step_of(variable), []
        for i in range(8):
            seen += [step(tf.constant(X)), tf.identity(variable)]
            if i == 3:
                variable.assign([1.0, 2.0, 3.0, 4.0])
        return [value.numpy() for value in seen]  # what was read earlier has not changed

    expected = script()
    with on_gpu():
        close(script(), expected)
    assert kept == [[False], [True], [True], [True], [False], [True], [True], [True]]


def test_going_to_the_cpu_and_back_loses_nothing(kept):
    def script(*blocks):
        variable, seen = tf.Variable(tf.zeros(4)), []
        for block in blocks:
            with block():
                step = step_of(variable)
                seen += [step(tf.constant(X)) for _ in range(3)]
        return [*seen, variable.numpy()]

    expected = script(*[nullcontext] * 4)
    close(script(on_gpu, on_cpu, on_gpu, on_cpu), expected)
    assert kept == [[False], [True], [True]] * 2


def test_a_failure_on_the_device_writes_nothing():
    def script():
        variable = tf.Variable(tf.zeros(4))
        step = step_of(variable)
        return [step(tf.constant(X)) for _ in range(3)], variable.numpy()

    expected = script()
    with on_gpu(strict=False, fault="run") as taken:
        close(script(), expected)
    assert "planted failure of a run" in taken.functions()["step"].failures[0]


def _competing(**changes):
    """Functions are taken inside the block, by the cpu or the gpu."""
    choices = Choices(lambda: ("cpu", "gpu"))
    return kit.captured(choices=choices, gpu_emulate=True, device="any", compile_after=1, **changes)


def _noisy(dropout):
    """A bias before a normalization, whose gradient is rounding alone: Adam makes full steps of it."""
    layers = [keras.layers.Conv2D(8, 3), keras.layers.BatchNormalization(), keras.layers.ReLU(),
              keras.layers.Dropout(dropout), keras.layers.Flatten(), keras.layers.Dense(5)]
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


COMPETING = {**{name: (name, "float32") for name in ("mlp", "residual")}, "halves": ("lenet", "mixed_bfloat16"),
             "noise": ("noise", "float32")}


@pytest.mark.parametrize("name", COMPETING)
def test_the_cpu_confirms_the_gpu_in_a_trial(name):
    model, policy = COMPETING[name]
    case = CASES[model] if model in CASES else Case(_noisy, (8, 8, 3), 5)
    with floats(policy), _competing() as taken:
        _train(case, "adam", 0.25)
    choices = [choice for function in taken.recorder.report().functions for choice in function.choices]
    assert choices and not any(choice.dropped for choice in choices)
    assert all(choice.steps <= 10 and set(choice.seconds) == {"cpu", "gpu", STOCK} for choice in choices)


def test_wrong_results_of_the_gpu_are_not_used(monkeypatch, tmp_path):
    case, computed = CASES["mlp"], GpuExecutable._computed
    expected = _train(case, "adam", 0.25)

    def wrong(self, arrays):
        return [r * 1.5 if r.ndim == 2 else r for r in computed(self, arrays)]

    monkeypatch.setattr(GpuExecutable, "_computed", wrong)
    with _competing(strict=False, dump=tmp_path) as taken:
        ours = _train(case, "adam", 0.25)
    close(ours[3], expected[3], 2e-3)
    choices = [choice for function in taken.recorder.report().functions for choice in function.choices]
    assert choices and "gpu" not in {choice.chosen for choice in choices}
    assert any("from the same inputs: an error of" in choice.dropped.get("gpu", "") for choice in choices)


def test_saved_weights_predict_the_same_in_tensorflow(tmp_path):
    case = CASES["mlp"]
    with on_gpu():
        model = case.model(0.0)
        model.compile("adam", case.loss)
        x, y = case.data(64)
        model.fit(x, y, batch_size=16, verbose=0)
        predicted = model.predict(x, verbose=0)
        model.save(tmp_path / "m.keras")
    close(keras.models.load_model(tmp_path / "m.keras").predict(x, verbose=0), predicted)
