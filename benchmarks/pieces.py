"""Measures how fast two threads read a large matrix in pieces of its rows.

    python benchmarks/pieces.py [--ahead 12] [--turns 20]

A matrix of 8,192 rows of 4 KB on huge pages is read column of pieces by column of pieces, every other column by each
thread, rows asked for ahead; and once in the order in which it lies, half by each, nothing asked for. Printed are the
best rates in GB/s: they bound kernels that read a large matrix once.
"""

from __future__ import annotations

import argparse

import numpy as np
from kernels import node_of, ticks_per_second
from native import Bench

from afterburner.cpu import isa as isas
from afterburner.cpu.emitter import F32, I8, Emitter, i64
from afterburner.cpu.isa import Isa
from afterburner.cpu.kernel import Kernel, Phase
from afterburner.ir.ops.elementwise import Neg

ROWS, WIDTH, LINE = 8192, 4096, 64  # rows, and bytes of a row and a cache line
THREADS = 2


def reading(piece: int, ahead: int, isa: Isa) -> Kernel:
    """Reads the matrix in pieces of so many bytes; whole rows in their order."""
    node, _ = node_of(Neg(), [(ROWS, WIDTH // 4)])
    lanes, whole = isa.lanes(4), piece == WIDTH
    rows, columns = (ROWS // THREADS, 1) if whole else (ROWS, WIDTH // piece)

    def emit(e: Emitter) -> None:
        start = e.at(e.operand(0), e.b.mul(e.chunk, i64(rows * WIDTH if whole else piece)), I8)
        zero = e.load(e.result(0), e.vector(F32, lanes), 64)
        with e.loop_carried(0, columns if whole else columns // THREADS, 1, [zero], "column") as (c, sums, after):
            column = e.at(start, e.b.mul(c, i64(THREADS * piece)), I8)
            with e.loop_carried(0, rows, 1, list(sums), "row") as (r, now, following):
                row, total = e.at(column, e.b.mul(r, i64(WIDTH)), I8), now[0]
                for at in range(0, 0 if whole else piece, LINE):
                    e.prefetch(e.at(row, at + ahead * WIDTH, I8))
                for at in range(0, piece, lanes * 4):
                    total = e.b.fadd(total, e.load(e.at(row, at, I8), e.vector(F32, lanes), 4))
                following[0] = total
            after[:] = following
        e.store(after[0], e.at(e.result(0), e.b.mul(e.chunk, i64(LINE)), I8), 4)

    return Kernel(node, (Phase(THREADS, emit),), f"pieces of {piece}, {ahead} ahead")


def main() -> None:
    """Measure all sizes of pieces."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ahead", type=int, default=12)
    parser.add_argument("--turns", type=int, default=20)
    words = parser.parse_args()
    isa, rate = isas.host(), ticks_per_second()
    matrix, other = np.zeros((ROWS, WIDTH // 4), np.float32), np.zeros(64 << 20, np.uint8)
    for piece in (64, 96, 128, 192, 256, 512, 1024, 2048, WIDTH):
        bench, best = Bench(reading(piece, words.ahead, isa), [matrix], isa, THREADS), np.inf
        for turn in range(words.turns):
            other[:] = turn  # the matrix leaves the caches
            best = min(best, float(bench.cycles(1).min()))
        read = ROWS * piece * (WIDTH // piece // THREADS * THREADS or 1)
        print(f"{piece:5d} bytes{' in order' * (piece == WIDTH)}  {read / best * rate / 1e9:5.1f} GB/s", flush=True)


if __name__ == "__main__":
    main()
