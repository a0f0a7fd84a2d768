"""Native help with many tensors at once: capsules for TensorFlow and their deleter, old values overwritten, and what
other libraries hold copied."""

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
declare ptr @PyList_GetItem(ptr, i64)
declare i32 @PyObject_GetBuffer(ptr, ptr, i32)
declare i32 @PyBuffer_IsContiguous(ptr, i8)
declare void @PyBuffer_Release(ptr)
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

; Copy the elements of %objects (a list) from number %i on, as many %bytes of each as are said there, to where %to says.
; The number of the first that does not show so many bytes in row-major order, with Python's error set if it shows none;
; %count if all do. Called with the GIL held.
define i64 @afterburner_copy(ptr %objects, ptr %to, ptr %bytes, i64 %first, i64 %count) {
entry:
  %view = alloca [$view x i8], align 8
  %size.at = getelementptr i8, ptr %view, i64 $size
  br label %head
head:
  %i = phi i64 [ %first, %entry ], [ %i.next, %copy ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %look, label %done
look:
  %object = call ptr @PyList_GetItem(ptr %objects, i64 %i)
  %failed = call i32 @PyObject_GetBuffer(ptr %object, ptr %view, i32 $strided)
  %shown = icmp eq i32 %failed, 0
  br i1 %shown, label %compare, label %done
compare:
  %dense = call i32 @PyBuffer_IsContiguous(ptr %view, i8 $row.major)
  %is.dense = icmp ne i32 %dense, 0
  %size = load i64, ptr %size.at
  %wanted.at = getelementptr i64, ptr %bytes, i64 %i
  %wanted = load i64, ptr %wanted.at
  %is.whole = icmp eq i64 %size, %wanted
  %plain = and i1 %is.dense, %is.whole
  br i1 %plain, label %copy, label %refuse
copy:
  %from = load ptr, ptr %view
  %slot = getelementptr ptr, ptr %to, i64 %i
  %target = load ptr, ptr %slot
  call void @llvm.memcpy.p0.p0.i64(ptr %target, ptr %from, i64 %size, i1 false)
  call void @PyBuffer_Release(ptr %view)
  %i.next = add i64 %i, 1
  br label %head
refuse:
  call void @PyBuffer_Release(ptr %view)
  br label %done
done:
  ret i64 %i
}
"""

# Py_buffer: { void *buf; PyObject *obj; Py_ssize_t len; ... }, 80 bytes, as Python's stable ABI has it.
_CONSTANTS = {"$flag": _FLAG_OFFSET, "$view": 80, "$size": 16, "$strided": 0x18, "$row.major": ord("C")}


def text(triple: str) -> str:
    """The LLVM module of all functions."""
    code = _TEXT
    for name, value in _CONSTANTS.items():
        code = code.replace(name, str(value))
    return f'target triple = "{triple}"\n' + code


@lru_cache(maxsize=1)
def handover_code() -> HandoverCode:
    """The functions, loaded for the life of the process."""
    from .build import compile_text

    isa = host()
    source = text(isa.triple)
    code, _ = cached(source, isa, lambda: compile_text(source, isa), object_cache(options()))
    library = jit.Library(code, isa)
    library.keep()  # TensorFlow may call the deleter until the process ends
    names = ("afterburner_release", "afterburner_capsules", "afterburner_overwrite", "afterburner_copy")
    symbols = library.load(names)
    return HandoverCode(*[symbols[name] for name in names])
