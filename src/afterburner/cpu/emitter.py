"""A thin layer over llvmlite's builder: pointers of a kernel's buffers, loops, vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import ml_dtypes
import numpy as np
from llvmlite import ir as ll

from ..ir import DType, Node, Value
from .isa import Isa

I1, I8, I16, I32, I64 = (ll.IntType(n) for n in (1, 8, 16, 32, 64))
F16, F32, F64 = ll.HalfType(), ll.FloatType(), ll.DoubleType()
PTR = ll.PointerType()
VOID = ll.VoidType()
KERNEL_TYPE = ll.FunctionType(VOID, [PTR, I64, PTR])  # (buffers, chunk, private scratch)


class BFloatType(ll.types._BaseFloatType):
    """LLVM's bfloat, which llvmlite does not name."""

    null = "0.0"
    intrinsic_name = "bf16"

    def __str__(self) -> str:
        return "bfloat"

    def format_constant(self, value: float) -> str:
        return f"0xR{ml_bits(value):04X}"


def ml_bits(value: float) -> int:
    """The bits of ``value`` rounded to bfloat16."""
    return int(np.array(value, ml_dtypes.bfloat16).view(np.uint16))


BFloatType._create_instance()
BF16 = BFloatType()

_STORED = {
    "bool": I8, "i8": I8, "u8": I8, "i16": I16, "u16": I16, "i32": I32, "u32": I32, "i64": I64, "u64": I64,
    "f16": F16, "bf16": BF16, "f32": F32, "f64": F64,
}


def stored_type(dtype: DType) -> ll.Type:
    """The LLVM type of an element in memory; a bool is a byte of 0 or 1."""
    return _STORED[dtype.name]


def like(value: ll.Value, element: ll.Type) -> ll.Type:
    """``element`` with as many lanes as ``value``."""
    return ll.VectorType(element, value.type.count) if isinstance(value.type, ll.VectorType) else element


def const(type_: ll.Type, value: float | int) -> ll.Constant:
    """A scalar constant, or a vector with that value in every lane."""
    return _const(type_, value, repr(value))  # 0 == -0.0 == False: not one constant


@lru_cache(maxsize=4096)
def _const(type_: ll.Type, value: float | int, text: str) -> ll.Constant:
    """Constants know their own text once printed: that is a third of the time of printing a module."""
    if isinstance(type_, ll.VectorType):
        return ll.Constant(type_, [ll.Constant(type_.element, value)] * type_.count)
    return ll.Constant(type_, value)


@lru_cache(maxsize=4096)
def i64(value: int) -> ll.Constant:
    """A 64-bit integer constant."""
    return ll.Constant(I64, value)


@lru_cache(maxsize=64)
def undefined(type_: ll.Type) -> ll.Constant:
    """A value of a type that nothing depends on."""
    return ll.Constant(type_, ll.Undefined)


class Emitter:
    """Emits the body of one phase of one kernel.

    Attributes:
        b: llvmlite's builder, at the place where code goes.
        isa: the instruction set.
        chunk: i64, the piece of work to compute.
        scratch: pointer to this worker's private memory, 64-byte aligned.
        sums: pointer to what this chunk adds up of a contraction's result, if it does (``column_sums``).
    """

    def __init__(self, function: ll.Function, node: Node, isa: Isa) -> None:
        self.function = function
        self.module = function.module
        self.node = node
        self.isa = isa
        entry = ll.IRBuilder(function.append_basic_block("entry"))  # holds the loads of pointers only
        self.b = ll.IRBuilder(function.append_basic_block("start"))
        entry.branch(self.b.block)
        self._buffers, self.chunk, self.scratch = function.args
        self._positions = {v: i for i, v in reversed(list(enumerate((*node.operands, *node.results))))}
        self._first_temp = len(node.operands) + len(node.results)
        self._pointers: dict[int, ll.Value] = {}
        self.sums: ll.Value | None = None

    def call_apart(self, name: str, arguments: Sequence[ll.Value], results: Sequence[ll.Type],
                   emit: Callable[..., Sequence[ll.Value]]) -> list[ll.Value]:
        """Results of code that rarely runs, in a function of its own: a module holds it once, by its name.

        ``emit`` is given the function's arguments and emits with this emitter.
        """
        function = self.module.globals.get(name)
        if function is None:
            type_ = ll.FunctionType(ll.LiteralStructType(results), [a.type for a in arguments])
            function = ll.Function(self.module, type_, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            function.attributes.add("cold")
            here, self.b = self.b, ll.IRBuilder(function.append_basic_block("entry"))
            made = emit(*function.args)
            self.b.ret(self._together(type_.return_type, made))
            self.b = here
        called = self.b.call(function, arguments)
        return [self.b.extract_value(called, i) for i in range(len(results))]

    def _together(self, type_: ll.Type, values: Sequence[ll.Value]) -> ll.Value:
        made: ll.Value = undefined(type_)
        for i, value in enumerate(values):
            made = self.b.insert_value(made, value, i)
        return made

    def operand(self, index: int) -> ll.Value:
        """Pointer to operand ``index`` of the node: dense, row-major, its element's alignment."""
        return self._pointer(index)

    def result(self, index: int) -> ll.Value:
        """Pointer to result ``index`` of the node: dense, row-major, its element's alignment: it may be a row."""
        return self._pointer(len(self.node.operands) + index)

    def temp(self, index: int) -> ll.Value:
        """Pointer to the kernel's shared temporary ``index``, 64-byte aligned."""
        return self._pointer(self._first_temp + index)

    @contextmanager
    def temps_from(self, first: int) -> Iterator[None]:
        """Inside, the kernel's temporaries count from ``first``."""
        self._first_temp += first
        yield
        self._first_temp -= first

    def pointer(self, value: Value) -> ll.Value:
        """Pointer to an operand or result of the node."""
        return self._pointer(self._positions[value])

    def _pointer(self, position: int) -> ll.Value:
        if position not in self._pointers:
            entry = self.function.entry_basic_block
            builder = ll.IRBuilder(entry)
            builder.position_before(entry.terminator)
            slot = builder.gep(self._buffers, [i64(position)], source_etype=PTR)
            self._pointers[position] = builder.load(slot, typ=PTR)
        return self._pointers[position]

    def vector(self, element: ll.Type, lanes: int) -> ll.Type:
        """A vector type, or the element itself for one lane."""
        return ll.VectorType(element, lanes) if lanes > 1 else element

    @contextmanager
    def loop(self, start: ll.Value | int, stop: ll.Value | int, step: int = 1, name: str = "i") -> Iterator[ll.Value]:
        """``for i in range(start, stop, step)`` over i64; the body is what is emitted inside."""
        with self.loop_carried(start, stop, step, [], name) as (index, _, _):
            yield index

    @contextmanager
    def loop_carried(
        self, start: ll.Value | int, stop: ll.Value | int, step: int, initial: list[ll.Value], name: str = "i",
    ) -> Iterator[tuple[ll.Value, list[ll.Value], list[ll.Value]]]:
        """A loop that carries values from turn to turn in registers.

        Yields (index, current values, next values): the body fills ``next`` in place (it starts as a
        copy of ``current``); after the ``with`` the same list holds the values after the last turn.
        """
        start_ = i64(start) if isinstance(start, int) else start
        stop_ = i64(stop) if isinstance(stop, int) else stop
        with self.loop_while([start_, *initial], lambda now: self.b.icmp_signed("<", now[0], stop_), name) as (
                now, after):
            following = list(now[1:])
            yield now[0], list(now[1:]), following
            after[0] = self.b.add(now[0], i64(step), flags=["nsw"])
            after[1:] = following
        following[:] = after[1:]

    @contextmanager
    def loop_while(
        self, initial: Sequence[ll.Value], condition: Callable[[Sequence[ll.Value]], ll.Value], name: str = "while",
    ) -> Iterator[tuple[list[ll.Value], list[ll.Value]]]:
        """A loop over values in registers for as long as a condition on them holds.

        Yields (current values, next values), as ``loop_carried``.
        """
        before = self.b.block
        head = self.b.append_basic_block(f"{name}.head")
        body = self.b.append_basic_block(f"{name}.body")
        done = self.b.append_basic_block(f"{name}.done")
        self.b.branch(head)
        self.b.position_at_end(head)
        carried = [self.b.phi(v.type, name if i == 0 else "") for i, v in enumerate(initial)]
        for phi, value in zip(carried, initial, strict=True):
            phi.add_incoming(value, before)
        self.b.cbranch(condition(carried), body, done)
        self.b.position_at_end(body)
        following: list[ll.Value] = list(carried)
        yield list(carried), following
        for phi, value in zip(carried, following, strict=True):
            phi.add_incoming(value, self.b.block)
        self.b.branch(head)
        self.b.position_at_end(done)
        following[:] = carried

    def at(self, base: ll.Value, offset: ll.Value | int, element: ll.Type) -> ll.Value:
        """Address of ``base[offset]`` counted in elements."""
        index = i64(offset) if isinstance(offset, int) else offset
        return self.b.gep(base, [index], inbounds=True, source_etype=element)

    def load(self, address: ll.Value, type_: ll.Type, align: int) -> ll.Value:
        """Load a scalar or vector; ``align`` in bytes."""
        return self.b.load(address, typ=type_, align=align)

    def store(self, value: ll.Value, address: ll.Value, align: int) -> None:
        """Store a scalar or vector; ``align`` in bytes."""
        self.b.store(value, address, align=align)

    def stream(self, line: ll.Value, address: ll.Value) -> None:
        """Store a whole cache line, which the address begins, past the caches."""
        stored = self.b.store(line, address, align=64)
        stored.set_metadata("nontemporal", self.module.add_metadata([ll.Constant(I32, 1)]))

    def prefetch(self, address: ll.Value, to_write: bool = False, at_once: bool = False) -> None:
        """Ask for the cache line of an address that will be read, or written, soon; any address will do. What is
        needed at once comes to the first-level cache."""
        type_ = ll.FunctionType(VOID, [PTR, I32, I32, I32])
        function = self.module.globals.get("llvm.prefetch.p0") or ll.Function(self.module, type_, "llvm.prefetch.p0")
        hints = (int(to_write), 3 if at_once else 2, 1)  # first or second level, data
        self.b.call(function, [address, *(ll.Constant(I32, n) for n in hints)])

    def splat(self, scalar: ll.Value, lanes: int) -> ll.Value:
        """A vector with ``scalar`` in every lane."""
        if lanes == 1:
            return scalar
        type_ = ll.VectorType(scalar.type, lanes)
        single = self.b.insert_element(undefined(type_), scalar, const(I32, 0))
        return self.b.shuffle_vector(single, undefined(type_), const(ll.VectorType(I32, lanes), 0))

    def opaque(self, value: ll.Value) -> ll.Value:
        """The same value, of which LLVM does not know how it was made. An address made so is in one register: Intel's
        processors take a multiply-add whose operand lies at the sum of two registers as two instructions."""
        return self.b.asm(ll.FunctionType(value.type, [value.type]), "", "=r,0", [value], False)

    def fence(self) -> None:
        """LLVM moves no access to memory across this place. No instruction."""
        self.b.asm(ll.FunctionType(VOID, []), "", "~{memory}", [], True)

    def intrinsic(self, name: str, type_: ll.Type, *arguments: ll.Value) -> ll.Value:
        """Call an LLVM intrinsic overloaded on one type, e.g. ``("llvm.fma", v, a, b, c)``."""
        full = f"{name}.{_mangled(type_)}"
        function = self.module.globals.get(full) or ll.Function(
            self.module, ll.FunctionType(type_, [a.type for a in arguments]), full)
        return self.b.call(function, arguments)

    def range_of_chunk(self, size: int, chunks: int) -> tuple[ll.Value, ll.Value]:
        """First and end (exclusive) of this chunk's share of ``range(size)``: near-equal parts."""
        whole, rest = divmod(size, chunks)
        start = self.b.add(self.b.mul(self.chunk, i64(whole)), self.smaller(self.chunk, i64(rest)))
        extra = self.b.zext(self.b.icmp_signed("<", self.chunk, i64(rest)), I64)
        return start, self.b.add(self.b.add(start, i64(whole)), extra)

    def smaller(self, a: ll.Value, b: ll.Value) -> ll.Value:
        """Signed minimum of two integers."""
        return self.b.select(self.b.icmp_signed("<", a, b), a, b)

    def larger(self, a: ll.Value, b: ll.Value) -> ll.Value:
        """Signed maximum of two integers."""
        return self.b.select(self.b.icmp_signed(">", a, b), a, b)


def _mangled(type_: ll.Type) -> str:
    if isinstance(type_, ll.VectorType):
        return f"v{type_.count}{_mangled(type_.element)}"
    if isinstance(type_, ll.IntType):
        return f"i{type_.width}"
    return type_.intrinsic_name
