"""What a workload does when its file is run alone."""

from __future__ import annotations

import time

from . import Seconds, Units


def report(units: Units) -> None:
    """Time each unit once it is warm and print milliseconds."""
    for unit, (count, call) in units.items():
        call()
        start = time.perf_counter()
        own = call()
        seconds = own if isinstance(own, Seconds) else time.perf_counter() - start
        print(f"{seconds / count * 1e3:.3f} ms a {unit}")
