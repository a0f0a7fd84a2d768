"""A contraction and the elementwise work that rides on its result, applied to register tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, partial, reduce

import numpy as np
from llvmlite import ir as ll

from ...ir import DTYPES, DType, Graph, Node, TensorType, Value, print_graph
from ...ir.ops.shape import Slice
from .. import scalar
from ..emitter import I8, Emitter, i64
from ..isa import Isa
from ..kernel import Unsupported
from .gemm import LINE, PAST_CACHES, Numeric, Tile, load_part, numeric, store_part
from .loops.values import table

Finish = Callable[[Emitter, Tile, ll.Value, int, ll.Value, int], None]
"""Called with (tile, element offset of its first row and column, elements between rows, first column, lanes
of the last register): computes and stores what becomes of the sums."""

Shared = dict[tuple[Value, int], ll.Value]  # what does not depend on the row, by value and number in the tile

ROOTS = frozenset({"matmul", "conv2d", "conv2d_input_grad", "conv2d_input_grad_pooled"})
_UNTOLD = ("constant", "broadcast", "slice")
_IN_REGISTERS = 8  # operations; longer epilogues, and those with polynomials, loop over the tile's rows
_POLYNOMIALS = frozenset({"exp", "expm1", "log", "log1p", "tanh", "sigmoid", "erf", "sin", "cos", "pow", "atan2",
                          "floor_mod", "trunc_mod"})


@dataclass(frozen=True)
class Stream:
    """A tensor of the shape of a contraction's result: its address, bytes of an element, read or written; where it is
    columns of wider rows, elements of its own rows and of those."""

    base: ll.Value
    bytes: int
    written: bool
    row: int = 1
    pitch: int = 1

    def element(self, e: Emitter, offset: ll.Value) -> ll.Value:
        """Where, from the base, element ``offset`` of the result has its counterpart."""
        return element_of_columns(e, offset, self.row, self.pitch)

    def step(self, stride: int) -> int:
        """Elements between rows that lie ``stride`` elements apart in the result."""
        return stride // self.row * self.pitch


Streams = Callable[[Emitter], list[Stream]]


def element_of_columns(e: Emitter, offset: ll.Value, row: int, pitch: int) -> ll.Value:
    """Where element ``offset`` of rows of ``row`` elements lies if they are ``pitch`` apart."""
    if row == pitch:
        return offset
    return e.b.add(offset, e.b.mul(e.b.udiv(offset, i64(row)), i64(pitch - row)))

COLD_BYTES = 1 << 20  # of a result: what is read and written with it is then not in the second-level cache
EARLY_STEPS = 64  # products an element: 400 cycles of a register tile, about what memory takes to answer


def cold(streams: Iterable[Stream], size: int) -> list[Stream]:
    """Streams of ``size`` elements that are worth asking for early: too large to be in a cache."""
    return [s for s in streams if size * s.bytes >= COLD_BYTES]


def ask_early(e: Emitter, streams: Iterable[Stream], offset: ll.Value, rows: int, stride: int, width: int) -> None:
    """Ask for what a tile will be finished with while its sums are made: a processor does not see from a row of
    a tile that it will go on with the row below.

    Args:
        e: where to emit.
        streams: what is read and written.
        offset: element of the tile's first row and column.
        rows: of the tile.
        stride: elements between rows.
        width: elements of a row of the tile.
    """
    for stream in streams:
        base, step = e.at(stream.base, e.b.mul(stream.element(e, offset), i64(stream.bytes)), I8), stream.step(stride)
        for r in range(rows):
            for line in range(0, width * stream.bytes, LINE):
                e.prefetch(e.at(base, r * step * stream.bytes + line, I8), stream.written)


@dataclass(frozen=True)
class Contraction:
    """What a kernel computes: a contraction alone, or the root of a fusion.

    Attributes:
        node: the node that the kernel stands for; its operands and results are the buffers.
        root: the contraction; ``node`` itself, or a node of its body.
        body: the fusion's graph, None for a contraction alone.
    """

    node: Node
    root: Node
    body: Graph | None

    @cached_property
    def before(self) -> frozenset[Node]:
        """The nodes of the body that make operands of the contraction."""
        found: set[Node] = set()
        pending = list(self.root.operands) if self.body is not None else []
        while pending:
            node = pending.pop().node
            if node is not None and node not in found:
                found.add(node)
                pending += node.operands
        return frozenset(found)

    @cached_property
    def after(self) -> tuple[Node, ...]:
        """The nodes of the body that finish the contraction's result."""
        nodes = self.body.nodes if self.body is not None else ()
        return tuple(n for n in nodes if n is not self.root and n not in self.before)

    @property
    def dtype(self) -> DType:
        """Element type of the contraction."""
        return self.root.results[0].type.dtype

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the contraction's operands and of its result."""
        return tuple(v.shape for v in (*self.root.operands, *self.root.results))

    @property
    def empty(self) -> bool:
        """Nothing is summed, or nothing is written."""
        return not all(v.type.size for v in (*self.root.operands, *self.root.results))

    def operand(self, e: Emitter, index: int) -> ll.Value:
        """Pointer to operand ``index`` of the contraction."""
        return self._pointer(e, self.root.operands[index])

    def given(self, index: int) -> int | None:
        """Which operand of the node is operand ``index`` of the contraction; None for a constant."""
        value = self.root.operands[index]
        if self.body is None:
            return index
        inputs = [i.value for i in self.body.inputs]
        return inputs.index(value) if value in inputs else None

    def _pointer(self, e: Emitter, value: Value) -> ll.Value:
        if self.body is None:
            return e.pointer(value)
        if value.constant is not None:
            return table(e, value.constant)
        return e.operand([i.value for i in self.body.inputs].index(value))

    @property
    def sums(self) -> tuple[Node, ...]:
        """Sums over all rows of the result that the fusion returns (``column_sums``)."""
        return tuple(n for n in self.body.nodes if n.op.reduction) if self.body is not None else ()

    def result(self, e: Emitter, sum_: Node) -> ll.Value:
        """Pointer to the result that is one of the sums."""
        assert self.body is not None
        return e.result([o.value for o in self.body.outputs].index(sum_.results[0]))

    def streams(self, e: Emitter) -> list[Stream]:
        """What finishing a tile reads and writes besides the sums, element by element."""
        written = [Stream(e.result(i), v.type.dtype.bytes, True) for i, v in enumerate(self.node.results)
                   if v.shape == self.shapes[-1] and not self.goes_past_caches(v.type, e.isa)]
        inputs = [i.value for i in self.body.inputs] if self.body is not None else []
        finishing = {v for n in self.after for v in n.operands}
        given = [Stream(e.operand(i), v.type.dtype.bytes, False) for i, v in enumerate(inputs)
                 if v in finishing and v not in self.root.operands and v.shape == self.shapes[-1]]
        columns = [Stream(self.columns(e, n.results[0]), n.results[0].type.dtype.bytes, False,
                          n.results[0].shape[-1], n.operands[0].shape[-1]) for n in self.after if is_columns(n)]
        return written + given + columns

    def columns(self, e: Emitter, value: Value) -> ll.Value:
        """Pointer to the first element of a value of the body that is columns of an operand."""
        assert value.node is not None and isinstance(value.node.op, Slice)
        wide = value.node.operands[0]
        return e.at(self._pointer(e, wide), value.node.op.starts[-1], scalar.memory_type(wide.type.dtype))

    def goes_past_caches(self, type_: TensorType, isa: Isa) -> bool:
        """Whether a result of this type is stored in whole lines that do not enter the caches: lines of a large result
        need not be read, nor taken from another core, before they are written.

        Every register of a full row of channels must be a line, so channels of groups may not end within one.
        """
        if isa.name != "avx512" or self.root.op.name not in ("conv2d", "conv2d_input_grad"):
            return False
        channels, groups = self.shapes[-1][-1], self.root.op.groups  # type: ignore[attr-defined]
        lanes = isa.vector_bytes // type_.dtype.bytes
        return (type_.dtype == self.dtype and type_.dtype.name in ("f32", "f64") and groups in (1, channels)
                and channels % lanes == 0 and type_.bytes >= PAST_CACHES)

    def key(self, isa: Isa) -> str:
        """Text that determines the code."""
        if self.body is not None:
            return f"contraction {isa.name} {isa.vector_bytes}\n{print_graph(self.body, locations=False)}"
        types = ",".join(str(v.type) for v in (*self.node.operands, *self.node.results))
        return f"contraction {isa.name} {isa.vector_bytes} {self.node.op!r}({types})"

    def finish(self, isa: Isa) -> Finish:
        """Stores the results for a tile of sums."""
        num = numeric(self.dtype, isa)
        if self.body is None:
            return store_result(num, self.dtype, past_caches=self.goes_past_caches(self.root.results[0].type, isa))
        return Epilogue(self, num).finish

    @property
    def label(self) -> str:
        """The operations after the contraction, for the kernel's label."""
        nodes = self.body.nodes if self.body is not None else ()
        names = [n.op.name for n in nodes if n is not self.root and n.op.name not in _UNTOLD]
        return "".join(f" {name}" for name in names[:6]) + (" …" if len(names) > 6 else "")


def contraction_of(node: Node, made: bool = False) -> Contraction:
    """The contraction in a node; with ``made`` its first operand may be made in the node.

    Raises:
        Unsupported: the body of a fusion is no contraction of its inputs with elementwise work behind it.
    """
    if node.op.name != "fusion":
        return Contraction(node, node, None)
    body = node.op.regions()[0]
    roots = [n for n in body.nodes if n.op.name in ROOTS]
    if len(roots) != 1:
        raise Unsupported(f"a fusion with {len(roots)} contractions")
    inputs = {i.value for i in body.inputs}
    if not all(v in inputs or v.constant is not None for v in roots[0].operands[made:]):
        raise Unsupported("a fusion that computes an operand of its contraction")
    found = Contraction(node, roots[0], body)
    Epilogue(found, None).check()
    return found


def store_result(num: Numeric, dtype: DType, result: int = 0, past_caches: bool = False) -> Finish:
    """Writes tiles as they are."""

    def finish(e: Emitter, tile: Tile, offset: ll.Value, stride: int, column: ll.Value, last: int) -> None:
        base = e.at(e.result(result), offset, scalar.memory_type(dtype))
        for r, row in enumerate(tile):
            for v, value in enumerate(row):
                lanes = last if v == len(row) - 1 else num.lanes
                address = e.at(base, r * stride + v * num.lanes, scalar.memory_type(dtype))
                _store(e, scalar.to_memory(e, value, dtype), address, lanes, dtype, past_caches)

    return finish


def _store(e: Emitter, raw: ll.Value, address: ll.Value, lanes: int, dtype: DType, past_caches: bool) -> None:
    """Store the first ``lanes`` of a register of a row."""
    if past_caches and lanes * dtype.bytes == LINE:
        e.stream(raw, address)
    else:
        store_part(e, raw, address, lanes, dtype.bytes)


class Epilogue:
    """Emits the elementwise nodes of a contraction fusion on tiles."""

    def __init__(self, contraction: Contraction, num: Numeric | None) -> None:
        assert contraction.body is not None
        self.contraction, self.body, self.root = contraction, contraction.body, contraction.root
        self.shape = self.root.results[0].shape
        self.num = num

    def check(self) -> None:
        """Raise Unsupported unless what finishes the result can be computed on a tile."""
        self._check(self.contraction.after, self.shape)

    def check_before(self) -> None:
        """Raise Unsupported unless the first operand can be made piece by piece of its rows."""
        self._check(self.contraction.before, self.root.operands[0].shape)

    def _check(self, nodes: Iterable[Node], shape: tuple[int, ...]) -> None:
        for node in nodes:
            if node.op.name == "constant":
                continue
            if node.op.name == "broadcast":
                source = node.operands[0]
                given = source.constant is not None or source.node is None
                axes = node.op.axes  # type: ignore[attr-defined]
                row = axes == (len(shape) - 1,)
                if node.results[0].shape == shape and given and (source.type.size == 1 or row):
                    continue
                raise Unsupported(f"an epilogue that broadcasts {source.type} along {axes}")
            if self._is_sum(node, shape) or (is_columns(node) and node.results[0].shape == shape):
                continue
            if not node.op.elementwise or node.results[0].shape != shape:
                raise Unsupported(f"an epilogue with {node.op.name}")

    def _is_sum(self, node: Node, shape: tuple[int, ...]) -> bool:
        """Whether a node adds up all rows of a float32, for the fusion to return."""
        if node.op.name != "reduce_sum" or node.operands[0].shape != shape or self.root.op.name == "matmul":
            return False
        read = any(node.results[0] in n.operands for n in self.body.nodes)
        all_rows = node.op.axes == tuple(range(len(shape) - 1))  # type: ignore[attr-defined]
        return all_rows and not read and node.operands[0].type.dtype == self.contraction.dtype == DTYPES["f32"]

    def finish(self, e: Emitter, tile: Tile, offset: ll.Value, stride: int, column: ll.Value, last: int) -> None:
        """Compute and store all outputs of a tile."""
        heavy = [n for n in self.contraction.after if n.op.elementwise]
        if len(tile) == 1 or (len(heavy) <= _IN_REGISTERS and not any(n.op.name in _POLYNOMIALS for n in heavy)):
            shared: Shared = {}
            summed = [self._row(e, row, e.b.add(offset, i64(r * stride)), column, last, shared)
                      for r, row in enumerate(tile)]
            self._add(e, summed, column)
            return
        spilled = self._spill(e, tile)
        assert self.num is not None
        with e.loop(0, len(tile), name="finish") as r:
            row = [e.load(e.at(spilled, e.b.add(e.b.mul(r, i64(len(tile[0]))), i64(v)), self.num.vector),
                          self.num.vector, self.num.lanes * self.num.bytes) for v in range(len(tile[0]))]
            self._add(e, [self._row(e, row, e.b.add(offset, e.b.mul(r, i64(stride))), column, last, {})], column)

    def _spill(self, e: Emitter, tile: Tile) -> ll.Value:
        """The tile in memory of this function, so that a loop can walk over its rows."""
        assert self.num is not None
        builder = ll.IRBuilder(e.function.entry_basic_block)
        builder.position_at_start(e.function.entry_basic_block)
        slot = builder.alloca(ll.ArrayType(self.num.vector, len(tile) * len(tile[0])))
        slot.align = 64
        base = e.b.gep(slot, [i64(0), i64(0)], inbounds=True)
        for i, value in enumerate(v for row in tile for v in row):
            e.store(value, e.at(base, i, self.num.vector), self.num.lanes * self.num.bytes)
        return base

    def _add(self, e: Emitter, rows: list[list[list[ll.Value]]], column: ll.Value) -> None:
        """Add what rows have for each sum and register of columns to what the chunk has."""
        assert self.num is not None
        width = padded(self.shape[-1], self.num)
        for index in range(len(self.contraction.sums)):
            for v in range(len(rows[0])):
                assert e.sums is not None
                at = e.b.add(column, i64(index * width + v * self.num.lanes))
                address = e.at(e.sums, at, self.num.element)
                total = reduce(partial(self.num.add, e), (row[v][index] for row in rows))
                so_far = e.load(address, self.num.vector, self.num.bytes)
                e.store(self.num.add(e, so_far, total), address, self.num.bytes)

    def _row(self, e: Emitter, row: list[ll.Value], offset: ll.Value, column: ll.Value, last: int,
             shared: Shared) -> list[list[ll.Value]]:
        """Compute and store the outputs of a row; for each register what is added to the sums."""
        assert self.num is not None
        summed = []
        for v, sums in enumerate(row):
            lanes = last if v == len(row) - 1 else self.num.lanes
            step = i64(v * self.num.lanes)
            at = _Place(e.b.add(offset, step), e.b.add(column, step), lanes, v)
            values = {self.root.results[0]: scalar.rounded(e, sums, self.contraction.dtype)}
            summed.append([self._value(e, n.operands[0], at, values, shared) for n in self.contraction.sums])
            for i, output in enumerate(self.body.outputs):
                if output.value.shape != self.shape:
                    continue
                dtype = output.value.type.dtype
                raw = scalar.to_memory(e, self._value(e, output.value, at, values, shared), dtype)
                address = e.at(e.result(i), at.offset, scalar.memory_type(dtype))
                past_caches = self.contraction.goes_past_caches(output.value.type, e.isa)
                _store(e, raw, address, lanes, dtype, past_caches)
        return summed

    def value_in_row(self, e: Emitter, value: Value, vector: int, column: ll.Value, lanes: int,
                     known: dict[Value, ll.Value], shared: Shared) -> ll.Value:
        """``value`` in a register of columns, made of ``known`` registers, rows and scalars; ``shared`` keeps what
        is the same in all rows, by the register's number."""
        return self._value(e, value, _Place(column, column, lanes, vector), known, shared)

    def _value(self, e: Emitter, value: Value, at: _Place, values: dict[Value, ll.Value],
               shared: Shared) -> ll.Value:
        if value in values:
            return values[value]
        node = value.node
        if node is not None and node.op.elementwise:
            args = [self._value(e, v, at, values, shared) for v in node.operands]
            values[value] = scalar.apply(e, node.op, node.operands[-1].type.dtype, value.type.dtype, args)
        elif node is not None and node.op.name == "broadcast":
            key = (value, at.vector)
            if key not in shared:
                shared[key] = self._broadcast(e, node.operands[0], at)
            values[value] = shared[key]
        elif node is not None and isinstance(node.op, Slice):
            first = e.b.sub(at.offset, at.column)
            offset = e.b.add(element_of_columns(e, first, value.shape[-1], node.operands[0].shape[-1]), at.column)
            values[value] = self._load(e, node.operands[0], e.b.add(offset, i64(node.op.starts[-1])), at.lanes)
        else:
            values[value] = self._load(e, value, at.offset, at.lanes)
        return values[value]

    def _broadcast(self, e: Emitter, source: Value, at: _Place) -> ll.Value:
        assert self.num is not None
        dtype = source.type.dtype
        if source.type.size == 1 and source.constant is not None:
            return scalar.literal(dtype, source.constant.reshape(-1)[0], self.num.lanes)
        if source.type.size > 1:
            return self._load(e, source, at.column, at.lanes)
        raw = e.load(self.contraction._pointer(e, source), scalar.memory_type(dtype), dtype.bytes)
        return e.splat(scalar.from_memory(e, raw, dtype), self.num.lanes)

    def _load(self, e: Emitter, value: Value, index: ll.Value, lanes: int) -> ll.Value:
        assert self.num is not None
        dtype = value.type.dtype
        if value.constant is not None and _uniform(value.constant):
            return scalar.literal(dtype, value.constant.reshape(-1)[0], self.num.lanes)
        element = scalar.memory_type(dtype)
        address = e.at(self.contraction._pointer(e, value), index, element)
        return scalar.from_memory(e, load_part(e, address, element, self.num.lanes, lanes, dtype.bytes), dtype)


def is_columns(node: Node) -> bool:
    """Whether a node of a fusion's body takes adjacent columns of all rows of an operand."""
    return isinstance(node.op, Slice) and node.operands[0].node is None \
        and node.op.columns(node.operands[0].shape) is not None


def padded(width: int, num: Numeric) -> int:
    """Columns of whole registers."""
    return -(-width // num.lanes) * num.lanes


def _uniform(array: np.ndarray) -> bool:
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, -1)
    return bool((raw == raw[0]).all())


@dataclass(frozen=True)
class _Place:
    """Where a register of results belongs: element offset, column, valid lanes, its number in the tile."""

    offset: ll.Value
    column: ll.Value
    lanes: int
    vector: int
