"""LLVM text to executable memory, and the object code that a cache can keep."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite.binding import ffi

from .isa import Isa

LOCK = threading.RLock()  # LLVM is entered by one thread at a time


@lru_cache(maxsize=1)
def _initialise() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    # Loop strength reduction took three quarters of code generation time; addresses are emitted as
    # base + induction variable + constant, so it has nothing left to do.
    llvm.set_option("afterburner", "-disable-lsr")


def _new_machine(isa: Isa) -> llvm.TargetMachine:
    _initialise()
    target = llvm.Target.from_triple(isa.triple)
    return target.create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=2, reloc="pic", codemodel="default", jit=True)


@lru_cache(maxsize=8)
def machine(isa: Isa) -> llvm.TargetMachine:
    """LLVM's target machine for an instruction set."""
    return _new_machine(isa)


def compile_object(text: str, isa: Isa) -> bytes:
    """Object code of an LLVM module. Several threads may compile at once.

    Raises:
        RuntimeError: LLVM refuses the text.
    """
    with LOCK:
        tm = _new_machine(isa)
        # A context of its own: freed with the module, and touched by no other thread.
        module = llvm.parse_assembly(text, llvm.create_context())
        module.verify()
        builder = llvm.create_pass_builder(tm, llvm.create_pipeline_tuning_options(speed_level=2))
        manager = llvm.create_new_module_pass_manager()
        manager.add_sroa_pass()
        manager.add_instruction_combine_pass()
        manager.run(module, builder)
    return _emit(tm, module)


def _emit(tm: llvm.TargetMachine, module: llvm.ModuleRef) -> bytes:
    """``tm.emit_object(module)`` without llvmlite's lock, which lets one thread at a time into LLVM.

    LLVM itself asks only that threads share neither context nor target machine. Code generation is
    most of the time of a compilation.
    """
    locked = ffi.lib.LLVMPY_TargetMachineEmitToMemory
    emit = getattr(locked, "_cfn", locked)
    with ffi.OutputString() as error:
        buffer = emit(tm, module, 1, error)
        if not buffer:
            raise RuntimeError(str(error))
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


class Library:
    """Object code linked into this process; addresses stay valid while the object lives."""

    def __init__(self, code: bytes | Sequence[bytes], isa: Isa) -> None:
        with LOCK:
            _initialise()
            name = f"afterburner_{id(self):x}"
            self._lljit = llvm.create_lljit_compiler(machine(isa))
            builder = llvm.JITLibraryBuilder().add_current_process()
            for part in (code,) if isinstance(code, bytes) else code:
                builder.add_object_img(part)
            self._names = name
            self._builder = builder
            self._tracker: Any = None

    def load(self, symbols: tuple[str, ...]) -> dict[str, int]:
        """Addresses of exported symbols."""
        with LOCK:
            for symbol in symbols:
                self._builder.export_symbol(symbol)
            self._tracker = self._builder.link(self._lljit, self._names)
            return {s: self._tracker[s] for s in symbols}
