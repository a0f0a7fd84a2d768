"""A persistent team of worker threads, and how many of them this process may have."""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .own_threads import OwnThread, require_threads

_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
_ON_TEAM = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_LAUNCH = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


@dataclass(frozen=True)
class TeamCode:
    """Addresses of the team's native functions and the size of its shared memory.

    Attributes:
        bytes: size of the team's zeroed shared memory.
        init: ``void(team)``, once.
        work: ``void(team, index)``, a worker's life.
        launch: ``void(team, function, argument, workers)``.
        stop: ``void(team)``, lets all workers return.
    """

    bytes: int
    init: int
    work: int
    launch: int
    stop: int


class Team:
    """Workers 1, 2, ... are Python daemon threads inside native code, where the GIL is not held;
    worker 0 is whoever launches. One launch at a time: the caller sees to that.

    Attributes:
        address: of the shared memory, for native code that launches by itself.
    """

    def __init__(self, code: TeamCode) -> None:
        self._code = code
        self._memory = mmap.mmap(-1, code.bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        self._work, self._launch = _WORK(code.work), _LAUNCH(code.launch)
        self._threads: list[threading.Thread] = []
        _ON_TEAM(code.init)(self.address)

    @property
    def size(self) -> int:
        """Workers there are, the caller among them."""
        return len(self._threads) + 1

    def grow(self, workers: int) -> None:
        """Have at least ``workers`` workers, or as many as the system allows: jobs end with fewer too."""
        while self.size < workers:
            index = self.size
            thread = OwnThread(
                target=self._work, args=(self.address, index), name=f"afterburner-{index}", daemon=True)
            try:
                require_threads()
                thread.start()
            except RuntimeError:
                return
            self._threads.append(thread)

    def launch(self, function: int, argument: int, workers: int) -> None:
        """Run a native ``void(argument, worker)`` on up to ``workers`` workers."""
        self._launch(self.address, function, argument, workers)

    def stop(self, timeout: float = 5.0) -> bool:
        """Let the workers return; whether all did within ``timeout`` seconds. For tests and for exit."""
        _ON_TEAM(self._code.stop)(self.address)
        for thread in self._threads:
            thread.join(timeout)
        return not any(thread.is_alive() for thread in self._threads)


def available_cpus(read: Callable[[Path], str] = Path.read_text) -> int:
    """Processors this process may use: its affinity, and the CPU quota of its control group."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota(read)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def _cgroup_quota(read: Callable[[Path], str]) -> float | None:
    """CPUs allowed by cgroup v2 (every level from our group up) or v1; None where there is no limit."""
    root = Path("/sys/fs/cgroup")
    quotas = [_v2_quota(read, folder / "cpu.max") for folder in own_groups(read, root)]
    quotas.append(_v1_quota(read, root / "cpu"))
    return min((q for q in quotas if q is not None), default=None)


def own_groups(read: Callable[[Path], str], root: Path) -> list[Path]:
    """Folders of this process's control group and of those above it, up to ``root``."""
    try:
        lines = read(Path("/proc/self/cgroup")).splitlines()
    except OSError:
        return [root]
    for line in lines:
        if line.startswith("0::"):
            own = root / line[3:].lstrip("/")
            return [own, *(p for p in own.parents if p.is_relative_to(root))]
    return [root]


def _v2_quota(read: Callable[[Path], str], file: Path) -> float | None:
    try:
        quota, period = read(file).split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1_quota(read: Callable[[Path], str], folder: Path) -> float | None:
    try:
        quota, period = int(read(folder / "cpu.cfs_quota_us")), int(read(folder / "cpu.cfs_period_us"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None
