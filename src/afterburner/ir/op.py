"""What an operation is: attributes, a shape rule, a meaning in NumPy, and its algebra as data."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .types import TensorType

if TYPE_CHECKING:
    from .graph import Graph

_REGISTRY: dict[str, type[Op]] = {}


class IRError(ValueError):
    """An ill-formed operation or graph: which rule was broken and by what."""


@dataclass(frozen=True)
class Op:
    """Base of all operations. A subclass is a frozen dataclass whose fields are its attributes.

    The name in the text form is the class name in snake case. The algebra flags let generic
    passes work without knowing the operation.
    """

    elementwise: ClassVar[bool] = False  # out[i] depends on the operands at i only; equal shapes
    commutative: ClassVar[bool] = False
    reduction: ClassVar[bool] = False
    view: ClassVar[bool] = False  # the result is the operand's bytes under another type
    in_place: ClassVar[bool] = False  # the result lies where the first operand does, whoever reads that, and changes
    # nothing there that its readers may read
    name: ClassVar[str] = ""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.__name__.startswith("_"):
            return
        cls.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()
        _REGISTRY[cls.name] = cls

    def infer(self, *types: TensorType) -> tuple[TensorType, ...]:
        """Result types for operand types.

        Raises:
            IRError: the operands break one of the operation's constraints.
        """
        raise NotImplementedError(f"{self.name} has no shape rule")

    def evaluate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """Results for operand values: the reference meaning, slow and obvious."""
        raise NotImplementedError(f"{self.name} has no reference meaning")

    def flops(self, operands: tuple[TensorType, ...], results: tuple[TensorType, ...]) -> int:
        """Floating-point operations of one evaluation: one per result element unless overridden."""
        return sum(r.size for r in results if r.dtype.is_float) if self.elementwise else 0

    def attributes(self) -> Iterator[tuple[str, Any]]:
        """Attribute names and values in declaration order, without those at their defaults."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.default is MISSING or value != field.default:
                yield field.name, value

    def regions(self) -> tuple[Graph, ...]:
        """The sub-graphs this operation holds."""
        return ()


def op_class(name: str) -> type[Op]:
    """The operation class of a text-form name.

    Raises:
        IRError: no such operation.
    """
    if name not in _REGISTRY:
        raise IRError(f"unknown operation {name!r}")
    return _REGISTRY[name]


def registered_ops() -> dict[str, type[Op]]:
    """All operations by name."""
    return dict(_REGISTRY)


def require(condition: bool, message: str) -> None:
    """Raise IRError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise IRError(message)
