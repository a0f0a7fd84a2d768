"""From values at symbolic indices to expressions over one iteration space.

Demand-driven: "output 0 at index i" asks for its operands at the indices that i implies, down to
loads, so shape operations vanish into index arithmetic. One (value, index) is one expression.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ....ir import DTYPES, DType, Graph, Node, Op, Value
from ...index import Bounded, Index, Range, constant, strides
from ...kernel import Unsupported

INDEX = DTYPES["i64"]


class Expr:
    """A scalar at every point of the space. Expressions compare by identity.

    Attributes:
        dtype: element type.
        args: expressions it computes from.
        axes: axes of the space along which it varies.
    """

    def __init__(self, dtype: DType, args: tuple[Expr, ...], indices: tuple[Index, ...] = ()) -> None:
        self.dtype = dtype
        self.args = args
        self.indices = indices
        self.axes: frozenset[int] = frozenset().union(*(a.axes for a in args), *(i.axes for i in indices))

    def children(self) -> Iterator[Expr]:
        """What must be computed first, the terms of indices included."""
        yield from self.args
        for index in self.indices:
            for term, _ in index.terms:
                yield term  # type: ignore[misc]


class Literal(Expr):
    """A number known now."""

    def __init__(self, dtype: DType, value: Any) -> None:
        super().__init__(dtype, ())
        self.value = value


class Load(Expr):
    """An element of operand ``source`` of the kernel, or of a constant table."""

    def __init__(self, dtype: DType, source: int | np.ndarray, index: Index) -> None:
        super().__init__(dtype, (), (index,))
        self.source = source
        self.index = index


class Apply(Expr):
    """An elementwise operation."""

    def __init__(self, op: Op, dtype: DType, args: tuple[Expr, ...]) -> None:
        super().__init__(dtype, args)
        self.op = op


class Position(Expr):
    """An index as a number of ``dtype``."""

    def __init__(self, dtype: DType, index: Index) -> None:
        super().__init__(dtype, (), (index,))
        self.index = index


class Inside(Expr):
    """Whether ``low <= index < high``."""

    def __init__(self, index: Index, low: int, high: int) -> None:
        super().__init__(DTYPES["bool"], (), (index,))
        self.index, self.low, self.high = index, low, high


class Choose(Expr):
    """``args[1]`` where the condition ``args[0]`` holds, else ``args[2]``."""

    def __init__(self, condition: Expr, yes: Expr, no: Expr) -> None:
        super().__init__(yes.dtype, (condition, yes, no))


class Reduced(Expr):
    """The result of reduction ``number`` of the kernel at the kept axes."""

    def __init__(self, dtype: DType, number: int, axes: frozenset[int]) -> None:
        super().__init__(dtype, ())
        self.number = number
        self.axes = axes


class Quotient(Expr):
    """``index // divisor`` of an index that is not negative."""

    def __init__(self, index: Index, divisor: int, largest: int) -> None:
        super().__init__(INDEX, (), (index,))
        self.index, self.divisor, self.largest = index, divisor, largest
        self.low, self.high = 0, largest // divisor


class Remainder(Expr):
    """``index % divisor`` of an index that is not negative."""

    def __init__(self, index: Index, divisor: int, largest: int) -> None:
        super().__init__(INDEX, (), (index,))
        self.index, self.divisor, self.largest = index, divisor, largest
        self.low, self.high = 0, min(divisor - 1, largest)


class Clamped(Expr):
    """An index moved into [0, size)."""

    def __init__(self, index: Index, size: int) -> None:
        super().__init__(INDEX, (), (index,))
        self.index, self.low, self.high = index, 0, size - 1


class Lookup(Expr):
    """An integer element used as an index, clamped into [0, size)."""

    def __init__(self, position: Expr, size: int) -> None:
        super().__init__(INDEX, (position,))
        self.low, self.high = 0, size - 1


class Elements:
    """Expressions of a body's values over a box of an iteration space.

    Args:
        body: the fused graph.
        box: the range of every axis of the space.
        reduced: for the results of the body's reductions, what stands for them and the row-major
            position at which it does.

    Attributes:
        cuts: positions on each axis where a piecewise value (pad, concat) changes its branch.
    """

    def __init__(self, body: Graph, box: tuple[Range, ...],
                 reduced: Mapping[Value, tuple[Expr, Index]] | None = None) -> None:
        self.box = box
        self.cuts: dict[int, set[int]] = {}
        self._sources = {item.value: i for i, item in enumerate(body.inputs)}
        self._reduced = dict(reduced or {})
        self._memo: dict[tuple[Value, tuple[Index, ...]], Expr] = {}
        self._terms: dict[tuple[str, Index, int], Expr] = {}

    def at(self, value: Value, index: tuple[Index, ...]) -> Expr:
        """The expression of ``value[index]``, one entry of ``index`` for every axis of the value.

        Raises:
            Unsupported: the value's operation is not one a loop can compute element by element.
        """
        pending = [value]  # elementwise chains can be longer than Python's stack
        while pending:
            now = pending[-1]
            operands = self._missing(now, index)
            pending.extend(operands)
            if not operands:
                pending.pop()
                if (now, index) not in self._memo:
                    self._memo[now, index] = self._lower(now, index)
        return self._memo[value, index]

    def _missing(self, value: Value, index: tuple[Index, ...]) -> list[Value]:
        """Operands of an elementwise value whose expressions at its index are yet to be made."""
        known = (value, index) in self._memo or value in self._sources or value in self._reduced
        if known or value.node is None or not value.node.op.elementwise:
            return []
        return [v for v in value.node.operands if (v, index) not in self._memo]

    def at_linear(self, value: Value, position: Index) -> Expr:
        """The expression of the element at a row-major position."""
        return self.at(value, self.unravel(position, value.shape))

    def unravel(self, position: Index, shape: tuple[int, ...]) -> tuple[Index, ...]:
        """The index in ``shape`` of a row-major position."""
        found = []
        for size, step in zip(shape, strides(shape), strict=True):
            quotient = self._quotient(position, step) if step > 1 else position
            found.append(self._remainder(quotient, size))
        return tuple(found)

    def _lower(self, value: Value, index: tuple[Index, ...]) -> Expr:
        if value in self._reduced:
            expr, position = self._reduced[value]
            if self._linear(index, value.shape) != position:
                raise Unsupported("a fusion moves elements of a reduction's result")
            return expr
        if value in self._sources:
            return Load(value.type.dtype, self._sources[value], self._linear(index, value.shape))
        node = value.node
        assert node is not None
        if node.op.elementwise:
            return Apply(node.op, value.type.dtype, tuple(self.at(v, index) for v in node.operands))
        rule = getattr(self, f"_{node.op.name}", None)
        if rule is None:
            raise Unsupported(f"{node.op.name} inside a loop fusion")
        return rule(node, index)  # type: ignore[no-any-return]

    def _linear(self, index: Sequence[Index], shape: tuple[int, ...]) -> Index:
        total = constant(0, len(self.box))
        for part, step in zip(index, strides(shape), strict=True):
            total = total + part * step
        return total

    def _quotient(self, index: Index, divisor: int) -> Index:
        whole, rest = index.divided(divisor)
        low, high = rest.bounds(self.box)
        if low >= 0 and high < divisor:
            return whole
        base, offset = (whole, rest) if low >= 0 else (constant(0, len(self.box)), index)
        made = Quotient(offset, divisor, offset.bounds(self.box)[1])
        return base + self._term(made, "quotient", offset, divisor)

    def _remainder(self, index: Index, divisor: int) -> Index:
        low, high = index.bounds(self.box)
        if low >= 0 and high < divisor:
            return index
        _, rest = index.divided(divisor)
        low, high = rest.bounds(self.box)
        if low >= 0 and high < divisor:
            return rest
        source = rest if low >= 0 else index
        made = Remainder(source, divisor, source.bounds(self.box)[1])
        return self._term(made, "remainder", source, divisor)

    def _clamped(self, index: Index, size: int) -> Index:
        low, high = index.bounds(self.box)
        if low >= 0 and high < size:
            return index
        return self._term(Clamped(index, size), "clamp", index, size)

    def _term(self, made: Expr, kind: str, index: Index, number: int) -> Index:
        term: Bounded = self._terms.setdefault((kind, index, number), made)  # type: ignore[assignment]
        return Index(0, (0,) * len(self.box), ((term, 1),))

    def _inside(self, index: Index, low: int, high: int) -> Expr | bool:
        """Whether low <= index < high: decided if the box allows it, else noted as a cut."""
        smallest, largest = index.bounds(self.box)
        if high <= low:
            return False
        if smallest >= low and largest < high:
            return True
        if largest < low or smallest >= high:
            return False
        varying = [a for a, c in enumerate(index.coefs) if c]
        if len(varying) == 1 and not index.terms:
            self._cut(varying[0], index, low, high)
        return Inside(index, low, high)

    def _cut(self, axis: int, index: Index, low: int, high: int) -> None:
        coef = index.coefs[axis]
        for edge in (low, high):
            if coef > 0:
                at = -((index.const - edge) // coef)
            else:
                at = (index.const - edge) // -coef + 1
            first, end = self.box[axis]
            if first < at < end:
                self.cuts.setdefault(axis, set()).add(at)

    def _choose(self, conditions: Iterable[Expr | bool], yes: Expr | None, no: Expr | None) -> Expr:
        result = yes
        for condition in conditions:
            if condition is True:
                continue
            assert result is not None and no is not None and not isinstance(condition, bool)
            result = Choose(condition, result, no)
        assert result is not None
        return result

    def _constant(self, node: Node, index: tuple[Index, ...]) -> Expr:
        array: np.ndarray = node.op.value  # type: ignore[attr-defined]
        dtype = node.results[0].type.dtype
        flat = np.ascontiguousarray(array).reshape(-1)
        raw = flat.view(np.uint8).reshape(flat.size, -1) if flat.size else flat
        if flat.size and np.all(raw == raw[0]):
            return Literal(dtype, flat[0])
        return Load(dtype, array, self._linear(index, array.shape))

    def _iota(self, node: Node, index: tuple[Index, ...]) -> Expr:
        return Position(node.results[0].type.dtype, index[node.op.axis])  # type: ignore[attr-defined]

    def _broadcast(self, node: Node, index: tuple[Index, ...]) -> Expr:
        operand = node.operands[0]
        zero = constant(0, len(self.box))
        axes: tuple[int, ...] = node.op.axes  # type: ignore[attr-defined]
        return self.at(operand, tuple(zero if size == 1 else index[axis]
                                      for size, axis in zip(operand.shape, axes, strict=True)))

    def _reshape(self, node: Node, index: tuple[Index, ...]) -> Expr:
        operand = node.operands[0]
        return self.at(operand, self.unravel(self._linear(index, node.results[0].shape), operand.shape))

    def _transpose(self, node: Node, index: tuple[Index, ...]) -> Expr:
        perm: tuple[int, ...] = node.op.perm  # type: ignore[attr-defined]
        source = sorted(range(len(perm)), key=lambda i: perm[i])
        return self.at(node.operands[0], tuple(index[i] for i in source))

    def _slice(self, node: Node, index: tuple[Index, ...]) -> Expr:
        op: Any = node.op
        return self.at(node.operands[0], tuple(
            i * stride + start for i, start, stride in zip(index, op.starts, op.strides, strict=True)))

    def _reverse(self, node: Node, index: tuple[Index, ...]) -> Expr:
        op: Any = node.op
        return self.at(node.operands[0], tuple(
            i * -1 + (size - 1) if axis in op.axes else i
            for axis, (i, size) in enumerate(zip(index, node.operands[0].shape, strict=True))))

    def _pad(self, node: Node, index: tuple[Index, ...]) -> Expr:
        op: Any = node.op
        operand, filler = node.operands
        outside = self.at(filler, ())
        conditions: list[Expr | bool] = []
        inner: list[Index] = []
        for i, size, low, gap in zip(index, operand.shape, op.low, op.interior, strict=True):
            spread = size + max(size - 1, 0) * gap
            place = i + -low
            conditions.append(self._inside(place, 0, spread))
            if conditions[-1] is False:
                return outside
            if conditions[-1] is not True:
                place = self._clamped(place, spread)
            if gap:
                conditions.append(self._inside(self._remainder(place, gap + 1), 0, 1))
                place = self._quotient(place, gap + 1)
            inner.append(place)
        if any(condition is False for condition in conditions):
            return outside
        return self._choose(conditions, self.at(operand, tuple(inner)), outside)

    def _concat(self, node: Node, index: tuple[Index, ...]) -> Expr:
        axis: int = node.op.axis  # type: ignore[attr-defined]
        result: Expr | None = None
        start = 0
        for operand in node.operands:
            size = operand.shape[axis]
            condition = self._inside(index[axis], start, start + size) if size else False
            if condition is not False:
                place = self._clamped(index[axis] + -start, size)
                piece = self.at(operand, (*index[:axis], place, *index[axis + 1:]))
                result = piece if result is None else self._choose([condition], piece, result)
            start += size
        assert result is not None
        return result

    def _gather(self, node: Node, index: tuple[Index, ...]) -> Expr:
        axis: int = node.op.axis  # type: ignore[attr-defined]
        x, indices = node.operands
        inner = axis + len(indices.shape)
        position = self.at(indices, index[axis:inner])
        term = self._lookup(position, x.shape[axis])
        return self.at(x, (*index[:axis], term, *index[inner:]))

    def _lookup(self, position: Expr, size: int) -> Index:
        key = ("lookup", Index(id(position), ()), size)
        term: Bounded = self._terms.setdefault(key, Lookup(position, size))  # type: ignore[assignment]
        return Index(0, (0,) * len(self.box), ((term, 1),))


def topological(roots: Iterable[Expr], leaves: Container[Expr] = ()) -> list[Expr]:
    """Every expression below ``roots``, operands first; nothing below ``leaves``."""
    order: dict[Expr, None] = {}
    stack: list[tuple[Expr, bool]] = [(r, False) for r in reversed(list(roots))]
    while stack:
        expr, ready = stack.pop()
        if expr in order:
            continue
        if ready:
            order[expr] = None
            continue
        stack.append((expr, True))
        if expr not in leaves:
            stack.extend((c, False) for c in expr.children() if c not in order)
    return list(order)
