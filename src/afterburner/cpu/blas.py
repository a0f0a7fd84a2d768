"""Matrix products of a library with CBLAS's interface: on Macs Accelerate, the only way to their matrix unit."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Mapping
from functools import cache

from ..options import Options

ACCELERATE = "/System/Library/Frameworks/Accelerate.framework/Accelerate"
FUNCTIONS = {"f32": "cblas_sgemm", "f64": "cblas_dgemm"}  # by element type
_PREFIX = "afterburner_"  # a name of our own: the process may hold several libraries with functions of CBLAS's names


def symbol(dtype: str) -> str:
    """What generated code calls for products of an element type in ``FUNCTIONS``."""
    return _PREFIX + FUNCTIONS[dtype]


def wanted(options: Options) -> bool:
    """Whether large products go to the library. Its sums may differ between releases of the system."""
    return options.accelerate and not options.deterministic and bool(addresses())


@cache
def addresses() -> Mapping[str, int]:
    """Addresses by symbol; empty where there is no library."""
    if (sys.platform, platform.machine()) != ("darwin", "arm64"):
        return {}
    return addresses_in(ACCELERATE)


def addresses_in(path: str, prefix: str = "") -> dict[str, int]:
    """Addresses by symbol of a library with 32-bit sizes; empty where it cannot be loaded or lacks one.

    Args:
        path: of the library.
        prefix: of its functions' names.
    """
    try:
        library = ctypes.CDLL(path)
        found = {symbol(dtype): library[prefix + name] for dtype, name in FUNCTIONS.items()}
    except (OSError, AttributeError):
        return {}
    return {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in found.items()}
