"""What compiled graphs can run on here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .options import OptionError, options

CPU, GPU = "cpu", "gpu"


@dataclass(frozen=True)
class Device:
    """A device that was found.

    Attributes:
        name: "cpu" or "gpu", as ``set_device`` takes it.
        description: what it is, in words.
    """

    name: str
    description: str

    def __str__(self) -> str:
        return f"{self.name}: {self.description}"


def devices() -> tuple[Device, ...]:
    """What is here, the cpu first."""
    return tuple(_found())


def names() -> tuple[str, ...]:
    """The names of what is here, the cpu first."""
    return tuple(device.name for device in devices())


def require(name: str) -> None:
    """Make sure that a device can be had.

    Args:
        name: as the option: "any", "cpu" or "gpu".

    Raises:
        OptionError: it cannot; the message says what was looked for and how to get it.
    """
    if name == GPU and GPU not in names():
        raise OptionError(f"device {GPU!r}: {why_no_gpu()}")


def why_no_gpu() -> str:
    """What was looked for in vain, and how to get it."""
    return "this release runs compiled graphs on the cpu only"


def _found() -> Iterator[Device]:
    yield Device(CPU, _cpu())


def _cpu() -> str:
    from .cpu.isa import host
    from .runtime.team import available_cpus

    settings = options()
    threads = settings.threads or available_cpus()
    return f"{host(settings.isa or None).name}, {threads} thread{'s' if threads > 1 else ''}"
