"""What a measurement or a check says of the machine it was made on."""

from __future__ import annotations

import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

from afterburner.hardware import physical_memory
from afterburner.runtime.team import available_cpus

TENSORFLOW_NAMES = ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tensorflow-macos",
                    "tensorflow-cpu-aws", "tf-nightly", "tf-nightly-cpu")


@dataclass(frozen=True)
class Machine:
    """A machine and the programs that a timing depends on."""

    processor: str
    cores: int
    memory_gib: float
    system: str
    python: str
    tensorflow: str
    keras: str
    afterburner: str

    def to_dict(self) -> dict[str, str | int | float]:
        return asdict(self)

    def __str__(self) -> str:
        return (f"{self.processor}, {self.cores} cores, {self.memory_gib:.0f} GiB, {self.system}; "
                f"Python {self.python}, TensorFlow {self.tensorflow}, Keras {self.keras}, "
                f"Afterburner {self.afterburner}")


def describe() -> Machine:
    """This machine."""
    system = f"{platform.system()} {platform.machine()}"
    return Machine(processor_name(), usable_cores(), physical_memory() / 2**30, system,
                   platform.python_version(), tensorflow_version() or "none", version_of("keras") or "none",
                   version_of("tensorflow-afterburner") or "source")


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, without importing it; None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def tensorflow_version() -> str | None:
    """Version of the installed TensorFlow, under whichever name it was installed."""
    return next((found for name in TENSORFLOW_NAMES if (found := version_of(name))), None)


def usable_cores() -> int:
    """Cores this process may use: its affinity and its control group's quota."""
    return available_cpus()


def processor_name() -> str:
    """The processor's name as its maker gives it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        found = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True)
        if found.returncode == 0 and found.stdout.strip():
            return found.stdout.strip()
    return platform.processor() or platform.machine()
