"""Switching on and off, before or after TensorFlow is imported."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

from . import support
from .options import options
from .report import say

_wanted = False


def active() -> bool:
    """Whether graph functions are, or will be, taken."""
    return _wanted


def enable() -> None:
    """Hook TensorFlow now, or as soon as it has been imported."""
    global _wanted
    if options().disable or _wanted:
        return
    _wanted = True
    if "tensorflow" in sys.modules and hasattr(sys.modules["tensorflow"], "function"):
        _install()
    elif not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def disable() -> None:
    """Take the hooks out."""
    global _wanted
    if not _wanted:
        return
    _wanted = False
    sys.meta_path[:] = [f for f in sys.meta_path if not isinstance(f, _Finder)]
    capture = sys.modules.get(f"{__package__}.frontend.capture")
    if capture is not None:
        capture.uninstall()


def _install() -> None:
    """Hook TensorFlow; where that cannot be done, say so and leave the program to TensorFlow."""
    version = getattr(sys.modules["tensorflow"], "__version__", "of unknown version")
    if not support.is_supported(version, support.TENSORFLOW):
        say(f"TensorFlow {version} is not supported, {support.text(support.TENSORFLOW)} are; "
            "the program runs without Afterburner")
        return
    try:
        from .compile import engine
        from .frontend import capture

        capture.install(engine())
    except Exception as error:  # noqa: BLE001 - whatever is wrong here, the program is to run
        if options().strict:
            raise
        say(f"the program runs without Afterburner: {type(error).__name__}: {error}; "
            "`afterburner doctor` looks for the cause")


class _Finder(importlib.abc.MetaPathFinder):
    """Waits for the import of tensorflow and hooks it when its module body has run."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path[:] = [f for f in sys.meta_path if f is not self]
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, real: importlib.abc.Loader) -> None:
        self._real = real

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._real.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._real
        module.__loader__ = self._real
        self._real.exec_module(module)
        if _wanted:
            _install()
