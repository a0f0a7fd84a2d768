"""Large NumPy arrays become tensors by one copy, not two.

TensorFlow copies an array, so that the program may go on writing to it, and then copies that copy unless it begins at
a multiple of 64 bytes, which memory that NumPy asks for rarely does. Here the first copy begins at one, and
the tensor takes it over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow.python.framework import constant_op

_ALIGNMENT = 64  # bytes; tensors begin at multiples of it
_LARGE = 1 << 20  # bytes; less is copied in no time
_KINDS = "biufc"  # of elements whose bytes a tensor holds as they are

_convert = constant_op.convert_to_eager_tensor


class _Aligned(np.ndarray):
    """An array whose copy begins where a tensor may."""

    def copy(self, order: Any = "C") -> np.ndarray:
        if order != "C":
            return super().copy(order)
        memory = np.empty(self.nbytes + _ALIGNMENT, np.uint8)
        first = -memory.ctypes.data % _ALIGNMENT
        made = memory[first:first + self.nbytes].view(self.dtype).reshape(self.shape)
        np.copyto(made, self)
        return made


def _hooked_convert(value: Any, *rest: Any, **named: Any) -> Any:
    if type(value) is np.ndarray and value.nbytes >= _LARGE and value.dtype.kind in _KINDS and value.dtype.isnative:
        value = value.view(_Aligned)
    return _convert(value, *rest, **named)


def install() -> None:
    """From now on, large arrays are copied once."""
    constant_op.convert_to_eager_tensor = _hooked_convert


def uninstall() -> None:
    """Leave TensorFlow as it was."""
    constant_op.convert_to_eager_tensor = _convert
