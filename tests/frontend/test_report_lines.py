"""What is said of a function on stderr: a line for each call that compiled something."""

import re

import numpy as np
import pytest
import tensorflow as tf

from afterburner.options import overridden

from .kit import captured, with_many_stages

LINE = re.compile(r"afterburner: steps: .* \d+ kernels( in \d+ pieces)? compiled in ")


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("afterburner: steps: ")]


def test_pieces_are_told_together(capsys: pytest.CaptureFixture[str]) -> None:
    @tf.function
    def steps(x):
        for _ in tf.range(3):
            x = tf.tanh(x @ x) + 1.0
        y = tf.sort(tf.strings.to_number(tf.strings.as_string(x[0])))
        return tf.nn.softmax(x * 2.0 + y)

    x = tf.constant(np.random.default_rng(0).random((5, 5), np.float32))
    with overridden(verbosity="line", compile_after=0), captured():
        for _ in range(3):
            steps(x)
            said = lines(capsys)
            if said:
                break
        assert len(said) == 1
        found = LINE.match(said[0])
        assert found is not None and found[1] is not None
        steps(x)
        assert lines(capsys) == []


def test_one_piece_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    @tf.function
    def steps(x):
        return tf.nn.softmax(tf.tanh(x @ x) * 2.0 + 1.0)

    with overridden(verbosity="line", compile_after=0), captured():
        steps(tf.ones((4, 4)))
    (said,) = lines(capsys)
    found = LINE.match(said)
    assert found is not None and found[1] is None


def test_integers_are_arithmetic_too(capsys: pytest.CaptureFixture[str]) -> None:
    @tf.function
    def steps(x):
        return (x + 1) * x // 3 - tf.reduce_max(x)

    with overridden(verbosity="line", compile_after=0), captured():
        steps(tf.range(9))
    (said,) = lines(capsys)
    assert "(100% of the arithmetic)" in said


def test_is_told_where_the_call_fails(capsys: pytest.CaptureFixture[str]) -> None:
    @tf.function
    def steps(x, index):
        y = tf.nn.softmax(x @ x)
        tf.debugging.assert_less(tf.strings.length(tf.strings.as_string(index)), 2)
        return tf.exp(y) * 2.0

    with overridden(verbosity="line", compile_after=0), captured():
        with pytest.raises(tf.errors.InvalidArgumentError):
            steps(tf.ones((4, 4)), tf.constant(100))
    assert len(lines(capsys)) == 1


def test_why_a_small_function_is_left() -> None:
    @tf.function
    def small(x):
        return x @ x + 1.0

    @tf.function
    def words(x):
        return tf.strings.length(tf.strings.lower(tf.strings.as_string(x))) + 1

    with overridden(compile_after=0), captured() as taken:
        for function in (small, words):
            function(tf.ones((4, 4)))
    why = {name: function.reason for name, function in taken.functions().items()}
    assert why == {"small": "it has only 2 operations, too few to gain anything",
                   "words": "only 1 of 4 operations can be compiled (AsString: no rule for AsString)"}


def test_a_type_to_leave_out_that_tensorflow_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    with overridden(verbosity="line", skip_ops=("MatMul", "matmul", "Dense")), captured():
        pass
    said = capsys.readouterr().err
    assert said.startswith("afterburner: AFTERBURNER_SKIP_OPS: TensorFlow has no operation 'matmul', 'Dense'; ")
    assert said.count("\n") == 1


def test_what_is_given_back_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    steps = with_many_stages()
    x, y = np.full((1, 2, 2, 3), 0.5, np.float32), np.eye(4, dtype=np.float32)
    with overridden(verbosity="line", compile_after=0), captured():
        for _ in range(3):
            steps(x, y)
    said = lines(capsys)[0]
    assert "left to TensorFlow: BesselI0e (no rule for BesselI0e); " in said
    assert said.endswith(" more ops stand between")
