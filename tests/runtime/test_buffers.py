"""Buffers that are lent out: what is used again, and when."""

from __future__ import annotations

import gc
import sys

import pytest

from afterburner.ir import DTYPES, TensorType
from afterburner.runtime import buffers
from afterburner.runtime.buffers import BufferPool, HandoverCode, Rack

SMALL = TensorType(DTYPES["f32"], (4,))
LARGE = TensorType(DTYPES["f32"], (1 << 18,))
OTHER = TensorType(DTYPES["i32"], (1 << 9, 1 << 9))


@pytest.fixture
def pool():
    return BufferPool(lambda: HandoverCode(0, 0, 0, 0))


def _hold(row, *positions):
    for i in positions:
        row.buffers[i].flag.value = 0


def test_types_of_one_size_share_buffers(pool):
    shelf, other = pool.shelf(LARGE), pool.shelf(OTHER)
    (buffer,) = pool.take([shelf])
    pool.put([shelf], [buffer])
    assert pool.take([other]) == [buffer] and buffer.type == OTHER


def test_a_large_buffer_is_found_among_many(pool):
    shelf = pool.shelf(LARGE)
    taken = [pool.take([shelf])[0] for _ in range(12)]
    for buffer in taken:
        buffer.flag.value = 0
        pool.put([shelf], [buffer])
    taken[9].flag.value = 1
    assert pool.take([shelf]) == [taken[9]]


def test_no_memory_is_a_memory_error(pool):
    with pytest.raises(MemoryError):
        pool.take([pool.shelf(TensorType(DTYPES["f32"], (1 << 60,)))])


def test_rows_are_written_in_turn(pool):
    rack = Rack(pool, [pool.shelf(SMALL)] * 3)
    first = rack.take()
    _hold(first, 0, 1, 2)
    rack.put(first)
    second = rack.take()
    assert second is not first
    _hold(second, 0, 1, 2)
    rack.put(second)
    for flag in first.flags:
        flag.value = 1
    assert rack.take() is first


def test_a_row_with_a_held_buffer_is_not_written(pool):
    shelves = [pool.shelf(SMALL)] * 2
    rack = Rack(pool, shelves)
    rows = [rack.take(), rack.take()]
    for row in rows:
        rack.put(row)
    _hold(rows[0], 1)
    row = rack.take()
    assert rows[0].buffers[1] not in row.buffers
    assert rows[0].buffers[0] in row.buffers  # what is free is used again


def test_large_rows_are_not_kept(pool):
    rack = Rack(pool, [pool.shelf(LARGE)] * 3)
    row = rack.take()
    rack.put(row)
    assert pool.held_bytes() == 3 * LARGE.bytes


def test_buffers_outlive_their_rack(pool):
    rack = Rack(pool, [pool.shelf(SMALL)])
    row = rack.take()
    _hold(row, 0)
    rack.put(row)
    (buffer,) = row.buffers
    del rack, row
    gc.collect()
    pool.take([])
    assert pool.held_bytes() == buffers.ALIGNMENT
    (fresh,) = pool.take([pool.shelf(SMALL)])
    assert fresh is not buffer
    buffer.flag.value = 1
    assert pool.take([pool.shelf(SMALL)]) == [buffer]


def test_buffers_outlive_the_interpreter(pool):
    """TensorFlow drops some tensors after the interpreter has dropped everything of ours."""
    (buffer,) = pool.take([pool.shelf(SMALL)])
    before = sys.getrefcount(buffer)
    buffers.keep_all()
    assert sys.getrefcount(buffer) == before + 1


def test_buffers_are_kept_without_a_list_of_all_objects(monkeypatch):
    def list_all():
        raise AssertionError("megabytes, at the end of a process")

    monkeypatch.setattr(gc, "get_objects", list_all)
    buffer = buffers.Buffer(SMALL, 0, None, 0)
    before = sys.getrefcount(buffer)
    buffers.keep_all()
    assert sys.getrefcount(buffer) == before + 1
