"""``run`` read without the grammar of all commands: its library takes 9 MiB of the program's process for good."""

from __future__ import annotations

from typing import Any

from afterburner.options import PRECISION

from .launch import STDIN, Program

_FLAGS: dict[str, tuple[str, Any]] = {
    "--strict": ("strict", True),
    "--quiet": ("verbosity", "silent"), "-q": ("verbosity", "silent"),
    "--verbose": ("verbosity", "detail"), "-v": ("verbosity", "detail"),
}


def plain_run(arguments: list[str]) -> tuple[Program, dict[str, Any]] | None:
    """The program of ``run [OPTION]... SCRIPT …`` or ``run [OPTION]... -m MODULE …`` and what the options change.

    None where there is more to say: about another option, a wrong value, a missing program.
    """
    changes: dict[str, Any] = {}
    at = 0
    while at < len(arguments):
        found = _option(arguments[at:at + 2])
        if found is None or found[0] in changes:
            break
        name, value, words = found
        changes[name] = value
        at += words
    program = _program(arguments[at:])
    return None if program is None else (program, changes)


def _option(words: list[str]) -> tuple[str, Any, int] | None:
    """What an option changes, to what, and how many words say so."""
    if words[0] in _FLAGS:
        return (*_FLAGS[words[0]], 1)
    if len(words) < 2:
        return None
    if words[0] == "--threads" and words[1].isdecimal() and int(words[1]):
        return "threads", int(words[1]), 2
    if words[0] == "--precision" and words[1] in PRECISION:
        return "precision", words[1], 2
    return None


def _program(words: list[str]) -> Program | None:
    if len(words) >= 2 and words[0] == "-m":
        return Program(words[1], tuple(words[2:]), module=True)
    if words and (words[0] == STDIN or not words[0].startswith("-")):
        return Program(words[0], tuple(words[1:]))
    return None
