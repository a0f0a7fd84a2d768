"""Eager tensors and native addresses, without copies."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context

from ..runtime.buffers import BufferPool, Row

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_pointer_at = ctypes.c_void_p.from_address
_DATA = object.__basicsize__  # PyArrayObject: the object header, then the pointer to the elements


def address(tensor: Any) -> int:
    """Address of an eager CPU tensor's elements; valid while the tensor lives."""
    array = tensor._numpy_internal()  # noqa: SLF001 - a view of the tensor's memory
    if type(array) is np.ndarray:
        return _pointer_at(id(array) + _DATA).value or 0
    # A scalar's view is a copy: ask DLPack, whose DLTensor begins with the pointer.
    return _pointer_at(capsule_address(pywrap_tfe.TFE_ToDlpackCapsule(tensor))).value or 0


def capsule_address(capsule: Any) -> int:
    """Address of the DLManagedTensor in a capsule; valid while the capsule lives."""
    return _capsule_pointer(capsule, b"dltensor") or 0


def hand_over(pool: BufferPool, row: Row) -> list[tf.Tensor]:
    """Eager tensors over the buffers' memory; a buffer is free again when TensorFlow drops the last
    reference to its tensor."""
    context_handle = context.context()._handle  # noqa: SLF001
    take_capsule = pywrap_tfe.TFE_FromDlpackCapsule
    return [take_capsule(capsule, context_handle) for capsule in pool.capsules(row)]
