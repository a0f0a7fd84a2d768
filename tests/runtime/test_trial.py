"""Who wins a trial, with times that are made up."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable

import pytest

from afterburner.runtime.trial import LIMIT, Trial

WARM_UP = 50.0  # of a visit's first step: it must not count


def _held(seconds: dict[str, float], noise: Callable[[int], float] = lambda step: 1.0) -> tuple[Trial, list[str]]:
    """A trial run to its end, and who ran its steps."""
    trial, ran = Trial(tuple(seconds)), []
    while trial.chosen is None:
        name = trial.next()
        first = not ran or ran[-1] != name
        ran.append(name)
        trial.record(name, WARM_UP if first else seconds[name] * noise(len(ran)))
    return trial, ran


@pytest.mark.parametrize("seconds", [
    {"cpu": 1.0, "stock": 2.0}, {"cpu": 2.0, "stock": 1.0}, {"cpu": 1.0, "stock": 1.1},
    {"cpu": 1.1, "stock": 1.0}, {"cpu": 3.0, "gpu": 1.0, "stock": 2.0}, {"cpu": 1.2, "gpu": 1.1, "stock": 1.0},
    {"cpu": 1.0, "gpu": 40.0, "stock": 0.9},
])
def test_the_fastest_wins_in_few_steps(seconds: dict[str, float]) -> None:
    trial, ran = _held(seconds)
    assert trial.chosen == min(seconds, key=lambda name: seconds[name])
    assert trial.steps == len(ran) <= LIMIT
    assert trial.next() == trial.chosen


@pytest.mark.parametrize("slower", itertools.permutations((1.0, 1.03, 1.08)))
def test_none_is_more_than_a_twentieth_faster_than_the_winner(slower: tuple[float, ...]) -> None:
    seconds = dict(zip(("cpu", "gpu", "stock"), slower, strict=True))
    trial, _ = _held(seconds)
    assert trial.chosen is not None and seconds[trial.chosen] <= 1.05 * min(slower)


def test_the_preferred_one_keeps_what_is_nearly_equal() -> None:
    assert _held({"cpu": 1.04, "stock": 1.0})[0].chosen == "cpu"


def test_a_clear_win_takes_one_visit_each() -> None:
    _, ran = _held({"cpu": 1.0, "stock": 2.0})
    assert ran == ["cpu"] * 3 + ["stock"] * 3


def test_what_is_close_is_looked_at_twice_in_turns() -> None:
    _, ran = _held({"cpu": 1.0, "stock": 1.1})
    assert ran == ["cpu"] * 3 + ["stock"] * 3 + ["cpu"] * 2 + ["stock"] * 2


def test_a_hopeless_one_runs_one_step_that_counts() -> None:
    _, ran = _held({"cpu": 1.0, "gpu": 10.0, "stock": 5.0})
    assert ran == ["cpu"] * 3 + ["gpu"] * 2 + ["stock"] * 2


def test_a_disturbance_in_one_visit_does_not_decide() -> None:
    trial, _ = _held({"cpu": 1.0, "stock": 1.1}, noise=lambda step: 1.25 if step <= 3 else 1.0)
    assert trial.chosen == "cpu"


def test_one_that_cannot_run_leaves_the_rest_to_the_others() -> None:
    trial = Trial(("cpu", "gpu", "stock"))
    for _ in range(3):
        trial.record("cpu", 1.0)
    assert trial.next() == "gpu"
    trial.drop("gpu", "no such kernel")
    assert trial.next() == "stock"
    for _ in range(3):
        trial.record("stock", 2.0)
    assert trial.chosen == "cpu" and trial.dropped == {"gpu": "no such kernel"}
    assert trial.seconds == {"cpu": 1.0, "stock": 2.0}


def test_the_last_one_wins_without_a_step() -> None:
    trial = Trial(("cpu", "stock"))
    trial.drop("cpu", "broken")
    assert trial.chosen == "stock" and trial.seconds == {}


def test_steps_of_those_whose_turn_is_over_are_counted_but_not_compared() -> None:
    trial = Trial(("cpu", "stock"))
    for _ in range(LIMIT):
        trial.record("stock", 0.1)
    assert trial.chosen == "cpu" and trial.seconds == {}


def test_who_is_next_may_be_asked_while_a_step_is_recorded() -> None:
    trials, failures, over = [Trial(("cpu", "stock"))], list[Exception](), threading.Event()

    def ask() -> None:
        while not over.is_set():
            try:
                trials[0].next()
            except Exception as error:  # noqa: BLE001 - the test looks at all
                failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(300):
            trial = trials[0] = Trial(("cpu", "stock"))
            while trial.chosen is None:
                trial.record(trial.next(), 1.0)
    finally:
        over.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(interval)
    assert failures == []


@pytest.mark.parametrize("dropped", [(), ("cpu",)])
def test_a_trial_that_is_stopped_takes_the_preferred_one_of_those_left(dropped: tuple[str, ...]) -> None:
    trial = Trial(("cpu", "gpu", "stock"))
    for seconds in (9.0, 5.0, 5.0, 1.0, 1.0):
        trial.record(trial.next(), seconds)
    for name in dropped:
        trial.drop(name, "broken")
    trial.stop()
    assert trial.chosen == trial.next() == ("gpu" if dropped else "cpu")
    trial.record("gpu", 0.1)
    trial.stop()
    assert trial.chosen == ("gpu" if dropped else "cpu") and trial.steps == 5
