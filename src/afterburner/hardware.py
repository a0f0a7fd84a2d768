"""What compiled graphs can run on here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .errors import AfterburnerError
from .options import OptionError, options

CPU, GPU = "cpu", "gpu"
_EMULATED = "emulated by MLX's CPU device: slow, for tests"


class NoDevice(OptionError):
    """The device asked for is not here."""


@dataclass(frozen=True)
class Device:
    """A device that was found.

    Attributes:
        name: "cpu" or "gpu", as ``set_device`` takes it.
        description: what it is, in words; of a gpu that is emulated it says so.
    """

    name: str
    description: str

    def __str__(self) -> str:
        return f"{self.name}: {self.description}"


def devices() -> tuple[Device, ...]:
    """What is here, the cpu first. A gpu is listed when it has computed something."""
    return tuple(_found())


def names() -> tuple[str, ...]:
    """The names of what is here, the cpu first."""
    return (CPU,) if why_no_gpu() else (CPU, GPU)


def label(name: str) -> str:
    """What reports call a device, or anything else that may run a graph: of a gpu that is emulated it says so."""
    return "emulated gpu" if name == GPU and _gpu(options().gpu_emulate)[0] == _EMULATED else name


def physical_memory() -> int:
    """Of the machine, in bytes; 0 where the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 0


def usable_memory(read: Callable[[Path], str] = Path.read_text) -> int:
    """What the process may take of the machine's memory, in bytes: all, or what its control group allows; 0 where the
    system does not say."""
    from .runtime.team import own_groups

    root = Path("/sys/fs/cgroup")
    files = [*(folder / "memory.max" for folder in own_groups(read, root)), root / "memory/memory.limit_in_bytes"]
    return min([physical_memory(), *filter(None, (_limit(read, file) for file in files))])


def _limit(read: Callable[[Path], str], file: Path) -> int | None:
    """A control group's limit in bytes; None where there is none."""
    try:
        return int(read(file))
    except (OSError, ValueError):  # the latter where it says "max"
        return None


def mlx_version() -> str:
    """Of the library that a gpu is reached through, which is here."""
    from .gpu.devices import mlx_version

    return mlx_version()


def require(name: str) -> None:
    """Make sure that a device can be had.

    Args:
        name: as the option: "any", "cpu" or "gpu".

    Raises:
        NoDevice: it cannot; the message says what was looked for and how to get it.
    """
    why = why_no_gpu() if name == GPU else ""
    if why:
        raise NoDevice(f"device {GPU!r}: {why}")


def why_no_gpu() -> str:
    """What was looked for in vain, and how to get it; empty where there is a gpu."""
    return _gpu(options().gpu_emulate)[1]


def _found() -> Iterator[Device]:
    yield Device(CPU, _cpu())
    description, _ = _gpu(options().gpu_emulate)
    if description:
        yield Device(GPU, description)


def _cpu() -> str:
    from .cpu.isa import host
    from .runtime.team import available_cpus

    settings = options()
    threads = settings.threads or available_cpus()
    return f"{host(settings.isa or None).name}, {threads} thread{'s' if threads > 1 else ''}"


@lru_cache(maxsize=2)
def _gpu(emulate: bool) -> tuple[str, str]:
    """A gpu in words, or why there is none."""
    from .gpu.devices import choose, try_out

    try:
        device = choose(emulate)
        try_out(device)
    except AfterburnerError as error:
        return "", str(error)
    return _EMULATED if device.emulated else f"{device.name} ({device.backend})", ""
