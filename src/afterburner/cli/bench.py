"""``afterburner bench``: stock TensorFlow and Afterburner in fresh processes that take turns."""

from __future__ import annotations

import json as json_module
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from afterburner import workloads
from afterburner.options import options, stock_environment

from .errors import CommandError, require_writable, unwritable
from .machine import Machine, describe, tensorflow_version, usable_cores
from .progress import show_progress

SIDES = ("stock", "afterburner")
STDOUT = "-"
FAST = "fast"  # a third side where it is asked for: Afterburner with precision=fast
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
_LIMIT_SECONDS = 1800  # a child that has not ended by then never will


@dataclass(frozen=True)
class Plan:
    """What to time, and how.

    Attributes:
        workloads: names and groups; none: the small ones.
        rounds: processes of each kind.
        repeats: timings in each.
        threads: for every side; None: all cores.
        fast: time Afterburner with ``precision=fast`` as well.
        policy: Keras's dtype policy, for every side.
        device: where Afterburner runs; empty: as the options say.
    """

    workloads: tuple[str, ...] = ()
    rounds: int = 5
    repeats: int = 5
    threads: int | None = None
    fast: bool = False
    policy: str = "float32"
    device: str = ""

    @property
    def sides(self) -> tuple[str, ...]:
        return (*SIDES, FAST) if self.fast else SIDES


@dataclass
class Timing:
    """One unit of one workload; each list has a number for each round.

    Attributes:
        sides: what took turns.
        seconds: for each side, a process's median seconds per unit.
        first_seconds: for each side, its first call: tracing and compilation included.
        peak_bytes: for each side, a process's peak memory.
    """

    workload: str
    unit: str
    sides: tuple[str, ...] = SIDES
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    first_seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peak_bytes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    @property
    def label(self) -> str:
        return f"{self.workload} ({self.unit})"

    def ratios(self, side: str = "afterburner") -> list[float]:
        """Stock's time over a side's, round by round: above 1 it is faster."""
        return [s / a for s, a in zip(self.seconds["stock"], self.seconds[side], strict=True)]

    def milliseconds(self, side: str) -> float:
        return median(self.seconds[side]) * 1e3

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, dicts, strings and numbers, with every ratio."""
        ratios = {side: self.ratios(side) for side in self.sides[1:]}
        plain = {name: dict(getattr(self, name)) for name in ("seconds", "first_seconds", "peak_bytes")}
        return {"workload": self.workload, "unit": self.unit, "sides": list(self.sides), **plain, "ratios": ratios,
                "median_ratio": {side: median(found) for side, found in ratios.items()}}

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Timing:
        """What ``to_dict`` told."""
        return cls(record["workload"], record["unit"], tuple(record["sides"]), record["seconds"],
                   record["first_seconds"], record["peak_bytes"])


def show_list() -> int:
    """Print the workloads' names, by group."""
    for group, members in workloads.groups().items():
        print(f"{group}: {', '.join(members)}")
    return 0


def action(plan: Plan, json: str, chart: Path | None) -> Callable[[], int]:
    """The command, ready to be called.

    Raises:
        CommandError: an unknown workload or policy, no TensorFlow, Afterburner switched off, no matplotlib for a
            chart, a file that cannot be written.
    """
    if plan.policy not in POLICIES:
        raise CommandError(f"unknown policy {plan.policy!r}; there are {', '.join(POLICIES)}")
    try:
        names = workloads.chosen(plan.workloads)
    except KeyError as error:
        known = (*workloads.names(), *workloads.groups())
        raise CommandError(f"unknown workload {error.args[0]!r}; there are {', '.join(known)}") from None
    if tensorflow_version() is None:
        raise CommandError("TensorFlow is not installed; `pip install 'tensorflow-afterburner[tensorflow]'`")
    if options().disable:
        raise CommandError("AFTERBURNER_DISABLE is set, so both sides would be stock TensorFlow; unset it")
    if chart is not None:
        from .chart import check_chart

        check_chart(chart)
    if json and json != STDOUT:
        require_writable(json)
    return partial(_bench, replace(plan, workloads=names), json, chart)


def _bench(plan: Plan, json: str, chart: Path | None) -> int:
    timings: list[Timing] = []
    try:
        for name in plan.workloads:
            _measure(name, plan, timings)
    except (CommandError, KeyboardInterrupt) as error:
        show_progress("")
        whole = _whole_rounds(timings)
        if whole:
            ended = max(len(timing.peak_bytes["stock"]) for timing in whole)
            _tell(replace(plan, rounds=ended), json, chart, whole)
        if isinstance(error, CommandError):
            raise
        raise CommandError("stopped; " + ("what was measured until then is told" if whole else
                                          "no round of any workload had ended"), status=130) from None
    _tell(plan, json, chart, timings)
    return 0


def _tell(plan: Plan, json: str, chart: Path | None, timings: list[Timing]) -> None:
    """The table first: nothing can go wrong with it."""
    from .tables import print_bench

    machine, threads = describe(), _threads(plan)
    if json != STDOUT:
        print_bench(timings, f"{machine}; {plan.policy}, {threads} threads, {plan.rounds} rounds")
    if json:
        _write_json(json, machine, threads, plan, timings)
    if chart is not None:
        from .chart import draw

        draw(timings, f"{machine.processor}, {threads} threads, {plan.policy}", chart)


def _threads(plan: Plan) -> int:
    return plan.threads or usable_cores()


def _whole_rounds(timings: list[Timing]) -> list[Timing]:
    """What was measured on every side."""
    found = []
    for timing in timings:
        rounds = min(len(timing.peak_bytes[side]) for side in timing.sides)
        if rounds:
            kept = Timing(timing.workload, timing.unit, timing.sides)
            for side in timing.sides:
                kept.seconds[side] = timing.seconds[side][:rounds]
                kept.first_seconds[side] = timing.first_seconds[side][:rounds]
                kept.peak_bytes[side] = timing.peak_bytes[side][:rounds]
            found.append(kept)
    return found


def _write_json(json: str, machine: Machine, threads: int, plan: Plan, timings: list[Timing]) -> None:
    result = {"date": date.today().isoformat(), "machine": machine.to_dict(), "threads": threads,
              "rounds": plan.rounds, "repeats": plan.repeats, "policy": plan.policy,
              "timings": [timing.to_dict() for timing in timings]}
    text = json_module.dumps(result, indent=2)
    if json == STDOUT:
        print(text)
        return
    try:
        Path(json).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise unwritable(json, error) from None


def _measure(name: str, plan: Plan, timings: list[Timing]) -> None:
    """Add all units of a workload, round by round. The side that goes first changes from round to round."""
    units: dict[str, Timing] = {}
    for number in range(plan.rounds):
        for side in plan.sides if number % 2 == 0 else plan.sides[::-1]:
            show_progress(f"{name}: round {number + 1} of {plan.rounds}, {side}")
            for unit, result, peak in _run_child(side, name, plan, _threads(plan)):
                if unit not in units:
                    units[unit] = Timing(name, unit, plan.sides)
                    timings.append(units[unit])
                timing = units[unit]
                timing.seconds[side].append(median(result["seconds_per_unit"]))
                timing.first_seconds[side].append(result["first_seconds"])
                timing.peak_bytes[side].append(peak)
    show_progress("")


def _launcher(side: str, plan: Plan) -> list[str]:
    """Python's arguments before the program: none on stock TensorFlow."""
    if side == "stock":
        return []
    device = ["--device", plan.device] if plan.device else []
    precision = ["--precision", "fast" if side == FAST else "default"] if plan.fast else []
    return ["-m", "afterburner", "run", "--quiet", "--strict", *device, *precision]


def _run_child(side: str, name: str, plan: Plan, threads: int) -> Iterator[tuple[str, dict[str, Any], int]]:
    """Time a workload in a fresh process: its units, each with its timings and the process's peak memory.

    Raises:
        CommandError: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        command = [sys.executable, *_launcher(side, plan), "-m", "afterburner.workloads", name,
                   "--threads", str(threads), "--repeats", str(plan.repeats), "--policy", plan.policy,
                   "--json", str(file)]
        try:
            child = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_SECONDS,
                                   env=stock_environment() if side == "stock" else None)
        except subprocess.TimeoutExpired:
            raise CommandError(f"{name} on {side} did not end in {_LIMIT_SECONDS} s", status=1) from None
        if child.returncode:
            last = (child.stderr.strip().splitlines() or ["no message"])[-1]
            raise CommandError(f"{name} on {side} failed with status {child.returncode}: {last}", status=1)
        result = json_module.loads(file.read_text())
    for unit, timed in result["timed"].items():
        yield unit, timed, result["peak_bytes"]
