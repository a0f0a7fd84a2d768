"""Rounding to few bits, against TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from .table import RUNNERS, Record, check, floats, raw, record

_ATTRIBUTES = ({"num_bits": 8, "narrow_range": False}, {"num_bits": 4, "narrow_range": True},
               {"num_bits": 16, "narrow_range": False})
_BOUNDS = ((-6.0, 6.0), (-1.3, 0.7), (0.5, 3.0), (-3.0, -0.5), (0.0, 5.1))


def _fake_quants() -> list[Record]:
    x, dy = floats(7, 33, scale=3), np.abs(floats(7, 33, seed=1))
    args, grad = "FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxArgsGradient"
    variables, of_variables = "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsGradient"
    records = []
    for attributes in _ATTRIBUTES:
        for low, high in _BOUNDS:
            note = f"{low} to {high} of {attributes['num_bits']} bits"
            options = {"min": low, "max": high, **attributes}
            bounds = np.float32(low), np.float32(high)
            records += [
                record(args, raw(args, "inputs", **options), x, note=note),
                record(grad, raw(grad, "gradients", "inputs", **options), dy, x, exact=True, note=note),
                record(variables, raw(variables, "inputs", "min", "max", **attributes), x, *bounds, note=note),
                record(of_variables, raw(of_variables, "gradients", "inputs", "min", "max", **attributes), dy, x,
                       *bounds, note=note),
            ]
    zero = np.float32(0), np.float32(0)
    records += [record(variables, raw(variables, "inputs", "min", "max"), x, *zero, note="nothing"),
                record(of_variables, raw(of_variables, "gradients", "inputs", "min", "max"), dy, x, *zero,
                       note="nothing"),
                record(args, raw(args, "inputs"), floats(0, 3)), record(args, raw(args, "inputs"), np.float32(0.3))]
    return records


def _by_channel() -> list[Record]:
    op, grad = "FakeQuantWithMinMaxVarsPerChannel", "FakeQuantWithMinMaxVarsPerChannelGradient"
    low, high = np.array([-1, -0.2, 0.5, -7], np.float32), np.array([1, 3, 2, -1], np.float32)
    records = []
    for shape in ((4,), (9, 4), (2, 3, 5, 4)):
        x, dy = floats(*shape, scale=2), np.abs(floats(*shape, seed=1))
        for attributes in _ATTRIBUTES:
            records += [
                record(op, raw(op, "inputs", "min", "max", **attributes), x, low, high, note=str(attributes)),
                record(grad, raw(grad, "gradients", "inputs", "min", "max", **attributes), dy, x, low, high,
                       note=str(attributes)),
            ]
    return records


RECORDS = _fake_quants() + _by_channel()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_fake_quant(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
