"""Functions in pieces: whoever is faster runs them, we or TensorFlow, and no step is run twice."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import config

from afterburner.frontend import capture
from afterburner.frontend.contest import Choices
from afterburner.frontend.whole import WholeContests
from afterburner.runtime.cache import ObjectCache
from afterburner.runtime.decisions import Decisions

from .kit import Wrapped, captured


@dataclass
class Race:
    """A clock that goes on by what a piece, and a whole call by TensorFlow, are to take."""

    piece: float
    whole: float
    now: float = 0.0
    ran: list[str] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def wrap(self, executable):
        race = self

        class Timed(Wrapped):
            def run(self, *arguments, **more):
                race.now += race.piece
                race.ran.append("piece")
                return self._executable.run(*arguments, **more)

        return Timed(executable)

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        call = capture._run_by_tensorflow

        def timed(*arguments):
            self.now += self.whole
            self.ran.append("whole")
            return call(*arguments)

        monkeypatch.setattr(capture, "_run_by_tensorflow", timed)


def counting():
    """A function in pieces that counts its calls; the variable and the function."""
    count = tf.Variable(0.0)

    @tf.function
    def step(x):
        y = tf.reduce_sum(tf.tanh(x @ x) * 2.0 + 1.0)
        z = tf.strings.to_number(tf.strings.as_string(y))
        count.assign_add(1.0)
        return tf.exp(-z) * count + tf.nn.softplus(y)

    return count, step


X = np.random.default_rng(0).random((5, 5)).astype(np.float32)


def run(calls: int, race: Race, monkeypatch: pytest.MonkeyPatch, decisions: Decisions | None = None, **changes):
    """The results of some calls, and what is reported."""
    count, step = counting()
    expected = [float(step(X)) for _ in range(calls)]
    race.enter(monkeypatch)
    count, step = counting()
    choices = Choices(whole=lambda text: text, clock=race.clock, decisions=lambda: decisions)
    with captured(race.wrap, choices, **{"compile_after": 1, **changes}) as taken:
        results = [float(step(X)) for _ in range(calls)]
    np.testing.assert_allclose(results, expected, rtol=1e-5)
    assert count.numpy() == calls
    return taken.functions()["step"]


def test_tensorflow_keeps_what_it_runs_faster(monkeypatch):
    race = Race(piece=4.0, whole=1.0)
    report = run(20, race, monkeypatch)
    assert report.status == "given back"
    (choice,) = report.choices
    assert choice.chosen == "TensorFlow" and choice.steps <= 10
    assert choice.seconds["TensorFlow"] == 1.0 and choice.seconds["cpu"] >= 4.0
    assert set(race.ran[-8:]) == {"whole"}


def test_pieces_stay_where_they_are_faster(monkeypatch):
    race = Race(piece=0.25, whole=2.0)
    report = run(20, race, monkeypatch)
    assert report.status == "compiled"
    (choice,) = report.choices
    assert choice.chosen == "cpu"
    assert set(race.ran[-8:]) == {"piece"}


@pytest.mark.parametrize("changes", [{"deterministic": True}, {"device": "cpu"}], ids=str)
def test_nothing_is_measured_where_the_options_say_who_runs(monkeypatch, changes):
    race = Race(piece=4.0, whole=1.0)
    report = run(12, race, monkeypatch, **changes)
    assert report.status == "compiled" and report.choices == []
    assert race.ran.count("whole") == 1  # the first call


@pytest.mark.parametrize("calls", [2, 4, 6])
def test_a_trial_ends_where_determinism_is_asked_for_on_the_way(monkeypatch, calls):
    _, step = counting()
    race = Race(piece=4.0, whole=1.0)
    race.enter(monkeypatch)
    with captured(race.wrap, Choices(whole=lambda text: text, clock=race.clock), compile_after=1) as taken:
        for call in range(calls + 8):
            if call == calls:
                monkeypatch.setattr(config, "is_op_determinism_enabled", lambda: True)
                race.ran.clear()
            step(X)
    report = taken.functions()["step"]
    assert report.status == "compiled" and report.choices == [] and set(race.ran) == {"piece"}


def test_a_decision_is_kept(monkeypatch, tmp_path):
    decisions = Decisions(ObjectCache(tmp_path, 1 << 20))
    run(12, Race(piece=4.0, whole=1.0), monkeypatch, decisions)
    race = Race(piece=4.0, whole=1.0)
    report = run(6, race, monkeypatch, decisions)
    assert report.status == "given back" and report.choices[0].origin == "cache"
    assert "piece" not in race.ran


def test_a_function_of_one_piece_is_not_tried(monkeypatch):
    race = Race(piece=4.0, whole=1.0)
    race.enter(monkeypatch)
    one = tf.function(lambda x: tf.nn.softmax(tf.tanh(x @ x) * 2.0 + 1.0))
    with captured(race.wrap, Choices(whole=lambda text: text, clock=race.clock)) as taken:
        for _ in range(8):
            one(X)
    (report,) = taken.functions().values()
    assert report.choices == [] and "whole" not in race.ran


def test_a_loop_that_the_host_steps_is_tried(monkeypatch):
    def turn(i, x):
        for _ in range(60):
            x = tf.tanh(x @ x) * 2.0 + 1.0
        return i + 1, x

    def more(i, x):  # which data decides, else the loop would be compiled as it is
        return tf.logical_and(i < 3, tf.reduce_all(x < 1e30))

    loop = tf.function(lambda x: tf.while_loop(more, turn, (0, x))[1])
    race = Race(piece=4.0, whole=1.0)
    race.enter(monkeypatch)
    with captured(race.wrap, Choices(whole=lambda text: text, clock=race.clock), compile_after=1) as taken:
        for _ in range(16):
            loop(X)
    (report,) = taken.functions().values()
    assert report.choices[0].chosen == "TensorFlow" and race.ran[-1] == "whole" and "piece" in race.ran


def test_a_conditional_that_a_gradient_goes_through_is_tried(monkeypatch):
    def deep(x):
        for _ in range(12):
            x = tf.tanh(x @ x) * 2.0 + 1.0
        return x

    @tf.function
    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.cond(tf.reduce_all(x < 1e30), lambda: deep(x), lambda: x)
        return tape.gradient(y, x)

    race = Race(piece=4.0, whole=1.0)
    race.enter(monkeypatch)
    with captured(race.wrap, Choices(whole=lambda text: text, clock=race.clock), compile_after=1) as taken:
        for _ in range(16):
            gradient(tf.constant(X))
    (report,) = taken.functions().values()
    assert report.choices[0].chosen == "TensorFlow" and race.ran[-1] == "whole" and "piece" in race.ran


def test_a_loop_over_a_dataset_is_not_tried(monkeypatch):
    v = tf.Variable(np.eye(5, dtype=np.float32))

    @tf.function
    def epoch(data):
        for x in data:
            for _ in range(8):
                v.assign(tf.tanh(v @ x) * 2.0 + 1.0)
        return v.read_value()

    race = Race(piece=4.0, whole=1.0)
    race.enter(monkeypatch)
    with captured(race.wrap, Choices(whole=lambda text: text, clock=race.clock), compile_after=1) as taken:
        for _ in range(16):
            epoch(iter(tf.data.Dataset.from_tensors(X).repeat(3)))
    (report,) = (f for f in taken.functions().values() if f.name == "epoch")
    assert report.choices == [] and race.ran[-1] == "piece"


def test_steps_that_wait_for_code_do_not_count(monkeypatch):
    """Another shape runs on TensorFlow piece by piece until it has come often enough."""
    race = Race(piece=0.25, whole=2.0)
    race.enter(monkeypatch)
    noted: list[bool] = []
    record = WholeContests.record

    def noting(self, kind, name, seconds, settled=True):
        noted.append(settled)
        return record(self, kind, name, seconds, settled)

    monkeypatch.setattr(WholeContests, "record", noting)

    @tf.function(input_signature=[tf.TensorSpec([None, None])])
    def step(x):
        y = tf.reduce_sum(tf.tanh(x @ x) * 2.0 + 1.0)
        z = tf.strings.to_number(tf.strings.as_string(y))
        return tf.exp(-z) + tf.nn.softplus(y)

    with captured(race.wrap, Choices(whole=lambda text: text, clock=race.clock), compile_after=1) as taken:
        for size in (5, 4):
            noted.clear()
            for _ in range(12):
                step(np.ones((size, size), np.float32))
            assert noted[: noted.index(True)] == [False] * (1 if size == 5 else 3)
    (report,) = taken.functions().values()
    assert [c.chosen for c in report.choices] == ["cpu", "cpu"]
    assert report.calls == 24


def test_calls_are_counted_once(monkeypatch):
    report = run(20, Race(piece=4.0, whole=1.0), monkeypatch)
    assert report.calls == 20
