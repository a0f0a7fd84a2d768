"""A bench that is stopped, or fails, in the middle tells what it has measured."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from afterburner.cli import bench, main
from afterburner.cli.errors import CommandError

FAILED = CommandError("mlp on stock failed with status 1: no memory", status=1)


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has the process of a number, counted from 1, end with an exception; those before it measure something."""
    def begin(at: int, error: BaseException) -> None:
        started: list[str] = []

        def run_child(side: str, name: str, plan: bench.Plan, threads: int) -> Iterator[tuple[str, Any, int]]:
            started.append(side)
            if len(started) == at:
                raise error
            yield "step", {"seconds_per_unit": [1.0], "first_seconds": 2.0}, 3

        monkeypatch.setattr(bench, "_run_child", run_child)

    return begin


@pytest.mark.parametrize(("error", "status", "said"), [
    (KeyboardInterrupt(), 130, "afterburner: stopped; what was measured until then is told\n"),
    (FAILED, 1, "afterburner: mlp on stock failed with status 1: no memory\n"),
])
def test_whole_rounds_are_told(stops: Any, error: BaseException, status: int, said: str, tmp_path: Path,
                               capsys: pytest.CaptureFixture[str]) -> None:
    stops(6, error)
    file = tmp_path / "bench.json"
    assert main(["bench", "mlp", "lenet", "--rounds", "5", "--json", str(file)]) == status
    shown = capsys.readouterr()
    assert "mlp" in shown.out and "lenet" not in shown.out and shown.err == said
    assert "2 rounds" in " ".join(shown.out.split())
    told = json.loads(file.read_text())
    (timing,), rounds = told["timings"], told["rounds"]
    assert rounds == 2
    assert timing["seconds"] == {"stock": [1.0, 1.0], "afterburner": [1.0, 1.0]}
    assert timing["median_ratio"] == {"afterburner": 1.0}


def test_nothing_measured_is_said_and_leaves_no_file(stops: Any, tmp_path: Path,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    stops(2, KeyboardInterrupt())
    file = tmp_path / "bench.json"
    assert main(["bench", "mlp", "--json", str(file)]) == 130
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "afterburner: stopped; no round of any workload had ended\n")
    assert not file.exists()


def test_the_table_is_told_where_the_file_cannot_be_written_any_more(
        stops: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stops(0, KeyboardInterrupt())
    action = bench.action(bench.Plan(("mlp",), rounds=1), str(tmp_path / "bench.json"), None)
    (tmp_path / "bench.json").mkdir()
    with pytest.raises(CommandError, match="can't write .*: Is a directory"):
        action()
    assert "mlp" in capsys.readouterr().out
