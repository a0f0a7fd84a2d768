"""Kernels to one LLVM module: a function per phase, shared by kernels with the same key."""

from __future__ import annotations

from llvmlite import ir as ll

from .emitter import KERNEL_TYPE, Emitter
from .isa import Isa
from .kernel import Kernel


class KernelModule:
    """Emits the phases of kernels into one LLVM module."""

    def __init__(self, isa: Isa, name: str = "afterburner") -> None:
        self.isa = isa
        self.llvm = ll.Module(name)
        self.llvm.triple = isa.triple
        self._symbols: dict[str, tuple[str, ...]] = {}

    def add(self, kernel: Kernel) -> tuple[str, ...]:
        """Emit a kernel unless one with its key is there; the symbols of its phases."""
        if kernel.key not in self._symbols:
            stem = f"k{len(self._symbols)}"
            self._symbols[kernel.key] = tuple(self._emit(kernel, stem, i) for i in range(len(kernel.phases)))
        return self._symbols[kernel.key]

    def _emit(self, kernel: Kernel, stem: str, index: int) -> str:
        function = ll.Function(self.llvm, KERNEL_TYPE, f"{stem}_{index}")
        for argument in (function.args[0], function.args[2]):
            argument.add_attribute("noalias")
        emitter = Emitter(function, kernel.node, self.isa)
        kernel.phases[index].emit(emitter)
        emitter.b.ret_void()
        return function.name
