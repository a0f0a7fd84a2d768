"""What LLVM says of this processor, remembered between processes so that they need not load LLVM."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import llvmlite

from ..options import options
from ..runtime import cache_folder

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_PROCESSORS = Path("/proc/cpuinfo")
_TELLING = (  # lines of /proc/cpuinfo that are about the kind of processor, not about its state
    "vendor_id", "cpu family", "model", "model name", "stepping", "microcode", "flags",
    "CPU implementer", "CPU architecture", "CPU variant", "CPU part", "CPU revision", "Features")


@dataclass(frozen=True)
class Host:
    """A processor.

    Attributes:
        triple: LLVM's target triple of this process.
        cpu: LLVM's name of the processor.
        features: LLVM's feature names, and whether they are there.
    """

    triple: str
    cpu: str
    features: dict[str, bool]


@lru_cache(maxsize=1)
def this_host() -> Host:
    """The processor we are on: from the cache where this machine has been asked since it started."""
    identity = _identity()
    if identity is None or not options().cache:
        return _ask()
    cache = cache_folder.hosts(options())
    found = read_host(cache.get(identity) or b"")
    if found is None:
        found = _ask()
        cache.put(identity, json.dumps(asdict(found)).encode())
    return found


def read_host(raw: bytes) -> Host | None:
    """A host as it was kept; None where it is not one."""
    try:
        kept = json.loads(raw)
        triple, cpu, features = kept["triple"], kept["cpu"], kept["features"]
    except (ValueError, TypeError, KeyError):
        return None
    if not (isinstance(triple, str) and isinstance(cpu, str) and isinstance(features, dict) and features):
        return None
    if not all(isinstance(on, bool) for on in features.values()):
        return None
    return Host(triple, cpu, features)


def _ask() -> Host:
    from .crew import CREW, NoWorkers, WorkerDied

    try:
        try:
            head, _ = CREW.ask({"do": "host", "trial": True})
        except WorkerDied:
            head, _ = CREW.ask({"do": "host", "trial": False})
        return Host(*head["facts"])
    except NoWorkers:
        from .llvm import host_facts

        return Host(*host_facts())


def _identity() -> str | None:
    """A name for this machine between two starts, and for LLVM's version; None where there is none.

    What a processor can do may change when a machine is started, in ways that /proc/cpuinfo does not show.
    """
    try:
        boot, processors = _BOOT.read_text(), _PROCESSORS.read_text(errors="replace")
    except OSError:
        return None
    lines = {line for line in processors.splitlines() if line.partition(":")[0].strip() in _TELLING}
    if not lines:
        return None
    parts = (llvmlite.__version__, platform.machine(), platform.python_implementation(), boot, *sorted(lines))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
