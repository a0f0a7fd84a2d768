"""Elementwise work on a contraction's operand, done in registers as the operand is copied to scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llvmlite import ir as ll

from ...ir import Node, Value
from ..emitter import I8, Emitter, i64
from ..kernel import Unsupported
from .epilogue import Contraction, Epilogue, Shared, contraction_of, is_columns
from .gemm import Numeric, load_lanes, store_lanes

Made = Callable[[ll.Value], ll.Value]
Maker = Callable[[Emitter, Numeric, ll.Value, int], Made]

_PIECE = 4  # registers of a pixel that are made in one go


@dataclass(frozen=True)
class Prologue:
    """What makes a contraction's first operand: elementwise work on one tensor of its shape, rows and scalars.

    Attributes:
        contraction: the fusion and its root.
        given: the tensor, an input of the fusion's body or columns of one.
    """

    contraction: Contraction
    given: Value

    def operand(self, e: Emitter) -> ll.Value:
        """Pointer to what is copied."""
        assert self.contraction.body is not None
        if self.given.node is not None:
            return self.contraction.columns(e, self.given)
        return e.operand([i.value for i in self.contraction.body.inputs].index(self.given))

    @property
    def pitch(self) -> int:
        """Elements from a row of what is copied to the next."""
        return (self.given if self.given.node is None else self.given.node.operands[0]).shape[-1]

    def maker(self, e: Emitter, num: Numeric, first: ll.Value, count: int) -> Made:
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
            store_lanes(e, self.made(e, num, source, at, lanes, stored), e.at(target, at, num.element), num, lanes)

    def made(self, e: Emitter, num: Numeric, source: ll.Value, at: int, lanes: int, stored: ll.Type) -> ll.Value:
        """The register of a piece at ``source`` that begins with its element ``at``."""
        known = {self.prologue.given: load_lanes(e, e.at(source, at, stored), num, lanes, stored)}
        column, valid = e.b.add(self.first, i64(at)), min(lanes, self.count - at)
        return self.epilogue.value_in_row(e, self.prologue.contraction.root.operands[0], at // num.lanes, column,
                                          valid, known, self.shared)


@dataclass(frozen=True)
class Given:
    """A contraction's operand as it is, where blocks of it are to be copied."""

    contraction: Contraction
    index: int

    def operand(self, e: Emitter) -> ll.Value:
        """Pointer to what is copied."""
        return self.contraction.operand(e, self.index)

    @property
    def pitch(self) -> int:
        """Elements from a row to the next."""
        return self.contraction.shapes[self.index][-1]

    def rows(self, e: Emitter, num: Numeric, first: ll.Value, count: int) -> Given:
        """Ready to read pieces; as ``Prologue.rows``."""
        return self

    def made(self, e: Emitter, num: Numeric, source: ll.Value, at: int, lanes: int, stored: ll.Type) -> ll.Value:
        """The register of a piece at ``source`` that begins with its element ``at``."""
        return load_lanes(e, e.at(source, at, stored), num, lanes, stored)


def operands_of(e: Emitter, contraction: Contraction, prologue: Prologue | None) -> tuple[ll.Value, ll.Value]:
    """Pointers to a contraction's first operand, or what the prologue makes it of, and to the second."""
    first = contraction.operand(e, 0) if prologue is None else prologue.operand(e)
    return first, contraction.operand(e, 1)


def maker_of(prologue: Prologue | None) -> Maker | None:
    """What ``Patches`` make pixels with."""
    return None if prologue is None else prologue.maker


@dataclass(frozen=True)
class Blocks:
    """Makes rows of pixels of a contraction's image at a time.

    Attributes:
        prologue: what makes them; where they are only rounded, their image as it is given.
        at: bytes of scratch before them.
        columns: pixels of a row.
        depth: channels of a pixel.
        pitch: elements from a pixel to the next where they are made.
    """

    prologue: Prologue | Given
    at: int
    columns: int
    depth: int
    pitch: int

    def make(self, e: Emitter, num: Numeric, image: ll.Value, first: ll.Value, end: ll.Value) -> ll.Value:
        """Make the rows [first, end) of ``image``; where its row 0 would lie, in scratch."""
        made = e.at(e.at(e.scratch, self.at, I8), e.b.mul(first, i64(-self.columns * self.pitch)), num.element)
        with e.loop(e.b.mul(first, i64(self.columns)), e.b.mul(end, i64(self.columns)), name="made") as pixel:
            source = e.at(image, e.b.mul(pixel, i64(self.prologue.pitch)), num.element)
            target = e.at(made, e.b.mul(pixel, i64(self.pitch)), num.element)
            self._pixel(e, num, source, target)
        return made

    def _pixel(self, e: Emitter, num: Numeric, source: ll.Value, target: ll.Value) -> None:
        piece = _PIECE * num.lanes
        whole = self.depth // piece * piece
        with e.loop(0, whole, piece, "channel") as channel:
            self._piece(e, num, source, target, channel, piece)
        if whole < self.depth:
            self._piece(e, num, source, target, i64(whole), self.depth - whole)

    def _piece(self, e: Emitter, num: Numeric, source: ll.Value, target: ll.Value, channel: ll.Value,
               count: int) -> None:
        rows = self.prologue.rows(e, num, channel, count)
        source, target = (e.at(pixel, channel, num.element) for pixel in (source, target))
        for at in range(0, count, num.lanes):
            lanes = min(num.lanes, count - at)
            made = rows.made(e, num, source, at, lanes, num.element)
            store_lanes(e, made, e.at(target, at, num.element), num, lanes)


def prologue_of(node: Node) -> tuple[Contraction, Prologue | None]:
    """The contraction in a node that ends with it, and what makes its first operand if that is part of the node.

    Raises:
        Unsupported: the body of a fusion is no contraction behind elementwise work on one tensor.
    """
    if node.op.name != "fusion":
        return contraction_of(node), None
    body = node.op.regions()[0]
    root = body.nodes[-1]
    if [o.value for o in body.outputs] != list(root.results):
        raise Unsupported("something behind a contraction that makes its operand")
    found = Contraction(node, root, body)
    return found, made_operand(found)


def made_operand(contraction: Contraction) -> Prologue | None:
    """What makes the contraction's first operand; None where it is given.

    Raises:
        Unsupported: it is no elementwise work on one tensor.
    """
    x = contraction.root.operands[0]
    if contraction.body is None or x.node is None or x.constant is not None:
        return None
    read = {v for n in contraction.before for v in n.operands}
    given = [i.value for i in contraction.body.inputs if i.value in read and i.value.shape == x.shape]
    given += [n.results[0] for n in contraction.body.nodes if n in contraction.before and is_columns(n)]
    if len(given) != 1:
        raise Unsupported("a prologue of more than one tensor")
    Epilogue(contraction, None).check_before()
    return Prologue(contraction, given[0])
