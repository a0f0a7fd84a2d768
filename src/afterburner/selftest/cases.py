"""One small graph for each way to use an operation: all of them, in every element type they take."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..ir import DTYPES, Builder, DType, Graph, IRError, Op, TensorType, Value
from ..ir.op import registered_ops
from ..ir.ops import control, conv, conv_pooled, elementwise, gather, matmul, pool, random, reduce, shape, sort

_F32, _I32, _I64, _U8, _U64, _BOOL = (DTYPES[name] for name in ("f32", "i32", "i64", "u8", "u64", "bool"))
_FLOATS = tuple(d for d in DTYPES.values() if d.is_float)
_NUMBERS = tuple(d for d in DTYPES.values() if d.kind != "bool")
_SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan)
_SMALL_RIGHT = ("floor_div", "floor_mod", "trunc_div", "trunc_mod", "shift_left", "shift_right", "pow")
_SAME = ((0, 0), (0, 0))

_Row = tuple[Op, tuple[TensorType, ...]]


@dataclass(frozen=True)
class Case:
    """A graph and arguments for it."""

    name: str
    graph: Graph
    arguments: tuple[np.ndarray, ...]


def cases(family: str) -> Iterator[Case]:
    """The cases of a family, in the same order and with the same arguments every time.

    Raises:
        KeyError: there is no such family.
    """
    if family == "layers":
        yield from _layers()
        return
    seen: dict[str, int] = {}
    for op, types in _TABLES[family]():
        name = " ".join((op.name, *(str(t) for t in types)))
        seen[name] = seen.get(name, 0) + 1
        name = name if seen[name] == 1 else f"{name} #{seen[name]}"
        builder = Builder("case")
        operands = [builder.input(type_, f"x{i}") for i, type_ in enumerate(types)]
        results = builder.add(op, *operands)
        for result in results:
            builder.output(result)
        yield Case(name, builder.build(), tuple(_arguments(name, op, types, results)))


def families() -> tuple[str, ...]:
    """Names of all families."""
    return (*_TABLES, "layers")


def _arguments(name: str, op: Op, types: Sequence[TensorType], results: Sequence[Value]) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    odd = op.elementwise and results[0].type.dtype.kind in ("float", "bool") and op.name != "bitcast"
    for i, type_ in enumerate(types):
        yield data(rng, type_, special=odd, small=i == 1 and op.name in _SMALL_RIGHT,
                   index=op.name.startswith(("gather", "scatter", "segment")) and type_.dtype == _I32,
                   positive=op.name == "cast")


def data(rng: np.random.Generator, type_: TensorType, special: bool = False, small: bool = False, index: bool = False,
         positive: bool = False) -> np.ndarray:
    """Random values of a type.

    Args:
        rng: where they come from.
        type_: their type.
        special: zeros of both signs, infinities and NaN among floats.
        small: integers from 1 to 6.
        index: integers from -1 to 6.
        positive: floats from 0 to 100, which every type of integer can hold.
    """
    dtype = type_.dtype
    if dtype.kind == "bool":
        return rng.integers(0, 2, type_.shape).astype(np.bool_)
    if dtype.is_integer:
        low, high = (1, 7) if small else (-1, 7) if index else (0 if dtype.kind == "uint" else -20, 20)
        return rng.integers(low, high, type_.shape).astype(dtype.numpy)
    values = rng.uniform(0, 100, type_.shape) if positive else rng.standard_normal(type_.shape) * 2
    if special:
        values = np.where(rng.random(type_.shape) < 0.2, rng.choice(_SPECIAL, type_.shape), values)
    return values.astype(dtype.numpy)


def _elementwise() -> Iterator[_Row]:
    sizes = (3, 37)
    for cls in registered_ops().values():
        if not cls.elementwise or cls in (elementwise.Cast, elementwise.Bitcast):
            continue
        for dtype in DTYPES.values():
            x, condition = TensorType(dtype, sizes), TensorType(_BOOL, sizes)
            operands = next((given for given in ((x,), (x, x), (condition, x, x)) if _legal(cls(), given)), None)
            if operands is not None:
                yield cls(), operands
    for source in DTYPES.values():
        for target in DTYPES.values():
            yield elementwise.Cast(target), (TensorType(source, sizes),)
            if source.bits == target.bits and _BOOL not in (source, target):
                yield elementwise.Bitcast(target), (TensorType(source, sizes),)


def _legal(op: Op, types: tuple[TensorType, ...]) -> bool:
    try:
        op.infer(*types)
    except (IRError, IndexError, TypeError, ValueError):
        return False
    return True


def _reduce() -> Iterator[_Row]:
    for dtype in _NUMBERS:
        x = (TensorType(dtype, (5, 37)),)
        for axes in ((0,), (1,), (0, 1)):
            yield reduce.ReduceSum(axes), x
            yield reduce.ReduceMax(axes), x
            yield reduce.ReduceMin(axes), x
        yield reduce.ReduceProd((0,)), x
        for axis in (0, 1):
            yield reduce.Argmax(axis, _I64), x
            yield reduce.Argmin(axis, _I32), x
            yield reduce.Cumsum(axis, axis == 0, axis == 1), x
            yield reduce.Cumprod(axis, axis == 1, axis == 0), x
    for axes in ((0,), (1,), (0, 1)):
        yield reduce.ReduceAnd(axes), (TensorType(_BOOL, (5, 37)),)
        yield reduce.ReduceOr(axes), (TensorType(_BOOL, (5, 37)),)


def _matmul() -> Iterator[_Row]:
    for dtype in (*_FLOATS, _I32, _I64):
        for flip_a, flip_b in ((False, False), (True, False), (False, True), (True, True)):
            for batch, m, k, n in (((), 33, 47, 65), ((2,), 5, 8, 3)):
                a, b = (k, m) if flip_a else (m, k), (n, k) if flip_b else (k, n)
                yield matmul.Matmul(flip_a, flip_b), (TensorType(dtype, batch + a), TensorType(dtype, batch + b))
    yield matmul.Matmul(), (TensorType(_F32, (130, 300)), TensorType(_F32, (300, 257)))
    yield matmul.Matmul(), (TensorType(_F32, (1, 300)), TensorType(_F32, (300, 257)))


def _conv() -> Iterator[_Row]:
    # Of the filter: height, width, inputs a group, outputs; then strides, padding, dilation, groups.
    settings: tuple[tuple[tuple[int, int, int, int], tuple[Any, ...]], ...] = (
        ((3, 3, 8, 16), ((1, 1), ((1, 1), (1, 1)), (1, 1), 1)), ((1, 1, 8, 16), ((1, 1), _SAME, (1, 1), 1)),
        ((3, 3, 8, 16), ((2, 2), ((0, 1), (0, 1)), (1, 1), 1)), ((3, 3, 1, 8), ((1, 1), ((1, 1), (1, 1)), (1, 1), 8)),
        ((5, 3, 4, 6), ((1, 2), ((2, 2), (1, 1)), (1, 1), 2)), ((3, 3, 8, 5), ((1, 1), ((2, 2), (2, 2)), (2, 2), 1)))
    for dtype in _FLOATS:
        for filter_, values in settings:
            chosen: dict[str, Any] = dict(zip(("strides", "padding", "dilation", "groups"), values, strict=True))
            x, w = TensorType(dtype, (2, 11, 12, 8)), TensorType(dtype, filter_)
            y, = conv.Conv2d(**chosen).infer(x, w)
            yield conv.Conv2d(**chosen), (x, w)
            yield conv.Conv2dInputGrad(**chosen, input_shape=x.shape), (w, y)
            yield conv.Conv2dFilterGrad(**chosen, filter_shape=w.shape), (x, y)


def _conv_pooled() -> Iterator[_Row]:
    """Of float32 only: where a pass makes them."""
    x, w = TensorType(_F32, (2, 11, 12, 8)), TensorType(_F32, (3, 3, 8, 16))
    taps, dy = TensorType(_U8, (2, 5, 6, 16)), TensorType(_F32, (2, 5, 6, 16))
    same: conv.Pads = ((1, 1), (1, 1))
    yield conv_pooled.Conv2dInputGradPooled(same, (2, 2), (2, 2), x.shape), (w, taps, dy)
    yield conv_pooled.Conv2dFilterGradPooled(same, (2, 2), (2, 2), w.shape), (x, taps, dy)


def _pool() -> Iterator[_Row]:
    for dtype in _FLOATS:
        x = TensorType(dtype, (2, 9, 10, 7))
        for chosen in (((2, 2), (2, 2), _SAME), ((3, 3), (2, 1), ((1, 1), (0, 1)))):
            y, = pool.MaxPool(*chosen).infer(x)
            yield pool.MaxPool(*chosen), (x,)
            yield pool.AvgPool(*chosen), (x,)
            yield pool.AvgPoolGrad(*chosen, input_shape=x.shape), (y,)
            yield pool.MaxPoolTaps(*chosen), (x,)


def _gather() -> Iterator[_Row]:
    indices = TensorType(_I32, (3, 4))
    for dtype in DTYPES.values():
        for axis in (0, 1):
            yield gather.Gather(axis), (TensorType(dtype, (6, 5, 9)), indices)
        if dtype.kind != "bool":
            updates = TensorType(dtype, (3, 4, 9))
            yield gather.ScatterAdd(), (TensorType(dtype, (6, 9)), indices, updates)
            for kind in (gather.SegmentSum, gather.SegmentMax, gather.SegmentMin, gather.SegmentProd):
                yield kind(6), (indices, updates)


def _shape() -> Iterator[_Row]:
    for dtype in DTYPES.values():
        x = (TensorType(dtype, (3, 4, 5)),)
        yield shape.Broadcast((2, 3, 4, 5), (1, 2, 3)), x
        yield shape.Concat(1), (*x, TensorType(dtype, (3, 2, 5)))
        yield shape.Constant(data(np.random.default_rng(0), x[0])), ()
        yield shape.Pad((1, 0, -1), (0, 2, 1), (0, 1, 0)), (*x, TensorType(dtype, ()))
        yield shape.Reshape((5, 12)), x
        yield shape.Reverse((0, 2)), x
        yield shape.Slice((0, 1, 0), (3, 4, 5), (1, 2, 3)), x
        yield shape.Transpose((2, 0, 1)), x
        if dtype.kind != "bool":
            yield shape.Iota(dtype, (3, 7), 1), ()


def _sort() -> Iterator[_Row]:
    for dtype in _NUMBERS:
        for k in (1, 5, 37):
            yield sort.TopK(k, _I32), (TensorType(dtype, (4, 37)),)


def _random() -> Iterator[_Row]:
    for dtype in (_I32, _I64):
        yield random.RandomKey(), (TensorType(dtype, (2,)),)
    for size in (1, 7, 1000):
        yield random.RandomBits((size,)), (TensorType(_U64, (1,)), TensorType(_U64, (2,)))


_TABLES: dict[str, Callable[[], Iterator[_Row]]] = {
    "elementwise": _elementwise, "reduce": _reduce, "matmul": _matmul, "conv": _conv, "conv_pooled": _conv_pooled,
    "pool": _pool, "gather": _gather, "shape": _shape, "sort": _sort, "random": _random,
}
MADE_BY_PASSES = (control.Fusion,)  # which join what "layers" has


def _layers() -> Iterator[Case]:
    for build in (_dense, _softmax, _pooling, _columns, _recurrence):
        for dtype in _FLOATS:
            builder = Builder("case")
            for result in build(builder, dtype):
                builder.output(result)
            graph = builder.build()
            rng = np.random.default_rng(7)
            yield Case(f"{build.__name__.strip('_')} {dtype}", graph, tuple(data(rng, t) for t in graph.input_types))


def _filled(builder: Builder, like: Value, number: float) -> Value:
    scalar = builder.emit(shape.Constant(np.asarray(number, like.type.dtype.numpy)))
    return builder.emit(shape.Broadcast(like.shape, ()), scalar)


def _dense(builder: Builder, dtype: DType) -> list[Value]:
    """relu(x @ w + b), and the gradients of its sum of squares."""
    x, w, b = (builder.input(TensorType(dtype, s), n) for n, s in (("x", (33, 47)), ("w", (47, 65)), ("b", (65,))))
    product = builder.emit(matmul.Matmul(), x, w)
    total = builder.emit(elementwise.Add(), product, builder.emit(shape.Broadcast(product.shape, (1,)), b))
    y = builder.emit(elementwise.Maximum(), total, _filled(builder, total, 0.0))
    positive = builder.emit(elementwise.Greater(), total, _filled(builder, total, 0.0))
    gradient = builder.emit(elementwise.Select(), positive, y, _filled(builder, y, 0.0))
    return [y, builder.emit(matmul.Matmul(True, False), x, gradient), builder.emit(reduce.ReduceSum((0,)), gradient)]


def _softmax(builder: Builder, dtype: DType) -> list[Value]:
    """exp(x - max) over its sum, by row."""
    x = builder.input(TensorType(dtype, (9, 50)), "x")
    top = builder.emit(shape.Broadcast(x.shape, (0,)), builder.emit(reduce.ReduceMax((1,)), x))
    raised = builder.emit(elementwise.Exp(), builder.emit(elementwise.Sub(), x, top))
    total = builder.emit(shape.Broadcast(x.shape, (0,)), builder.emit(reduce.ReduceSum((1,)), raised))
    return [builder.emit(elementwise.Div(), raised, total)]


def _columns(builder: Builder, dtype: DType) -> list[Value]:
    """Three tensors joined in one place, and what is made of the first two."""
    parts = [builder.input(TensorType(dtype, (9, 5, n)), f"x{n}") for n in (33, 16, 3)]
    first = builder.emit(shape.FirstColumns(52), parts[0])
    second = builder.emit(shape.MoreColumns(33), first, parts[1])
    third = builder.emit(shape.MoreColumns(49), second, parts[2])
    two = builder.emit(shape.Slice((0, 0, 0), (9, 5, 49), (1, 1, 1)), second)
    return [third, builder.emit(elementwise.Neg(), two)]


def _recurrence(builder: Builder, dtype: DType) -> list[Value]:
    """tanh(x + h @ w), from the last row to the first, each row with the sum of all that were before."""
    h, total, x, w = (builder.input(TensorType(dtype, s), n) for n, s in (
        ("h", (5, 19)), ("total", (5, 19)), ("x", (6, 5, 19)), ("w", (19, 19))))
    body = Builder("turn")
    state, so_far, row, same = (body.input(t, n) for t, n in (
        (h.type, "state0"), (total.type, "state1"), (h.type, "row0"), (w.type, "same0")))
    sums = body.emit(elementwise.Add(), row, body.emit(matmul.Matmul(), state, same))
    following = body.emit(elementwise.Tanh(), sums)
    for value in (following, body.emit(elementwise.Add(), so_far, following), following, so_far):
        body.output(value)
    return list(builder.add(control.Scan(6, (True,), (True, False), body.build()), h, total, x, w))


def _pooling(builder: Builder, dtype: DType) -> list[Value]:
    """Max pooling and its gradient, from what was pooled and from what is remembered of it."""
    x, dy = (builder.input(TensorType(dtype, s), n) for n, s in (("x", (2, 9, 10, 7)), ("dy", (2, 4, 5, 7))))
    chosen = ((2, 2), (2, 2), _SAME)
    y = builder.emit(pool.MaxPool(*chosen), x)
    _, taps = builder.add(pool.MaxPoolTaps(*chosen), x)
    return [builder.emit(pool.MaxPoolGrad(*chosen), x, y, dy),
            builder.emit(pool.MaxPoolScatter(*chosen, x.shape), taps, dy)]
