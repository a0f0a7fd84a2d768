"""``afterburner run`` is plain Python to the program it runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from commands import SRC, afterburner, run

PROBE = '''
"""A docstring."""
import __main__, json, sys
seen = {
    "argv": sys.argv, "path0": sys.path[0], "name": __name__, "file": __file__, "doc": __doc__,
    "package": __package__, "spec": __spec__ and __spec__.name, "cached": __cached__,
    "loader": type(__loader__).__name__, "main": __main__.__dict__ is globals(),
    "annotations": __annotations__, "globals": sorted(globals()), "stdin": sys.stdin.read(),
}
print(json.dumps(seen))
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a script, a package and a zip file, each of which tells how it was started."""
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "link.py").symlink_to("sub/probe.py")
    package = tmp_path / "sub" / "package"
    package.mkdir(parents=True)
    (tmp_path / "sub" / "probe.py").write_text(PROBE)
    for name in ("__main__.py", "module.py"):
        (package / name).write_text(PROBE)
    (package / "__init__.py").touch()
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("__main__.py", PROBE)
    return tmp_path


STARTS = [
    ("probe.py",), ("probe.py", "--flag", "-m", "x"), ("./probe.py",), ("sub/../probe.py", "a b", ""),
    ("link.py", "--help"), ("sub/package",), ("app.zip", "1"), ("-", "from", "stdin"),
    ("-m", "probe", "--version"), ("-m", "sub.package", "-q"), ("-m", "sub.package.module"),
]


@pytest.mark.parametrize("start", STARTS, ids=" ".join)
def test_program_sees_what_it_sees_plainly(start: tuple[str, ...], folder: Path) -> None:
    text = PROBE if start[0] == "-" else "some input"
    plain = run(*start, cwd=folder, stdin=text)
    ours = afterburner("run", *start, cwd=folder, stdin=text)
    assert plain.returncode == 0, plain.stderr
    assert (ours.returncode, ours.stderr) == (0, plain.stderr)
    assert json.loads(ours.stdout) == json.loads(plain.stdout)


ENDINGS = {
    "falls off the end": "print('done')",
    "exit status": "import sys; sys.exit(7)",
    "exit without status": "import sys; sys.exit()",
    "exit message": "import sys; sys.exit('bye')",
    "os._exit": "import os; os._exit(9)",
    "uncaught": "def f():\n    raise ValueError('boom')\nf()",
    "chained": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e",
    "syntax": "x = (",
    "missing import": "import no_such_module_at_all",
    "broken tensorflow": "open('tensorflow.py', 'w').write('1 / 0')\n__import__('importlib').invalidate_caches()\n"
                         "import tensorflow",
    "own hook": "import sys\nsys.excepthook = lambda k, e, t: print(k, t.tb_lineno, t.tb_next)\n1 / 0",
    "at exit": "import atexit\natexit.register(print, 'last words')\n1 / 0",
    "thread": "import threading\nthreading.Timer(0.1, print, ('late',)).start()\n1 / 0",
    "interrupt": "raise KeyboardInterrupt",
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_ends_as_it_ends_plainly(ending: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(ENDINGS[ending])
    plain = run("program.py", cwd=tmp_path)
    ours = afterburner("run", "program.py", cwd=tmp_path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (plain.returncode, plain.stdout, plain.stderr)


def test_ctrl_c_ends_it_as_plainly(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import time\nprint('ready', flush=True)\ntime.sleep(60)\n")
    outcomes = []
    for launcher in ([], ["-m", "afterburner", "run"]):
        process = subprocess.Popen(
            [sys.executable, *launcher, "program.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": SRC},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background job ignores it
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # by then it sleeps
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        outcomes.append((process.returncode in (-signal.SIGINT, 130), errors))
    assert outcomes[0] == outcomes[1]
    assert outcomes[0][0]


def test_program_can_start_processes_that_import_it(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent("""
        import multiprocessing

        def double(x):
            return 2 * x

        if __name__ == "__main__":
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                print(pool.map(double, [1, 2]))
    """))
    ours = afterburner("run", "program.py", cwd=tmp_path)
    assert (ours.returncode, ours.stdout) == (0, "[2, 4]\n"), ours.stderr


def test_nothing_heavy_is_loaded_for_a_program_without_tensorflow(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import sys\nprint(*sys.modules)")
    loaded = set(afterburner("run", "program.py", cwd=tmp_path).stdout.split())
    assert loaded & {"tensorflow", "keras", "numpy", "llvmlite", "typer", "rich", "matplotlib"} == set()


def test_options_of_ours_come_before_the_program(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent("""
        import sys, afterburner
        o = afterburner.options()
        print(sys.argv[1:], o.threads, o.strict, o.verbosity, o.precision)
    """))
    for start in (["program.py"], ["-m", "program"]):
        options = ("--threads", "3", "--precision", "fast", "--strict", "--quiet")
        ours = afterburner("run", *options, *start, "--threads", "5", cwd=tmp_path)
        assert ours.stdout == "['--threads', '5'] 3 True silent fast\n", ours.stderr


@pytest.mark.parametrize("module, message", [
    ("no_such_module", "No module named no_such_module"),
    ("json", "No module named json.__main__; 'json' is a package and cannot be directly executed"),
])
def test_module_that_cannot_run(module: str, message: str, tmp_path: Path) -> None:
    ours = afterburner("run", "-m", module, cwd=tmp_path)
    assert (ours.returncode, ours.stdout, ours.stderr) == (1, "", f"afterburner: {message}\n")
    assert run("-m", module, cwd=tmp_path).returncode == 1
