"""Special functions, against TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from .table import RUNNERS, Record, check, floats, raw, record, special

_WIDE = (np.dtype(np.float32), np.dtype(np.float64))


def _gammas() -> list[Record]:
    records = []
    for op in ("Lgamma", "Digamma"):
        for dtype in (*_WIDE, np.dtype(np.float16)):
            some = np.linspace(-7.3, 40, 311).astype(dtype)
            records.append(record(op, raw(op, "x"), some, note="many"))
            records += [record(op, raw(op, "x"), np.linspace(low, high, 57).astype(dtype), note=f"from {low} to {high}")
                        for low, high in ((0.02, 0.6), (0.7, 1.4), (1.5, 3), (3, 300), (-0.9, -0.1))]
        records += [record(op, raw(op, "x"), np.array([1e3, 1e5, 1e8, 1e20, 1e30], t), note="large") for t in _WIDE]
        odd = special()[:22]  # without the largest and the denormal ones
        records += [record(op, raw(op, "x"), odd.astype(t), note="odd") for t in _WIDE]
        records += [record(op, raw(op, "x"), np.float32(3.5)), record(op, raw(op, "x"), floats(0, 3))]
    return records


def _inverses() -> list[Record]:
    records = []
    for dtype in _WIDE:
        shares = np.concatenate([np.linspace(0, 1, 401), 10.0 ** -np.arange(3, 30), 1 - 10.0 ** -np.arange(3, 7)])
        outside = [-0.0, -0.5, 1.5, np.nan, np.inf, -np.inf]
        shares = np.append(shares, outside).astype(dtype)
        # Near 1 TensorFlow's (1 + x) / 2 has lost digits; the function is odd.
        sides = np.append(np.linspace(-1, 0.9, 401), [*outside[2:], 1, -1.5, -0.999999]).astype(dtype)
        records += [record("Ndtri", raw("Ndtri", "x"), shares), record("Erfinv", raw("Erfinv", "x"), sides)]
    for op in ("Ndtri", "Erfinv"):
        records += [record(op, raw(op, "x"), np.float32(0.25)), record(op, raw(op, "x"), floats(2, 0))]
    return records


RECORDS = _gammas() + _inverses()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_special(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
