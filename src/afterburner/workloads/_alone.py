"""What a workload does when its file is run alone."""

from __future__ import annotations

from . import Units, seconds_of


def report(units: Units) -> None:
    """Time each unit once it is warm and print milliseconds."""
    for unit, (count, call) in units.items():
        call()
        print(f"{seconds_of(call) / count * 1e3:.3f} ms a {unit}")
