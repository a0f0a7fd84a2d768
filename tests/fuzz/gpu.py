"""Random graphs on the GPU target, emulated by MLX's CPU device, against the interpreter."""

from __future__ import annotations

import numpy as np

from afterburner.ir import Graph, Output, interpret
from afterburner.options import overridden
from afterburner.passes.pipeline import optimize
from afterburner.runtime.executable import Unsupported

from .check import same_bits
from .generate import Case
from .target import close, roughness, run_twice


def available() -> bool:
    """Whether MLX is installed."""
    try:
        import mlx.core  # noqa: F401
    except ImportError:
        return False
    return True


def gpu_problem(case: Case) -> str | None:
    """What is wrong with the GPU target's results, or None; compared as ``target_problem`` does."""
    from afterburner.gpu.target import compile_graph

    graph = optimize(case.graph, lower=False)
    try:
        with overridden(gpu_emulate=True):
            executable = compile_graph(graph)
    except Unsupported:
        return None
    first, second = run_twice(executable, case.arguments)
    if _open(graph, case.arguments):
        return None
    rough = roughness(case.graph)
    for i, (got, want) in enumerate(zip(first, interpret(graph, case.arguments), strict=True)):
        if not close(got, want, rough[case.graph.outputs[i].value]):
            return f"output {i} should be {want.tolist()}, is {got.tolist()}"
        if not same_bits(got, second[i]):
            return f"output {i} was {got.tolist()}, is {second[i].tolist()} the second time"
    return None


def _open(graph: Graph, arguments: list[np.ndarray]) -> bool:
    """Whether the order of a reduction, which every target chooses, decides: the sign of a zero among the largest,
    a product whose parts are too large or too small for the type."""
    chosen = [n for n in graph.nodes if n.op.name in ("reduce_max", "reduce_min", "reduce_prod")]
    read = Graph(graph.name, graph.inputs, graph.nodes, tuple(Output(n.operands[0]) for n in chosen))
    for node, values in zip(chosen, interpret(read, arguments), strict=True):
        if not node.results[0].type.dtype.is_float:
            continue
        wide = values.astype(np.float64)
        if node.op.name != "reduce_prod" and len(set(np.signbit(wide[wide == 0]))) == 2:
            return True
        finite = np.abs(wide[np.isfinite(wide) & (wide != 0)])
        if node.op.name == "reduce_prod" and np.sum(np.abs(np.log2(finite))) > 100:
            return True
    return False
