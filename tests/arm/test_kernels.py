"""A few kernels of each family for 64-bit Arm in an emulator. ``python -m tests.arm`` runs them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from . import cross

_ROOT = Path(__file__).parents[2]
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
@pytest.mark.parametrize("code", ["linux", "apple"])
def test_some_of_each_family(code: str) -> None:
    some = ["tests/cpu/test_scan.py", "tests/cpu/test_random.py", "tests/cpu/test_pool.py", "-k",
            "random or max_pool or f16"]
    done = subprocess.run([sys.executable, "-m", "tests.arm", code, *some], cwd=_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
