"""The arena: alignment, growth, giving memory back, and refusal."""

import ctypes
import gc
import sys

import psutil
import pytest

from afterburner.runtime.arena import HUGE_PAGE, Arena, ArenaError

MB = 1 << 20


class Owner:
    pass


def resident() -> int:
    return psutil.Process().memory_info().rss


def touch(arena: Arena, size: int) -> None:
    ctypes.memset(arena.address, 1, size)


def test_grows_to_the_largest_lease_and_is_aligned():
    arena, first, second = Arena(), Owner(), Owner()
    assert (arena.address, arena.size) == (0, 0)
    arena.lease(first, 100)
    assert arena.address % HUGE_PAGE == 0 and arena.size == HUGE_PAGE
    arena.lease(second, 5 * MB)
    assert arena.address % HUGE_PAGE == 0 and arena.size == 6 * MB and arena.needed == 5 * MB
    touch(arena, arena.size)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has huge pages to keep away from")
def test_a_small_lease_takes_what_it_touches():
    arena, owner = Arena(), Owner()
    arena.lease(owner, 64 << 10)
    touch(arena, 1)
    with open("/proc/self/smaps") as file:
        ours = next(lines for start, end, lines in _blocks(file) if start <= arena.address < end)
    taken = sum(int(line.split()[1]) for line in ours if line.startswith("Rss:"))
    assert 0 < taken <= 64  # kB


def _blocks(lines):
    """(start, end, its lines) of each mapping in smaps."""
    block = None
    for line in lines:
        head = line.split()[0]
        if not head.endswith(":"):
            if block:
                yield block
            start, end = (int(n, 16) for n in head.split("-"))
            block = (start, end, [])
        else:
            block[2].append(line)
    yield block


def test_an_empty_lease_takes_nothing():
    arena, owner = Arena(), Owner()
    arena.lease(owner, 0)
    assert arena.size == 0


def test_memory_is_given_back_when_owners_go():
    arena, small, large = Arena(), Owner(), Owner()
    arena.lease(small, 2 * MB)
    arena.lease(large, 200 * MB)
    touch(arena, 200 * MB)
    before = resident()
    del large
    gc.collect()
    assert arena.dropped
    arena.settle()
    assert not arena.dropped and arena.needed == 2 * MB
    assert before - resident() > 150 * MB
    touch(arena, 200 * MB)  # the addresses stay usable
    del small
    gc.collect()
    arena.settle()
    assert arena.size == 0 and before - resident() > 150 * MB


def test_leases_come_and_go_without_growth():
    arena = Arena()
    for _ in range(50):
        owner = Owner()
        arena.lease(owner, 64 * MB)
        touch(arena, 64 * MB)
        del owner
    gc.collect()
    arena.settle()
    assert arena.size == 0 and arena.needed == 0


def test_a_refusal_is_a_clear_error_and_keeps_what_was_there():
    arena, owner = Arena(), Owner()
    arena.lease(owner, MB)
    address = arena.address
    with pytest.raises(ArenaError, match="no memory for"):
        arena.lease(owner, 1 << 60)
    assert (arena.address, arena.needed) == (address, MB)
    touch(arena, MB)
