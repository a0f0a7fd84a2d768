"""What is said while code is generated."""

from __future__ import annotations

import importlib
import io
import sys
from pathlib import Path

import pytest

from afterburner.cli.progress import show_progress
from afterburner.compile import compile_graph
from afterburner.ir import parse_graph
from afterburner.options import overridden
from afterburner.report import Recorder

report = importlib.import_module("afterburner.report")  # the package has a function of that name
TEXT = "graph step(%x: f32[7]) {\n  %0: f32[7] = exp(%x)\n  return %0\n}"


class Terminal(io.StringIO):
    """A terminal that remembers."""

    def isatty(self) -> bool:
        return True


class Clock:
    """Time that passes when it is told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(report, "time", clock)
    return clock


def show(clock: Clock, verbosity: str = "line") -> None:
    """A compilation of 40 s that ends with an error."""
    with overridden(verbosity=verbosity), pytest.raises(KeyError), Recorder().progress("step") as progress:
        for second in range(40):
            progress(second, 50)
            clock.now += 1.0
        raise KeyError


def test_a_terminal_has_one_line_that_moves_and_goes(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    show(clock)
    states = terminal.getvalue().split("\r")
    assert states[0] == "" and states[-1] == "\x1b[K" and "\n" not in terminal.getvalue()
    assert states[1:-1] == [f"afterburner: step: {n} of 50 kernels compiled" for n in range(2, 40)]


def test_a_log_has_a_line_now_and_then(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    show(clock)
    assert log.getvalue().splitlines() == [f"afterburner: step: {n} of 50 kernels compiled" for n in (10, 20, 30)]


@pytest.mark.parametrize("stream", [Terminal, io.StringIO])
def test_silence(clock: Clock, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]) -> None:
    monkeypatch.setattr(sys, "stderr", stream())
    show(clock, "silent")
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_a_short_compilation_shows_nothing_and_a_long_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for seconds, shown in ((30.0, False), (-1.0, True)):
        monkeypatch.setattr(report, "_QUIET_SECONDS", seconds)
        monkeypatch.setattr(sys, "stderr", Terminal())
        with overridden(verbosity="line", cache=False):
            compile_graph(parse_graph(TEXT))
        assert ("1 of 1 kernels compiled" in sys.stderr.getvalue()) == shown  # type: ignore[attr-defined]


@pytest.mark.parametrize(("stream", "written"), [(Terminal(), "\r\x1b[Kfirst\r\x1b[K"), (io.StringIO(), "")])
def test_commands_show_what_they_do_on_a_terminal_only(
        stream: io.StringIO, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", stream)
    show_progress("first")
    show_progress("")
    assert stream.getvalue() == written


def test_a_folder_for_graphs_that_cannot_be_written_is_told_once_and_code_is_made(
        tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    with overridden(dump=tmp_path / "file", verbosity="line"):
        for _ in range(2):
            assert compile_graph(parse_graph(TEXT)).kernels
    assert capsys.readouterr().err == (f"afterburner: AFTERBURNER_DUMP: nothing is written to {tmp_path / 'file'}: "
                                       "Not a directory; name a folder that can be written\n")
