"""Lets the tests of single kernels compile for 64-bit Arm and run in an emulator: ``pytest -p tests.arm.plugin``.

``ARM_CODE=apple`` takes the code for Macs: Apple's ABI and processor; a kernel calls nothing that Linux lacks.
"""

from __future__ import annotations

import os
from dataclasses import replace

import cpu_harness

from afterburner.cpu import isa as isas

from . import cross

_ISA = cross.arm_isa(cross.MAC_ELF if os.environ.get("ARM_CODE") == "apple" else cross.LINUX)


def _host(name: str | None = None, precision: str = "default") -> isas.Isa:
    shape = isas._FORMS[name or "neon"]
    return replace(_ISA, name=name or "neon", precision=precision, **shape)  # type: ignore[arg-type]


isas.host = _host
isas.available = lambda: ("neon",)
cpu_harness.INSTRUCTION_SETS = ("neon",)
cpu_harness.run_calls = cross.run_calls
