"""One case on one device against the interpreter."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..compile import compile_graph
from ..ir import TensorType, interpret
from .cases import Case

# Relative to the norm of the right result: a few roundings of sums of some hundred terms.
_TOLERANCE = {"f64": 1e-12, "f32": 2e-5, "f16": 4e-3, "bf16": 3e-2}


def problem(case: Case, device: str) -> tuple[str, str]:
    """What a case ran on, in words, and what is wrong with that or with the results, "" for nothing.

    Args:
        case: what is computed.
        device: "cpu" or "gpu".

    Raises:
        Unsupported: the device does not take it.
        Exception: it cannot be compiled or run.
    """
    executable = compile_graph(case.graph, device=device)
    if not executable.device.startswith(device):
        return executable.device, f"it ran on {executable.device} where {device} was asked for"
    with np.errstate(all="ignore"):
        expected = interpret(case.graph, case.arguments)
    inputs = [np.ascontiguousarray(a) for a in case.arguments]
    outputs = [_aligned(t) for t in case.graph.output_types]
    executable.run([a.ctypes.data for a in inputs], [o.ctypes.data for o in outputs])
    return executable.device, difference(case.graph.output_types, outputs, expected)


def difference(types: Sequence[TensorType], found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> str:
    """Where results differ by more than rounding; "" if nowhere."""
    for i, (type_, a, b) in enumerate(zip(types, found, expected, strict=True)):
        if not type_.dtype.is_float:
            if not np.array_equal(a, b):
                return f"output {i}: {int(np.sum(a != b))} of {a.size} elements differ"
            continue
        with np.errstate(all="ignore"):
            x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(y)
        if not np.array_equal(x[~finite], y[~finite], equal_nan=True) or not np.isfinite(x[finite]).all():
            return f"output {i}: infinities or NaN differ"
        error, norm = np.linalg.norm(x[finite] - y[finite]), np.linalg.norm(y[finite])
        if not error <= _TOLERANCE[type_.dtype.name] * (norm + 1e-6):
            return f"output {i}: an error of {error:.1e} in a norm of {norm:.1e}"
    return ""


def _aligned(type_: TensorType) -> np.ndarray:
    """Memory at a cache line, filled with what shows where nothing was written."""
    raw = np.full(type_.bytes + 64, 0x5A, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start: start + type_.bytes].view(type_.dtype.numpy).reshape(type_.shape)
