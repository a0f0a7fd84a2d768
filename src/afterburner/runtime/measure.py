"""What this machine can do at most, measured once and kept: arithmetic and memory peaks."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from . import private_folder


@dataclass(frozen=True)
class MachinePeak:
    """Measured rates with a number of threads.

    Attributes:
        flops: float32 operations a second of multiply-adds that stay in registers.
        flops_one: the same with one thread.
        bandwidth: bytes a second, read plus written, of a copy larger than the caches.
        threads: how many threads ``flops`` and ``bandwidth`` used.
    """

    flops: float
    flops_one: float
    bandwidth: float
    threads: int

    def fraction(self, flops: int, bytes_: int, seconds: float) -> float:
        """How much of the peak that binds a piece of work reaches: 1.0 is all of it; 0 where unknown."""
        if seconds <= 0 or self.flops <= 0 or self.bandwidth <= 0:
            return 0.0
        return max(flops / self.flops, bytes_ / self.bandwidth) / seconds


def load_peak(path: Path, machine: str) -> MachinePeak | None:
    """The peak kept in the file ``path`` for ``machine``; None where there is none, where it is damaged, and where
    someone else could have written it."""
    try:
        kept = json.loads(private_folder.read(path))[machine]
        return MachinePeak(float(kept["flops"]), float(kept["flops_one"]), float(kept["bandwidth"]),
                           int(kept["threads"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def save_peak(path: Path, machine: str, peak: MachinePeak) -> None:
    """Keep a peak; a folder that cannot be written is no error."""
    try:
        kept = json.loads(private_folder.read(path))
    except (OSError, ValueError):
        kept = {}
    if not isinstance(kept, dict):
        kept = {}
    kept[machine] = asdict(peak)
    with contextlib.suppress(OSError):
        private_folder.make(path.parent)
        private_folder.write(path, json.dumps(kept, indent=1).encode())
