"""The operation families. A new operation is a class in one of these files."""

from . import control, conv, elementwise, gather, matmul, pool, random, reduce, shape, sort

__all__ = ["control", "conv", "elementwise", "gather", "matmul", "pool", "random", "reduce", "shape", "sort"]
