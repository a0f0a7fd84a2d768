"""``afterburner run``: an unchanged Python program, its TensorFlow graphs compiled."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from .launch import Program, check, launch


def action(program: Program, **changes: Any) -> Callable[[], int]:
    """The command, ready to be called: enable Afterburner with ``changes`` to its options, then run.

    Raises:
        CommandError: no such script.
    """
    check(program)
    return partial(_run, program, changes)


def _run(program: Program, changes: dict[str, Any]) -> int:
    import afterburner

    if changes:
        afterburner.set_options(**changes)
    afterburner.enable()
    launch(program)
    return 0
