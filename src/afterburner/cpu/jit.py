"""LLVM text to object code, and object code to executable memory."""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .elf import LoadError
from .isa import Isa
from .loader import LoadedCode

if TYPE_CHECKING:
    from .llvm import LinkedCode

LOCK = threading.RLock()  # LLVM is entered by one thread at a time

_log = logging.getLogger("afterburner")


def compile_object(text: str, isa: Isa) -> bytes:
    """Object code of an LLVM module. Several threads may compile at once.

    Raises:
        RuntimeError: LLVM refuses the text.
    """
    with LOCK:
        from . import llvm

        machine = llvm.new_machine(isa)
        module = llvm.parse(text, machine)
    return llvm.emit(machine, module)


class Library:
    """Object code linked into this process; addresses stay valid while the object lives.

    Args:
        code: one object file or several.
        isa: what they were compiled for.
    """

    def __init__(self, code: bytes | Sequence[bytes], isa: Isa) -> None:
        self._linked: LoadedCode | LinkedCode
        parts = (code,) if isinstance(code, bytes) else code
        try:
            self._linked = LoadedCode(parts)
        except LoadError as error:
            _log.debug("afterburner: LLVM links this code: %s", error)
            with LOCK:
                from .llvm import LinkedCode

                self._linked = LinkedCode(parts, isa)

    def load(self, symbols: tuple[str, ...]) -> dict[str, int]:
        """Addresses of exported symbols; to be called once.

        Raises:
            LoadError, RuntimeError: one is missing.
        """
        if isinstance(self._linked, LoadedCode):
            return {symbol: self._linked.address(symbol) for symbol in symbols}
        with LOCK:
            return self._linked.addresses(symbols)

    def keep(self) -> None:
        """Never unload the code, not even when the interpreter ends: threads may be inside it then."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
