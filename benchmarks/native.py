"""Times single kernels on two pinned threads that meet at spin barriers, without the rest of the runtime."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time

import numpy as np
from llvmlite import ir as ll

from afterburner.cpu import jit
from afterburner.cpu.emitter import I64, KERNEL_TYPE, PTR, VOID, i64
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel
from afterburner.cpu.module import KernelModule

_HUGE = 2 << 20


class Arena:
    """Memory on huge pages, handed out at 64-byte boundaries."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, size + _HUGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._map.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(self._map, np.uint8)
        self._bytes[:] = 0
        self._next = -self._bytes.ctypes.data % _HUGE

    def take(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        part = self._bytes[self._next: self._next + size]
        self._next += -(-size // 64) * 64 + 64
        return part.view(dtype).reshape(shape)


def _emit_driver(module: ll.Module, symbols: tuple[str, ...], kernel: Kernel, workers: int) -> None:
    """``drive(buffers, scratch, worker, repeats, barrier, stamps)``: every repeat runs all phases."""
    kind = ll.FunctionType(VOID, [PTR, PTR, I64, I64, PTR, PTR])
    function = ll.Function(module, kind, "drive")
    buffers, scratch, worker, repeats, barrier, stamps = function.args
    b = ll.IRBuilder(function.append_basic_block("entry"))
    clock = ll.Function(module, ll.FunctionType(I64, []), "llvm.readcyclecounter")

    def loop(start, stop, step, body):
        before, head = b.block, b.append_basic_block("head")
        inside, done = b.append_basic_block("body"), b.append_basic_block("done")
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(start, before)
        b.cbranch(b.icmp_signed("<", index, stop), inside, done)
        b.position_at_end(inside)
        body(index)
        index.add_incoming(b.add(index, step), b.block)
        b.branch(head)
        b.position_at_end(done)

    def meet(goal):
        b.atomic_rmw("add", barrier, i64(1), "seq_cst")
        spin, done = b.append_basic_block("spin"), b.append_basic_block("met")
        b.branch(spin)
        b.position_at_end(spin)
        b.asm(ll.FunctionType(VOID, []), "pause", "~{memory}", [], True)
        seen = b.load_atomic(barrier, "seq_cst", 8, typ=I64)
        b.cbranch(b.icmp_signed(">=", seen, goal), done, spin)
        b.position_at_end(done)

    def once(repeat):
        b.store(b.call(clock, []), b.gep(stamps, [repeat], source_etype=I64))
        for i, (phase, symbol) in enumerate(zip(kernel.phases, symbols, strict=True)):
            target = next(f for f in module.functions if f.name == symbol)
            loop(worker, i64(phase.chunks), i64(workers), lambda c, t=target: b.call(t, [buffers, c, scratch]))
            done = b.add(b.mul(repeat, i64(len(kernel.phases))), i64(i + 1))
            meet(b.mul(done, i64(workers)))

    assert KERNEL_TYPE.return_type == VOID
    loop(i64(0), repeats, i64(1), once)
    b.store(b.call(clock, []), b.gep(stamps, [repeats], source_etype=I64))
    b.ret_void()


class Bench:
    """A compiled kernel with operands in place, ready to be timed."""

    def __init__(self, kernel: Kernel, operands: list[np.ndarray], isa: Isa, workers: int = 2) -> None:
        module = KernelModule(isa)
        symbols = module.add(kernel)
        _emit_driver(module.llvm, symbols, kernel, workers)
        self.object = jit.compile_object(str(module.llvm), isa)
        self._library = jit.Library(self.object, isa)
        kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 2, *[ctypes.c_void_p] * 2)
        self._drive = kind(self._library.load(("drive",))["drive"])
        sizes = [*(o.nbytes for o in operands), *(r.type.bytes for r in kernel.node.results), *kernel.temps]
        arena = Arena(sum(sizes) + workers * kernel.scratch + 4096 * (len(sizes) + workers))
        inputs = [arena.take(o.shape, o.dtype) for o in operands]
        for target, value in zip(inputs, operands, strict=True):
            target[...] = value
        self.results = [arena.take(r.shape, r.type.dtype.numpy) for r in kernel.node.results]
        temps = [arena.take((max(t, 1),), np.dtype(np.uint8)) for t in kernel.temps]
        buffers = [*inputs, *self.results, *temps]
        self._table = (ctypes.c_void_p * len(buffers))(*[x.ctypes.data for x in buffers])
        self._scratch = [arena.take((max(kernel.scratch, 1),), np.dtype(np.uint8)) for _ in range(workers)]
        self._workers = workers
        self._keep = (arena, buffers)

    def read(self, operand: int, array: np.ndarray) -> None:
        """Take an operand from an array of another bench, aligned as those here."""
        self._table[operand] = array.ctypes.data

    def seconds_of_one_thread(self, repeats: int) -> np.ndarray:
        """CPU seconds of each repeat on the calling thread, for a bench with one worker: other load matters less."""
        barrier, stamps = np.zeros(16, np.int64), np.zeros(2, np.int64)
        spent = []
        for _ in range(repeats):
            barrier[:] = 0
            start = time.thread_time_ns()
            self._drive(self._table, self._scratch[0].ctypes.data, 0, 1, barrier.ctypes.data, stamps.ctypes.data)
            spent.append((time.thread_time_ns() - start) / 1e9)
        return np.array(spent)

    def cycles(self, repeats: int) -> np.ndarray:
        """Time-stamp cycles of each repeat."""
        barrier = np.zeros(16, np.int64)
        stamps = [np.zeros(repeats + 1, np.int64) for _ in range(self._workers)]

        def work(worker: int) -> None:
            cpus = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {sorted(cpus)[worker % len(cpus)]})
            self._drive(self._table, self._scratch[worker].ctypes.data, worker, repeats, barrier.ctypes.data,
                        stamps[worker].ctypes.data)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(self._workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return np.diff(stamps[0])
