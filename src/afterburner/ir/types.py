"""Element types and tensor types of the IR."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

import ml_dtypes
import numpy as np

Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class DType:
    """An element type: its name in the text form and its NumPy equivalent. There is one object of each."""

    name: str
    numpy: np.dtype
    kind: str  # "float", "int", "uint" or "bool"

    @property
    def bytes(self) -> int:
        """Size of one element in bytes; a bool takes one."""
        return self.numpy.itemsize

    @property
    def bits(self) -> int:
        """Width of one element in bits, as stored."""
        return self.numpy.itemsize * 8

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        return self.kind in ("int", "uint")

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


BOOL = DType("bool", np.dtype(np.bool_), "bool")
I8 = DType("i8", np.dtype(np.int8), "int")
I16 = DType("i16", np.dtype(np.int16), "int")
I32 = DType("i32", np.dtype(np.int32), "int")
I64 = DType("i64", np.dtype(np.int64), "int")
U8 = DType("u8", np.dtype(np.uint8), "uint")
U16 = DType("u16", np.dtype(np.uint16), "uint")
U32 = DType("u32", np.dtype(np.uint32), "uint")
U64 = DType("u64", np.dtype(np.uint64), "uint")
F16 = DType("f16", np.dtype(np.float16), "float")
BF16 = DType("bf16", np.dtype(ml_dtypes.bfloat16), "float")
F32 = DType("f32", np.dtype(np.float32), "float")
F64 = DType("f64", np.dtype(np.float64), "float")

DTYPES: dict[str, DType] = {
    d.name: d for d in (BOOL, I8, I16, I32, I64, U8, U16, U32, U64, F16, BF16, F32, F64)
}
_BY_NUMPY: dict[np.dtype, DType] = {d.numpy: d for d in DTYPES.values()}


def dtype_of(array_dtype: np.dtype) -> DType:
    """The IR element type of a NumPy dtype.

    Raises:
        KeyError: the IR has no such type (strings, complex numbers).
    """
    return _BY_NUMPY[np.dtype(array_dtype)]


@dataclass(frozen=True)
class TensorType:
    """A static shape and an element type, written ``f32[32,784]``."""

    dtype: DType
    shape: Shape

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @cached_property
    def bytes(self) -> int:
        """Size of the dense, row-major tensor in bytes."""
        return self.size * self.dtype.bytes

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"

    __repr__ = __str__
