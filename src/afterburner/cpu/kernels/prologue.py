"""Elementwise work on an operand that a contraction copies to scratch anyway: done on the way, in registers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir as ll

from ...ir import Node, Value
from ..emitter import Emitter, i64
from ..kernel import Unsupported
from .epilogue import Contraction, Epilogue, Shared, contraction_of
from .gemm import Numeric, load_lanes, store_lanes


@dataclass(frozen=True)
class Prologue:
    """What makes a contraction's first operand: elementwise work on one tensor of its shape, rows and scalars.

    Attributes:
        contraction: the fusion and its root.
        given: the tensor, an input of the fusion's body.
    """

    contraction: Contraction
    given: Value

    def operand(self, e: Emitter) -> ll.Value:
        """Pointer to what is copied."""
        assert self.contraction.body is not None
        return e.operand([i.value for i in self.contraction.body.inputs].index(self.given))

    def maker(self, e: Emitter, num: Numeric, first: ll.Value, count: int) -> Callable[[ll.Value], ll.Value]:
        """What makes a register of the operand of what was read: of ``count`` elements whose last index begins at
        ``first``. To be called where this was emitted."""
        epilogue = Epilogue(self.contraction, num)
        shared: Shared = {}

        def make(given: ll.Value) -> ll.Value:
            return epilogue.value_in_row(e, self.contraction.root.operands[0], 0, first, count, {self.given: given},
                                         shared)
        return make

    def rows(self, e: Emitter, num: Numeric, first: ll.Value, count: int) -> Rows:
        """Ready to copy pieces of ``count`` elements whose last index begins at ``first``."""
        return Rows(self, Epilogue(self.contraction, num), first, count, {})


@dataclass(frozen=True)
class Rows:
    """Copies pieces of rows that all begin at one column; what depends on the column is read once."""

    prologue: Prologue
    epilogue: Epilogue
    first: ll.Value
    count: int
    shared: Shared

    def copy_run(self, e: Emitter, num: Numeric, source: ll.Value, target: ll.Value, copied: int,
                 stored: ll.Type) -> None:
        """As ``packing.copy_run``; of ``copied`` elements, those beyond ``count`` may become anything."""
        for at in range(0, copied, num.lanes):
            lanes = min(num.lanes, copied - at)
            known = {self.prologue.given: load_lanes(e, e.at(source, at, stored), num, lanes, stored)}
            column, valid = e.b.add(self.first, i64(at)), min(lanes, self.count - at)
            made = self.epilogue.value_in_row(e, self.prologue.contraction.root.operands[0], at // num.lanes, column,
                                              valid, known, self.shared)
            store_lanes(e, made, e.at(target, at, num.element), num, lanes)


def prologue_of(node: Node) -> tuple[Contraction, Prologue | None]:
    """The contraction in a node, and what makes its first operand if that is part of the node.

    Raises:
        Unsupported: the body of a fusion is no contraction behind elementwise work on one tensor.
    """
    if node.op.name != "fusion":
        return contraction_of(node), None
    body = node.op.regions()[0]
    root = body.nodes[-1]
    found = Contraction(node, root, body)
    x = root.operands[0]
    given = [i.value for i in body.inputs if i.value.shape == x.shape and i.value not in root.operands[1:]]
    if len(given) != 1 or [o.value for o in body.outputs] != list(root.results):
        raise Unsupported("a prologue of more than one tensor")
    Epilogue(found, None).check_shape(x.shape)
    return found, Prologue(found, given[0])
