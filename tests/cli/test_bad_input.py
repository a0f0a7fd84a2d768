"""Bad input gets one line that says what to do, and a proper exit status; never a traceback of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import SRC, afterburner, run

from afterburner import cli
from afterburner.cli.app import app

CASES = {  # command line: what the one line must say
    "run nowhere.py": "can't open script 'nowhere.py': No such file or directory; give the path",
    "run": "which program? give a script, or -m",
    "run -m": "-m needs the name of a module",
    "run --fast program.py": "--fast",
    "run --threads none program.py": "--threads",
    "run --threads 0 program.py": "--threads",
    "run --device warp program.py": "unknown device 'warp'; there are any, cpu, gpu",
    "run --device gpu program.py": "device 'gpu': no GPU was ",
    "explain --device gpu program.py": "device 'gpu': no GPU was ",
    "bench --device gpu mlp": "device 'gpu': no GPU was ",
    "explain": "which program?",
    "explain nowhere.py": "can't open script 'nowhere.py'",
    "explain --json /nowhere/report.json program.py": "can't write '/nowhere/report.json'",
    "run --precision exact program.py": "unknown precision 'exact'; there are default and fast",
    "bench --policy half": "unknown policy 'half'; there are float32, mixed_bfloat16, mixed_float16",
    "bench nothing": "unknown workload 'nothing'; there are ",
    "bench --rounds 0": "--rounds",
    "bench --json /nowhere/bench.json": "can't write '/nowhere/bench.json': No such file or directory; give a file",
    "doctor --full --json /nowhere/doctor.json": "can't write '/nowhere/doctor.json': No such file or directory",
    "bisect program.py --seed -1": "--seed",
    "bench --device tpu": "unknown device 'tpu'",
    "bench --chart /nowhere/chart.png": "no folder '/nowhere' for the chart; make it first",
    "bench --chart chart.doc": "the name of a chart ends in .png, .svg or .pdf",
    "cache": "afterburner cache --help",
    "cache limit": "afterburner cache limit --help",
    "cache limit lots": "MEGABYTES",
    "cache limit -- -1": "MEGABYTES",
    "warp": "'warp'",
    "--warp": "--warp",
}


def test_the_folder_tells_of_all_commands() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert {name for name in commands if f"``{name}``" not in (cli.__doc__ or "")} == set()


@pytest.mark.parametrize("line", CASES)
def test_one_line_and_status_2(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "program.py").write_text("print('must not run')")
    monkeypatch.chdir(tmp_path)
    status, said = cli.main(line.split()), capsys.readouterr()
    assert (status, said.out) == (2, "")
    assert said.err.startswith("afterburner: ") and said.err.count("\n") == 1, said.err
    assert CASES[line] in said.err


@pytest.mark.parametrize("variable, value", [
    ("AFTERBURNER_THREADS", "many"), ("AFTERBURNER_VERBOSITY", "loud"), ("AFTERBURNER_STRICT", "maybe"),
    ("AFTERBURNER_PRECISION", "exact"),
])
@pytest.mark.parametrize("command", ["run program.py", "cache show", "bench mlp"])
def test_variable_without_meaning(variable: str, value: str, command: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("print('must not run')")
    done = afterburner(*command.split(), cwd=tmp_path, **{variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"afterburner: {variable}: {value!r}") and done.stderr.count("\n") == 1


def test_bench_under_the_kill_switch(tmp_path: Path) -> None:
    done = afterburner("bench", "mlp", cwd=tmp_path, AFTERBURNER_DISABLE="1")
    assert done.returncode == 2
    assert "AFTERBURNER_DISABLE is set" in done.stderr


@pytest.mark.parametrize("command", ["", "run", "explain", "bench", "doctor", "cache", "cache limit"])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Usage: afterburner {command}".strip() in shown
    if command in ("run", "explain", "bench"):
        assert f"  afterburner {command} " in shown


def test_no_arguments_is_help(tmp_path: Path) -> None:
    done = afterburner(cwd=tmp_path)
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("run", "explain", "bench", "doctor", "cache"))


@pytest.mark.parametrize("command", ["cache show", "doctor"])
def test_a_reader_that_leaves_gets_no_traceback(command: str) -> None:
    """As ``| head`` does."""
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([sys.executable, "-m", "afterburner", *command.split()], stdout=write,
                              stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": SRC}, timeout=300)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("command", ["cache show", "doctor"])
def test_a_full_disk_gets_no_traceback(command: str) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "afterburner", *command.split()], stdout=full,
                              stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": SRC}, timeout=300)
    assert (done.returncode, done.stderr) == (1, "afterburner: standard output: No space left on device\n")


def test_without_an_output_a_command_runs() -> None:
    code = "import sys; sys.stdout = None; from afterburner.cli import main; sys.exit(main(['cache', 'show']))"
    assert run("-c", code).returncode == 0
