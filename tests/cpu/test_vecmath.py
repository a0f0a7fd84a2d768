"""Elementary functions against 80-bit references: error in units of the last place, and limits."""

from __future__ import annotations

import math
import re
from functools import partial

import numpy as np
import pytest
from cpu_harness import INSTRUCTION_SETS, run_kernel

from afterburner.cpu import isa as instruction_sets
from afterburner.cpu.generate import text_of_batch
from afterburner.cpu.kernels.fused import lower_loop
from afterburner.ir import DTYPES, Node, TensorType, Value, op_class

LONG = np.longdouble


def evaluate(name: str, arrays: list[np.ndarray], width: str) -> np.ndarray:
    dtype = {"float32": "f32", "float64": "f64"}[str(arrays[0].dtype)]
    node = Node(op_class(name)(), [Value(TensorType(DTYPES[dtype], a.shape)) for a in arrays])
    isa = instruction_sets.host(width)
    return run_kernel(lower_loop(node, isa), arrays, isa)[0]


def erf(x: np.ndarray) -> np.ndarray:
    return np.array([math.erf(v) for v in x.astype(np.float64)], LONG)


REFERENCE = {
    "exp": np.exp, "expm1": np.expm1, "log": np.log, "log1p": np.log1p, "tanh": np.tanh, "erf": erf,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "sin": np.sin, "cos": np.cos,
}
# name: (interval of a dense sweep in f32, in f64), allowed ulp in f32 and f64
RANGES = {
    "exp": ((-104.0, 89.0), (-746.0, 710.0), 1.5, 1.5), "expm1": ((-20.0, 89.0), (-40.0, 710.0), 2.0, 2.0),
    "log": ((1e-45, 5.0), (5e-324, 5.0), 1.5, 1.5), "log1p": ((-0.999, 5.0), (-0.999, 5.0), 2.0, 2.5),
    "tanh": ((-10.0, 10.0), (-20.0, 20.0), 2.5, 3.0), "sigmoid": ((-100.0, 20.0), (-700.0, 40.0), 2.5, 2.5),
    "erf": ((-4.5, 4.5), (-6.5, 6.5), 2.5, 4.0), "sin": ((-20.0, 20.0), (-20.0, 20.0), 1.0, 2.0),
    "cos": ((-20.0, 20.0), (-20.0, 20.0), 1.0, 2.0),
}


def errors(got: np.ndarray, want: np.ndarray) -> np.ndarray:
    """Distance of each element from the long-double value, in units of its last place."""
    with np.errstate(all="ignore"):
        narrowed = want.astype(got.dtype)
    rounded = np.abs(narrowed)
    unit = np.spacing(np.where(np.isinf(rounded), np.finfo(got.dtype).max, rounded)).astype(LONG)
    same = got.astype(LONG) == want
    same |= np.isnan(got) & np.isnan(want)
    same |= np.isinf(got) & (got == narrowed)
    with np.errstate(all="ignore"):
        return np.where(same, 0, np.abs(got.astype(LONG) - want) / unit).astype(np.float64)


def sweep(low: float, high: float, dtype: type) -> np.ndarray:
    """Evenly spaced values, values crowded around 0, and log-spaced ones, all in the interval."""
    rng = np.random.default_rng(0)
    even = rng.uniform(low, high, 60000)
    near = even * 10.0 ** rng.uniform(-30, 0, even.size)
    values = np.concatenate([even, near[(near >= low) & (near <= high)]])
    return values.astype(dtype)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", RANGES)
def test_error_in_ulp(name: str, dtype: type, width: str) -> None:
    single, double, single_ulp, double_ulp = RANGES[name]
    x = sweep(*(single if dtype is np.float32 else double), dtype)
    allowed = single_ulp if dtype is np.float32 else double_ulp
    with np.errstate(all="ignore"):
        want = REFERENCE[name](x.astype(LONG))
    worst = errors(evaluate(name, [x], width), want)
    at = int(np.nanargmax(worst))
    assert not np.any(np.isnan(worst)) and worst[at] <= allowed, (worst[at], x[at])


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_logarithms_of_large_and_tiny_numbers(dtype: type, width: str) -> None:
    limits = np.finfo(dtype)
    spread = np.geomspace(float(limits.smallest_subnormal), float(limits.max), 20001, dtype=LONG).astype(dtype)
    for name in ("log", "log1p"):
        x = spread[spread > 0]
        assert errors(evaluate(name, [x], width), REFERENCE[name](x.astype(LONG))).max() <= 2.5


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
def test_sine_of_large_arguments(width: str) -> None:
    rng = np.random.default_rng(0)
    for dtype, reach in ((np.float32, 1e6), (np.float64, 1e5)):
        x = rng.uniform(-reach, reach, 50000).astype(dtype)
        for name in ("sin", "cos"):
            want = REFERENCE[name](x.astype(LONG))
            got = evaluate(name, [x], width)
            assert np.max(np.abs(got - want)) < 4 * np.finfo(dtype).eps


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_sine_of_angles_of_any_size(width: str, dtype: type) -> None:
    rng = np.random.default_rng(1)
    top = np.log2(np.finfo(dtype).max)
    x = (2.0 ** rng.uniform(0, top, 4001) * rng.choice([-1, 1], 4001)).astype(dtype)
    x[:8] = np.finfo(dtype).max, -np.finfo(dtype).max, 1e6, 1e9, -2.0**40, 2.0**60, 1e22, 6381956970095103 * 2.0**60
    with np.errstate(all="ignore"):
        for name in ("sin", "cos"):
            worst = errors(evaluate(name, [x], width), REFERENCE[name](x.astype(LONG)))
            assert np.max(worst) <= 3.0, x[np.argmax(worst)]
    zeros = np.array([0.0, -0.0], dtype)
    np.testing.assert_array_equal(np.signbit(evaluate("sin", [zeros], width)), [False, True])


def test_large_angles_are_reduced_by_one_function_of_a_module() -> None:
    isa = instruction_sets.host()
    kernels = [partial(lower_loop, Node(op_class(name)(), [Value(TensorType(DTYPES["f32"], (size,)))]), isa)
               for name in ("sin", "cos") for size in (64, 65)]
    text = text_of_batch(kernels, isa, 0).text
    defined = re.findall(r'define internal .*@"?(reduce_angles_\d+)', text)
    assert len(defined) == len(set(defined)) == 2  # of whole vectors, and of a number at the end
    assert len(re.findall(r'call .*@"?reduce_angles_', text)) > 2


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, np.inf, -np.inf, np.nan, 1e-42, -1e-42, 1e30,
           -1e30, 88.72, 88.73, -87.4, -103.9, -104.1, 709.7, 709.8, -745.1, -745.2]


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", [n for n in RANGES if n not in ("sin", "cos")])
def test_limits(name: str, dtype: type, width: str) -> None:
    x = np.array(SPECIAL, dtype)
    with np.errstate(all="ignore"):
        want = REFERENCE[name](x.astype(LONG))
    got = evaluate(name, [x], width)
    assert errors(got, want).max() <= 4
    keeps_sign = name in ("expm1", "log1p", "tanh", "erf")
    if keeps_sign:
        assert np.array_equal(np.signbit(got[:2]), [False, True])


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_power(dtype: type, width: str) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([np.exp(rng.uniform(-30, 30, 20000)), rng.uniform(0.9, 1.1, 20000),
                        np.full(2000, 0.999), np.full(2000, 0.9)]).astype(dtype)
    y = np.concatenate([rng.uniform(-20, 20, 20000), rng.uniform(-900, 900, 20000), np.arange(1, 2001),
                        np.arange(1, 2001)]).astype(dtype)
    with np.errstate(all="ignore"):
        want = np.power(x.astype(LONG), y.astype(LONG))
    assert errors(evaluate("pow", [x, y], width), want).max() <= (1.0 if dtype is np.float32 else 2.0)


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
@pytest.mark.parametrize("name", ("pow", "atan2"))
def test_limits_of_two_arguments(name: str, dtype: type, width: str) -> None:
    x, y = (v.reshape(-1) for v in np.meshgrid(np.array(SPECIAL, dtype), np.array(SPECIAL, dtype)))
    with np.errstate(all="ignore"):
        want = (np.power if name == "pow" else np.arctan2)(x.astype(LONG), y.astype(LONG))
    got = evaluate(name, [x.copy(), y.copy()], width)
    worst = errors(got, want)
    at = int(np.nanargmax(np.where(np.isnan(worst), np.inf, worst)))
    assert worst[at] <= 2.5, (x[at], y[at], got[at], want[at])
    zero = want == 0
    assert np.array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


@pytest.mark.parametrize("width", INSTRUCTION_SETS)
@pytest.mark.parametrize("dtype", (np.float32, np.float64))
def test_angle(dtype: type, width: str) -> None:
    rng = np.random.default_rng(0)
    y, x = (rng.standard_normal(40000) * 10.0 ** rng.uniform(-6, 6, 40000) for _ in range(2))
    y, x = y.astype(dtype), x.astype(dtype)
    want = np.arctan2(y.astype(LONG), x.astype(LONG))
    assert errors(evaluate("atan2", [y, x], width), want).max() <= (1.0 if dtype is np.float32 else 2.5)
