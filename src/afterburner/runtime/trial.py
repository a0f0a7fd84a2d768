"""Which of several candidates is fastest, found out on the steps of a training itself.

Every step is run once, by whoever ``Trial.next`` names, and its time handed to ``Trial.record``. Nothing here
reads a clock or runs anything.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

LIMIT = 10  # steps until one is chosen
_CLEAR = 1.3  # times as slow as the fastest: no second look
_HOPELESS = 3.0  # times as slow as the fastest: not even a second step
_MARGIN = 1.05  # a candidate takes the place of one before it where that takes this much longer

_FIRST_VISIT = 2  # steps that count, after one that does not
_SECOND_VISIT = 1


class Trial:
    """Candidates in turns: each runs a few steps on end, of which the first does not count.

    The first step of a visit meets what the one before has left behind: cold caches, variables whose values have to
    be looked up anew, on TensorFlow a function that is made ready at its first call. All are visited once; those not
    clearly slower than the fastest a second time, as far as ``LIMIT`` allows, since what disturbs a machine comes and
    goes. The least time of each candidate is compared. Calls are thread-safe.

    Args:
        candidates: names, the preferred first: one has to be faster than those before it by a margin.

    Attributes:
        steps: run so far.
        dropped: candidates that could not run, and why.
        chosen: the winner's name; None while the trial goes on.
    """

    def __init__(self, candidates: Sequence[str]) -> None:
        self.candidates = tuple(candidates)
        self.steps = 0
        self.dropped: dict[str, str] = {}
        self.chosen: str | None = None
        self._lock = threading.Lock()
        self._counted: dict[str, list[float]] = {}
        self._second = False
        self._visits: list[str] = []
        self._left = 0  # steps that count, until the visit is over
        self._warm = False
        self._open(self.candidates, _FIRST_VISIT)

    @property
    def seconds(self) -> dict[str, float]:
        """The least time of each candidate that ran a step that counts."""
        return {name: min(self._counted[name]) for name in self.candidates if self._counted.get(name)}

    def next(self) -> str:
        """Who runs the next step."""
        with self._lock:
            return self.chosen or self._visits[0]

    def record(self, name: str, seconds: float) -> None:
        """A step that ``name`` ran took so long. Steps of anyone whose turn it no longer is are ignored."""
        with self._lock:
            if self.chosen is not None:
                return
            self.steps += 1
            if name == self._visits[0]:
                self._note(name, seconds)
            if self.steps >= LIMIT:
                self._choose()

    def drop(self, name: str, reason: str) -> None:
        """``name``, which is not the last one, cannot run; the others go on."""
        with self._lock:
            self.dropped[name] = reason
            self._counted.pop(name, None)
            if self.chosen is not None or name not in self._visits:
                return
            if self._visits[0] == name:
                self._leave()
            else:
                self._visits.remove(name)
            self._close_if_decided()

    def stop(self) -> None:
        """Choose the preferred one of those left, whatever they took."""
        with self._lock:
            self.chosen = self.chosen or self._remaining()[0]

    def _note(self, name: str, seconds: float) -> None:
        if not self._warm:
            self._warm = True
            return
        self._counted.setdefault(name, []).append(seconds)
        self._left -= 1
        if self._left == 0 or seconds > _HOPELESS * min(self.seconds.values()):
            self._leave()
            self._close_if_decided()

    def _leave(self) -> None:
        """The visit is over; the next candidate's begins."""
        self._visits.pop(0)
        self._warm = False
        self._left = _SECOND_VISIT if self._second else _FIRST_VISIT

    def _open(self, names: Sequence[str], steps: int) -> None:
        self._visits, self._left, self._warm = list(names), steps, False

    def _close_if_decided(self) -> None:
        alone = len(self._remaining()) == 1
        if self._visits and not alone:
            return
        close = [] if alone or self._second else self._close()
        if len(close) < 2 or self.steps + len(close) * (1 + _SECOND_VISIT) > LIMIT:
            self._choose()
            return
        self._second = True
        self._open(close, _SECOND_VISIT)

    def _close(self) -> list[str]:
        """Candidates that are not clearly slower than the fastest."""
        found = self.seconds
        return [name for name in found if found[name] <= _CLEAR * min(found.values())]

    def _remaining(self) -> list[str]:
        return [name for name in self.candidates if name not in self.dropped]

    def _choose(self) -> None:
        found = self.seconds
        timed = [name for name in self._remaining() if name in found]
        best = timed[0] if timed else self._remaining()[0]
        for name in timed[1:]:
            if found[name] * _MARGIN < found[best]:
                best = name
        self.chosen = best
