"""TensorFlow's element types and the IR's."""

from __future__ import annotations

import tensorflow as tf

from ..errors import NotTaken
from ..ir import DTYPES, DType

_IR: dict[tf.DType, DType] = {t: DTYPES[name] for t, name in (
    (tf.bool, "bool"), (tf.int8, "i8"), (tf.int16, "i16"), (tf.int32, "i32"), (tf.int64, "i64"), (tf.uint8, "u8"),
    (tf.uint16, "u16"), (tf.uint32, "u32"), (tf.uint64, "u64"), (tf.float16, "f16"), (tf.bfloat16, "bf16"),
    (tf.float32, "f32"), (tf.float64, "f64"))}


def has_ir_dtype(dtype: tf.DType) -> bool:
    """Whether the IR has this element type."""
    return dtype in _IR


def ir_dtype(dtype: tf.DType) -> DType:
    """The IR's element type.

    Raises:
        NotTaken: the IR has none (string, complex, quantised, resource, variant).
    """
    if dtype not in _IR:
        raise NotTaken(f"the element type {dtype.name}")
    return _IR[dtype]
