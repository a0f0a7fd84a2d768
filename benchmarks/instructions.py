"""Measures how many instructions beside multiply-adds a core starts at no cost.

    python benchmarks/instructions.py [--turns 200]

A loop of multiply-adds on registers, as many as a register tile has sums, with more and more instructions that do
nothing between them; one thread. Printed are the median and the best GFLOPS, and the instructions of a multiply-add,
those of the loop among them. Where another program runs on the other half of the core, it starts every second turn:
GFLOPS then fall with far fewer instructions, and those of a kernel's inner loop beside its multiply-adds count.
"""

from __future__ import annotations

import argparse
from statistics import median

import numpy as np
from kernels import node_of, ticks_per_second
from llvmlite import ir as ll
from native import Bench

from afterburner.cpu import isa as isas
from afterburner.cpu.emitter import F32, VOID, Emitter
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel, Phase
from afterburner.ir.ops.elementwise import Neg

SUMS, STEPS, LOOPS = 12, 4, 20_000  # multiply-adds of a step, steps of a turn of the loop, turns
LOOP = 2  # instructions of the loop itself


def multiply_adds(others: int, isa: Isa) -> Kernel:
    """Steps of multiply-adds with so many other instructions each."""
    node, _ = node_of(Neg(), [(SUMS, isa.lanes(4))])
    lanes = isa.lanes(4)
    vector = ll.VectorType(F32, lanes)

    def emit(e: Emitter) -> None:
        factor = e.load(e.operand(0), vector, 4)
        start = [e.load(e.at(e.operand(0), i * lanes, F32), vector, 4) for i in range(SUMS)]
        with e.loop_carried(0, LOOPS, 1, start) as (_, now, after):
            values = list(now)
            for _ in range(STEPS):
                values = [e.intrinsic("llvm.fma", vector, v, factor, factor) for v in values]
                for _ in range(others):
                    e.b.asm(ll.FunctionType(VOID, []), "nop", "", [], True)
            after[:] = values
        for i, value in enumerate(after):
            e.store(value, e.at(e.result(0), i * lanes, F32), 4)

    return Kernel(node, (Phase(1, emit),), f"multiply-adds and {others} others")


def main() -> None:
    """Measure with more and more other instructions, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=200)
    words = parser.parse_args()
    isa, rate = isas.host(), ticks_per_second()
    ones = np.ones((SUMS, isa.lanes(4)), np.float32)
    benches = {others: Bench(multiply_adds(others, isa), [ones], isa, 1) for others in (0, 4, 6, 8, 10, 12, 16, 20)}
    ticks: dict[int, list[float]] = {others: [] for others in benches}
    for _ in range(words.turns):
        for others, bench in benches.items():
            ticks[others].append(float(bench.cycles(1)[0]))
    done = 2 * SUMS * isa.lanes(4) * STEPS * LOOPS * rate / 1e9
    for others, spent in ticks.items():
        each = 1 + (others + LOOP / STEPS) / SUMS
        print(f"{each:.2f} instructions a multiply-add: median {done / median(spent):6.1f}, "
              f"best {done / min(spent):6.1f} GFLOPS", flush=True)


if __name__ == "__main__":
    main()
