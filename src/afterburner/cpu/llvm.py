"""LLVM's library, which takes some 60 MB of memory: imported only where code has to be generated."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite.binding import ffi

from . import blas
from .isa import Isa

# Processors that do not keep decoded instructions of 32 bytes in whose end there is a jump (Intel, "Mitigations for
# Jump Conditional Code Erratum", 2019): loops of register tiles lose up to a tenth.
_JUMP_ERRATUM = ("skylake", "skylake-avx512", "cascadelake")


@lru_cache(maxsize=1)
def initialise() -> None:
    """Set LLVM up, once."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    # Loop strength reduction took three quarters of code generation time; addresses are emitted as
    # base + induction variable + constant, so it has nothing left to do.
    llvm.set_option("afterburner", "-disable-lsr")
    if llvm.get_host_cpu_name() in _JUMP_ERRATUM:
        llvm.set_option("afterburner", "-x86-branches-within-32B-boundaries")


def new_machine(isa: Isa) -> llvm.TargetMachine:
    """LLVM's target machine for an instruction set, shared with nobody."""
    initialise()
    target = llvm.Target.from_triple(isa.triple)
    return target.create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=2, reloc="pic", codemodel="default", jit=True)


@lru_cache(maxsize=8)
def machine(isa: Isa) -> llvm.TargetMachine:
    """LLVM's target machine for an instruction set."""
    return new_machine(isa)


def parse(text: str, tm: llvm.TargetMachine) -> llvm.ModuleRef:
    """A module ready for ``emit``.

    Raises:
        RuntimeError: LLVM refuses the text.
    """
    # A context of its own: freed with the module, and touched by no other thread.
    module = llvm.parse_assembly(text, llvm.create_context())
    module.verify()
    builder = llvm.create_pass_builder(tm, llvm.create_pipeline_tuning_options(speed_level=2))
    manager = llvm.create_new_module_pass_manager()
    manager.add_sroa_pass()
    manager.add_instruction_combine_pass()
    manager.run(module, builder)
    return module


def emit(tm: llvm.TargetMachine, module: llvm.ModuleRef) -> bytes:
    """``tm.emit_object(module)`` without llvmlite's lock, which lets one thread at a time into LLVM.

    LLVM itself asks only that threads share neither context nor target machine. Code generation is
    most of the time of a compilation.
    """
    locked = ffi.lib.LLVMPY_TargetMachineEmitToMemory
    emit_ = getattr(locked, "_cfn", locked)
    with ffi.OutputString() as error:
        buffer = emit_(tm, module, 1, error)
        if not buffer:
            raise RuntimeError(str(error))
    try:
        return ctypes.string_at(ffi.lib.LLVMPY_GetBufferStart(buffer), ffi.lib.LLVMPY_GetBufferSize(buffer))
    finally:
        ffi.lib.LLVMPY_DisposeMemoryBuffer(buffer)


class LinkedCode:
    """Object files linked by LLVM; their memory goes with this object."""

    def __init__(self, parts: Sequence[bytes], isa: Isa) -> None:
        initialise()
        self._compiler = llvm.create_lljit_compiler(machine(isa), use_jit_link=True)
        self._builder = llvm.JITLibraryBuilder().add_current_process()
        for symbol, address in blas.addresses().items():
            self._builder.import_symbol(symbol, address)
        for part in parts:
            self._builder.add_object_img(part)
        self._tracker: Any = None

    def addresses(self, symbols: Sequence[str]) -> dict[str, int]:
        """Addresses of exported symbols; to be asked for once.

        Raises:
            RuntimeError: one is missing.
        """
        for symbol in symbols:
            self._builder.export_symbol(symbol)
        self._tracker = self._builder.link(self._compiler, f"afterburner_{id(self):x}")
        return {symbol: self._tracker[symbol] for symbol in symbols}


def host_facts() -> tuple[str, str, dict[str, bool]]:
    """The process's target triple, and this processor's name and features as LLVM sees them."""
    return llvm.get_process_triple(), llvm.get_host_cpu_name(), dict(llvm.get_host_cpu_features())
