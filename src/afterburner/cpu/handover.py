"""Native help in handing buffers to TensorFlow: their deleter, capsules for many at once, and many overwritten."""

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
declare ptr @PyInterpreterState_Get()
declare ptr @PyInterpreterState_ThreadHead(ptr)
declare ptr @PyThreadState_Next(ptr)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

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

; Carry out all of %count moves { counter of references, destination, source, bytes } and return 1; or none and
; return 0, where a counter is not at %references or the interpreter has more than %most threads. Called with the GIL
; held, so that no other thread can begin to read meanwhile.
define i32 @afterburner_overwrite(ptr %moves, i64 %count, i32 %references, i64 %most) {
entry:
  %interpreter = call ptr @PyInterpreterState_Get()
  %first = call ptr @PyInterpreterState_ThreadHead(ptr %interpreter)
  br label %thread
thread:
  %state = phi ptr [ %first, %entry ], [ %state.next, %thread ]
  %threads = phi i64 [ 1, %entry ], [ %threads.next, %thread ]
  %state.next = call ptr @PyThreadState_Next(ptr %state)
  %threads.next = add i64 %threads, 1
  %last = icmp eq ptr %state.next, null
  br i1 %last, label %counted, label %thread
counted:
  %alone = icmp ule i64 %threads, %most
  br i1 %alone, label %look, label %refuse
look:
  %i = phi i64 [ 0, %counted ], [ %i.next, %looked ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %looked, label %copy
looked:
  %row = getelementptr [4 x i64], ptr %moves, i64 %i
  %counter = load ptr, ptr %row
  %references.now = load atomic i32, ptr %counter acquire, align 4
  %i.next = add i64 %i, 1
  %same = icmp eq i32 %references.now, %references
  br i1 %same, label %look, label %refuse
copy:
  %j = phi i64 [ 0, %look ], [ %j.next, %copied ]
  %more.copies = icmp slt i64 %j, %count
  br i1 %more.copies, label %copied, label %done
copied:
  %to.at = getelementptr [4 x i64], ptr %moves, i64 %j, i64 1
  %from.at = getelementptr [4 x i64], ptr %moves, i64 %j, i64 2
  %bytes.at = getelementptr [4 x i64], ptr %moves, i64 %j, i64 3
  %to = load ptr, ptr %to.at
  %from = load ptr, ptr %from.at
  %bytes = load i64, ptr %bytes.at
  call void @llvm.memcpy.p0.p0.i64(ptr %to, ptr %from, i64 %bytes, i1 false)
  %j.next = add i64 %j, 1
  br label %copy
done:
  ret i32 1
refuse:
  ret i32 0
}
"""


def text(triple: str) -> str:
    """The LLVM module of all functions."""
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
    names = ("afterburner_release", "afterburner_capsules", "afterburner_overwrite")
    symbols = library.load(names)
    return HandoverCode(*[symbols[name] for name in names])
