"""Whether our own linker works on a Mac, found out by trying, in a process that may die of it.

macOS wants object files in its own format, which LLVM links; our linker reads ELF. LLVM writes ELF for Apple's ABI too
(no use of register x18, calls as macOS has them) where the triple ends with "-elf".
"""

from __future__ import annotations

import ctypes
import logging

from .elf import LoadError
from .isa import Isa
from .jit import compile_object
from .loader import LoadedCode

_TEXT = """
declare i32 @getpid()

@asked = internal global i64 0

define i64 @trial(i64 %x) {
  %pid = call i32 @getpid()
  %times = load volatile i64, ptr @asked
  %more = add i64 %times, 1
  store volatile i64 %more, ptr @asked
  %there = icmp ne i32 %pid, 0
  %one = zext i1 %there to i64
  %y = add i64 %x, %one
  %z = add i64 %y, %more
  ret i64 %z
}
"""
_log = logging.getLogger("afterburner")


def linkable(triple: str) -> str:
    """The triple for which to generate code, given that of the process. May crash the process."""
    if not triple.startswith(("arm64-apple-", "aarch64-apple-")):
        return triple
    ours = f"{triple}-elf"
    try:
        return ours if works(ours) else triple
    except (LoadError, RuntimeError) as error:
        _log.debug("afterburner: LLVM links on this Mac: %s", error)
        return triple


def works(triple: str) -> bool:
    """Whether code of ours runs here: it calls a function of the system, and counts in memory of its own.

    Raises:
        LoadError, RuntimeError: it cannot be linked or compiled.
    """
    isa = Isa("neon", 16, 32, True, False, triple, "", "")
    code = LoadedCode([compile_object(f'target triple = "{triple}"\n{_TEXT}', isa)])
    function = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)(code.address("trial"))
    return [function(40), function(40)] == [42, 43]
