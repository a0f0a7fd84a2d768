"""A random legal graph with arguments, from a seed.

Every operation is evaluated as it is added, so that what NumPy cannot do is left out and values
stay meaningful. Some things are avoided because their answer is not the operation's alone: casts of
out-of-range floats to integers, the bits of a NaN, infinite weights of padded convolutions, and
angles so large that a rounding of pi decides.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from afterburner.ir import DTYPES, Builder, DType, Graph, IRError, Op, TensorType, Value, op_class
from afterburner.ir.ops import conv, elementwise, gather, matmul, pool, reduce, shape, sort
from afterburner.ir.ops import random as random_ops

MAX_ELEMENTS = 400
FLOATS = ("f32", "f32", "f32", "f16", "bf16", "f64")
INTS = ("i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64")
UNARY = ("neg", "abs", "sign", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "tanh", "sigmoid", "erf",
         "sin", "cos", "floor", "ceil", "round", "bitwise_not", "logical_not", "is_nan", "is_inf",
         "is_finite")
BINARY = ("add", "add", "sub", "mul", "mul", "div", "floor_div", "floor_mod", "trunc_div", "trunc_mod", "pow",
          "maximum", "minimum", "atan2", "bitwise_and", "bitwise_or", "bitwise_xor", "shift_left",
          "shift_right", "logical_and", "logical_or", "equal", "not_equal", "less", "less_equal", "greater",
          "greater_equal")
REDUCTIONS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min", "reduce_and", "reduce_or")


@dataclass
class Case:
    """A graph and arguments for it."""

    graph: Graph
    arguments: list[np.ndarray]


class Generator:
    """Builds one case. The same seed gives the same case."""

    def __init__(self, seed: int, nodes: int = 40) -> None:
        self.random = random.Random(seed)
        self.numpy = np.random.default_rng(seed)
        self.builder = Builder(f"seed_{seed}")
        self.nodes = nodes
        self.known: dict[Value, np.ndarray] = {}
        self.arguments: list[np.ndarray] = []
        # Few shapes and types a graph, so that operations meet.
        self.shapes = [self._shape() for _ in range(self.random.randint(1, 3))]
        self.dtypes = [DTYPES[self.random.choice(FLOATS)], DTYPES[self.random.choice(INTS)], DTYPES["bool"]]

    def run(self) -> Case:
        for i in range(self.random.randint(1, 5)):
            self._input(TensorType(self.random.choice(self.dtypes[:1] * 3 + self.dtypes),
                                   self.random.choice(self.shapes)), f"x{i}")
        steps: tuple[Callable[[], None], ...] = (
            *(self._elementwise,) * 10, *(self._movement,) * 6, *(self._reduction,) * 3,
            *(self._normalize,) * 2, self._constant, self._contraction, self._window, self._indexed,
            self._random, self._cast, self._scan, self._sort)
        attempts = 0
        while len(self.builder.nodes) < self.nodes and attempts < 6 * self.nodes:
            attempts += 1
            with np.errstate(all="ignore"):
                self.random.choice(steps)()
        self._outputs()
        return Case(self.builder.build(), self.arguments)

    # Values.

    def _shape(self) -> tuple[int, ...]:
        rank = self.random.choice((0, 1, 1, 2, 2, 2, 3, 3, 4))
        sizes = (0, *(1,) * 8, *(2, 3, 4, 5, 7) * 6, 16, 17)
        return tuple(self.random.choice(sizes) for _ in range(rank))

    def _data(self, type_: TensorType) -> np.ndarray:
        if type_.dtype.kind == "bool":
            return self.numpy.integers(0, 2, type_.shape).astype(np.bool_)
        if type_.dtype.is_integer:
            low = -20 if type_.dtype.kind == "int" else 0
            return self.numpy.integers(low, 20, type_.shape).astype(type_.dtype.numpy)
        data = self.numpy.normal(size=type_.shape) * self.random.choice((1, 1, 10))
        if self.random.random() < 0.3:
            data = np.round(data)
        if self.random.random() < 0.25:
            special = self.numpy.choice([0.0, -0.0, np.inf, -np.inf, np.nan], type_.shape)
            data = np.where(self.numpy.random(type_.shape) < 0.2, special, data)
        return np.asarray(data).astype(type_.dtype.numpy)

    def _input(self, type_: TensorType, name: str) -> Value:
        value = self.builder.input(type_, name, self.random.random() < 0.5)
        self.known[value] = self._data(type_)
        self.arguments.append(self.known[value])
        return value

    def _add(self, op: Op, *operands: Value) -> Value | None:
        """The first result, or None where the operation is not legal, not possible or too large."""
        try:
            types = op.infer(*(v.type for v in operands))
            if any(t.size > MAX_ELEMENTS or t.rank > 6 for t in types):
                return None
            arrays = op.evaluate(*(self.known[v] for v in operands))
        except (IRError, TypeError, ValueError, IndexError):
            return None
        if any(a.dtype != t.dtype.numpy or a.shape != t.shape for a, t in zip(arrays, types, strict=True)):
            return None
        results = self.builder.add(op, *operands)
        self.known.update(zip(results, arrays, strict=True))
        return results[0]

    def _pick(self, accept: Callable[[Value], bool] = lambda v: True) -> Value | None:
        """A value, recent ones more likely."""
        values = [v for v in self.known if accept(v)]
        if not values:
            return None
        return values[-1 - int(len(values) * self.random.random() ** 2)]

    def _like(self, type_: TensorType) -> Value | None:
        """A value of a type: one that is there, or made from a smaller one or a scalar."""
        choice = self.random.random()
        if choice < 0.6:
            found = self._pick(lambda v: v.type == type_)
            if found is not None:
                return found
        if choice < 0.8:
            fits = self._pick(lambda v: v.type.dtype == type_.dtype
                              and self._axes(v, type_.shape) is not None)
            if fits is not None:
                return self._add(shape.Broadcast(type_.shape, self._axes(fits, type_.shape) or ()), fits)
        scalar = self._add(shape.Constant(np.asarray(self._number(type_.dtype))))
        return scalar if scalar is None or type_.shape == () else self._add(
            shape.Broadcast(type_.shape, ()), scalar)

    def _number(self, dtype: DType) -> np.ndarray:
        if dtype.is_float:
            number = self.random.choice((0.0, -0.0, 1.0, -1.0, 2.0, 0.5, 0.1, 3.0))
            return np.asarray(number).astype(dtype.numpy)
        if dtype.kind == "bool":
            return np.asarray(self.random.random() < 0.5)
        numbers = (0, 0, 1, 1, 2, 3, -1 if dtype.kind == "int" else 7)
        return np.asarray(self.random.choice(numbers)).astype(dtype.numpy)

    def _axes(self, value: Value, target: tuple[int, ...]) -> tuple[int, ...] | None:
        """Axes along which a value can be repeated to the target shape."""
        axes: list[int] = []
        start = 0
        for size in value.shape:
            fits = [a for a in range(start, len(target)) if size in (1, target[a])]
            if not fits:
                return None
            axes.append(self.random.choice(fits) if self.random.random() < 0.3 else fits[0])
            start = axes[-1] + 1
        return tuple(axes)

    # Operations.

    def _elementwise(self) -> None:
        x = self._pick()
        if x is None:
            return
        choice = self.random.random()
        if choice < 0.3:
            name = self.random.choice(UNARY)
            if name not in ("sin", "cos") or np.abs(self.known[x].astype(np.float64)).max(initial=0) < 1e4:
                self._add(op_class(name)(), x)
        elif choice < 0.9:
            y = self._like(x.type)
            if y is not None:
                pair = (x, y) if self.random.random() < 0.7 else (y, x)
                self._add(op_class(self.random.choice(BINARY))(), *pair)
        else:
            condition, y = self._like(TensorType(DTYPES["bool"], x.shape)), self._like(x.type)
            if condition is not None and y is not None:
                self._add(elementwise.Select(), condition, x, y)

    def _cast(self) -> None:
        x = self._pick()
        if x is None:
            return
        dtype = self.random.choice([*self.dtypes, DTYPES[self.random.choice((*FLOATS, *INTS))]])
        if x.type.dtype.is_float and dtype.is_integer:
            data = np.asarray(self.known[x], np.float64)
            if not np.all(np.isfinite(data)) or data.size and (data.min() < 0 or data.max() > 120):
                return
            # Other passes over the same graph see the same values, so the range is safe for them too.
        elif x.type.dtype.is_integer and self.random.random() < 0.3:
            same = [d for d in DTYPES.values() if d.bits == x.type.dtype.bits and d.kind != "bool"]
            self._add(elementwise.Bitcast(self.random.choice(same)), x)
            return
        self._add(elementwise.Cast(dtype), x)

    def _movement(self) -> None:
        x = self._pick()
        if x is None:
            return
        make = self.random.choice((self._reshape, self._reshape, self._broadcast, self._transpose,
                                   self._slice, self._pad, self._concat, self._reverse, self._iota))
        make(x)

    def _reshape(self, x: Value) -> None:
        size, target = x.type.size, []
        for _ in range(self.random.randint(0, 3)):
            divisors = [d for d in range(1, max(size, 1) + 1) if size and size % d == 0]
            if divisors:
                target.append(self.random.choice(divisors))
                size //= target[-1]
        self._add(shape.Reshape((*target, size)), x)
        same = [s for s in self.shapes if int(np.prod(s)) == x.type.size]
        if same:
            self._add(shape.Reshape(self.random.choice(same)), x)

    def _broadcast(self, x: Value) -> None:
        target = self.random.choice(self.shapes) if self.random.random() < 0.6 else self._shape()
        axes = self._axes(x, target)
        if axes is not None:
            self._add(shape.Broadcast(target, axes), x)

    def _transpose(self, x: Value) -> None:
        perm = list(range(x.type.rank))
        self.random.shuffle(perm)
        self._add(shape.Transpose(tuple(perm)), x)

    def _slice(self, x: Value) -> None:
        starts, limits, strides = [], [], []
        for size in x.shape:
            start = self.random.randint(0, size) if self.random.random() < 0.5 else 0
            starts.append(start)
            limits.append(self.random.randint(start, size) if self.random.random() < 0.5 else size)
            strides.append(self.random.choice((1, 1, 1, 2, 3)))
        self._add(shape.Slice(tuple(starts), tuple(limits), tuple(strides)), x)

    def _pad(self, x: Value) -> None:
        value = self._like(TensorType(x.type.dtype, ()))
        if value is None:
            return
        low, high = ([self.random.choice((0, 0, 1, 2, -1)) for _ in x.shape] for _ in range(2))
        interior = [self.random.choice((0, 0, 0, 1)) for _ in x.shape]
        if all(s > 0 for s in x.shape):
            self._add(shape.Pad(tuple(low), tuple(high), tuple(interior)), x, value)

    def _concat(self, x: Value) -> None:
        if not x.type.rank:
            return
        axis = self.random.randrange(x.type.rank)
        rest = (*x.shape[:axis], *x.shape[axis + 1:])
        parts = [x]
        for _ in range(self.random.randint(0, 2)):
            other = self._pick(lambda v: v.type.dtype == x.type.dtype and v.type.rank == x.type.rank
                               and (*v.shape[:axis], *v.shape[axis + 1:]) == rest)
            parts += [other] if other is not None else []
        self._add(shape.Concat(axis), *parts)

    def _reverse(self, x: Value) -> None:
        self._add(shape.Reverse(tuple(a for a in range(x.type.rank) if self.random.random() < 0.5)), x)

    def _iota(self, x: Value) -> None:
        if x.type.rank and x.type.dtype.kind != "bool":
            self._add(shape.Iota(x.type.dtype, x.shape, self.random.randrange(x.type.rank)))

    def _reduction(self) -> None:
        x = self._pick(lambda v: v.type.rank > 0) or self._pick()
        # In f64 the interpreter has no bits to spare, and NumPy's order of summation shows.
        if x is None or x.type.dtype.name == "f64":
            return
        if x.type.rank and self.random.random() < 0.15:
            cls = self.random.choice((reduce.Argmax, reduce.Argmin))
            self._add(cls(self.random.randrange(x.type.rank), self.dtypes[1]), x)
            return
        axes = tuple(a for a in range(x.type.rank) if self.random.random() < 0.6)
        first = self._add(op_class(self.random.choice(REDUCTIONS))(axes), x)
        if first is not None and self.random.random() < 0.3:
            y = self._like(x.type)
            if y is not None:
                self._add(op_class(self.random.choice(REDUCTIONS))(axes), y)

    def _normalize(self) -> None:
        """x - max(x), as in softmax and batch normalization."""
        x = self._pick(lambda v: v.type.rank > 0 and v.type.dtype.is_float and v.type.dtype.name != "f64")
        if x is None:
            return
        axes = tuple(sorted(self.random.sample(range(x.type.rank), self.random.randint(1, x.type.rank))))
        rest = tuple(a for a in range(x.type.rank) if a not in axes)
        total = self._add(op_class(self.random.choice(("reduce_sum", "reduce_max")))(axes), x)
        if total is None:
            return
        back = self._add(shape.Broadcast(x.shape, rest), total)
        if back is not None:
            self._add(op_class(self.random.choice(("sub", "mul", "div")))(), x, back)

    def _constant(self) -> None:
        type_ = TensorType(self.random.choice(self.dtypes), self.random.choice(self.shapes))
        if type_.size <= MAX_ELEMENTS:
            self._add(shape.Constant(self._data(type_)))

    def _contraction(self) -> None:
        x = self._pick(lambda v: v.type.rank >= 2 and v.type.dtype.name not in ("bool", "f64"))
        if x is None:
            return
        flags = (self.random.random() < 0.5, self.random.random() < 0.5)
        inner = x.shape[-2] if flags[0] else x.shape[-1]
        columns = self.random.choice((1, 2, 5))
        matrix = (columns, inner) if flags[1] else (inner, columns)
        y = self._like(TensorType(x.type.dtype, (*x.shape[:-2], *matrix)))
        product = self._add(matmul.Matmul(*flags), x, y) if y is not None else None
        if product is not None and self.random.random() < 0.7:
            bias = self._like(product.type)
            if bias is not None:
                self._add(elementwise.Add(), product, bias)

    def _image(self) -> Value | None:
        x = self._pick(lambda v: v.type.rank == 4 and v.type.dtype.is_float and v.type.dtype.name != "f64"
                       and v.type.size > 0)
        if x is not None:
            return x
        flat = self._pick(lambda v: v.type.dtype.is_float and v.type.dtype.name != "f64" and v.type.size > 0)
        if flat is None:
            return None
        return self._add(shape.Broadcast((2, 5, 4, 3), ()), flat) if flat.shape == () else self._add(
            shape.Reshape((1, 1, flat.type.size, 1)), flat)

    def _window(self) -> None:
        x = self._image()
        if x is None:
            return
        window = (self.random.randint(1, 3), self.random.randint(1, 3))
        strides = (self.random.randint(1, 2), self.random.randint(1, 2))
        pads = tuple((self.random.randint(0, w - 1), self.random.randint(0, w - 1)) for w in window)
        padding = (pads[0], pads[1])
        if self.random.random() < 0.5:
            cls = self.random.choice((pool.MaxPool, pool.AvgPool))
            y = self._add(cls(window, strides, padding), x)
            dy = self._like(y.type) if y is not None else None
            if y is None or dy is None:
                return
            if cls is pool.MaxPool:
                self._max_pool_grad(x, y, dy, (window, strides, padding))
            else:
                self._add(pool.AvgPoolGrad(window, strides, padding, x.shape), dy)
            return
        groups = self.random.choice([g for g in (1, 2, 3) if x.shape[3] % g == 0])
        if self.random.random() < 0.3:
            x = self._padded(x) or x
        settings = (strides, padding, (self.random.randint(1, 2), 1), groups)
        filters = self._like(TensorType(x.type.dtype, (*window, x.shape[3] // groups, groups * 2)))
        if filters is not None and not np.isfinite(self.known[filters].astype(np.float64)).all():
            return  # whether an infinite weight meets the zeros of the padding is a kernel's choice
        y = self._add(conv.Conv2d(*settings), x, filters) if filters is not None else None
        dy = self._like(y.type) if y is not None else None
        if dy is not None and not np.isfinite(self.known[dy].astype(np.float64)).all():
            return
        if filters is not None and dy is not None:
            dx = self._add(conv.Conv2dInputGrad(*settings, x.shape), filters, dy)
            if dx is not None and self.random.random() < 0.5:
                starts = (0, self.random.randint(0, 1), self.random.randint(0, 1), 0)
                self._add(shape.Slice(starts, dx.shape, (1, 1, 1, 1)), dx)
            self._add(conv.Conv2dFilterGrad(*settings, filters.shape), x, dy)

    def _max_pool_grad(self, x: Value, y: Value, dy: Value, settings: tuple[Any, ...]) -> None:
        """The gradient, from x or from taps, and often the ReLU's before it and the bias's after that."""
        if self.random.random() < 0.3:
            taps = self._add(pool.MaxPoolTaps(*settings), x)
            if taps is not None and taps.node is not None:
                self._add(pool.MaxPoolScatter(*settings, x.shape), taps.node.results[1], dy)
            return
        dx = self._add(pool.MaxPoolGrad(*settings), x, y, dy)
        if dx is None or self.random.random() < 0.5:
            return
        zero, one = self._full(x.type, 0), self._full(x.type, 1)
        positive = self._add(elementwise.Greater(), x, zero) if zero is not None else None
        if positive is None or zero is None or one is None:
            return
        if self.random.random() < 0.5:
            dx = self._add(elementwise.Select(), positive, dx, zero)
        else:
            mask = self._add(elementwise.Select(), positive, one, zero)
            dx = self._add(elementwise.Mul(), dx, mask) if mask is not None else None
        if dx is not None:
            self._add(reduce.ReduceSum((0, 1, 2)), dx)

    def _full(self, type_: TensorType, number: float) -> Value | None:
        scalar = self._add(shape.Constant(np.asarray(number, type_.dtype.numpy)))
        return None if scalar is None else self._add(shape.Broadcast(type_.shape, ()), scalar)

    def _padded(self, x: Value) -> Value | None:
        zero = self._add(shape.Constant(np.zeros((), x.type.dtype.numpy)))
        low, high = ((0, self.random.randint(0, 2), self.random.randint(0, 2), 0) for _ in range(2))
        return None if zero is None else self._add(shape.Pad(low, high, (0, 0, 0, 0)), x, zero)

    def _indexed(self) -> None:
        x = self._pick(lambda v: v.type.rank > 0 and v.type.size > 0 and v.type.dtype.kind != "bool")
        indices = self._pick(lambda v: v.type.dtype.is_integer and v.type.rank < 3)
        if x is None or indices is None:
            return
        self._add(gather.Gather(self.random.randrange(x.type.rank)), x, indices)
        updates = self._like(TensorType(x.type.dtype, indices.shape + x.shape[1:]))
        if updates is not None and x.type.dtype.name != "f64" and self.random.random() < 0.5:
            self._add(gather.ScatterAdd(), x, indices, updates)
            self._add(gather.SegmentSum(self.random.randint(0, 9)), indices, updates)
            kind = self.random.choice((gather.SegmentMax, gather.SegmentMin))
            self._add(kind(self.random.randint(0, 9)), indices, updates)

    def _random(self) -> None:
        if self.random.random() < 0.7:
            return
        seed = self._add(shape.Constant(self.numpy.integers(0, 1000, 2).astype(np.int32)))
        key = self._add(random_ops.RandomKey(), seed) if seed is not None else None
        if key is not None and key.node is not None:
            self._add(random_ops.RandomBits(self.random.choice(self.shapes)), *key.node.results)

    def _scan(self) -> None:
        x = self._pick(lambda v: v.type.rank > 0 and v.type.dtype.name != "f64")
        if x is not None and self.random.random() < 0.5:
            # Products of floats soon differ by more than sums do.
            kind = reduce.Cumprod if x.type.dtype.is_integer and self.random.random() < 0.5 else reduce.Cumsum
            self._add(kind(self.random.randrange(x.type.rank), self.random.random() < 0.5,
                           self.random.random() < 0.5), x)

    def _sort(self) -> None:
        # Of floats that differ in the last bit the order would, too.
        x = self._pick(lambda v: v.type.rank > 0 and v.type.dtype.is_integer)
        if x is not None and self.random.random() < 0.5:
            self._add(sort.TopK(self.random.randint(0, x.shape[-1]), DTYPES["i32"]), x)

    def _outputs(self) -> None:
        graph = self.builder.build()
        used = graph.users()
        made = [r for n in graph.nodes for r in n.results]
        ends = [v for v in made if v not in used]
        chosen = [v for v in ends if self.random.random() < 0.7]
        chosen += [v for v in made if self.random.random() < 0.06]
        chosen = chosen or ends[:1] or [i.value for i in graph.inputs[:1]]
        if self.random.random() < 0.1:
            chosen.append(graph.inputs[0].value)
        for value in chosen:
            updates = [i for i, item in enumerate(graph.inputs)
                       if item.state and item.value.type == value.type]
            check = value.type == TensorType(DTYPES["bool"], ()) and self.random.random() < 0.5
            if updates and self.random.random() < 0.5:
                self.builder.output(value, updates=self.random.choice(updates))
            else:
                self.builder.output(value, check="must hold" if check else None)


def generate(seed: int, nodes: int = 40) -> Case:
    """The random case of a seed with about ``nodes`` operations."""
    return Generator(seed, nodes).run()
