"""A workload in a process that stays, so that several can take turns at its calls: what disturbs a machine for longer
than a turn disturbs all of them.

    python benchmarks/turns.py WORKLOAD stock|ours THREADS

is such a process. It builds the workload, makes three calls of each unit and writes their names; then for each number
of a unit that it reads, the milliseconds a unit of one call; at the end of its input, what devices were chosen. All
it writes is JSON, a line each.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any, Self

STOCK = "stock"
_WARM = 3  # calls


class Side:
    """One of those that take turns. It is warm when it has been made.

    Args:
        name: what it is called.
        workload: name of the workload.
        package: the folder that holds Afterburner; None for stock TensorFlow.
        environment: variables beside those of this process.
        threads: TensorFlow's; 0: all cores.

    Attributes:
        units: what the workload times, in order.
    """

    def __init__(self, name: str, workload: str, package: Path | None, environment: Mapping[str, str],
                 threads: int = 0) -> None:
        self.name, self.workload = name, workload
        folder = package or Path(__file__).parents[1] / "src"
        known = {**os.environ, "PYTHONPATH": str(folder.resolve()), "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
        if package is None:
            known["AFTERBURNER_DISABLE"] = "1"  # also behind ``afterburner install``
        words = [__file__, workload, STOCK if package is None else "ours", str(threads)]
        self._process = subprocess.Popen([sys.executable, *words], env=known, text=True, stdin=subprocess.PIPE,
                                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        self.units: list[str] = self._answer()

    def milliseconds(self, unit: int) -> float:
        """Make a call; what it took a unit."""
        assert self._process.stdin is not None
        print(unit, file=self._process.stdin, flush=True)
        return float(self._answer())

    def end(self) -> list[dict[str, Any]]:
        """End the process; what devices were chosen in it, as the report tells."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        choices: list[dict[str, Any]] = self._answer()
        self._process.wait()
        return choices

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.kill()
            raise SystemExit(f"{self.workload} on {self.name} ended without an answer; run it alone to see why")
        return json.loads(line)


def take_turns(sides: Sequence[Side], unit: int, turns: int) -> list[list[float]]:
    """Milliseconds of each side, turn by turn; who goes first changes from turn to turn."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(turns):
        for number in (range(len(sides)) if turn % 2 == 0 else reversed(range(len(sides)))):
            times[number].append(sides[number].milliseconds(unit))
    return times


def ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Times over those of another side, the median of the turns."""
    return median(own / other for own, other in zip(times, others, strict=True))


def main() -> None:
    """Be such a process."""
    workload, side, threads = sys.argv[1:4]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if side != STOCK:
        import afterburner

        afterburner.enable()
    import tensorflow as tf

    from afterburner import workloads

    tf.config.threading.set_intra_op_parallelism_threads(int(threads))
    units = import_module(workloads.module(workload)).build()
    for _, call in units.values():
        for _ in range(_WARM):
            call()
    print(json.dumps(list(units)), file=answers, flush=True)
    for line in sys.stdin:
        count, call = list(units.values())[int(line)]
        print(workloads.seconds_of(call) / count * 1e3, file=answers, flush=True)
    functions = [] if side == STOCK else afterburner.report().to_dict()["functions"]
    print(json.dumps([choice for function in functions for choice in function["choices"]]), file=answers, flush=True)


if __name__ == "__main__":
    main()
