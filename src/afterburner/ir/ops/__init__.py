"""The operation families. A new operation is a class in one of these files."""

from . import control, conv, conv_pooled, elementwise, gather, matmul, pool, random, reduce, shape, sort

__all__ = ["control", "conv", "conv_pooled", "elementwise", "gather", "matmul", "pool", "random", "reduce", "shape",
           "sort"]
