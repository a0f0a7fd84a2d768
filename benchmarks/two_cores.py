"""Measures what it costs a core to read and to write memory that another core has used.

    python benchmarks/two_cores.py [--kilobytes 1024] [--turns 15]

Two threads on two processors take turns over one array. Printed is the median rate of the first one in GB/s, after each
history of the array. Where the second rate is far below the first, the two share no cache; virtual processors may move,
so that two runs differ.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np

from afterburner.cpu import isa as isas
from afterburner.cpu import jit
from afterburner.cpu.build import compile_text
from afterburner.cpu.program import aligned_words

_STEP = 64  # floats
_TEXT = f"""
declare float @llvm.vector.reduce.fadd.v{_STEP}f32(float, <{_STEP} x float>)

define void @write_all(ptr %at, i64 %count, ptr %sum) {{
entry:
  %start = load float, ptr %sum
  %one = insertelement <{_STEP} x float> undef, float %start, i32 0
  %value = shufflevector <{_STEP} x float> %one, <{_STEP} x float> undef, <{_STEP} x i32> zeroinitializer
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %here = getelementptr float, ptr %at, i64 %i
  store <{_STEP} x float> %value, ptr %here, align 64
  %next = add i64 %i, {_STEP}
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  ret void
}}

define void @read_all(ptr %at, i64 %count, ptr %sum) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %total = phi <{_STEP} x float> [ zeroinitializer, %entry ], [ %after, %loop ]
  %here = getelementptr float, ptr %at, i64 %i
  %value = load <{_STEP} x float>, ptr %here, align 64
  %after = fadd <{_STEP} x float> %total, %value
  %next = add i64 %i, {_STEP}
  %more = icmp ult i64 %next, %count
  br i1 %more, label %loop, label %done
done:
  %all = call reassoc float @llvm.vector.reduce.fadd.v{_STEP}f32(float 0.0, <{_STEP} x float> %after)
  store float %all, ptr %sum
  ret void
}}
"""
_PASS = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p)


class TwoCores:
    """Passes over an array by either of two threads, each on a processor of its own."""

    def __init__(self, kilobytes: int) -> None:
        isa = isas.host()
        self._library = jit.Library(compile_text(f'target triple = "{isa.triple}"\n{_TEXT}', isa), isa)
        found = self._library.load(("write_all", "read_all"))
        self._array, self._sum = aligned_words(kilobytes * 128), np.zeros(1, np.float32)
        self.bytes = self._array.nbytes
        arguments = self._array.ctypes.data, self.bytes // 4, self._sum.ctypes.data
        self.write = partial(_PASS(found["write_all"]), *arguments)
        self.read = partial(_PASS(found["read_all"]), *arguments)
        first, second, *_ = sorted(os.sched_getaffinity(0))
        self._cores = [ThreadPoolExecutor(1, initializer=os.sched_setaffinity, initargs=(0, {cpu}))
                       for cpu in (first, second)]

    def seconds(self, core: int, work: Callable[[], None]) -> float:
        """One pass by a core."""
        return self._cores[core].submit(_timed, work).result()

    def rate(self, history: Sequence[tuple[int, Callable[[], None]]], work: Callable[[], None], turns: int) -> float:
        """Bytes a second of the first core's pass after those of ``history``; the median of some turns."""
        times = []
        for _ in range(turns):
            for core, earlier in history:
                self.seconds(core, earlier)
            times.append(self.seconds(0, work))
        return self.bytes / float(np.median(times))


def _timed(work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    """Measure all histories."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kilobytes", type=int, default=1024)
    parser.add_argument("--turns", type=int, default=15)
    words = parser.parse_args()
    if len(os.sched_getaffinity(0)) < 2:
        parser.error("this needs two processors")
    cores = TwoCores(words.kilobytes)
    for name, history, work in (
        ("read what it wrote", [(0, cores.write)], cores.read),
        ("read what the other wrote", [(1, cores.write)], cores.read),
        ("write what it wrote", [(0, cores.write)], cores.write),
        ("write what the other wrote", [(1, cores.write)], cores.write),
        ("write what it wrote and the other read", [(0, cores.write), (1, cores.read)], cores.write),
    ):
        print(f"{name:40} {cores.rate(history, work, words.turns) / 1e9:6.1f} GB/s", flush=True)


if __name__ == "__main__":
    main()
