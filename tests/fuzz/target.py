"""Random graphs on the CPU target, against the interpreter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from afterburner.ir import Graph, Node, Output, Value, interpret
from afterburner.options import overridden
from afterburner.passes.pipeline import optimize
from afterburner.passes.rematerialize import rematerialize
from afterburner.runtime.executable import Executable

from .check import AT_ANY_PRICE, same_bits
from .generate import Case

# Relative error allowed per type: a few roundings and the vector math's ulps, amplified by what follows.
_TOLERANCE = {"f64": 1e-9, "f32": 1e-3, "f16": 5e-2, "bf16": 2e-1}
# Operations whose last bits the target may choose: another order of sums, another polynomial.
ROUNDING = frozenset({
    "exp", "expm1", "log", "log1p", "rsqrt", "tanh", "sigmoid", "erf", "sin", "cos", "pow", "atan2", "reduce_sum",
    "reduce_prod", "cumsum", "matmul", "conv2d", "conv2d_input_grad", "conv2d_filter_grad", "avg_pool", "avg_pool_grad",
    "scatter_add", "segment_sum"})


def available() -> bool:
    """Whether the CPU target can be imported."""
    try:
        from afterburner.cpu import target
    except ImportError:
        return False
    return hasattr(target, "compile_graph")


def target_problem(case: Case) -> str | None:
    """What is wrong with the CPU target's results, or None. A result is compared as closely as the coarsest
    rounding on its way allows; integers only if there is none, since a comparison or a cast turns a last
    bit into anything."""
    from afterburner.cpu.kernel import Unsupported

    graph = optimize(case.graph)
    try:
        outputs = _results(graph, case.arguments)
        again = rematerialize(graph, AT_ANY_PRICE)
        repeated = outputs if again is graph else _results(again, case.arguments)
    except Unsupported:
        return None
    rough_of = roughness(case.graph)
    unsettled = sign_unsettled(case.graph, case.arguments)
    for i, (got, want) in enumerate(zip(outputs, interpret(graph, case.arguments), strict=True)):
        value = case.graph.outputs[i].value
        if value not in unsettled and not close(got, want, rough_of[value]):
            return f"output {i} should be {want.tolist()}, is {got.tolist()}"
        if not same_bits(got, repeated[i]):
            return f"output {i} was {got.tolist()}, is {repeated[i].tolist()} with values made again"
    return None


def _results(graph: Graph, arguments: list[np.ndarray]) -> list[np.ndarray]:
    from afterburner.cpu import target

    with overridden(poison=math.nan):  # what no kernel has written shows
        executable = target.compile_graph(graph)
    return _run(executable, arguments)


def run_twice(executable: Executable, arguments: list[np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Outputs of two runs."""
    return _run(executable, arguments), _run(executable, arguments)


def _run(executable: Executable, arguments: list[np.ndarray]) -> list[np.ndarray]:
    outputs = [_aligned(t.shape, t.dtype.numpy) for t in executable.output_types]
    inputs = [np.ascontiguousarray(a) for a in arguments]
    executable.run([a.ctypes.data for a in inputs], [a.ctypes.data for a in outputs])
    return outputs


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.full(size + 128, 0x5A, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start: start + size].view(dtype).reshape(shape)


def roughness(graph: Graph) -> dict[Value, float]:
    """The coarsest tolerance of the operations that round on the way to each value."""
    found = {i.value: 0.0 for i in graph.inputs}
    for node in graph.nodes:
        rough = max((found[v] for v in node.operands), default=0.0)
        for result in node.results:
            rounds = node.op.name in ROUNDING and result.type.dtype.name in _TOLERANCE
            found[result] = max(rough, _TOLERANCE[result.type.dtype.name] if rounds else 0.0)
    return found


def all_values(graph: Graph, arguments: Sequence[np.ndarray]) -> dict[Value, np.ndarray]:
    """Every value of a graph, by the interpreter."""
    seen = list(dict.fromkeys(v for node in graph.nodes for v in (*node.operands, *node.results)))
    read = Graph(graph.name, graph.inputs, graph.nodes, tuple(map(Output, seen)))
    return dict(zip(seen, interpret(read, arguments), strict=True))


def either_sign(node: Node, values: Mapping[Value, np.ndarray]) -> bool:
    """Whether a node takes the largest or smallest of zeros of both signs, of which a kernel may give either."""
    if node.op.name not in ("reduce_max", "reduce_min") or not node.results[0].type.dtype.is_float:
        return False
    operand, result = (np.asarray(values[v]).astype(np.float64) for v in (node.operands[0], node.results[0]))
    return bool(np.any(result == 0)) and len(set(np.signbit(operand[operand == 0]))) == 2


def sign_unsettled(graph: Graph, arguments: Sequence[np.ndarray]) -> set[Value]:
    """Values computed from a zero of either sign: a division or a sign bit shows which."""
    values, found = all_values(graph, arguments), set[Value]()
    for node in graph.nodes:
        if either_sign(node, values) or not found.isdisjoint(node.operands):
            found.update(node.results)
    return found


def close(got: np.ndarray, want: np.ndarray, rough: float) -> bool:
    """Whether a result is as near as the roundings on its way let it be."""
    if want.dtype.kind in "iub":
        return rough > 0 or bool(np.array_equal(got, want))
    name = "bf16" if want.dtype.name == "bfloat16" else {8: "f64", 4: "f32", 2: "f16"}[want.dtype.itemsize]
    tolerance = max(_TOLERANCE[name], rough)
    x, y = got.astype(np.float64), want.astype(np.float64)
    return bool(np.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True))
