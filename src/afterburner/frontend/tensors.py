"""Eager tensors and native addresses, without copies."""

from __future__ import annotations

import ctypes
from typing import Any

import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.eager import context

from ..ir import TensorType
from ..runtime.buffers import Buffer, BufferPool

_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_DLTENSOR = ctypes.c_char_p(b"dltensor")  # PyCapsule keeps the pointer: it must stay alive


def address(tensor: Any) -> int:
    """Address of an eager CPU tensor's elements; valid while the tensor lives."""
    return int(tensor._numpy_internal().__array_interface__["data"][0])  # noqa: SLF001


def hand_over(pool: BufferPool, type_: TensorType, buffer: Buffer) -> tf.Tensor:
    """An eager tensor over a buffer's memory; the buffer comes back to the pool when TensorFlow
    drops the last reference."""
    buffer.hand_out()
    try:
        capsule = _new_capsule(buffer.managed, _DLTENSOR, None)
        tensor = pywrap_tfe.TFE_FromDlpackCapsule(capsule, context.context()._handle)  # noqa: SLF001
    except BaseException:
        buffer.take_back()
        pool.give_back(type_, buffer)
        raise
    pool.retire(type_, buffer)
    return tensor
