"""The walk over programs and the thread team for 64-bit Arm, in an emulator: every chunk once, segments in order."""

from __future__ import annotations

import numpy as np
import pytest

from afterburner.cpu import program
from afterburner.cpu.loops import ANY
from afterburner.cpu.program import FIRST_EXTERNAL, FRAME_BASES, Item, Slot, aligned_words
from afterburner.cpu.team_code import TEAM_BYTES

from . import cross
from .test_kernels import EMULATED

_RUNS, _CHUNKS, _COPIED = 200, 37, program.COPY_CHUNK // 8 + 100
_SCRATCH = 128  # bytes of each worker

# To each element, what the opposite one of another array is; through the worker's own memory.
_ADD = """
define void @add_opposite(ptr %buffers, i64 %chunk, ptr %scratch) {
  %to.p = getelementptr ptr, ptr %buffers, i64 1
  %count.p = getelementptr ptr, ptr %buffers, i64 2
  %from = load ptr, ptr %buffers
  %to = load ptr, ptr %to.p
  %count = load i64, ptr %count.p
  %after = sub i64 %count, %chunk
  %opposite = sub i64 %after, 1
  %x.p = getelementptr i64, ptr %from, i64 %opposite
  %y.p = getelementptr i64, ptr %to, i64 %chunk
  %x = load i64, ptr %x.p
  %y = load i64, ptr %y.p
  store volatile i64 %x, ptr %scratch
  %own = load volatile i64, ptr %scratch
  %sum = add i64 %y, %own
  store i64 %sum, ptr %y.p
  ret void
}
"""


class Made:
    """A program of three segments over some arrays, in an image."""

    def __init__(self, triple: str, shares: int) -> None:
        self.image = cross.Image(program.runtime_text(triple) + _ADD, cross.arm_isa(triple))
        self.x, self.y, self.z = (aligned_words(_CHUNKS) for _ in range(3))
        self.total, self.source, self.copy = (aligned_words(count) for count in (1, _COPIED, _COPIED))
        self.x[:], self.source[:] = np.arange(_CHUNKS), np.arange(_COPIED)
        self.program = program.Program()
        self.program.segments += self.segments()

        arrays = (self.x, self.y, self.z, self.total, self.source, self.copy)
        frame = self.frame = self.program.frame(shares, len(arrays), 0, 0, 0, _SCRATCH, profile=True)
        scratch = aligned_words(shares * _SCRATCH // 8)
        frame.words[FRAME_BASES + program.ARENA] = scratch.ctypes.data
        frame.words[FRAME_BASES + FIRST_EXTERNAL:] = [array.ctypes.data for array in arrays]
        assert frame.stamps is not None
        self.kept = (*arrays, scratch, *frame._kept, frame.stamps)
        for array in self.kept:
            frame.words[frame.words == array.ctypes.data] = self.add(array)
        self.words = self.add(frame.words)

    def add(self, array: np.ndarray) -> int:
        return self.image.add((array.ctypes.data, array.nbytes))

    def segments(self) -> list[tuple[Item, ...]]:
        x, y, z, total, source, copy = range(6)

        def item(function: str, from_: int, to: int, size: int, chunks: int) -> Item:
            return Item((self.call(function, from_, to, size, ANY),), chunks)

        sum_of_z = Item(tuple(self.call("add_opposite", z, total, 1 + i, 0) for i in range(_CHUNKS)), 1)
        return [(item("add_opposite", x, y, _CHUNKS, _CHUNKS), item("copy_chunk", source, copy, 8 * _COPIED, 2)),
                (item("add_opposite", y, z, _CHUNKS, _CHUNKS),),
                (sum_of_z, item("add_opposite", z, x, _CHUNKS, _CHUNKS))]

    def call(self, function: str, from_: int, to: int, size: int, chunk: int) -> tuple[int, int, int]:
        row = (Slot(FIRST_EXTERNAL + from_), Slot(FIRST_EXTERNAL + to), Slot(program.NULL, size))
        return self.image.functions[function], self.program.buffers(row), chunk

    def run(self, *calls: tuple[str, int, int, int]) -> None:
        self.image.run([(self.image.functions[name], *arguments) for name, *arguments in calls])

    def check(self, runs: int) -> None:
        x, y, z, total = np.arange(_CHUNKS), *np.zeros((2, _CHUNKS), int), np.zeros(1, int)
        for _ in range(runs):
            y = y + x[::-1]
            z = z + y[::-1]
            total = total + z.sum()
            x = x + z[::-1]
        for got, want in ((self.x, x), (self.y, y), (self.z, z), (self.total, total), (self.copy, self.source)):
            np.testing.assert_array_equal(got, want)


@EMULATED
@pytest.mark.parametrize("triple", [cross.LINUX, cross.MAC_ELF])
@pytest.mark.parametrize(("workers", "shares"), [(1, 1), (1, 3), (2, 2), (3, 3)])
def test_a_team_runs_every_chunk_once_and_segments_in_order(workers: int, shares: int, triple: str) -> None:
    made = Made(triple, shares)
    memory = aligned_words(TEAM_BYTES // 8)
    team = made.add(memory)
    made.run(("team_init", team, 0, 0), ("start_workers", team, workers, made.image.functions["team_work"]),
             *[("program_run", team, made.words, workers)] * _RUNS,
             ("team_stop", team, 0, 0), ("join_workers", 0, 0, 0))
    made.check(_RUNS)
    stamps = made.frame.stamps
    assert stamps is not None and stamps[0] > 0 and (np.diff(stamps) >= 0).all()


@EMULATED
@pytest.mark.parametrize("triple", [cross.LINUX, cross.MAC_ELF])
@pytest.mark.parametrize("worker", [0, 1, 2])
def test_one_worker_takes_the_shares_of_those_who_do_not_come(worker: int, triple: str) -> None:
    made = Made(triple, 3)
    made.run(("program_prepare", made.words, 0, 0), ("program_body", made.words, worker, 0))
    made.check(1)
