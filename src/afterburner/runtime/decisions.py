"""Which device was found fastest for a graph, remembered between processes."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .cache import ObjectCache

FOLDER = "decisions"  # in the cache folder
LIMIT_BYTES = 4 << 20  # a decision takes some 200 bytes


@dataclass(frozen=True)
class Decision:
    """The outcome of a trial.

    Attributes:
        chosen: the fastest candidate's name.
        seconds: the least time of a step, by candidate; one that could not run is missing.
        steps: how many the trial took.
    """

    chosen: str
    seconds: dict[str, float]
    steps: int


class Decisions:
    """Decisions in a folder, one small JSON file each: private, with a checksum, replaced as a whole.

    A damaged file counts as none, and a folder that cannot be written keeps nothing. A decision is found again only
    for the same identity (of the graph, the machine and all versions) and the same candidates.
    """

    def __init__(self, cache: ObjectCache) -> None:
        self._cache = cache

    def any(self) -> bool:
        """Whether any is kept at all."""
        try:
            with os.scandir(self._cache.path) as items:
                return next(items, None) is not None
        except OSError:
            return False

    def get(self, identity: str, candidates: Sequence[str]) -> Decision | None:
        """The decision between these candidates."""
        return _read(self._cache.get(_key(identity, candidates)) or b"", candidates)

    def put(self, identity: str, candidates: Sequence[str], decision: Decision) -> None:
        """Keep a decision."""
        self._cache.put(_key(identity, candidates), json.dumps(asdict(decision)).encode())


def _key(identity: str, candidates: Sequence[str]) -> str:
    return hashlib.sha256("\n".join((*candidates, identity)).encode()).hexdigest()


def _read(raw: bytes, candidates: Sequence[str]) -> Decision | None:
    try:
        kept = json.loads(raw)
        found = {str(name): float(seconds) for name, seconds in kept["seconds"].items()}
        decision = Decision(str(kept["chosen"]), found, int(kept["steps"]))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    sound = decision.chosen in candidates and all(math.isfinite(s) and s > 0 for s in found.values())
    return decision if sound else None
