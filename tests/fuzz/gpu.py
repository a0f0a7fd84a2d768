"""Random graphs on the GPU target, emulated by MLX's CPU device, against the interpreter."""

from __future__ import annotations

import math
from collections.abc import Mapping

import ml_dtypes
import numpy as np

from afterburner.ir import Graph, Node, Value, interpret
from afterburner.ir.ops.pool import AvgPool
from afterburner.options import overridden
from afterburner.passes.pipeline import optimize
from afterburner.runtime.executable import Unsupported

from .check import same_bits
from .generate import Case
from .target import ROUNDING, all_values, close, either_sign, roughness, run_twice

_SUMS = ("matmul", "conv2d", "conv2d_filter_grad", "conv2d_input_grad", "cumsum", "reduce_mean", "reduce_sum")
_LAST_BITS = 8  # roundings by which results may differ
_DISTURBANCES = 4  # tried, with other signs each
_LARGE = 1e15  # a square of it is far from the largest float32, sums of squares of larger ones may not be


def available() -> bool:
    """Whether MLX is installed."""
    try:
        import mlx.core  # noqa: F401
    except ImportError:
        return False
    return True


def gpu_problem(case: Case) -> str | None:
    """What is wrong with the GPU target's results, or None; compared as ``target_problem`` does."""
    from afterburner.cpu.handover import handover_code
    from afterburner.gpu.target import compile_graph

    graph = optimize(case.graph, lower=False)
    try:
        with overridden(gpu_emulate=True):
            executable = compile_graph(graph, handover=handover_code())
    except Unsupported:
        return None
    first, second = run_twice(executable, case.arguments)
    if _open(graph, case.arguments):
        return None
    rough = [roughness(case.graph)[output.value] for output in case.graph.outputs]
    wanted = interpret(graph, case.arguments)
    for i, (got, want) in enumerate(zip(first, wanted, strict=True)):
        if not close(got, want, rough[i]):
            if _is_turned(graph, case.arguments, wanted, rough):
                return None
            return f"output {i} should be {want.tolist()}, is {got.tolist()}"
        if not same_bits(got, second[i]):
            return f"output {i} was {got.tolist()}, is {second[i].tolist()} the second time"
    return None


def _open(graph: Graph, arguments: list[np.ndarray]) -> bool:
    """Whether more than one result is right: targets choose the order of reductions, and GPUs take subnormal numbers
    for 0 (as TensorFlow's own kernels do)."""
    values = all_values(graph, arguments)
    return any(_is_open(node, values) for node in graph.nodes if node.results[0].type.dtype.is_float)


def _is_turned(graph: Graph, arguments: list[np.ndarray], wanted: list[np.ndarray], rough: list[float]) -> bool:
    """Whether other last bits, where operations round, change a result by more than is allowed of it: they decide
    remainders, the sine of a large angle, a division by what is nearly zero."""
    for seed in range(_DISTURBANCES):
        disturbed = _interpret_disturbed(graph, arguments, np.random.default_rng(seed))
        if not all(map(close, disturbed, wanted, rough)):
            return True
    return False


def _interpret_disturbed(graph: Graph, arguments: list[np.ndarray], random: np.random.Generator) -> list[np.ndarray]:
    """``interpret``, with other last bits in the results of operations that round."""
    values = {item.value: argument for item, argument in zip(graph.inputs, arguments, strict=True)}
    with np.errstate(all="ignore"):
        for node in graph.nodes:
            operands = [values[v] for v in node.operands]
            for value, array in zip(node.results, node.op.evaluate(*operands), strict=True):
                rounds = node.op.name in ROUNDING and value.type.dtype.is_float
                noise = _noise(node.op.name, operands, array, random) if rounds else 0.0
                values[value] = np.asarray(array + noise).astype(array.dtype) if rounds else np.asarray(array)
    return [values[o.value] for o in graph.outputs]


def _noise(name: str, operands: list[np.ndarray], result: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Some last bits of a result; of what was added, where an operation adds."""
    size = np.abs(result.astype(np.float64))
    if name in _SUMS:
        size = size + math.prod(float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in operands)
    last = float(ml_dtypes.finfo(result.dtype).eps)
    return np.where(np.isfinite(size), _LAST_BITS * last * size * random.choice([-1.0, 1.0], size.shape), 0.0)


def _is_open(node: Node, values: Mapping[Value, np.ndarray]) -> bool:
    operand, result = (np.asarray(values[v]).astype(np.float64) for v in (node.operands or node.results)[:1]
                       + node.results[:1])
    name, result_type = node.op.name, node.results[0].type.dtype.name
    if either_sign(node, values):
        return True
    small = np.abs(result[result != 0])
    if result_type in ("f32", "bf16") and np.any(small < np.finfo(np.float32).tiny):
        return True
    if name == "reduce_prod":  # a product whose parts are too large or too small for the type
        return bool(np.sum(np.abs(np.log2(np.abs(operand[np.isfinite(operand) & (operand != 0)])))) > 100)
    if isinstance(node.op, AvgPool):  # a sum may exceed the largest number though the average does not
        finite = np.abs(operand[np.isfinite(operand)])
        return bool(np.any(finite > np.finfo(np.float32).max / math.prod(node.op.window)))
    if name in _SUMS and not np.isfinite(result).all():  # infinity minus infinity on the way, by what overflowed
        operands = [np.asarray(values[v]).astype(np.float64) for v in node.operands]
        return any(np.any(np.abs(v[np.isfinite(v)]) > _LARGE) for v in operands)
    return False
