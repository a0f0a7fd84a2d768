"""Large NumPy arrays become tensors by one copy, not two.

TensorFlow copies an array, so that the program may go on writing to it, and then copies that copy unless it begins at
a multiple of 64 bytes, which memory that NumPy asks for rarely does. Here the array is copied into a tensor's memory at
once. (A tensor that takes over an aligned copy would keep it too long: TensorFlow gives arrays back late.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
from tensorflow.python.framework import constant_op, dtypes
from tensorflow.python.ops import gen_array_ops

_LARGE = 1 << 20  # bytes; less is copied in no time
_KINDS = "biufc"  # of elements whose bytes a tensor holds as they are

_convert = constant_op.convert_to_eager_tensor


def _hooked_convert(value: Any, ctx: Any, dtype: Any = None) -> Any:
    tensor = _copied(value, ctx, dtype) if type(value) is np.ndarray and value.nbytes >= _LARGE else None
    return _convert(value, ctx, dtype) if tensor is None else tensor


def _copied(array: np.ndarray, ctx: Any, dtype: Any) -> Any:
    """A tensor of the elements of an array; None where it would be of another type, or not in the host's memory."""
    if array.dtype.kind not in _KINDS or not array.dtype.isnative or not ctx.executing_eagerly():
        return None
    own = dtypes.as_dtype(array.dtype)
    if dtype is not None and dtype != own:
        return None
    try:
        tensor = gen_array_ops.empty(array.shape, own, init=False)
        if tensor.device.rpartition("/device:")[2] != "CPU:0":
            return None
        np.copyto(tensor._numpy(), array)  # noqa: SLF001 - its memory, which nobody else knows yet
    except Exception:  # noqa: BLE001 - TensorFlow's own way tells what is wrong
        return None
    return tensor


def install() -> None:
    """From now on, large arrays are copied once."""
    constant_op.convert_to_eager_tensor = _hooked_convert


def uninstall() -> None:
    """Leave TensorFlow as it was."""
    constant_op.convert_to_eager_tensor = _convert
