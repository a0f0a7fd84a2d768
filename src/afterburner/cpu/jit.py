"""LLVM text to executable memory, and the object code that a cache can keep."""

from __future__ import annotations

import threading
from functools import lru_cache

import llvmlite.binding as llvm

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


@lru_cache(maxsize=8)
def machine(isa: Isa) -> llvm.TargetMachine:
    """LLVM's target machine for an instruction set."""
    _initialise()
    target = llvm.Target.from_triple(isa.triple)
    return target.create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=2, reloc="pic", codemodel="default", jit=True)


def compile_object(text: str, isa: Isa) -> bytes:
    """Object code of an LLVM module.

    Raises:
        RuntimeError: LLVM refuses the text.
    """
    with LOCK:
        tm = machine(isa)
        module = llvm.parse_assembly(text)
        module.verify()
        builder = llvm.create_pass_builder(tm, llvm.create_pipeline_tuning_options(speed_level=2))
        manager = llvm.create_new_module_pass_manager()
        manager.add_sroa_pass()
        manager.add_instruction_combine_pass()
        manager.run(module, builder)
        return tm.emit_object(module)


class Library:
    """Object code linked into this process; addresses stay valid while the object lives."""

    def __init__(self, code: bytes, isa: Isa) -> None:
        with LOCK:
            _initialise()
            name = f"afterburner_{id(self):x}"
            self._lljit = llvm.create_lljit_compiler(machine(isa))
            builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
            self._names = name
            self._builder = builder
            self._tracker = None

    def load(self, symbols: tuple[str, ...]) -> dict[str, int]:
        """Addresses of exported symbols."""
        with LOCK:
            for symbol in symbols:
                self._builder.export_symbol(symbol)
            self._tracker = self._builder.link(self._lljit, self._names)
            return {s: self._tracker[s] for s in symbols}
