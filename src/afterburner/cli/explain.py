"""``afterburner explain``: run a program, then tell what became of its graphs."""

from __future__ import annotations

import json as json_module
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from .errors import CommandError, unwritable
from .launch import Program, check, launch

STDOUT = "-"


def action(program: Program, json: str, kernels: bool = False, **changes: Any) -> Callable[[], int]:
    """The command, ready to be called; ``json`` is a file, ``-`` or empty for tables on stderr, of all ``kernels``.

    Raises:
        CommandError: no such script, or the file cannot be written.
    """
    check(program)
    return partial(_explain, program, json, kernels, changes)


def _explain(program: Program, json: str, kernels: bool, changes: dict[str, Any]) -> int:
    import afterburner

    afterburner.set_options(profile=True, **changes)
    with _destination(json) as stream:
        afterburner.enable()
        try:
            launch(program)
        except CommandError:
            raise
        except BaseException:
            _write(stream, kernels)
            raise
        _write(stream, kernels)
    return 0


def _write(stream: IO[str] | None, kernels: bool) -> None:
    """The report as JSON into ``stream``, or as tables on stderr where there is none."""
    import afterburner

    report = afterburner.report().to_dict()
    if stream is not None:
        json_module.dump(report, stream, indent=2)
        stream.write("\n")
        return
    from .tables import print_report

    sys.stdout.flush()
    print_report(report, every=kernels)


@contextmanager
def _destination(json: str) -> Iterator[IO[str] | None]:
    """Where JSON goes. For ``-`` it has standard output to itself: the program's is sent to stderr."""
    if not json:
        yield None
    elif json == STDOUT:
        sys.stdout.flush()
        own = os.dup(sys.stdout.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        try:
            with os.fdopen(own, "w") as stream:
                yield stream
        finally:
            sys.stdout.flush()
    else:
        try:
            stream = Path(json).open("w", encoding="utf-8")
        except OSError as error:
            raise unwritable(json, error) from None
        with stream:
            yield stream
