"""Lets the tests of single kernels compile for 64-bit Arm and run in an emulator: ``pytest -p tests.arm.plugin``.

``AFTERBURNER_TEST_CPU=apple-m1`` names a processor to compile for.
"""

from __future__ import annotations

import os

import cpu_harness

from afterburner.cpu import isa as isas

from . import cross

_ISA = cross.arm_isa(os.environ.get("AFTERBURNER_TEST_CPU", ""))


def _host(name: str | None = None, precision: str = "default") -> isas.Isa:
    return _ISA


isas.host = _host
isas.available = lambda: ("neon",)
cpu_harness.INSTRUCTION_SETS = ("neon",)
cpu_harness.run_calls = cross.run_calls
