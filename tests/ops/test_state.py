"""Variables and the fused optimizer updates against TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from afterburner.errors import NotTaken
from afterburner.frontend.flatten import flatten
from afterburner.frontend.import_graph import variable_dtypes
from afterburner.frontend.importer import Refused

from .steps import assert_close, import_concrete, run_both
from .table import RUNNERS, floats, ints

_SHAPE = (5, 7)


def _variables(count: int) -> list[tf.Variable]:
    return [tf.Variable(np.abs(floats(*_SHAPE, seed=i)) + 0.1) for i in range(count)]


def _run(function: Callable[..., Any], *arguments: np.ndarray, runner: str) -> None:
    specs = [tf.TensorSpec(a.shape, a.dtype) for a in arguments]
    concrete = tf.function(function, autograph=False).get_concrete_function(*specs)
    assert_close(run_both(import_concrete(concrete, arguments), RUNNERS[runner]), 2e-6)


_APPLIES: dict[str, tuple[int, Callable[..., Any]]] = {
    "GradientDescent": (1, lambda h, g: {"var": h[0], "alpha": 0.1, "delta": g}),
    "Momentum": (2, lambda h, g: {"var": h[0], "accum": h[1], "lr": 0.1, "grad": g, "momentum": 0.9}),
    "KerasMomentum": (2, lambda h, g: {"var": h[0], "accum": h[1], "lr": 0.1, "grad": g, "momentum": 0.9}),
    "Adam": (
        3,
        lambda h, g: {
            "var": h[0],
            "m": h[1],
            "v": h[2],
            "beta1_power": 0.81,
            "beta2_power": 0.98,
            "lr": 0.01,
            "beta1": 0.9,
            "beta2": 0.99,
            "epsilon": 1e-7,
            "grad": g,
        },
    ),
    "AdaMax": (
        3,
        lambda h, g: {
            "var": h[0],
            "m": h[1],
            "v": h[2],
            "beta1_power": 0.81,
            "lr": 0.01,
            "beta1": 0.9,
            "beta2": 0.99,
            "epsilon": 1e-7,
            "grad": g,
        },
    ),
    "RMSProp": (
        3,
        lambda h, g: {
            "var": h[0],
            "ms": h[1],
            "mom": h[2],
            "lr": 0.01,
            "rho": 0.9,
            "momentum": 0.5,
            "epsilon": 1e-7,
            "grad": g,
        },
    ),
    "CenteredRMSProp": (
        4,
        lambda h, g: {
            "var": h[0],
            "mg": h[3],
            "ms": h[1],
            "mom": h[2],
            "lr": 0.01,
            "rho": 0.9,
            "momentum": 0.5,
            "epsilon": 10.0,
            "grad": g,
        },
    ),
    "Adagrad": (2, lambda h, g: {"var": h[0], "accum": h[1], "lr": 0.1, "grad": g}),
    "AdagradV2": (2, lambda h, g: {"var": h[0], "accum": h[1], "lr": 0.1, "epsilon": 1e-7, "grad": g}),
    "Adadelta": (
        3,
        lambda h, g: {
            "var": h[0],
            "accum": h[1],
            "accum_update": h[2],
            "lr": 0.1,
            "rho": 0.9,
            "epsilon": 1e-7,
            "grad": g,
        },
    ),
}
_NESTEROV = ("Momentum", "KerasMomentum", "Adam")


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("name", [*_APPLIES, *(f"{n}-nesterov" for n in _NESTEROV)])
def test_optimizer(name: str, runner: str) -> None:
    kind, _, nesterov = name.partition("-")
    count, arguments = _APPLIES[kind]
    variables = _variables(count)
    options = {"use_nesterov": True} if nesterov else {}

    def step(gradient: tf.Tensor) -> None:
        handles = [v.handle for v in variables]
        getattr(tf.raw_ops, f"ResourceApply{kind}")(**arguments(handles, gradient), **options)

    _run(step, floats(*_SHAPE, seed=9), runner=runner)


@pytest.mark.parametrize("runner", RUNNERS)
def test_reads_see_the_writes_before_them(runner: str) -> None:
    (variable,) = _variables(1)

    def step(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        first = variable.read_value()
        variable.assign_add(x)
        second = variable.read_value()
        variable.assign(second * x)
        variable.assign_sub(first)
        return first, second, variable.read_value() + 1

    _run(step, floats(*_SHAPE, seed=9), runner=runner)


@pytest.mark.parametrize("runner", RUNNERS)
def test_rows_are_gathered_and_scattered(runner: str) -> None:
    (variable,) = _variables(1)

    def step(indices: tf.Tensor, rows: tf.Tensor) -> tf.Tensor:
        taken = tf.gather(variable, indices)
        variable.scatter_add(tf.IndexedSlices(rows, indices))
        variable.scatter_sub(tf.IndexedSlices(rows * 0.5, indices))
        return taken

    _run(step, ints(9, low=0, high=5), floats(9, 7), runner=runner)


@pytest.mark.parametrize("runner", RUNNERS)
def test_slices_are_assigned(runner: str) -> None:
    (variable,) = _variables(1)

    def step(x: tf.Tensor) -> tf.Tensor:
        variable[1:3, ::-2].assign(x)
        variable[-1].assign(x[0, 0] * tf.ones([7]))
        return tf.raw_ops.ResourceGatherNd(resource=variable.handle, indices=[[1, 2], [4, 0]], dtype=tf.float32)

    _run(step, floats(2, 4), runner=runner)


@pytest.mark.parametrize("runner", RUNNERS)
def test_branches_select_results_and_assignments(runner: str) -> None:
    variables = _variables(2)

    def step(x: tf.Tensor) -> tf.Tensor:
        def then() -> tf.Tensor:
            variables[0].assign_add(x)
            return x + 1

        def other() -> tf.Tensor:
            variables[1].assign(x)
            variables[0].assign_sub(x)
            return x * variables[1]

        inner = tf.cond(x[0, 0] > 100, then, other)
        return inner + tf.cond(tf.reduce_sum(x) > -1e9, then, other)

    _run(step, floats(*_SHAPE, seed=9), runner=runner)


@pytest.mark.parametrize("runner", RUNNERS)
def test_shape_and_state_of_a_variable(runner: str) -> None:
    (variable,) = _variables(1)

    def step(x: tf.Tensor) -> tuple[tf.Tensor, ...]:
        shape = tf.raw_ops.VariableShape(input=variable.handle)
        return x + tf.cast(shape[1], tf.float32), tf.raw_ops.VarIsInitializedOp(resource=variable.handle)

    _run(step, floats(3), runner=runner)


def test_a_variable_keeps_its_shape() -> None:
    variable = tf.Variable(np.zeros(3, np.float32), shape=[None])
    function = tf.function(lambda x: variable.assign(x))
    concrete = function.get_concrete_function(tf.TensorSpec([4], tf.float32))
    with pytest.raises((NotTaken, AssertionError)):
        import_concrete(concrete, [np.zeros(4, np.float32)])


def test_types_of_variables_that_only_a_branch_uses() -> None:
    counter, other = tf.Variable(np.int64(3)), tf.Variable(1.0)

    def step(x: tf.Tensor) -> tf.Tensor:
        tf.cond(x > 0, lambda: counter.assign_add(1).op and tf.no_op(), tf.no_op)
        return x + other

    flat = flatten(tf.function(step).get_concrete_function(tf.TensorSpec([])).graph, "step")
    handles = [a for a in flat.arguments if a.dtype == tf.resource]
    types = variable_dtypes(flat.ops)
    assert sorted(types[h].name for h in handles) == ["float32", "int64"]


def test_a_refusal_inside_a_branch_names_the_conditional() -> None:
    def step(x: tf.Tensor, n: tf.Tensor) -> tf.Tensor:
        return tf.cond(x[0] > 0, lambda: tf.reshape(x, n), lambda: tf.reshape(x, [2, 3]))

    specs = tf.TensorSpec([6]), tf.TensorSpec([2], tf.int32)
    concrete = tf.function(step).get_concrete_function(*specs)
    with pytest.raises(Refused, match="If.*Reshape.*computed from data") as caught:
        import_concrete(concrete, [floats(6), np.array([2, 3], np.int32)])
    assert caught.value.op.type == "StatelessIf"
