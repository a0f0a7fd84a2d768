"""``afterburner doctor --full``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import afterburner

from afterburner.cli import full_check
from afterburner.cli.doctor import BAD, GOOD, Finding
from afterburner.cli.full_check import Family

_DYING = """
import json, os, sys
skip = int(sys.argv[3])
for name in ("one", "two", "three")[skip:]:
    print(json.dumps({"begin": name}), flush=True)
    if name == "two":
        print("illegal instruction", file=sys.stderr, flush=True)
        os.abort()
    print(json.dumps({"end": name, "device": "cpu", "wrong": "off by one" if name == "three" else "", "refused": "",
                      "seconds": 0}))
"""


def test_a_family_that_is_right() -> None:
    family = full_check.run(Family("cpu", "random"))
    assert family.cases == 5 and family.wrong == {} and sum(family.ran_on.values()) == 5
    assert family.finding().state == GOOD


def test_the_gpu_is_what_is_checked_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlx.core", reason="MLX has no wheel for this machine", exc_type=ImportError)
    monkeypatch.setenv("AFTERBURNER_GPU_EMULATE", "1")
    family = full_check.run(Family("gpu", "sort"))
    assert family.wrong == {} and list(family.ran_on) == ["gpu emulated by MLX's cpu device"]
    assert family.refused and all("float64" in why for why in family.refused.values())
    assert "others are not taken" in family.finding().text and family.finding().state == GOOD


def test_a_case_that_ends_its_process_is_told_and_the_rest_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_check, "_COMMAND", (sys.executable, "-c", _DYING))
    family = full_check.run(Family("cpu", "made up"))
    assert family.cases == 3 and family.ran_on == {"cpu": 2}
    assert family.wrong == {"two": "the process ended with status -6: illegal instruction", "three": "off by one"}
    assert family.finding().state == BAD and "1 of 3 cases are right" in family.finding().text


def test_a_process_that_cannot_start_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_check, "_COMMAND", (sys.executable, "-c", "raise SystemExit('no numpy')"))
    family = full_check.run(Family("cpu", "made up"))
    assert family.wrong == {"before any case": "the process ended with status 1: no numpy"}


def test_the_file_has_machine_findings_and_families(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(full_check, "families", lambda: ("random",))
    monkeypatch.setattr(full_check, "_devices", lambda: iter(("cpu",)))
    monkeypatch.setattr(full_check, "shown_findings", lambda: [Finding("Python", GOOD, "3")])
    file = tmp_path / "out.json"
    assert full_check.examine(str(file)) == 0
    result = json.loads(file.read_text())
    assert result["machine"]["processor"] and result["findings"][0]["subject"] == "Python"
    assert result["families"][0]["cases"] == 5 and result["wrong"] == 0 and not result["interrupted"]
    assert "5 of 5 cases are right" in capsys.readouterr().out
    monkeypatch.setattr(full_check, "shown_findings", lambda: [Finding("Python", BAD, "2")])
    assert full_check.examine("-") == 1
    assert json.loads(capsys.readouterr().out)["wrong"] == 1


def test_ctrl_c_leaves_what_was_found(tmp_path: Path) -> None:
    program = ("import sys; from afterburner.cli import full_check, doctor; import signal\n"
               "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
               "full_check.shown_findings = lambda: print('ready', flush=True) or []\n"
               "sys.exit(full_check.examine('out.json'))")
    process = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(1)  # now a case is running, or its process starts
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in text
    assert json.loads((tmp_path / "out.json").read_text())["interrupted"]


def test_json_without_full_is_refused() -> None:
    done = afterburner("doctor", "--json", "x.json")
    assert done.returncode == 2 and "--full" in done.stderr
