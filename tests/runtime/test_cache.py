"""The object cache: what it keeps, what it refuses, and every way a disk can fail."""

import errno
import multiprocessing
import os
import stat
import time

import pytest

from afterburner.runtime import cache as cache_module
from afterburner.runtime.cache import ObjectCache

KEY, OTHER = "ab" * 32, "cd" * 32
as_user = pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")


@pytest.fixture
def cache(tmp_path):
    return ObjectCache(tmp_path / "deep" / "objects", 1 << 20)


def file_of(cache):
    return cache.path / f"{KEY}.obj"


def test_keeps_and_finds(cache):
    assert cache.get(KEY) is None
    assert cache.put(KEY, b"code") and cache.put(OTHER, b"")
    assert (cache.get(KEY), cache.get(OTHER)) == (b"code", b"")
    assert [e.key for e in cache.entries()] == [OTHER, KEY] or len(cache.entries()) == 2
    assert cache.size() == sum(e.size for e in cache.entries()) > 4
    assert cache.clear() == 2 and cache.entries() == [] and cache.get(KEY) is None


def test_folder_and_files_are_private(cache):
    cache.put(KEY, b"code")
    assert [stat.S_IMODE(p.stat().st_mode) for p in (cache.path.parent, cache.path)] == [0o700, 0o700]
    assert stat.S_IMODE(file_of(cache).stat().st_mode) == 0o600


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped", "foreign", "magic"])
def test_a_damaged_entry_is_deleted(cache, damage):
    cache.put(KEY, b"some code")
    raw = file_of(cache).read_bytes()
    flipped = bytearray(raw)
    flipped[-2] ^= 0x10
    file_of(cache).write_bytes({"truncated": raw[:-3], "empty": b"", "flipped": bytes(flipped),
                                "foreign": b"x" * 500, "magic": b"Z" + raw[1:]}[damage])
    assert cache.get(KEY) is None and not file_of(cache).exists()
    assert cache.put(KEY, b"some code") and cache.get(KEY) == b"some code"


def test_an_entry_that_others_can_write_is_not_trusted(cache):
    cache.put(KEY, b"code")
    file_of(cache).chmod(0o666)
    assert cache.get(KEY) is None


def test_a_link_is_not_followed(cache, tmp_path):
    cache.put(KEY, b"code")
    real = tmp_path / "elsewhere"
    file_of(cache).rename(real)
    file_of(cache).symlink_to(real)
    assert cache.get(KEY) is None


def test_a_folder_that_others_can_write_is_refused(cache, caplog):
    cache.put(KEY, b"code")
    cache.path.chmod(0o777)
    assert cache.get(KEY) is None and not cache.put(OTHER, b"x") and not cache.put(OTHER, b"x")
    assert not ObjectCache(cache.path, 1 << 20).put(OTHER, b"x")
    assert caplog.text.count("can be written by others") == 1


def test_a_folder_of_someone_else_is_refused(cache, monkeypatch):
    cache.put(KEY, b"code")
    monkeypatch.setattr(cache_module.os, "geteuid", lambda: 12345)
    assert cache.get(KEY) is None and not cache.put(OTHER, b"x")


def test_a_file_in_place_of_the_folder_is_no_error(tmp_path, caplog):
    (tmp_path / "objects").write_text("in the way")
    cache = ObjectCache(tmp_path / "objects", 1 << 20)
    assert cache.get(KEY) is None and not cache.put(KEY, b"x")
    assert "not kept" in caplog.text


def test_what_ails_every_cache_of_a_folder_is_told_once_and_what_to_do(tmp_path, caplog):
    (tmp_path / "cache").write_text("in the way")
    for name in ("host", "objects", "decisions"):
        cache = ObjectCache(tmp_path / "cache" / name, 1 << 20)
        assert cache.get(KEY) is None and not cache.put(KEY, b"x")
    assert caplog.text.count("not kept") == 1 and KEY not in caplog.text
    assert "Not a directory; set AFTERBURNER_CACHE_DIR" in caplog.text


@as_user
def test_a_read_only_folder_is_no_error(cache):
    cache.put(KEY, b"code")
    cache.path.chmod(0o500)
    assert cache.get(KEY) == b"code" and not cache.put(OTHER, b"x")
    cache.path.chmod(0o700)


@pytest.mark.parametrize("call", ["open", "write", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_disk_is_no_error_and_leaves_nothing(cache, monkeypatch, caplog, call, number):
    cache.put(OTHER, b"old")
    real = getattr(os, call)

    def fail(*args, **kwargs):
        if call == "open" and str(args[0]).endswith(".obj"):
            return real(*args, **kwargs)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(cache_module.os, call, fail)
    assert not cache.put(KEY, b"x" * 1000) and not cache.put(KEY, b"x" * 1000)
    monkeypatch.undo()
    assert caplog.text.count("not kept") == 1
    assert cache.get(KEY) is None and cache.get(OTHER) == b"old"
    assert len(list(cache.path.iterdir())) == 1
    assert cache.put(KEY, b"again")


def test_short_writes_are_continued(cache, monkeypatch):
    real = os.write
    monkeypatch.setattr(cache_module.os, "write", lambda handle, data: real(handle, data[:7]))
    assert cache.put(KEY, b"0123456789" * 10) and cache.get(KEY) == b"0123456789" * 10


def test_the_least_recently_used_go_first(tmp_path):
    cache = ObjectCache(tmp_path / "objects", 5000)
    keys = [f"{i:064x}" for i in range(6)]
    for age, key in enumerate(keys[:4]):
        cache.put(key, b"x" * 1000)
        os.utime(cache.path / f"{key}.obj", (1e9 + age, 1e9 + age))
    assert cache.get(keys[0]) is not None
    cache.put(keys[4], b"x" * 1000)
    kept = {e.key for e in cache.entries()}
    assert keys[0] in kept and keys[4] in kept and keys[1] not in kept
    assert cache.size() <= 5000


def test_what_dead_processes_left_is_swept(cache):
    cache.put(KEY, b"code")
    stale, fresh = cache.path / "a.1.tmp", cache.path / "b.2.tmp"
    for file in (stale, fresh):
        file.write_bytes(b"x")
    os.utime(stale, (time.time() - 7200,) * 2)
    cache.trim()
    assert not stale.exists() and fresh.exists() and cache.get(KEY) == b"code"


def _hammer(path, turns, wrong):
    cache = ObjectCache(path, 1 << 20)
    for i in range(turns):
        key = f"{i % 5:064x}"
        cache.put(key, bytes([i % 5]) * 5000)
        found = cache.get(key)
        if found is not None and found != bytes([i % 5]) * 5000:
            wrong.value += 1


def test_two_processes_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    wrong = context.Value("i", 0)
    processes = [context.Process(target=_hammer, args=(tmp_path / "objects", 200, wrong)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0, 0] and wrong.value == 0
    assert len(ObjectCache(tmp_path / "objects", 1 << 20).entries()) == 5
