"""Switching on and off, before or after TensorFlow is imported."""

from __future__ import annotations

import sys

from afterburner_startup import Waiter

from . import hardware, support
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
    hardware.require(options().device)
    _wanted = True  # until TensorFlow turns out not to be one that can be hooked
    if "tensorflow" in sys.modules and hasattr(sys.modules["tensorflow"], "function"):
        _install()
    else:
        sys.meta_path.insert(0, _waiter)  # type: ignore[arg-type]


def disable() -> None:
    """Take the hooks out; those too that stand ready since Python's start."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Waiter)]
    if not _wanted:
        return
    _leave()


def _leave() -> None:
    """Graph functions are TensorFlow's again."""
    global _wanted
    _wanted = False
    capture = sys.modules.get(f"{__package__}.frontend.capture")
    if capture is not None:
        capture.uninstall()


def _install() -> None:
    """Hook TensorFlow; where that cannot be done, say so and leave the program to TensorFlow."""
    version = getattr(sys.modules["tensorflow"], "__version__", "of unknown version")
    if not support.is_supported(version, support.TENSORFLOW):
        say(f"TensorFlow {version} is not supported, {support.text(support.TENSORFLOW)} are; "
            "the program runs without Afterburner")
        _leave()
        return
    try:
        from .compile import engine
        from .frontend import capture

        capture.install(engine())
    except Exception as error:  # noqa: BLE001 - whatever is wrong here, the program is to run
        _leave()
        if options().strict:
            raise
        say(f"the program runs without Afterburner: {type(error).__name__}: {error}; "
            "`afterburner doctor` looks for the cause")


_waiter = Waiter(_install)
