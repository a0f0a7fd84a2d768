"""Who runs a function that is cut into pieces: we, piece by piece, or TensorFlow, whole; measured.

Between compiled pieces TensorFlow's own wait for their inputs, are started one by one, and cannot overlap: around a
small loop that TensorFlow keeps that may take longer than is gained. As in ``contest``, each step of a trial is a step
of the program, run once.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from ..options import options
from ..report import Entry
from ..runtime.decisions import Decision
from ..runtime.trial import Trial
from .contest import ANY, CPU, STOCK, is_deterministic

if TYPE_CHECKING:
    from .native import Engine

CANDIDATES = (CPU, STOCK)
_MAX_UNSETTLED = 16  # more than a contest of a piece takes, and shapes that wait to be compiled


class WholeContests:
    """The trials of a function, one for each kind of call.

    Args:
        engine: what the function is compiled with.
        entry: the function's record.
        text: describes the function, for decisions that are kept.
    """

    def __init__(self, engine: Engine, entry: Entry, text: Callable[[], str]) -> None:
        self._engine, self._entry, self._text = engine, entry, text
        self._trials: dict[Hashable, Trial | None] = {}
        self._unsettled: Counter[Hashable] = Counter()
        self._lock = threading.Lock()

    def turn(self, kind: Hashable) -> str | None:
        """Who runs the next call of a kind; None where nothing is to be found out (any more)."""
        if kind not in self._trials:
            with self._lock:
                self._trials.setdefault(kind, self._begin(kind))
        trial = self._trials[kind]
        if trial is not None and is_deterministic():  # since the trial began
            trial = self._trials[kind] = None
        return None if trial is None else trial.next()

    def record(self, kind: Hashable, name: str, seconds: float, settled: bool = True) -> bool:
        """A call took so long. Whether TensorFlow runs calls of this kind from here on.

        Calls that are not ``settled``, since something was compiled or waits to be, do not count; but pieces that are
        never compiled do after some.
        """
        trial = self._trials.get(kind)
        if trial is None:
            return False
        if not settled and self._unsettled[kind] < _MAX_UNSETTLED:
            self._unsettled[kind] += 1
            return False
        trial.record(name, seconds)
        with self._lock:
            if trial.chosen is None or self._trials[kind] is None:
                return False
            self._trials[kind] = None
        decision = Decision(trial.chosen, trial.seconds, trial.steps)
        self._tell(decision, measured=True)
        kept = self._engine.choices.decisions()
        if kept is not None:
            kept.put(self._identity(kind), CANDIDATES, decision)
        return decision.chosen == STOCK

    def was_lost(self, kind: Hashable) -> bool:
        """Whether an earlier process found TensorFlow faster; asked before anything of the kind was run."""
        if kind in self._trials or not _is_free():
            return False
        decisions = self._engine.choices.decisions()
        decision = None if decisions is None or not decisions.any() else decisions.get(self._identity(kind), CANDIDATES)
        if decision is None:
            return False
        with self._lock:
            self._trials[kind] = None
        self._tell(decision, measured=False)
        return decision.chosen == STOCK

    def _begin(self, kind: Hashable) -> Trial | None:
        return Trial(CANDIDATES) if _is_free() else None

    def _identity(self, kind: Hashable) -> str:
        assert self._engine.choices.whole is not None
        return self._engine.choices.whole(f"{self._text()}\n{kind}")

    def _tell(self, decision: Decision, measured: bool) -> None:
        self._engine.recorder.chosen(self._entry, self._engine.choices.report("all pieces", decision, measured))


def contests(engine: Engine, entry: Entry, text: Callable[[], str]) -> WholeContests | None:
    """The trials of a function in pieces; None where no such functions are tried."""
    return None if engine.choices.whole is None else WholeContests(engine, entry, text)


def _is_free() -> bool:
    """Whether the options leave it open who runs."""
    return options().device == ANY and not is_deterministic() and not options().profile
