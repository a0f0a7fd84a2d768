"""Native help in handing buffers to TensorFlow: their deleter, and capsules for many at once."""

from __future__ import annotations

from functools import lru_cache

from ..options import options
from ..runtime.buffers import HandoverCode
from . import jit
from .engine import cached, object_cache
from .isa import host

_FLAG_OFFSET = 48  # bytes: DLManagedTensor.manager_ctx follows the 48-byte DLTensor

_TEXT = """
declare ptr @PyList_New(i64)
declare i32 @PyList_SetItem(ptr, i64, ptr)
declare ptr @PyCapsule_New(ptr, ptr, ptr)

@name = private constant [9 x i8] c"dltensor\\00"

; The deleter, void(DLManagedTensor*): stores 1 through manager_ctx.
define void @afterburner_release(ptr %managed) {
  %field = getelementptr i8, ptr %managed, i64 $flag
  %flag = load ptr, ptr %field
  %old = atomicrmw xchg ptr %flag, i64 1 release
  ret void
}

; A list of capsules over %count managed tensors, their flags cleared. Called with the GIL held.
define ptr @afterburner_capsules(ptr %managed, i64 %count) {
entry:
  %list = call ptr @PyList_New(i64 %count)
  %failed = icmp eq ptr %list, null
  br i1 %failed, label %done, label %head
head:
  %i = phi i64 [ 0, %entry ], [ %i.next, %body ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %body, label %done
body:
  %slot = getelementptr ptr, ptr %managed, i64 %i
  %tensor = load ptr, ptr %slot
  %field = getelementptr i8, ptr %tensor, i64 $flag
  %flag = load ptr, ptr %field
  store i64 0, ptr %flag
  %capsule = call ptr @PyCapsule_New(ptr %tensor, ptr @name, ptr null)
  %rc = call i32 @PyList_SetItem(ptr %list, i64 %i, ptr %capsule)
  %i.next = add i64 %i, 1
  br label %head
done:
  ret ptr %list
}
"""


def text(triple: str) -> str:
    """The LLVM module of both functions."""
    return f'target triple = "{triple}"\n' + _TEXT.replace("$flag", str(_FLAG_OFFSET))


@lru_cache(maxsize=1)
def handover_code() -> HandoverCode:
    """The functions, loaded for the life of the process."""
    from .build import compile_text

    isa = host()
    source = text(isa.triple)
    code, _ = cached(source, isa, lambda: compile_text(source, isa), object_cache(options()))
    library = jit.Library(code, isa)
    library.keep()  # TensorFlow may call the deleter until the process ends
    symbols = library.load(("afterburner_release", "afterburner_capsules"))
    return HandoverCode(symbols["afterburner_release"], symbols["afterburner_capsules"])
