"""The ``afterburner`` command: ``run``, ``explain``, ``bench``, ``doctor``, ``install``, ``uninstall``, ``cache`` and
``bisect``, a file each; ``uninstall`` lies beside ``install``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from afterburner.hardware import NoDevice
from afterburner.options import OptionError

from .errors import CommandError
from .plain import plain_run

Action = Callable[[], int]
_NOT_HEARD = 141  # as of a program that SIGPIPE ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    A program started by ``run`` or ``explain`` ends as it would have ended plainly: what it raises,
    SystemExit and KeyboardInterrupt included, passes through.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _action(given)()
    except CommandError as error:
        return _complain(str(error), error.status)
    except NoDevice as error:
        return _complain(str(error), 2)
    except OptionError as error:
        return _complain(f"{error}; set it to such a value, or leave it out", 2)


def _complain(message: str, status: int) -> int:
    print(f"afterburner: {message}", file=sys.stderr)
    return status


def _action(given: list[str]) -> Action:
    plain = plain_run(given[1:]) if given[:1] == ["run"] else None
    if plain is not None:
        from .run import action

        program, changes = plain
        return action(program, **changes)
    return _parsed(given)


def _parsed(given: list[str]) -> Action:
    """What the command line asks for; help and the like are printed at once."""
    from .app import parse

    outcome: Any = parse(given)
    action: Action = outcome if callable(outcome) else lambda: int(outcome or 0)
    return action if given[:1] in (["run"], ["explain"]) else lambda: _heard(action)


def _heard(action: Action) -> int:
    """A command's status; where nobody reads its output any more, as behind ``| head``, it ends quietly, and where that
    cannot be written, as on a full disk, it says so."""
    try:
        status = action()
        print(end="", flush=True)
        return status
    except BrokenPipeError:
        _silence()
        return _NOT_HEARD
    except OSError as error:
        if _can_print():
            raise
        _silence()
        return _complain(f"standard output: {error.strerror}", 1)


def _can_print() -> bool:
    """Whether standard output takes what waits to be written."""
    try:
        print(end="", flush=True)
    except OSError:
        return False
    return True


def _silence() -> None:
    """Drop what is still to be written, at the end of the process too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
