"""MLX, imported with the settings that exact results need, and its element types.

Raises:
    ImportError: MLX is not installed, or has no library for this machine.
"""

from __future__ import annotations

import os

from ..ir import DTYPES, DType, TensorType
from ..options import options
from ..runtime.executable import Unsupported

# Some GPUs multiply float32 matrices with 10 bits of mantissa where they may. MLX asks once a process.
TF32 = options().fast
os.putenv("MLX_ENABLE_TF32", str(int(TF32)))

import mlx.core as mx  # noqa: E402 - reads the setting

__all__ = ["TF32", "check_types", "ir_dtype", "is_half", "mx", "mx_dtype", "sums_in_order", "widened"]

_DTYPES: dict[str, mx.Dtype] = {
    "bool": mx.bool_, "i8": mx.int8, "i16": mx.int16, "i32": mx.int32, "i64": mx.int64,
    "u8": mx.uint8, "u16": mx.uint16, "u32": mx.uint32, "u64": mx.uint64,
    "f16": mx.float16, "bf16": mx.bfloat16, "f32": mx.float32,
}
_HALVES = (mx.float16, mx.bfloat16)


def mx_dtype(dtype: DType) -> mx.Dtype:
    """MLX's element type.

    Raises:
        Unsupported: no GPU computes with it.
    """
    if dtype.name not in _DTYPES:
        raise Unsupported(f"{dtype.numpy.name} is nothing a GPU computes with")
    return _DTYPES[dtype.name]


def ir_dtype(dtype: mx.Dtype) -> DType:
    """The IR's element type of MLX's."""
    return next(DTYPES[name] for name, known in _DTYPES.items() if known == dtype)


def check_types(types: tuple[TensorType, ...]) -> None:
    """Raise Unsupported where MLX has no such element type on a GPU."""
    for type_ in types:
        mx_dtype(type_.dtype)


def sums_in_order() -> bool:
    """Whether the device at work adds one number after another, as MLX's CPU device does: long sums are cut into
    short ones for it. GPUs add in many threads."""
    return bool(mx.default_device().type == mx.cpu)


def is_half(x: mx.array) -> bool:
    """Whether the elements are 16-bit floats."""
    return x.dtype in _HALVES


def widened(x: mx.array) -> mx.array:
    """16-bit floats as float32, in which their sums are made; all else as it is."""
    return x.astype(mx.float32) if is_half(x) else x
