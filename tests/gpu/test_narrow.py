"""Graphs with products of float64 between values of float32 run on the gpu, which has no float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX has no wheel for this machine", exc_type=ImportError)

import tensorflow as tf  # noqa: E402

from afterburner.gpu.narrow import narrow  # noqa: E402
from afterburner.ir import Graph, interpret, parse_graph, print_graph  # noqa: E402
from afterburner.options import overridden  # noqa: E402
from tests.ops.steps import import_concrete  # noqa: E402
from tests.ops.test_gpu import run_emulated  # noqa: E402

SPECIAL = np.float32([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-38, 3e38, 1.0])


def product(number: float, swapped: bool = False, count: int = 4096) -> Graph:
    operands = "%1, %0" if swapped else "%0, %1"
    return parse_graph(f"""
        graph product(%x: f32[{count}]) {{
          %0: f64[{count}] = cast(%x) {{dtype=f64}}
          %c: f64[] = constant() {{value={number!r}}}
          %1: f64[{count}] = broadcast(%c) {{shape=({count},), axes=()}}
          %2: f64[{count}] = mul({operands})
          %3: f32[{count}] = cast(%2) {{dtype=f32}}
          return %3
        }}""")


@pytest.mark.parametrize("number", [2 * math.pi, -2 * math.pi, 0.1, 1 / 3, 1e-20, 1e20])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_product_is_off_by_one_unit_in_the_last_place_at_most(number: float, swapped: bool) -> None:
    graph = product(number, swapped)
    x = np.random.default_rng(0).uniform(-1, 1, 4096).astype(np.float32)
    narrowed = narrow(graph)
    assert "f64" not in print_graph(narrowed)
    (expected,), (found,) = interpret(graph, [x]), interpret(narrowed, [x])
    assert np.all(np.abs(found - expected) <= np.spacing(np.abs(expected)))


@pytest.mark.parametrize("number", [2.0, -0.75, 2 * math.pi, -0.1])
def test_zeros_infinities_and_nan_stay(number: float) -> None:
    graph = product(number, count=len(SPECIAL))
    (expected,), (found,) = interpret(graph, [SPECIAL]), interpret(narrow(graph), [SPECIAL])
    np.testing.assert_allclose(found, expected, rtol=2e-7)
    np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))


@pytest.mark.parametrize("number", [0.0, 1e300, 1e-300, math.inf])
def test_numbers_that_float32_has_not_stay(number: float) -> None:
    graph = product(number)
    assert narrow(graph) is graph


@pytest.mark.parametrize("dtype", [tf.float32, tf.float16, tf.bfloat16], ids=lambda d: d.name)
def test_random_normal_numbers(dtype: tf.DType) -> None:
    seed = np.array([7, 11], np.int32)
    function = tf.function(lambda s: tf.random.stateless_normal((333, 5), s, dtype=dtype))
    concrete = function.get_concrete_function(tf.TensorSpec(seed.shape, seed.dtype))
    step = import_concrete(concrete, [seed])
    with overridden(gpu_emulate=True):
        (ours,) = run_emulated(step.imported.graph, step.data)
    stock = np.asarray(concrete(tf.constant(seed)).numpy())
    assert ours.dtype == stock.dtype
    last = {tf.float32: 2e-6, tf.float16: 2.0**-9, tf.bfloat16: 2.0**-6}[dtype]  # two units of numbers from 2 to 4
    np.testing.assert_allclose(ours.astype(np.float64), stock.astype(np.float64), rtol=0, atol=last * 2)
