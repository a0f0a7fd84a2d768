"""Programs that are timed: ordinary TensorFlow, one small file each.

A workload is a module here with a ``build()`` that returns what is timed, by the unit's name: how many units
one call does, and the call, which may give ``Seconds`` of its own. Where a call takes seconds,
``REPEATS`` in the module says how many timings in a process are enough. It must not import Afterburner:
``afterburner bench`` runs the same file plainly and under ``afterburner run``. To add a workload, add a file; if it
takes minutes, name its network in ``_NETWORKS``.
"""

from __future__ import annotations

import pkgutil
import time
from collections.abc import Callable, Iterable


class Seconds(float):
    """What a call took, where that is not from its beginning to its end."""


def seconds_of(call: Callable[[], object]) -> float:
    """What a call takes, from its beginning to its end unless it says otherwise."""
    start = time.perf_counter()
    own = call()
    return own if isinstance(own, Seconds) else time.perf_counter() - start


Units = dict[str, tuple[int, Callable[[], object]]]  # name: (units that a call does, the call)

_SEQUENCES = ("lstm", "gru", "transformer")
_NETWORKS = ("resnet50v2", "mobilenetv3", "densenet121", "cyclegan", "style_transfer")
_INFERENCE = "-infer"


def names() -> tuple[str, ...]:
    """Every workload's name."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return tuple(sorted(name.replace("_infer", _INFERENCE) for name in found))


def module(name: str) -> str:
    """The module of a workload."""
    return f"{__name__}.{name.replace(_INFERENCE, '_infer')}"


def groups() -> dict[str, tuple[str, ...]]:
    """Names for several workloads: ``small`` ones, networks for ``sequences``, whole ``networks`` (minutes each), their
    ``training``, ``all``."""
    every = names()
    networks = tuple(name for name in every if name.removesuffix(_INFERENCE) in _NETWORKS)
    small = tuple(name for name in every if name not in (*networks, *_SEQUENCES))
    return {"small": small, "sequences": _SEQUENCES, "networks": networks, "training": _NETWORKS, "all": every}


def chosen(words: Iterable[str]) -> tuple[str, ...]:
    """The workloads that names and groups stand for, each once; ``small`` where there are no words.

    Raises:
        KeyError: neither a workload nor a group; the argument is the word.
    """
    known = groups() | {name: (name,) for name in names()}
    return tuple(dict.fromkeys(name for word in tuple(words) or ("small",) for name in known[word]))
