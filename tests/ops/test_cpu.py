"""The CPU target against TensorFlow: the op tables again, compiled instead of interpreted.

Of every operation two records are run, the first of its table and the last; ``python -m tests.ops.test_cpu``
runs them all.
"""

from __future__ import annotations

import importlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from afterburner.compile import compile_graph
from afterburner.ir import Graph, TensorType
from afterburner.options import overridden

from .table import Record, check

FAMILIES = (
    "conv", "control", "crop", "elementwise", "fake_quant", "gather", "image", "loop", "loss", "matmul", "normalize",
    "pool", "random", "reduce", "response", "search", "shape", "sort", "special", "volume",
)  # fmt: skip


def records(family: str) -> list[Record]:
    """The records of a table."""
    return list(importlib.import_module(f"tests.ops.test_{family}").RECORDS)


def aligned(type_: TensorType) -> np.ndarray:
    """An array whose data are 64-byte aligned."""
    raw = np.empty(type_.bytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + type_.bytes].view(type_.dtype.numpy).reshape(type_.shape)


def run_compiled(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Optimise and compile a graph, and run it once in memory that holds nothing but NaN."""
    with overridden(poison=math.nan):
        executable = compile_graph(graph)
    inputs = [np.ascontiguousarray(a) for a in arrays]
    outputs = [aligned(t) for t in graph.output_types]
    executable.run([a.ctypes.data for a in inputs], [o.ctypes.data for o in outputs])
    return outputs


def _some(family: str) -> Iterator[Record]:
    by_op: dict[str, list[Record]] = defaultdict(list)
    for case in records(family):
        by_op[case.op].append(case)
    for cases in by_op.values():
        yield cases[0]
        if len(cases) > 1:
            yield cases[-1]


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{f}-{c}") for f in FAMILIES for c in _some(f)])
def test_cpu(case: Record) -> None:
    with overridden(cache=False):
        check(case, run_compiled)


if __name__ == "__main__":
    for name in FAMILIES:
        for each in records(name):
            test_cpu(each)
        print(f"{name}: {len(records(name))} records")
