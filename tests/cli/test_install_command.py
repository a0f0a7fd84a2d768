"""``afterburner install``: plain programs of an environment are accelerated, others lose nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from commands import SRC, run

from afterburner.cli import install
from afterburner.cli.errors import CommandError

PROGRAM = """
import sys
import tensorflow as tf

@tf.function
def step(x):
    return tf.tanh(x @ x) + tf.exp(x) * 0.1

for _ in range(3):
    step(tf.ones((8, 8)))
afterburner = sys.modules.get("afterburner")
print(*[f.status for f in afterburner.report().functions] if afterburner else ["stock"])
"""
PARENT = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, 'program.py']).returncode)"


class Environment:
    """A virtual environment that has Afterburner, and all that this one has."""

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=False)
        self.python = folder / "bin" / "python"
        self.site = next((folder / "lib").glob("python*")) / "site-packages"
        self.ours = self.site / "__editable__.pth"
        self.ours.write_text(f"{SRC}\n")
        (self.site / "others.pth").write_text("\n".join({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
        self.folder = folder
        (folder / "program.py").write_text(PROGRAM)
        (folder / "parent.py").write_text(PARENT)

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A finished ``python COMMAND…`` of the environment."""
        settings = {n: v for n, v in os.environ.items() if n != "PYTHONPATH"} | environment
        return subprocess.run([str(self.python), *command], cwd=self.folder, env=settings, capture_output=True,
                              text=True, timeout=300)

    def afterburner(self, *arguments: str) -> str:
        """What the command printed."""
        done = self.run("-m", "afterburner", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return Environment(tmp_path / "environment")


def test_programs_are_accelerated_until_it_is_uninstalled(environment: Environment) -> None:
    """The program is the child of another one, which must be no hindrance."""
    assert environment.afterburner("install").startswith(f"installed: {environment.site / install.NAME}\n")
    assert environment.run("parent.py").stdout == "compiled\n"
    assert environment.run("program.py", AFTERBURNER_DISABLE="1").stdout == "\n"
    assert environment.afterburner("uninstall").startswith("uninstalled: removed ")
    assert environment.run("program.py").stdout == "stock\n"


def test_installing_twice_and_uninstalling_twice(environment: Environment) -> None:
    environment.afterburner("install")
    assert environment.afterburner("install").startswith("already installed: ")
    environment.afterburner("uninstall")
    assert environment.afterburner("uninstall").startswith("not installed: ")


def test_start_up_loads_one_small_module(environment: Environment) -> None:
    program = "import sys; print(*sorted(sys.modules))"
    before = environment.run("-c", program).stdout.split()
    environment.afterburner("install")
    after = environment.run("-c", program).stdout.split()
    assert set(after) - set(before) == {"afterburner_startup"}


@pytest.mark.parametrize("text", [None, "syntax error", "raise ValueError"])
def test_a_broken_or_removed_package_is_harmless(environment: Environment, text: str | None) -> None:
    environment.afterburner("install")
    environment.ours.unlink()
    if text is not None:
        (environment.site / "afterburner_startup.py").write_text(text)
    done = environment.run("-c", "print('runs')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "runs\n", "")


def test_a_broken_setting_does_not_stop_a_program(environment: Environment) -> None:
    environment.afterburner("install")
    done = environment.run("-c", "import tensorflow; print('runs')", AFTERBURNER_THREADS="many")
    assert (done.returncode, done.stdout) == (0, "runs\n")
    assert "runs without Afterburner: OptionError: AFTERBURNER_THREADS" in done.stderr


def test_doctor_knows(environment: Environment) -> None:
    program = "from afterburner.cli.doctor import check_startup; print(*[f.state for f in check_startup()])"
    assert environment.run("-c", program).stdout == "ok\n"
    environment.afterburner("install")
    assert environment.run("-c", program).stdout == "ok\n"
    environment.ours.unlink()
    assert environment.run("-c", program, PYTHONPATH=SRC).stdout == "wrong\n"


def test_what_is_no_environment_needs_a_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "prefix", sys.base_prefix)
    monkeypatch.setattr(install, "pth_file", lambda: tmp_path / install.NAME)
    with pytest.raises(CommandError, match="is no virtual environment.*install --system"):
        install.install(system=False)
    assert install.install(system=True) == 0
    assert "installed: " in capsys.readouterr().out


def test_a_folder_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(install, "pth_file", lambda: tmp_path / "file" / install.NAME)
    with pytest.raises(CommandError, match="can't write .*: Not a directory; programs can still"):
        install.install(system=True)
    with pytest.raises(CommandError, match="can't remove .*: Not a directory"):
        install.uninstall()


def test_looking_for_tensorflow_without_importing_it(tmp_path: Path) -> None:
    """Some libraries ask whether there is a TensorFlow before they, or the program, import it."""
    (tmp_path / "program.py").write_text("import importlib.util, afterburner; afterburner.enable()\n"
                                         "assert importlib.util.find_spec('tensorflow').loader.is_package('tensorflow')"
                                         + PROGRAM)
    done = run(str(tmp_path / "program.py"))
    assert (done.returncode, done.stdout) == (0, "compiled\n"), done.stderr


def test_disable_ends_what_stands_ready() -> None:
    done = run("-c", "import afterburner_startup as startup, sys; startup.begin()\n"
               "waits = lambda: any(isinstance(finder, startup.Waiter) for finder in sys.meta_path); before = waits()\n"
               "import afterburner; afterburner.disable(); print(before, waits())")
    assert done.stdout == "True False\n", done.stderr
