"""What ``explain`` and ``bench`` print, from records made by hand."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from afterburner.cli import bench, chart, tables
from afterburner.cli.errors import CommandError
from afterburner.cli.machine import Machine
from afterburner.report import FunctionReport, KernelReport, LeftOp, PartReport, Report

MACHINE = Machine("A processor", 2, 8.0, "Linux x86_64", "3.11.7", "2.21.0", "3.15.1", "0.1.0")


def printed(report: Report) -> str:
    stream = io.StringIO()
    tables.print_report(report.to_dict(), Console(file=stream, width=200))
    return stream.getvalue()


def step() -> FunctionReport:
    """A training step of two kernels with one operation left out."""
    kernels = [KernelReport("matmul + add", ("matmul", "add"), ("dense/MatMul",), 20e-6, 2_000_000, 1 << 20,
                            0.5),
               KernelReport("loop: mul", ("mul", "mul", "sqrt"), (), 60e-6, 1000, 1 << 10)]
    part = PartReport("f32[32,784]", 40, kernels, 0.25, True, 3 << 20, "cpu (avx2, 2 threads)")
    left = LeftOp("UniqueV2", "while[0]/UniqueV2", "train.py:7", "no rule for UniqueV2")
    return FunctionReport("one_step", 9, 42, 40, 0.99, "compiled", "", [part], [left], ["run failed: Oops"])


def test_nothing_was_seen() -> None:
    assert "No graph function was called" in printed(Report("TensorFlow", 0, []))


def test_report_tells_everything() -> None:
    text = printed(Report("cpu (avx2, 2 threads)", 2, [step()]))
    for expected in ("one_step", "40 of 42", "99%", "0.25", "3.0", "compiled, 1 from the cache",
                     "matmul + add", "mul ×2, sqrt",
                     "20.0", "25%", "2.00", "50%", "80 µs a run", "while[0]/UniqueV2",
                     "no rule for UniqueV2", "train.py:7", "fell back to TensorFlow: run failed: Oops"):
        assert expected in text, expected
    assert text.index("loop: mul") < text.index("matmul + add")  # the slowest first


def test_function_left_to_tensorflow() -> None:
    left = FunctionReport("tiny", 3, 2, 0, 0.0, "left", "only 2 of 2 operations [sic]")
    assert "left: only 2 of 2 operations [sic]" in printed(Report("TensorFlow", 0, [left]))


def timing() -> bench.Timing:
    item = bench.Timing("mlp", "step")
    for side, seconds in (("stock", (3e-3, 2e-3, 4e-3)), ("afterburner", (1e-3, 1e-3, 1e-3))):
        item.seconds[side] = list(seconds)
        item.first_seconds[side] = [1.0, 1.0, 1.0]
        item.peak_bytes[side] = [1 << 30] * 3
    return item


def test_ratio_is_the_median_of_rounds(capsys: pytest.CaptureFixture[str]) -> None:
    item = timing()
    assert item.ratios == pytest.approx([3, 2, 4])
    assert item.to_dict()["median_ratio"] == pytest.approx(3)
    tables.print_bench([item], str(MACHINE))
    out = capsys.readouterr().out
    assert "3.00×" in out and "2.00–4.00" in out and "A processor" in out


def test_chart_is_drawn(tmp_path: Path) -> None:
    file = tmp_path / "chart.png"
    chart.check_chart(file)
    chart.draw([timing(), timing()], str(MACHINE), file)
    assert file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 10_000


class FakeChild:
    """Stands for ``subprocess.run``: writes what a child would and notes the order of starts."""

    def __init__(self, status: int = 0) -> None:
        self.status = status
        self.sides: list[str] = []
        self.returncode, self.stderr = status, "Traceback\nValueError: no such thing\n"

    def __call__(self, command: list[str], **_: object) -> FakeChild:
        ours = "afterburner" in command
        assert command[command.index("--threads") + 1] == "2"
        self.sides.append("afterburner" if ours else "stock")
        seconds = [1e-3, 2e-3, 9e-3] if ours else [4e-3, 4e-3, 4e-3]
        result = {"timed": {"step": {"first_seconds": 1.0, "seconds_per_unit": seconds}}, "peak_bytes": 5}
        Path(command[command.index("--json") + 1]).write_text(json.dumps(result))
        return self


def test_sides_take_turns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    child = FakeChild()
    monkeypatch.setattr(bench.subprocess, "run", child)
    monkeypatch.setattr(bench, "describe", lambda: MACHINE)
    file = tmp_path / "bench.json"
    assert bench.action(bench.Plan(("mlp",), rounds=3, threads=2), str(file), None)() == 0
    assert child.sides == ["stock", "afterburner", "afterburner", "stock", "stock", "afterburner"]
    result = json.loads(file.read_text())
    assert result["timings"][0]["median_ratio"] == pytest.approx(2)
    assert result["machine"]["processor"] == "A processor" and result["threads"] == 2


def test_child_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.subprocess, "run", FakeChild(status=3))
    with pytest.raises(CommandError, match="mlp on stock failed with status 3: ValueError: no such thing"):
        bench.action(bench.Plan(("mlp",), threads=2), "", None)()
