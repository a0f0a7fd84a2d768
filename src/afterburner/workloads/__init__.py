"""Programs that are timed: ordinary TensorFlow, one small file each.

A workload is a module here with a ``build()`` that returns what is timed, by the unit's name: how many units
one call does, and the call. It must not import Afterburner: ``afterburner bench`` runs the same file plainly
and under ``afterburner run``. To add a workload, add a file.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable

Build = Callable[[], dict[str, tuple[int, Callable[[], object]]]]


def names() -> tuple[str, ...]:
    """Every workload's name."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))
