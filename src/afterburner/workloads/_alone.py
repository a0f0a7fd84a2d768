"""What a workload does when its file is run alone."""

from __future__ import annotations

import time

from . import Units


def report(units: Units) -> None:
    """Time each unit once it is warm and print milliseconds."""
    for unit, (count, call) in units.items():
        call()
        start = time.perf_counter()
        call()
        print(f"{(time.perf_counter() - start) / count * 1e3:.3f} ms a {unit}")
