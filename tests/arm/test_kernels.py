"""A few kernels of each family for 64-bit Arm in an emulator. ``python -m tests.arm`` runs them all."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import cpu_harness
import numpy as np
import pytest

from afterburner.cpu.kernels import lower
from afterburner.ir import DTYPES, Builder, TensorType
from afterburner.ir.ops.matmul import Matmul
from afterburner.selftest.cases import cases, families
from afterburner.selftest.check import difference

from . import cross

# One case in so many: a second a family, or two.
_EVERY = {"elementwise": 97, "reduce": 43, "shape": 29, "conv": 19, "matmul": 13, "gather": 13, "sort": 11, "pool": 9,
          "conv_pooled": 1, "random": 2}
EMULATED = pytest.mark.skipif(bool(cross.MISSING), reason=cross.WHY_NOT)

_TEXT = """
define void @double(ptr %buffers, i64 %chunk, ptr %scratch) {{
  %to.p = getelementptr ptr, ptr %buffers, i64 1
  %from = load ptr, ptr %buffers
  %to = load ptr, ptr %to.p
  %x.p = getelementptr float, ptr %from, i64 %chunk
  %y.p = getelementptr float, ptr %to, i64 %chunk
  %x = load float, ptr %x.p
  %y = fadd float %x, %x
  store float %y, ptr %y.p
  ret void
}}
"""


def _double(chunks: list[int]) -> np.ndarray:
    isa = cross.arm_isa()
    x, y = np.arange(4, dtype=np.float32), np.zeros(4, np.float32)
    spans = [(a.ctypes.data, a.nbytes) for a in (x, y)]
    text = f'target triple = "{isa.triple}"\n{_TEXT.format()}'
    cross.run_calls(text, isa, [("double", chunk) for chunk in chunks], spans, spans[0])
    return y


@EMULATED
def test_the_emulator_runs_what_it_is_given_and_notices_what_goes_wrong() -> None:
    assert _double([0, 1, 3]).tolist() == [0, 2, 0, 6]
    with pytest.raises(AssertionError, match="outside all buffers"):
        _double([-1])
    with pytest.raises(AssertionError, match="ended with"):
        _double([10_000])


@EMULATED
@pytest.mark.parametrize("triple", [cross.LINUX, cross.MAC_ELF])
@pytest.mark.parametrize("family", [name for name in families() if name != "layers"])
def test_some_of_each_family(family: str, triple: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_harness, "run_calls", cross.run_calls)
    isa = cross.arm_isa(triple)
    for case in islice(cases(family), triple == cross.MAC_ELF, None, _EVERY[family]):
        node = case.graph.nodes[0]
        if node.op.view or node.op.name == "constant":
            continue
        found = cpu_harness.run_kernel(lower(node, isa), list(case.arguments), isa)
        with np.errstate(all="ignore"):
            expected = node.op.evaluate(*case.arguments)
        assert difference(case.graph.output_types, found, expected) == "", case.name


@EMULATED
@pytest.mark.parametrize("triple", [cross.LINUX, cross.MAC_ELF])
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_a_library_is_called_as_it_wants_to_be(dtype: str, triple: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of fourteen arguments some lie on the stack."""
    monkeypatch.setattr(cpu_harness, "run_calls", cross.run_calls)
    isa = replace(cross.arm_isa(triple), library=True)
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(DTYPES[dtype].numpy) for shape in ((300, 256), (230, 300)))
    builder = Builder()
    node = builder.emit(Matmul(True, True), *(
        builder.input(TensorType(DTYPES[dtype], x.shape), name) for x, name in ((a, "a"), (b, "b")))).node
    assert node is not None
    kernel = lower(node, isa)
    assert kernel.label == "library matmul"
    got, = cpu_harness.run_kernel(kernel, [a, b], isa)
    want = a.T.astype(np.float64) @ b.T.astype(np.float64)
    assert np.linalg.norm(got - want) <= 2e-6 * np.linalg.norm(want)
