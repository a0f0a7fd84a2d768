"""The GPU target, emulated by MLX's CPU device, against TensorFlow: the op tables again, each record run twice.

Of every operation one record is run, the last of its table; ``python -m tests.ops.test_gpu`` runs them all.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX has no wheel for this machine", exc_type=ImportError)

from afterburner.cpu.handover import handover_code  # noqa: E402
from afterburner.gpu.target import compile_graph  # noqa: E402
from afterburner.ir import Graph  # noqa: E402
from afterburner.options import overridden  # noqa: E402
from afterburner.passes.pipeline import optimize  # noqa: E402
from afterburner.runtime.executable import Unsupported  # noqa: E402

from .table import Record, check  # noqa: E402
from .test_cpu import FAMILIES, aligned, records  # noqa: E402


def run_emulated(graph: Graph, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Optimise and compile a graph, and run it twice, which must give the same bits."""
    executable = compile_graph(optimize(graph, lower=False), handover=handover_code())
    inputs = [np.ascontiguousarray(a) for a in arrays]
    first, second = ([aligned(t) for t in graph.output_types] for _ in range(2))
    for outputs in (first, second):
        executable.run([a.ctypes.data for a in inputs], [o.ctypes.data for o in outputs])
    assert [a.tobytes() for a in first] == [a.tobytes() for a in second]
    return first


def _supported(case: Record) -> bool:
    """No GPU has float64, and the target says so."""
    try:
        with overridden(gpu_emulate=True):
            check(case, run_emulated)
    except Unsupported as error:
        assert "float64" in str(error), error
        return False
    return True


def _some(family: str) -> Iterator[Record]:
    chosen = {case.op: case for case in records(family) if not any(a.dtype == np.float64 for a in case.arguments)}
    yield from chosen.values()


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{f}-{c}") for f in FAMILIES for c in _some(f)])
def test_gpu(case: Record) -> None:
    assert _supported(case)


if __name__ == "__main__":
    for name in sys.argv[1:] or FAMILIES:
        found = Counter(_supported(each) for each in records(name))
        print(f"{name}: {found[True]} records, {found[False]} more refused for float64", flush=True)
