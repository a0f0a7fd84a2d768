"""The native deleter of buffers handed to TensorFlow (see runtime.buffers)."""

from __future__ import annotations

from functools import lru_cache

from llvmlite import ir as ll

from . import jit
from .emitter import I64, PTR, VOID, i64
from .isa import host

_FLAG_OFFSET = 48  # bytes: DLManagedTensor.manager_ctx follows the 48-byte DLTensor

_KEPT: list[jit.Library] = []  # TensorFlow may call the deleter until the process ends


@lru_cache(maxsize=1)
def flag_deleter() -> int:
    """Address of ``void(DLManagedTensor*)`` that stores 1 through ``manager_ctx``."""
    isa = host()
    module = ll.Module("afterburner_deleter")
    module.triple = isa.triple
    function = ll.Function(module, ll.FunctionType(VOID, [PTR]), "afterburner_release")
    b = ll.IRBuilder(function.append_basic_block("entry"))
    field = b.gep(function.args[0], [i64(_FLAG_OFFSET)], source_etype=ll.IntType(8))
    flag = b.load(field, typ=PTR)
    b.atomic_rmw("xchg", flag, ll.Constant(I64, 1), "release")
    b.ret_void()
    library = jit.Library(jit.compile_object(str(module), isa), isa)
    _KEPT.append(library)
    return library.load(("afterburner_release",))["afterburner_release"]
