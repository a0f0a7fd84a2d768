"""Gathers whose indices are known are slices."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...ir import Node, Value
from ...ir.ops.shape import Reshape, Slice
from ..rewriter import Rewriter, uniform
from .shape import empty


def _attributes(node: Node) -> Any:
    return node.op


def _known_index(r: Rewriter, n: Node) -> Value | None:
    """x[3] is a slice."""
    x, indices = n.operands
    index = uniform(indices)
    if index is None or indices.type.size != 1:
        return None
    axis = _attributes(n).axis
    at = min(max(int(index.astype(np.int64)), 0), x.shape[axis] - 1)
    starts = tuple(at if i == axis else 0 for i in range(x.type.rank))
    limits = tuple(at + 1 if i == axis else s for i, s in enumerate(x.shape))
    cut = r.emit(Slice(starts, limits, (1,) * x.type.rank), x)
    return r.emit(Reshape(n.results[0].shape), cut)


RULES = {"gather": (empty, _known_index)}
