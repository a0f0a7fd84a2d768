"""One rule per TensorFlow operation, by family. A family file has:

``RULES``: operation type -> rule ``(importer, op, operands) -> results``. Operands and results are those
with an element type of the IR, in order; resources and strings are left out.
``REFUSALS`` (optional): operation type -> the reason, if any, why its static attributes are not taken.
``NESTED`` (optional): operation type -> the attributes that name functions (or lists of them) imported along with it.
``IGNORED_INPUTS`` (optional): operation type -> number of leading inputs that are read at all.
"""

from __future__ import annotations

from collections.abc import Callable

import tensorflow as tf

from ..flatten import FlatOp
from ..importer import Rule
from . import (
    control,
    conv,
    elementwise,
    gather,
    image,
    loop,
    loss,
    matmul,
    pool,
    random,
    reduce,
    shape,
    sort,
    state,
    volume,
)

FAMILIES = {
    "control": control, "conv": conv, "elementwise": elementwise, "gather": gather, "image": image, "loop": loop,
    "loss": loss, "matmul": matmul, "pool": pool, "random": random, "reduce": reduce, "shape": shape, "sort": sort,
    "state": state, "volume": volume,
}

RULES: dict[str, Rule] = {name: rule for family in FAMILIES.values() for name, rule in family.RULES.items()}
REFUSALS: dict[str, Callable[[FlatOp], str | None]] = {
    name: refusal for family in FAMILIES.values() for name, refusal in getattr(family, "REFUSALS", {}).items()
}
IGNORED_INPUTS: dict[str, int] = {
    name: count for family in FAMILIES.values()
    for name, count in getattr(family, "IGNORED_INPUTS", {}).items()
}
NESTED: dict[str, tuple[str, ...]] = {
    name: bodies for family in FAMILIES.values() for name, bodies in getattr(family, "NESTED", {}).items()
}


def list_rule(op: FlatOp) -> Rule | None:
    """The rule for an operation on TensorFlow's lists of tensors; None where it takes and gives none."""
    if all(t.dtype != tf.variant for t in (*op.inputs, *op.outputs)):
        return None
    return loop.OF_LISTS.get(op.type) or loop.RULES.get(op.type)


def supported_ops() -> dict[str, list[str]]:
    """TensorFlow operations with a rule, by family, sorted."""
    return {family: sorted(module.RULES) for family, module in FAMILIES.items()}
