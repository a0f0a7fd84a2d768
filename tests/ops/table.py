"""The engine of the op tables: a record is traced, imported, run, and compared with TensorFlow.

Exact records are compared bit by bit (all NaNs are one value). The others must agree on where values
are not finite, and elsewhere err from the float64 result by at most 2 * max(TensorFlow's error,
1e-6 * norm of the value), in the Euclidean norm per tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from afterburner.frontend.flatten import flatten
from afterburner.ir import Graph, interpret, print_graph, verify

from .steps import Step, import_concrete

Run = Callable[[Graph, Sequence[np.ndarray]], Sequence[np.ndarray]]
RUNNERS: dict[str, Run] = {"interpreter": interpret}

BF16 = np.dtype(ml_dtypes.bfloat16)
FLOATS: tuple[Any, ...] = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.float16), BF16)
_ROUNDING = {np.dtype(np.float64): 1e-14}  # of the norm of the float64 result; TensorFlow's own is taken for exact
INTS: tuple[Any, ...] = tuple(np.dtype(t) for t in (np.int8, np.int16, np.int32, np.int64))
UINTS: tuple[Any, ...] = tuple(np.dtype(t) for t in (np.uint8, np.uint16, np.uint32, np.uint64))
_HALVES = (np.dtype(np.float16), BF16)
_NARROW = (np.dtype(np.float32), *_HALVES)


@dataclass(frozen=True)
class Record:
    """One way to use one TensorFlow operation.

    Attributes:
        op: the operation's type; the trace must have it.
        function: of tensors.
        arguments: the arrays it is called with.
        exact: whether TensorFlow's result is exact, so that ours must be the same bits.
        note: what is special, for the test's name.
        zero_sign: False where TensorFlow's sign of a zero depends on the element's position.
        checks: the outcome of the checks that the import must contain, None for none.
    """

    op: str
    function: Callable[..., Any]
    arguments: tuple[np.ndarray, ...]
    exact: bool = False
    note: str = ""
    checks: bool | None = None
    zero_sign: bool = True

    def __str__(self) -> str:
        types = "-".join(f"{a.dtype}{list(a.shape)}".replace(" ", "") for a in self.arguments)
        return f"{self.op}-{types}{'-' + self.note if self.note else ''}"


def record(op: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Record:
    """A record; arguments become arrays."""
    return Record(op, function, tuple(np.asarray(a) for a in arguments), **options)


def raw(op: str, *names: str, **attributes: Any) -> Callable[..., Any]:
    """A function of tensors that applies the raw operation, tensors going to the named inputs."""

    def apply(*tensors: Any) -> Any:
        return getattr(tf.raw_ops, op)(**dict(zip(names, tensors, strict=True)), **attributes)

    return apply


def floats(*shape: int, dtype: Any = np.float32, seed: int = 0, scale: float = 1.0) -> np.ndarray:
    """Normal random numbers."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(dtype)


def ints(
    *shape: int, dtype: Any = np.int32, seed: int = 0, low: int | None = None, high: int = 20
) -> np.ndarray:
    """Random integers in [low, high); low is -high for signed types, else 0."""
    dtype = np.dtype(dtype)
    low = (0 if dtype.kind == "u" else -high) if low is None else low
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)


def bools(*shape: int, seed: int = 0) -> np.ndarray:
    """Random truth values."""
    return np.random.default_rng(seed).integers(0, 2, shape).astype(np.bool_)


def special(dtype: Any = np.float32) -> np.ndarray:
    """Values where functions have corners: zeros of both signs, infinities, NaN, extremes."""
    dtype = np.dtype(dtype)
    info = ml_dtypes.finfo(dtype)
    values = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        1.5,
        2.5,
        -1.5,
        -2.5,
        3.0,
        6.0,
        7.0,
        10.0,
        -10.0,
        30.0,
        -30.0,
        np.inf,
        -np.inf,
        np.nan,
        float(info.max),
        float(info.min),
        float(info.tiny),
        -float(info.tiny),
        float(info.eps),
    ]
    return np.array(values, np.float64).astype(dtype)


def moderate(dtype: Any = np.float32) -> np.ndarray:
    """Special values without those whose products or quotients are denormal, which TensorFlow flushes."""
    values = special(dtype)
    size = np.abs(values.astype(np.float64))
    return values[~((size > 0) & (size < 1e-3)) & ~((size > 1e3) & np.isfinite(size))]


def pairs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every value with every other."""
    a, b = np.meshgrid(values, values)
    return a.reshape(-1).copy(), b.reshape(-1).copy()


def _traced_ops(concrete: Any) -> set[str]:
    """Types of the operations of a function, and of the loops in it."""
    loops = {node.op for function in concrete.graph.as_graph_def().library.function for node in function.node_def
             if node.op.startswith("TensorList")}
    return {op.type for op in flatten(concrete.graph, "t").ops} | loops


def check(case: Record, run: Run) -> None:
    """Import and run a record and compare with TensorFlow.

    Raises:
        AssertionError: what differs, with the graph's text.
    """
    concrete = _trace(case.function, case.arguments)
    step = import_concrete(concrete, case.arguments)
    assert case.op in _traced_ops(concrete), f"the trace has no {case.op}"
    graph = verify(step.imported.graph)
    ours = list(run(graph, step.data))
    kept = [o.check is None for o in graph.outputs]
    _compare_checks(case, graph, ours)
    if case.checks is False:
        return
    stock = [np.asarray(r.numpy()) for r in _call(concrete, case.arguments)]
    truth = None if case.exact else _truth(case)
    for i, result in enumerate(r for r, keep in zip(ours, kept, strict=True) if keep):
        try:
            mine, theirs = np.asarray(result), stock[i]
            if not case.zero_sign:
                mine, theirs = _unsigned_zeros(mine), _unsigned_zeros(theirs)
            compare(mine, theirs, None if truth is None else truth[i], case.exact)
        except AssertionError as error:
            raise AssertionError(f"{case}: result {i}: {error}\n{print_graph(graph)}") from None


def _compare_checks(case: Record, graph: Graph, results: Sequence[np.ndarray]) -> None:
    values = [bool(r) for r, o in zip(results, graph.outputs, strict=True) if o.check is not None]
    if case.checks is None:
        assert all(values), "a check failed"
        return
    assert values, "no check was imported"
    assert all(values) is case.checks, f"checks are {values}"


def _trace(function: Callable[..., Any], arguments: Sequence[np.ndarray]) -> Any:
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def _call(concrete: Any, arguments: Sequence[np.ndarray]) -> list[tf.Tensor]:
    return tf.nest.flatten(concrete(*map(tf.constant, arguments)))


def _truth(case: Record) -> list[np.ndarray] | None:
    """Results for the arguments as float64, or as float32 where TensorFlow takes only these; None where neither."""
    for wide, narrow in ((np.float64, _NARROW), (np.float32, _HALVES)):
        arguments = [a.astype(wide) if a.dtype in narrow else a for a in case.arguments]
        try:
            return [np.asarray(r.numpy()) for r in _call(_trace(case.function, arguments), arguments)]
        except (TypeError, ValueError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError):
            continue
    return None


def compare(ours: np.ndarray, stock: np.ndarray, truth: np.ndarray | None, exact: bool) -> None:
    """Demand the same type, and equality or a bounded error. TensorFlow's threads flush denormal
    results to zero; so does the comparison."""
    assert (ours.dtype, ours.shape) == (stock.dtype, stock.shape), (
        f"{ours.dtype}{list(ours.shape)}, TensorFlow {stock.dtype}{list(stock.shape)}"
    )
    if stock.dtype.kind in "biu":
        _compare_bits(ours, stock)
        return
    ours, stock = _flushed(ours), _flushed(stock)
    if exact:
        _compare_bits(ours, stock)
        return
    a, b = ours.astype(np.float64), stock.astype(np.float64)
    t = b if truth is None else truth.astype(np.float64)
    finite = np.isfinite(b)
    _compare_bits(np.where(finite, 0, a), np.where(finite, 0, b))
    finite &= np.isfinite(t)
    with np.errstate(all="ignore"):
        a, b, t = (np.where(finite, v, 0) for v in (a, b, t))
        largest = np.abs(t).max(initial=0) or 1.0  # whose square may be more than a float64 holds
        a, b, t = (v / largest for v in (a, b, t))
    error, theirs = np.linalg.norm(a - t), np.linalg.norm(b - t)
    bound = 2 * max(theirs, _ROUNDING.get(stock.dtype, 1e-6) * np.linalg.norm(t))
    assert error <= bound, f"error {error:.3g}, TensorFlow's {theirs:.3g}, bound {bound:.3g}"


def _unsigned_zeros(x: np.ndarray) -> np.ndarray:
    return np.where(x == 0, np.zeros_like(x), x)


def _flushed(x: np.ndarray) -> np.ndarray:
    """Denormals replaced by a zero of their sign."""
    with np.errstate(invalid="ignore"):
        tiny = np.abs(x.astype(np.float64)) < float(ml_dtypes.finfo(x.dtype).smallest_normal)
    return np.where(tiny, np.copysign(np.zeros_like(x), x), x)


def _compare_bits(ours: np.ndarray, stock: np.ndarray) -> None:
    """Equal bits; NaNs are equal."""
    with np.errstate(invalid="ignore"):
        same = (
            (ours == stock) & (np.signbit(ours) == np.signbit(stock))
            if ours.dtype.kind not in "biu"
            else ours == stock
        )
        if ours.dtype.kind not in "biu":
            same |= np.isnan(ours) & np.isnan(stock)
    wrong = np.flatnonzero(~same.reshape(-1))
    assert not wrong.size, (
        f"{wrong.size} of {same.size} differ, first at {wrong[0]}: "
        f"{ours.reshape(-1)[wrong[:8]]}, TensorFlow {stock.reshape(-1)[wrong[:8]]}"
    )


__all__ = [
    "BF16",
    "FLOATS",
    "INTS",
    "RUNNERS",
    "UINTS",
    "Record",
    "Run",
    "Step",
    "bools",
    "check",
    "compare",
    "floats",
    "ints",
    "moderate",
    "pairs",
    "raw",
    "record",
    "special",
]
