"""Which pass or which kernel makes a graph go wrong, one at a time. The interpreter computes a graph before and after
each pass, and what each kernel should."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from .ir import Builder, Graph, Node, TensorType, Value, interpret
from .ir.ops.control import Scan
from .ir.ops.shape import FirstColumns, MoreColumns, Slice
from .options import options
from .runtime.executable import Executable

_ULPS = 64  # of the largest element of a result; a wrong kernel is off by far more


@dataclass(frozen=True)
class Finding:
    """A step that was tried.

    Attributes:
        what: "pass fuse", "kernel matmul + add", or "passes" where they cannot begin.
        trouble: how its results differ from those before the pass, or from the interpreter's, or the error; "" if
            they agree.
        text: the smallest graph that shows it.
    """

    what: str
    trouble: str
    text: str = ""


def bisect(graph: Graph, seed: int = 0) -> Iterator[Finding]:
    """Try every pass that the options do not leave out, then every kernel of the result, on seeded inputs.

    Args:
        graph: an imported graph, as a failure file holds it.
        seed: of the inputs.
    """
    from .cpu.target import optimize_graph

    arguments = [sample(i.value.type, seed + n) for n, i in enumerate(graph.inputs)]
    stages: list[tuple[str, Graph]] = []
    stopped: Finding | None = None
    try:
        optimize_graph(graph, options(), lambda name, after, seconds: stages.append((name, after)))
    except Exception as error:  # noqa: BLE001 - the finding is the error
        last = stages[-1][1] if stages else graph
        stopped = Finding(_pass_of(error), f"{type(error).__name__}: {error}", str(last))
    yield from _passes(graph, stages, arguments)
    if stopped is not None:
        yield stopped
        return
    yield from _kernels(stages[-1][1] if stages else graph, arguments)


def _pass_of(error: Exception) -> str:
    name = getattr(error, "pass_name", "")
    return f"pass {name}" if name else "passes"


def _passes(graph: Graph, stages: Sequence[tuple[str, Graph]], arguments: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Every stage against the one before it: a pass answers for the change that it makes, not for earlier ones."""
    before, expected = graph, interpret(graph, arguments)
    for name, after in stages:
        results = interpret(after, arguments)
        trouble = difference(results, expected)
        yield Finding(f"pass {name}", trouble, str(before) if trouble else "")
        before, expected = after, results


def _kernels(graph: Graph, arguments: Sequence[np.ndarray]) -> Iterator[Finding]:
    """Every node alone, on the values the interpreter gives it."""
    values: dict[Value, np.ndarray] = dict(zip((i.value for i in graph.inputs), arguments, strict=True))
    for node in graph.nodes:
        operands = [values[v] for v in node.operands]
        with np.errstate(all="ignore"):
            results = [np.asarray(r) for r in node.op.evaluate(*operands)]
        values.update(zip(node.results, results, strict=True))
        if node.op.name == "constant" or node.op.view:
            continue
        alone = _alone(node)
        if isinstance(node.op, Scan):
            yield from _kernels(node.op.body, _first_turn(node.op, operands))
            alone, operands, results = _first_turns(node.op, operands)
        if isinstance(node.op, FirstColumns | MoreColumns):
            alone, operands, results = _of_columns(node, operands)
        try:
            trouble = difference(run(alone, operands), results)
        except Exception as error:  # noqa: BLE001 - the finding is the error
            trouble = f"{type(error).__name__}: {error}"
        yield Finding(f"kernel {_label(node)}", trouble, str(alone) if trouble else "")


def _alone(node: Node) -> Graph:
    builder = Builder(node.op.name)
    inputs = [builder.input(v.type, f"x{i}") for i, v in enumerate(node.operands)]
    for result in builder.add(node.op, *inputs, loc=node.loc):
        builder.output(result)
    return builder.build()


def _first_turns(op: Scan, operands: list[np.ndarray]) -> tuple[Graph, list[np.ndarray], list[np.ndarray]]:
    """Two turns of a loop, its operands and results: all of them could make much of what is rounding."""
    op = replace(op, steps=min(2, op.steps))
    end = op.carried + len(op.sliced)
    rows = [a[-op.steps:] if backwards else a[:op.steps]
            for a, backwards in zip(operands[op.carried:end], op.sliced, strict=True)]
    given = [*operands[:op.carried], *rows, *operands[end:]]
    builder = Builder(op.name)
    values = [builder.input(TensorType(i.value.type.dtype, a.shape), f"x{n}")
              for n, (i, a) in enumerate(zip(op.body.inputs, given, strict=True))]
    for result in builder.add(op, *values):
        builder.output(result)
    with np.errstate(all="ignore"):
        return builder.build(), given, [np.asarray(r) for r in op.evaluate(*given)]


def _first_turn(op: Scan, operands: list[np.ndarray]) -> list[np.ndarray]:
    """What the body is given at first."""
    end = op.carried + len(op.sliced)
    rows = [a[-1 if backwards else 0] for a, backwards in zip(operands[op.carried:end], op.sliced, strict=True)]
    given = [*operands[:op.carried], *map(np.asarray, rows), *operands[end:]]
    return [a if op.is_whole(i) else a[:type_.shape[0]] for i, (a, type_) in
            enumerate(zip(given, op.body.input_types, strict=True))]


def _of_columns(node: Node, operands: list[np.ndarray]) -> tuple[Graph, list[np.ndarray], list[np.ndarray]]:
    """What writes to columns in memory that others wrote to before: a graph that joins those and these, its operands
    and what is in these columns then."""
    *before, part = operands
    start = node.op.start if isinstance(node.op, MoreColumns) else 0
    given = [*(w[..., :start] for w in before), part]
    builder = Builder(node.op.name)
    values = [builder.input(TensorType(node.results[0].type.dtype, a.shape), f"x{i}") for i, a in enumerate(given)]
    wide = builder.emit(FirstColumns(node.results[0].shape[-1]), values[0])
    if before:
        wide = builder.emit(MoreColumns(start), wide, values[1], loc=node.loc)
    written = (*part.shape[:-1], start + part.shape[-1])
    builder.output(builder.emit(Slice((0,) * part.ndim, written, (1,) * part.ndim), wide))
    return builder.build(), given, [np.concatenate(given, axis=-1)]


def _label(node: Node) -> str:
    inside = [n.op.name for region in node.op.regions() for n in region.nodes if n.op.name != "constant"]
    if isinstance(node.op, Scan):
        return f"{node.op.name} of {len(inside)} operations"
    return " + ".join(inside) or node.op.name


def sample(type_: TensorType, seed: int) -> np.ndarray:
    """Seeded values: floats of size one, small natural numbers, booleans."""
    rng = np.random.default_rng(seed)
    if type_.dtype.is_float:
        return np.asarray(rng.normal(size=type_.shape)).astype(type_.dtype.numpy)
    return np.asarray(rng.integers(0, 2 if type_.dtype.kind == "bool" else 8, type_.shape)).astype(type_.dtype.numpy)


def run(graph: Graph, arguments: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of a graph compiled for this machine's CPU, without any pass."""
    from .cpu.target import compile_graph

    executable: Executable = compile_graph(graph)
    inputs = [np.ascontiguousarray(a) for a in arguments]
    outputs = [_aligned(t) for t in executable.output_types]
    executable.run([a.ctypes.data for a in inputs], [a.ctypes.data for a in outputs])
    return outputs


def _aligned(type_: TensorType) -> np.ndarray:
    raw = np.zeros(type_.bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start: start + type_.bytes].view(type_.dtype.numpy).reshape(type_.shape)


def difference(results: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> str:
    """How the first differing result differs; "" if all agree within rounding."""
    for number, (result, wanted) in enumerate(zip(results, expected, strict=True)):
        wrong = _differs(result, wanted)
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            return (f"result {number} differs in {int(wrong.sum())} of {max(prod(wanted.shape), 1)} elements, "
                    f"first at {list(where)}: {result[where]!r} instead of {wanted[where]!r}")
    return ""


def _differs(result: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    if wanted.dtype.kind in "iub":
        return np.asarray(result != wanted)
    a, b = result.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(b)
    # ml_dtypes knows the epsilon of bfloat16, which NumPy does not.
    from ml_dtypes import finfo

    bound = _ULPS * float(finfo(wanted.dtype).eps) * max(float(np.max(np.abs(b[finite]), initial=0.0)), 1e-30)
    with np.errstate(invalid="ignore"):
        off = np.where(finite, ~(np.abs(a - b) <= bound), ~((a == b) | (np.isnan(a) & np.isnan(b))))
    return np.asarray(off)
