"""The interface of Apple's TensorFlow fork of 2020, on top of Afterburner's own.

    from tensorflow.python.compiler.mlcompute import mlcompute
    mlcompute.set_mlc_device(device_name="cpu")
"""

from __future__ import annotations

import afterburner

DEVICES = ("any", "cpu", "gpu")


def set_mlc_device(device_name: str = "any") -> None:
    """Choose where what is called from now on runs: "any" takes the best device there is.

    Raises:
        ValueError: no such device name, or no such device in this machine.
    """
    if device_name not in DEVICES:
        names = ", ".join(map(repr, DEVICES))
        raise ValueError(f"set_mlc_device: there is no device {device_name!r}; the names are {names}")
    afterburner.set_device(device_name)


def is_apple_mlc_enabled() -> bool:
    """Whether graphs are accelerated: False where Afterburner is switched off or has not been enabled."""
    return afterburner.is_enabled()


def is_tf_compiled_with_apple_mlc() -> bool:
    """True, as on the fork: there is an accelerator behind this interface."""
    return True
