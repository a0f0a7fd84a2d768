"""What is remembered of the processor, and when it is asked again."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from afterburner.cpu import host as module
from afterburner.cpu.host import Host, read_host, this_host
from afterburner.options import overridden

KNOWN = Host("some-triple", "some-cpu", {"avx": True, "avx2": False})

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has something to tell machines by")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch):
    """How often LLVM was asked, with a processor that is not ours."""
    calls: list[int] = []

    def ask() -> Host:
        calls.append(1)
        return KNOWN

    monkeypatch.setattr(module, "_ask", ask)
    this_host.cache_clear()
    yield calls
    this_host.cache_clear()


def again() -> Host:
    """As another process would see it."""
    this_host.cache_clear()
    return this_host()


def test_remembered_in_the_private_folder(asked: list[int], tmp_path: Path) -> None:
    with overridden(cache=True, cache_dir=tmp_path / "c"):
        assert again() == again() == KNOWN
    assert len(asked) == 1
    assert (tmp_path / "c" / "host").stat().st_mode & 0o777 == 0o700


def test_asked_each_time_without_a_cache(asked: list[int], tmp_path: Path) -> None:
    with overridden(cache=False, cache_dir=tmp_path / "c"):
        assert again() == again() == KNOWN
    assert len(asked) == 2
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("what", ["_BOOT", "_PROCESSORS"])
def test_asked_again_on_another_machine(
        what: str, asked: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with overridden(cache=True, cache_dir=tmp_path / "c"):
        again()
        other = tmp_path / "other"
        other.write_text(getattr(module, what).read_text() + "\nmodel name : another\n")
        monkeypatch.setattr(module, what, other)
        again()
    assert len(asked) == 2


def test_asked_again_where_the_file_is_damaged_or_open_to_others(asked: list[int], tmp_path: Path) -> None:
    with overridden(cache=True, cache_dir=tmp_path / "c"):
        again()
        file, = (tmp_path / "c" / "host").iterdir()
        file.write_bytes(file.read_bytes().replace(b"some-cpu", b"evil-cpu"))
        assert again() == KNOWN
        file.chmod(0o666)
        assert again() == KNOWN
    assert len(asked) == 3


@pytest.mark.parametrize("raw", [
    b"", b"[]", b"1", b'"x"', b"{}", b"\xff", json.dumps({"triple": "t", "cpu": 1, "features": {"a": True}}).encode(),
    json.dumps({"triple": "t", "cpu": "c", "features": {"a": 1}}).encode(),
    json.dumps({"triple": "t", "cpu": "c", "features": {}}).encode()])
def test_odd_contents_count_as_nothing(raw: bytes) -> None:
    assert read_host(raw) is None


def test_lines_that_tell_of_load_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = module._identity()
    other = tmp_path / "cpuinfo"
    other.write_text(module._PROCESSORS.read_text() + "\ncpu MHz\t\t: 1234.5\nprocessor : 999\n")
    monkeypatch.setattr(module, "_PROCESSORS", other)
    assert before == module._identity()


def test_no_process_loads_llvm(tmp_path: Path) -> None:
    script = ("from afterburner.options import set_options; from pathlib import Path; import sys\n"
              f"set_options(cache=True, cache_dir=Path({str(tmp_path / 'c')!r}))\n"
              "from afterburner.cpu.isa import host\n"
              "print(repr(host())); print('libllvmlite' in Path('/proc/self/maps').read_text())\n")
    first, second = (subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
                     .stdout.splitlines() for _ in range(2))
    assert first[0] == second[0]
    assert first[1] == second[1] == "False"
