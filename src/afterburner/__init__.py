"""Afterburner: compiled training and inference for unmodified TensorFlow programs.

    import afterburner
    afterburner.enable()
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from . import activate, compat, hardware
from .errors import AfterburnerError, StrictError
from .hardware import Device
from .options import OptionError, Options, options, set_options
from .report import Report

__version__ = "0.1.0"
__all__ = [
    "AfterburnerError", "Device", "OptionError", "Options", "Report", "StrictError", "devices", "disable", "enable",
    "enabled", "is_enabled", "options", "report", "set_device", "set_options", "set_precision",
]


def enable() -> None:
    """Take graph functions from now on; before or after ``import tensorflow``.

    Does nothing under ``AFTERBURNER_DISABLE=1``.

    Raises:
        OptionError: the device that the options ask for is not here.
    """
    activate.enable()


def disable() -> None:
    """Leave every graph function to TensorFlow from now on."""
    activate.disable()


@contextmanager
def enabled() -> Iterator[None]:
    """``enable()`` inside a ``with`` block."""
    was_active = activate.active()
    enable()
    try:
        yield
    finally:
        if not was_active:
            disable()


def is_enabled() -> bool:
    """Whether graph functions are taken, or will be as soon as TensorFlow is imported."""
    return activate.active()


def set_precision(precision: str) -> None:
    """Choose the arithmetic of what is called from now on; functions are compiled anew for it when next called.

    Args:
        precision: "default", or "fast": float32 convolutions may take Winograd's algorithms of any size; on a
            processor with the instruction for it, operands of products may be rounded to bfloat16, on a GPU to TF32
            (chosen when MLX is first loaded).

    Raises:
        OptionError: neither of these.
    """
    set_options(precision=precision)


def devices() -> tuple[Device, ...]:
    """What compiled graphs can run on here, the cpu first; each was found, not assumed."""
    return hardware.devices()


def set_device(device: str) -> None:
    """Choose where what is called from now on runs; functions are compiled for it when next called.

    Args:
        device: "cpu"; "gpu"; or "any": where it cannot be known which is fastest, or whether TensorFlow is, they
            take turns in the next few steps, and the fastest keeps the function.

    Raises:
        OptionError: none of these, or it is not here; the message says what was looked for. Nobody looks under
            ``AFTERBURNER_DISABLE=1``.
    """
    previous = set_options(device=device)
    if previous.disable:
        return
    try:
        hardware.require(device)
    except OptionError:
        set_options(device=previous.device)
        raise


def report() -> Report:
    """What was compiled, where it runs, what was left to TensorFlow and why."""
    from .compile import recorder

    return recorder.report()


compat.provide()
