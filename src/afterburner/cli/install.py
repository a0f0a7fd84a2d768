"""``afterburner install`` and ``uninstall``: every program of this Python environment, without a wrapper.

A ``.pth`` file in the environment's site-packages has Python import ``afterburner_startup`` whenever it starts, which
waits for TensorFlow. Where that module is gone, the line does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from .errors import CommandError

NAME = "afterburner.pth"
# A line that fails would make every start of Python print a traceback, also for programs without TensorFlow, once the
# package is gone or broken: so it is silent, and `afterburner doctor` tells.
_LINE = ('import sys; exec("try:\\n import afterburner_startup\\n afterburner_startup.begin()\\n'
         'except Exception: pass")\n')
_WAITS = "import sys; sys.exit('afterburner_startup' not in sys.modules)"


def pth_file() -> Path:
    """The file in this environment that ``install`` writes."""
    return Path(sysconfig.get_path("purelib")) / NAME


def works() -> bool:
    """Whether a Python that is started plainly waits for TensorFlow."""
    command = [sys.executable, "-E", "-c", _WAITS]  # -E: without PYTHONPATH
    return subprocess.run(command, cwd=Path(sys.executable).parent, capture_output=True).returncode == 0


def install(system: bool) -> int:
    """Write the file.

    Args:
        system: also where this Python is no virtual environment.

    Raises:
        CommandError: it cannot be written, or this is no virtual environment.
    """
    file = pth_file()
    if not (system or _is_environment()):
        raise CommandError(f"{sys.prefix} is no virtual environment, so every program of this Python would be "
                           "accelerated; make one (python -m venv), or say so: afterburner install --system")
    if _content(file) == _LINE:
        print(f"already installed: {file}")
        return 0
    try:
        file.write_text(_LINE, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"can't write {file}: {error.strerror}; programs can still be started by "
                           "`afterburner run`", status=1) from None
    print(f"installed: {file}\nprograms of {sys.prefix} are accelerated when they import TensorFlow; "
          "AFTERBURNER_DISABLE=1 switches it off, `afterburner uninstall` ends it")
    if not works():
        print("note: Afterburner is not installed in this environment, so only programs whose PYTHONPATH names it "
              "are accelerated; `pip install` it")
    return 0


def uninstall() -> int:
    """Remove the file.

    Raises:
        CommandError: it cannot be removed.
    """
    file = pth_file()
    try:
        file.unlink()
    except FileNotFoundError:
        print(f"not installed: there is no {file}")
        return 0
    except OSError as error:
        raise CommandError(f"can't remove {file}: {error.strerror}", status=1) from None
    print(f"uninstalled: removed {file}")
    return 0


def _is_environment() -> bool:
    """Whether this Python is that of a virtual or conda environment."""
    return sys.prefix != sys.base_prefix or (Path(sys.prefix) / "conda-meta").is_dir()


def _content(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8")
    except OSError:
        return None
