"""The native program of an executable: its tables, and the code that walks them.

A program is a row of segments with a barrier after each. A segment is a set of items that may run at
once; an item is cut into chunks, and a chunk runs the item's phases one after another. (A parallel
phase is an item of many chunks; a run of one-chunk kernels is an item of one chunk and many phases.)
Each worker has a share of a segment: about the same part of every item. It claims the chunks of its
own share, then those that are left of the others', and adds what it has completed to a counter; a
segment is over when all of its chunks are complete. So no result depends on how many workers there
are, and no worker waits for one that has not come.

Kernels that follow each other mostly cut their arrays alike, so a worker finds in its own cache what
it wrote, and does not write over what lies in another's: where two cores share no cache, such writes
run at a tenth of memory's rate (docs/history.md).

The tables are data, filled in by ``Program``; only the walk over them is code, and the same for all
executables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from string import Template
from typing import NamedTuple

import numpy as np

from .team_code import TEAM_SYMBOLS, team_text

# Words of a frame, each 64 bits. Bases begin at FRAME_BASES: null, constants, kept, arena, inputs, outputs.
(_POINTERS, _TABLE, _POINTER_COUNT, _SEGMENTS, _SEGMENT_COUNT, _ITEMS, _PHASES, _SYNC, _SYNC_BYTES,
 _SCRATCH, _SCRATCH_STRIDE, _PROFILE, _SHARES, _SYNC_STRIDE) = range(14)
FRAME_BASES = 14
NULL, CONSTANTS, KEPT, ARENA, FIRST_EXTERNAL = range(5)

COPY_CHUNK = 1 << 18  # bytes
LINE = 64

_TEXT = """
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)

; A phase that copies: buffers are source, destination, and the size in bytes in place of a pointer.
define void @copy_chunk(ptr %buffers, i64 %chunk, ptr %scratch) {
  %to.p = getelementptr ptr, ptr %buffers, i64 1
  %size.p = getelementptr i64, ptr %buffers, i64 2
  %from = load ptr, ptr %buffers
  %to = load ptr, ptr %to.p
  %size = load i64, ptr %size.p
  %start = mul i64 %chunk, $copy
  %rest = sub i64 %size, %start
  %short = icmp slt i64 %rest, $copy
  %count = select i1 %short, i64 %rest, i64 $copy
  %from.at = getelementptr i8, ptr %from, i64 %start
  %to.at = getelementptr i8, ptr %to, i64 %start
  call void @llvm.memcpy.p0.p0.i64(ptr %to.at, ptr %from.at, i64 %count, i1 false)
  ret void
}

; Fill the pointer table from the frame's bases and zero the counters.
define void @program_prepare(ptr %frame) {
entry:
  %pointers.p = getelementptr i64, ptr %frame, i64 $POINTERS
  %table.p = getelementptr i64, ptr %frame, i64 $TABLE
  %count.p = getelementptr i64, ptr %frame, i64 $POINTER_COUNT
  %sync.p = getelementptr i64, ptr %frame, i64 $SYNC
  %sync_bytes.p = getelementptr i64, ptr %frame, i64 $SYNC_BYTES
  %bases = getelementptr i64, ptr %frame, i64 $BASES
  %pointers = load ptr, ptr %pointers.p
  %table = load ptr, ptr %table.p
  %count = load i64, ptr %count.p
  %sync = load ptr, ptr %sync.p
  %sync_bytes = load i64, ptr %sync_bytes.p
  call void @llvm.memset.p0.i64(ptr align 64 %sync, i8 0, i64 %sync_bytes, i1 false)
  br label %head
head:
  %i = phi i64 [ 0, %entry ], [ %i.next, %body ]
  %more = icmp slt i64 %i, %count
  br i1 %more, label %body, label %done
body:
  %pair = getelementptr { i64, i64 }, ptr %pointers, i64 %i
  %offset.p = getelementptr i64, ptr %pair, i64 1
  %base.index = load i64, ptr %pair
  %offset = load i64, ptr %offset.p
  %base.p = getelementptr i64, ptr %bases, i64 %base.index
  %base = load i64, ptr %base.p
  %address = add i64 %base, %offset
  %slot = getelementptr i64, ptr %table, i64 %i
  store i64 %address, ptr %slot
  %i.next = add i64 %i, 1
  br label %head
done:
  ret void
}

; All segments, seen from one worker; returns when the last chunk of the program is complete.
; A segment is its number of chunks, then each share's first item and number of chunks. A segment's
; counters are those of its complete chunks, then of each share's claimed ones, each in a line of its own.
define void @program_body(ptr %frame, i64 %worker) {
entry:
  %table.p = getelementptr i64, ptr %frame, i64 $TABLE
  %segments.p = getelementptr i64, ptr %frame, i64 $SEGMENTS
  %count.p = getelementptr i64, ptr %frame, i64 $SEGMENT_COUNT
  %items.p = getelementptr i64, ptr %frame, i64 $ITEMS
  %phases.p = getelementptr i64, ptr %frame, i64 $PHASES
  %sync.p = getelementptr i64, ptr %frame, i64 $SYNC
  %sync.stride.p = getelementptr i64, ptr %frame, i64 $SYNC_STRIDE
  %shares.p = getelementptr i64, ptr %frame, i64 $SHARES
  %scratch.p = getelementptr i64, ptr %frame, i64 $SCRATCH
  %stride.p = getelementptr i64, ptr %frame, i64 $SCRATCH_STRIDE
  %profile.p = getelementptr i64, ptr %frame, i64 $PROFILE
  %arena.p = getelementptr i64, ptr %frame, i64 $ARENA
  %table = load ptr, ptr %table.p
  %segments = load ptr, ptr %segments.p
  %count = load i64, ptr %count.p
  %items = load ptr, ptr %items.p
  %phases = load ptr, ptr %phases.p
  %sync = load ptr, ptr %sync.p
  %sync.stride = load i64, ptr %sync.stride.p
  %shares = load i64, ptr %shares.p
  %scratch.offset = load i64, ptr %scratch.p
  %stride = load i64, ptr %stride.p
  %profile = load ptr, ptr %profile.p
  %arena = load ptr, ptr %arena.p
  %own = mul i64 %worker, %stride
  %own.offset = add i64 %own, %scratch.offset
  %scratch = getelementptr i8, ptr %arena, i64 %own.offset
  %double = shl i64 %shares, 1
  %segment.words = add i64 %double, 1
  %is.caller = icmp eq i64 %worker, 0
  %has.profile = icmp ne ptr %profile, null
  %first = load atomic i64, ptr %sync acquire, align 8
  br label %segment

segment:
  %s = phi i64 [ %first, %entry ], [ %s.next, %advance ]
  %more = icmp slt i64 %s, %count
  br i1 %more, label %open, label %done
open:
  %segment.offset = mul i64 %s, %segment.words
  %segment.p = getelementptr i64, ptr %segments, i64 %segment.offset
  %total = load i64, ptr %segment.p
  %s.line = add i64 %s, 1
  %line.offset = mul i64 %s.line, %sync.stride
  %complete.p = getelementptr i8, ptr %sync, i64 %line.offset
  br label %share.open
share.open:
  %share = phi i64 [ %worker, %open ], [ %share.wrapped, %share.next ]
  %turn = phi i64 [ 0, %open ], [ %turn.next, %share.next ]
  %mine.before = phi i64 [ 0, %open ], [ %mine, %share.next ]
  %share.twice = shl i64 %share, 1
  %share.p = getelementptr i64, ptr %segment.p, i64 %share.twice
  %item.first.p = getelementptr i64, ptr %share.p, i64 1
  %chunks.p = getelementptr i64, ptr %share.p, i64 2
  %item.first = load i64, ptr %item.first.p
  %chunks = load i64, ptr %chunks.p
  %share.up = add i64 %share, 1
  %claimed.offset = mul i64 %share.up, $line
  %claimed.p = getelementptr i8, ptr %complete.p, i64 %claimed.offset
  br label %claim
claim:
  %mine = phi i64 [ %mine.before, %share.open ], [ %mine.next, %chunk.done ]
  %item.from = phi i64 [ %item.first, %share.open ], [ %item, %chunk.done ]
  %seen = load atomic i64, ptr %claimed.p monotonic, align 8
  %open.yet = icmp slt i64 %seen, %chunks
  br i1 %open.yet, label %take, label %share.done
take:
  %c = atomicrmw add ptr %claimed.p, i64 1 monotonic
  %got = icmp slt i64 %c, %chunks
  br i1 %got, label %find, label %share.done
share.done:
  %turn.next = add i64 %turn, 1
  %shares.left = icmp slt i64 %turn.next, %shares
  br i1 %shares.left, label %share.next, label %exhausted
share.next:
  %wraps = icmp eq i64 %share.up, %shares
  %share.wrapped = select i1 %wraps, i64 0, i64 %share.up
  br label %share.open
find:
  %item = phi i64 [ %item.from, %take ], [ %item.next, %find.next ]
  %item.p = getelementptr { i64, i64, i64, i64 }, ptr %items, i64 %item
  %end.p = getelementptr i64, ptr %item.p, i64 3
  %end = load i64, ptr %end.p
  %here = icmp slt i64 %c, %end
  br i1 %here, label %chunk, label %find.next
find.next:
  %item.next = add i64 %item, 1
  br label %find
chunk:
  %phase.end.p = getelementptr i64, ptr %item.p, i64 1
  %phase.first = load i64, ptr %item.p
  %phase.end = load i64, ptr %phase.end.p
  %start.p = getelementptr i64, ptr %item.p, i64 2
  %start = load i64, ptr %start.p
  %local = sub i64 %c, %start
  br label %phase
phase:
  %p = phi i64 [ %phase.first, %chunk ], [ %p.next, %call ]
  %left = icmp slt i64 %p, %phase.end
  br i1 %left, label %call, label %chunk.done
call:
  %phase.p = getelementptr { ptr, i64, i64 }, ptr %phases, i64 %p
  %position.p = getelementptr i64, ptr %phase.p, i64 1
  %fixed.p = getelementptr i64, ptr %phase.p, i64 2
  %function = load ptr, ptr %phase.p
  %position = load i64, ptr %position.p
  %fixed = load i64, ptr %fixed.p
  %buffers = getelementptr ptr, ptr %table, i64 %position
  %any = icmp slt i64 %fixed, 0
  %which = select i1 %any, i64 %local, i64 %fixed
  call void %function(ptr %buffers, i64 %which, ptr %scratch)
  %p.next = add i64 %p, 1
  br label %phase
chunk.done:
  %mine.next = add i64 %mine, 1
  br label %claim
exhausted:
  %some = icmp ne i64 %mine, 0
  br i1 %some, label %report, label %meet
report:
  br i1 %has.profile, label %stamp, label %add
stamp:  ; by each worker before it counts its chunks: the last one's stays, also where the caller is late
  %now = call i64 @clock_ns()
  %stamp.p = getelementptr i64, ptr %profile, i64 %s.line
  store atomic i64 %now, ptr %stamp.p monotonic, align 8
  br label %add
add:  ; what was stored past the caches comes first
  $fence
  %before = atomicrmw add ptr %complete.p, i64 %mine acq_rel
  %after = add i64 %before, %mine
  %last = icmp eq i64 %after, %total
  br i1 %last, label %over, label %meet
meet:
  call void @wait_at_least(ptr %complete.p, i64 %total)
  br label %over
over:
  br i1 %is.caller, label %publish, label %advance
publish:
  store atomic i64 %s.line, ptr %sync release, align 8
  br label %advance
advance:
  %s.next = add i64 %s, 1
  br label %segment
done:
  ret void
}

; The one entry: %team is used only where there are two or more workers.
define void @program_run(ptr %team, ptr %frame, i64 %workers) {
entry:
  call void @program_prepare(ptr %frame)
  %profile.p = getelementptr i64, ptr %frame, i64 $PROFILE
  %profile = load ptr, ptr %profile.p
  %has.profile = icmp ne ptr %profile, null
  br i1 %has.profile, label %stamp, label %run
stamp:  ; before anybody begins: a worker may be done with the first segment before the caller comes to it
  %now = call i64 @clock_ns()
  store i64 %now, ptr %profile
  br label %run
run:
  %alone = icmp slt i64 %workers, 2
  br i1 %alone, label %single, label %several
single:
  call void @program_body(ptr %frame, i64 0)
  ret void
several:
  call void @team_launch(ptr %team, ptr @program_body, ptr %frame, i64 %workers)
  ret void
}
"""

RUNTIME_SYMBOLS = (*TEAM_SYMBOLS, "program_run", "copy_chunk")


def runtime_text(triple: str) -> str:
    """The LLVM module of the team and of the walk over programs."""
    is_x86 = triple.startswith("x86_64")
    values: dict[str, object] = {
        "POINTERS": _POINTERS, "TABLE": _TABLE, "POINTER_COUNT": _POINTER_COUNT, "SEGMENTS": _SEGMENTS,
        "SEGMENT_COUNT": _SEGMENT_COUNT, "ITEMS": _ITEMS, "PHASES": _PHASES, "SYNC": _SYNC,
        "SYNC_BYTES": _SYNC_BYTES, "SYNC_STRIDE": _SYNC_STRIDE, "SCRATCH": _SCRATCH,
        "SCRATCH_STRIDE": _SCRATCH_STRIDE, "PROFILE": _PROFILE, "SHARES": _SHARES, "BASES": FRAME_BASES,
        "ARENA": FRAME_BASES + ARENA,
        "copy": COPY_CHUNK, "line": LINE, "fence": "call void @llvm.x86.sse.sfence()" if is_x86 else "",
    }
    declared = "declare void @llvm.x86.sse.sfence()\n" if is_x86 else ""
    return f'target triple = "{triple}"\n' + team_text(triple) + declared + Template(_TEXT).substitute(values)


class Slot(NamedTuple):
    """Where a buffer lies: an offset in bytes from one of the frame's bases."""

    base: int
    offset: int = 0


@dataclass(frozen=True)
class Item:
    """Work inside a segment: ``chunks`` pieces, each of which runs all ``calls`` in order.

    A call is a function's address, the position of its buffers in the pointer table, and the chunk that it always runs,
    negative for the one that a worker has come for.
    """

    calls: tuple[tuple[int, int, int], ...]
    chunks: int


@dataclass
class Program:
    """The tables of one executable, built up by ``buffers`` and ``segment``, then laid out by ``frame``."""

    pointers: list[Slot] = field(default_factory=list)
    segments: list[tuple[Item, ...]] = field(default_factory=list)

    def buffers(self, slots: Sequence[Slot]) -> int:
        """Add a row of buffers to the pointer table; its position there."""
        self.pointers.extend(slots)
        return len(self.pointers) - len(slots)

    def frame(self, workers: int, externals: int, constants: int, kept: int, scratch_offset: int, scratch_stride: int,
              profile: bool) -> Frame:
        """The tables in memory, ready to run once the external addresses are written into it."""
        return Frame(self, workers, externals, constants, kept, scratch_offset, scratch_stride, profile)


def aligned_words(count: int) -> np.ndarray:
    """``count`` zeroed 64-bit words that start at a cache line."""
    raw = np.zeros(count + LINE // 8, np.int64)
    start = (-raw.ctypes.data % LINE) // 8
    return raw[start: start + count]


class Frame:
    """What ``program_run`` is given: the tables of a program and the bases of its buffers.

    Attributes:
        words: the frame itself; the addresses from ``FRAME_BASES`` on are set before a run.
        segments: how many there are.
        stamps: with profiling, the time in ns when a run began and when each segment was complete.
    """

    def __init__(self, program: Program, workers: int, externals: int, constants: int, kept: int, scratch_offset: int,
                 scratch_stride: int, profile: bool) -> None:
        segments, items, phases = tables(program.segments, workers)
        pointers = np.array([(s.base, s.offset) for s in program.pointers], np.int64).reshape(-1, 2)
        table = aligned_words(len(pointers))
        sync_stride = LINE * (1 + workers)
        sync = aligned_words((len(segments) + 1) * sync_stride // 8)
        self.stamps = aligned_words(len(segments) + 1) if profile else None
        self._kept = (segments, items, phases, pointers, table, sync)
        self.segments = len(segments)
        self.words = aligned_words(FRAME_BASES + FIRST_EXTERNAL + externals)
        for word, value in (
            (_POINTERS, pointers.ctypes.data), (_TABLE, table.ctypes.data), (_POINTER_COUNT, len(pointers)),
            (_SEGMENTS, segments.ctypes.data), (_SEGMENT_COUNT, len(segments)), (_SHARES, workers),
            (_ITEMS, items.ctypes.data), (_PHASES, phases.ctypes.data),
            (_SYNC, sync.ctypes.data), (_SYNC_BYTES, sync.nbytes), (_SYNC_STRIDE, sync_stride),
            (_SCRATCH, scratch_offset), (_SCRATCH_STRIDE, scratch_stride),
            (_PROFILE, 0 if self.stamps is None else self.stamps.ctypes.data),
            (FRAME_BASES + CONSTANTS, constants), (FRAME_BASES + KEPT, kept),
        ):
            self.words[word] = value

    def select(self, first: int, end: int) -> None:
        """Let the next run be that of some of the segments."""
        self.words[_SEGMENTS] = self._kept[0].ctypes.data + first * self._kept[0].strides[0]
        self.words[_SEGMENT_COUNT] = end - first
        if self.stamps is not None:
            self.words[_PROFILE] = self.stamps.ctypes.data + first * self.stamps.itemsize


def tables(rows: Sequence[Sequence[Item]], workers: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Segments (chunks in all, then each share's first item and chunks), the items of shares, and phases.

    An item of a share has its first and end phase, what is to be taken from the claim's number in the share to give
    the chunk's in the item, and the end of its claims.
    """
    segments: list[list[int]] = []
    items: list[tuple[int, int, int, int]] = []
    phases: list[tuple[int, int, int]] = []
    for row in rows:
        spans = []
        for item in row:
            spans.append((len(phases), len(phases) + len(item.calls)))
            phases.extend(item.calls)
        chunks = tuple(item.chunks for item in row)
        segment = [sum(chunks)]
        for share in shares(chunks, workers):
            segment += (len(items), share[-1].end if share else 0)
            items.extend((*spans[part.item], part.skipped, part.end) for part in share)
        segments.append(segment)
    return (np.array(segments, np.int64).reshape(-1, 1 + 2 * workers), np.array(items, np.int64).reshape(-1, 4),
            np.array(phases, np.int64).reshape(-1, 3))


class ShareOfItem(NamedTuple):
    """Adjacent chunks of an item in a worker's share: claim ``c`` below ``end`` is for chunk ``c - skipped``."""

    item: int
    skipped: int
    end: int


@lru_cache(maxsize=1024)
def shares(chunks: tuple[int, ...], workers: int) -> tuple[tuple[ShareOfItem, ...], ...]:
    """Each worker's share of items of so many chunks. What is left over goes to one after another."""
    found: list[list[ShareOfItem]] = [[] for _ in range(workers)]
    turn = 0
    for item, count in enumerate(chunks):
        even, left = divmod(count, workers)
        begin = 0
        for worker, share in enumerate(found):
            size = even + ((worker - turn) % workers < left)
            if size:
                claimed = share[-1].end if share else 0
                share.append(ShareOfItem(item, claimed - begin, claimed + size))
                begin += size
        turn = (turn + left) % workers
    return tuple(tuple(share) for share in found)
