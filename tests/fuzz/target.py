"""Random graphs on the CPU target, against the interpreter."""

from __future__ import annotations

import numpy as np

from afterburner.ir import interpret
from afterburner.passes.pipeline import optimize

from .generate import Case

# Relative error allowed per type: a few roundings and the vector math's ulps, amplified by what follows.
_TOLERANCE = {"f64": 1e-9, "f32": 1e-3, "f16": 5e-2, "bf16": 2e-1}


def available() -> bool:
    """Whether the CPU target can be imported."""
    try:
        from afterburner.cpu import target
    except ImportError:
        return False
    return hasattr(target, "compile_graph")


def target_problem(case: Case) -> str | None:
    """What is wrong with the CPU target's results, or None. Only exact types are compared strictly:
    rounding differs, and comparisons or casts downstream turn a last bit into anything."""
    from afterburner.cpu import target
    from afterburner.cpu.kernel import Unsupported

    graph = optimize(case.graph)
    try:
        executable = target.compile_graph(graph)
    except Unsupported:
        return None
    outputs = [_aligned(t.shape, t.dtype.numpy) for t in graph.output_types]
    inputs = [np.ascontiguousarray(a) for a in case.arguments]
    executable.run([a.ctypes.data for a in inputs], [a.ctypes.data for a in outputs])
    for i, (got, want) in enumerate(zip(outputs, interpret(graph, case.arguments), strict=True)):
        if not _close(got, want):
            return f"output {i} should be {want.tolist()}, is {got.tolist()}"
    return None


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.full(size + 128, 0x5A, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start: start + size].view(dtype).reshape(shape)


def _close(got: np.ndarray, want: np.ndarray) -> bool:
    if want.dtype.kind in "iub":
        return bool(np.array_equal(got, want))
    name = "bf16" if want.dtype.name == "bfloat16" else {8: "f64", 4: "f32", 2: "f16"}[want.dtype.itemsize]
    x, y = got.astype(np.float64), want.astype(np.float64)
    return bool(np.allclose(x, y, rtol=_TOLERANCE[name], atol=_TOLERANCE[name], equal_nan=True))
