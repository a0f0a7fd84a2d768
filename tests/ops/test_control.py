"""Constants, identities, assertions and conditionals against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from afterburner.errors import NotTaken
from afterburner.frontend.flatten import flatten
from afterburner.frontend.import_graph import read_inputs, supported
from afterburner.frontend.rules import supported_ops

from .steps import import_concrete
from .table import RUNNERS, Record, bools, check, floats, raw, record


def _asserting(x: tf.Tensor) -> tf.Tensor:
    tf.raw_ops.Assert(condition=tf.reduce_all(x > 0), data=["not positive", x])
    return x + 1


def _asserting_guarded(x: tf.Tensor) -> tf.Tensor:
    """TensorFlow's own form: the assertion is in a branch."""
    tf.debugging.assert_positive(x, "not positive")
    return x + 1


def _guarded(x: tf.Tensor, flag: tf.Tensor) -> tf.Tensor:
    return tf.cond(flag, lambda: tf.debugging.check_numerics(x, "bad"), lambda: x * 2)


def _mixed(x: tf.Tensor) -> Any:
    return tf.identity_n([x, tf.stop_gradient(x * 2)])


_NAN = np.array([1, np.nan], np.float32)

def _of_three(x: Any, index: Any) -> Any:
    return tf.switch_case(index, [lambda: x + 1, lambda: x * 3, lambda: -x])


def _asserting_in_case(x: Any, index: Any) -> Any:
    def failing() -> Any:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(x > 1e9), [x])]):
            return x * 3

    return tf.switch_case(index, [lambda: x + 1, failing, lambda: -x])


RECORDS = [
    record("IdentityN", _mixed, floats(3), exact=True),
    record("StopGradient", tf.stop_gradient, floats(3), exact=True),
    record("PreventGradient", raw("PreventGradient", "input"), floats(3), exact=True),
    record("Snapshot", raw("Snapshot", "input"), floats(3), exact=True),
    record("EnsureShape", lambda x: tf.ensure_shape(x, [None, 3]), floats(2, 3), exact=True),
    record("Const", lambda x: x + tf.constant(floats(40)), floats(40), exact=True),
    record("PlaceholderWithDefault", raw("PlaceholderWithDefault", "input", shape=[3]), floats(3), exact=True),
    record("CheckNumerics", raw("CheckNumerics", "tensor", message="x"), floats(5), exact=True, checks=True),
    record("CheckNumerics", raw("CheckNumerics", "tensor", message="x"), _NAN, checks=False),
    record("CheckNumericsV2", raw("CheckNumericsV2", "tensor", message="x"), floats(5), exact=True, checks=True),
    record("Assert", _asserting, np.abs(floats(4)) + 1, exact=True, checks=True),
    record("Assert", _asserting, -np.abs(floats(4)), checks=False),
    record("If", _asserting_guarded, np.abs(floats(4)) + 1, exact=True, checks=True),
    record("If", _asserting_guarded, -np.abs(floats(4)), checks=False),
    record("StatelessIf", lambda x, b: tf.cond(b, lambda: x + 1, lambda: x * 3), floats(4), bools(), exact=True),
    *(record("StatelessCase", _of_three, floats(4), np.int32(i), exact=True, note=str(i)) for i in (-1, 0, 1, 2, 3)),
    *(record("Case", _asserting_in_case, floats(4), np.int32(i), checks=i != 1, exact=True, note=str(i))
      for i in (0, 1, 2)),
    record("If", _guarded, floats(4), np.True_, exact=True, checks=True),
    record("If", _guarded, _NAN, np.False_, exact=True, checks=True, note="guarded"),
    record("If", _guarded, _NAN, np.True_, checks=False, note="guarded"),
]


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_control(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])


def _ops(function: Any, *specs: tf.TensorSpec) -> list[Any]:
    return flatten(tf.function(function).get_concrete_function(*specs).graph, "f").ops


def test_an_assertion_reads_its_condition_only() -> None:
    ops = _ops(_asserting, tf.TensorSpec([3], tf.float32))
    (assertion,) = [op for op in ops if op.type == "Assert"]
    assert len(assertion.inputs) > 1
    assert read_inputs(assertion) == assertion.inputs[:1]


@pytest.mark.parametrize(
    ("function", "dtype", "reason"),
    [
        (lambda x: tf.unique(x).y, tf.int32, "no rule for Unique"),
        (lambda x: tf.raw_ops.RandomUniform(shape=[2], dtype=tf.float32), tf.int32, "no rule for RandomUniform"),
        (
            lambda x: tf.cond(
                x[0] > 0, lambda: tf.matmul([x], [x], transpose_b=True), lambda: tf.reshape(x[0], [1, 1])
            ),
            tf.float32,
            "a branch with MatMul",
        ),
        (lambda x: x + x, tf.complex64, "complex numbers"),
        (lambda x: x + x, tf.string, "no rule for StringJoin|strings"),
    ],
)
def test_reasons(function: Any, dtype: tf.DType, reason: str) -> None:
    reasons = {supported(op) for op in _ops(function, tf.TensorSpec([3], dtype))}
    assert reasons & set(reason.split("|"))


def test_an_unknown_shape_is_refused_by_name() -> None:
    function = tf.function(lambda x, n: tf.reshape(x, n))
    specs = tf.TensorSpec([6], tf.float32), tf.TensorSpec([2], tf.int32)
    with pytest.raises(NotTaken, match="Reshape.*shape is computed from data"):
        import_concrete(function.get_concrete_function(*specs), [floats(6), np.array([2, 3], np.int32)])


def test_every_family_lists_its_operations() -> None:
    listed = supported_ops()
    assert {"elementwise", "reduce", "matmul", "conv", "pool", "shape", "gather", "random"} <= set(listed)
    assert all(names == sorted(names) for names in listed.values())
    names = [name for names in listed.values() for name in names]
    assert len(names) == len(set(names)) > 200
