"""Optionals that a function returns, opened where they lie.

Keras's steps return an optional; Keras asks whether it has a value and takes the value out. These are three eager
operations and two walks through its structure, a fifth of a small step. Where we have just computed the value, it is
there already: the optional is made only if somebody asks for the tensor that stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.data.ops import optional_ops
from tensorflow.python.data.util import structure
from tensorflow.python.eager import context
from tensorflow.python.framework import constant_op, ops


class Unsealed:
    """What an optional is made of.

    Args:
        values: its flat components, eager tensors.
        seal: makes TensorFlow's optional of them, a variant tensor.
    """

    __slots__ = ("values", "_seal")

    def __init__(self, values: list[Any], seal: Callable[[list[Any]], Sequence[Any]]) -> None:
        self.values = values
        self._seal = seal

    def seal(self) -> Any:
        """The variant tensor that stands for the optional."""
        with ops.init_scope(), tf.device(None):
            return self._seal(self.values)[0]


class OpenOptional(optional_ops._OptionalImpl):  # noqa: SLF001 - so that it passes for TensorFlow's own everywhere
    """An optional with a value, whose variant tensor is made when it is first asked for.

    Args:
        content: what it is made of.
        element_spec: the structure of its value.
    """

    def __init__(self, content: Unsealed, element_spec: Any) -> None:
        self._content = content
        self._sealed: Any = None
        self._element_spec = element_spec

    @property
    def _variant_tensor(self) -> Any:
        if self._sealed is None:
            self._sealed = self._content.seal()
        return self._sealed

    def has_value(self, name: str | None = None) -> Any:
        """True, as a scalar; in a graph, an operation that says so."""
        if not context.executing_eagerly():
            return super().has_value(name)
        return constant_op.constant(True)

    def get_value(self, name: str | None = None) -> Any:
        """The value; in a graph, an operation that takes it out."""
        if not context.executing_eagerly():
            return super().get_value(name)
        return _structured(self._element_spec, self._content.values)


def _structured(spec: Any, values: Sequence[Any]) -> Any:
    """Flat components in their structure: a dictionary of tensors, as Keras's logs are, by the short way."""
    if type(spec) is dict and all(type(s) is tf.TensorSpec for s in spec.values()):
        at = {key: i for i, key in enumerate(sorted(spec))}
        return {key: values[at[key]] for key in spec}
    return structure.from_tensor_list(spec, values)


def packer(function_type: Any) -> Callable[[list[Any]], Any]:
    """A function's flat outputs in their structure, an unsealed optional as the open one."""
    spec, pack = function_type.output, function_type.pack_output
    if type(spec) is not optional_ops.OptionalSpec:
        return pack  # type: ignore[no-any-return]
    element_spec = spec._element_spec  # noqa: SLF001

    def packed(outputs: list[Any]) -> Any:
        if type(outputs[0]) is Unsealed:
            return OpenOptional(outputs[0], element_spec)
        return pack(outputs)

    return packed
