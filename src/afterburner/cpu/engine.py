"""What all executables of a process share: native runtime code, the thread team, the arena, one lock."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import logging
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import llvmlite

from ..options import Options
from ..runtime import cache_folder
from ..runtime.arena import Arena
from ..runtime.cache import ObjectCache
from ..runtime.team import Team, TeamCode
from . import isa as isa_module
from . import jit
from .isa import Isa
from .program import RUNTIME_SYMBOLS, runtime_text
from .team_code import TEAM_BYTES

_RUN = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
_FORK_TIMEOUT = 10.0  # seconds a fork waits for the program that is running
_log = logging.getLogger("afterburner")


class Engine:
    """The process's native runtime. Whoever runs a program or touches the arena holds ``lock``.

    Attributes:
        lock: one program runs at a time; waiting does not hold the GIL.
        arena: memory of intermediate values.
        run: native ``(team, frame, workers)``: one program from start to end.
        copy: address of the phase function that copies bytes.
    """

    def __init__(self, cache: ObjectCache | None) -> None:
        from .build import compile_text

        text = runtime_text(isa_module.host().triple)
        isa = isa_module.host()
        code, _ = cached(text, isa, lambda: compile_text(text, isa), cache)
        library = jit.Library(code, isa)
        library.keep()  # workers are inside it until the process ends
        found = library.load(RUNTIME_SYMBOLS)
        self._team_code = TeamCode(
            TEAM_BYTES, found["team_init"], found["team_work"], found["team_launch"], found["team_stop"])
        self.run = _RUN(found["program_run"])
        self.copy = found["copy_chunk"]
        self.lock = threading.Lock()
        self.arena = Arena()
        self._team: Team | None = None

    def team(self, workers: int) -> Team:
        """The team, with at least ``workers`` workers where the system allows it. Under the lock."""
        if self._team is None:
            self._team = Team(self._team_code)
        if self._team.size < workers:
            self._team.grow(workers)
        return self._team

    def stop_team(self) -> bool:
        """Let the workers end; the next program that wants some starts new ones."""
        with self.lock:
            team, self._team = self._team, None
        return team is None or team.stop()

    def tidy(self) -> None:
        """Give back memory that nobody needs, unless a program is running: the next one does it then."""
        if self.lock.acquire(blocking=False):
            try:
                self.arena.settle()
            finally:
                self.lock.release()

    def forget_team(self) -> None:
        """In a forked child: its parent's workers and lock do not exist here."""
        self.lock = threading.Lock()
        self._team = None


def object_cache(chosen: Options) -> ObjectCache | None:
    """The cache of compiled objects; None where it is switched off."""
    return cache_folder.objects(chosen) if chosen.cache else None


def cached(identity: str, isa: Isa, compile_: Callable[[], bytes],
           cache: ObjectCache | None) -> tuple[bytes, bool]:
    """Compiled code, from the cache where it is there; and whether it was.

    Args:
        identity: determines the code, given this version of the code generator.
        isa: the instruction set.
        compile_: makes the bytes that are kept; called only where there are none.
        cache: None to compile in any case.
    """
    if cache is None:
        return compile_(), False
    key = object_key(identity, isa)
    found = cache.get(key)
    if found is not None:
        return found, True
    made = compile_()
    cache.put(key, made)
    return made, False


def object_key(identity: str, isa: Isa) -> str:
    """The cache key of a program: what is compiled, for what machine, and by which code generator."""
    parts = (identity, isa.name, isa.precision, str(isa.library), isa.triple, isa.cpu, isa.features, code_version(),
             llvmlite.__version__)
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


@lru_cache(maxsize=2)
def code_version(*folders: str) -> str:
    """A hash of the sources in folders of ours; without any, of those that decide what code is generated."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for folder in folders or ("cpu", "ir", "passes"):
        for path in sorted((package / folder).rglob("*.py")):
            digest.update(str(path.relative_to(package)).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


_engine: Engine | None = None
_making = threading.Lock()
_held_by_fork: list[Any] = []


def engine(cache: ObjectCache | None = None) -> Engine:
    """The engine of this process, made on the first call with the help of ``cache``."""
    global _engine
    if _engine is None:
        with _making:
            if _engine is None:
                _engine = Engine(cache)
    return _engine


def _before_fork() -> None:
    """No fork in the middle of a program or a compilation: what the child inherits is whole."""
    locks: list[Any] = [jit.LOCK] if _engine is None else [jit.LOCK, _engine.lock]
    for lock in locks:
        if lock.acquire(timeout=_FORK_TIMEOUT):
            _held_by_fork.append(lock)
        else:
            _log.warning("afterburner: a process was forked while a program was compiled or ran")


def _after_fork_in_parent() -> None:
    while _held_by_fork:
        _held_by_fork.pop().release()


def _after_fork_in_child() -> None:
    global _making
    _making = threading.Lock()
    _after_fork_in_parent()
    if _engine is not None:
        _engine.forget_team()


def _at_exit() -> None:
    if _engine is not None and _engine.lock.acquire(timeout=1.0):
        _engine.lock.release()
        _engine.stop_team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent,
                        after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
